"""Rows of any types of feature offered to Redis, for views that do not pack: text, flags, lists, floats of 32 bits.

They lie as Feast has them, a field a feature, with the version that they were written as beside them: a newer one replaces an
older in one atomic step on the server, as `redis_writer` does it for packed rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from velo.errors import UserError
from velo.feature_repo.stores.redis_client import redis_errors
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import WriteCounts, serialised_instant

if TYPE_CHECKING:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

ROWS_AT_ONCE: Final = 500
_YEAR_ONE_NS: Final = 62_135_596_800_000_000_000
# versions are digits only, all of one length: compared as text they are compared as numbers
_REPLACE: Final = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and held >= ARGV[2] then return 0 end
local gone = tonumber(ARGV[3])
if gone > 0 then redis.call('HDEL', KEYS[1], unpack(ARGV, 4, 3 + gone)) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], unpack(ARGV, 4 + gone))
return 1
"""


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A row as it is offered: its entity, its values by feature (a null is none), and since when it holds (ns since 1970)."""

    entity: "EntityKey"
    values: "dict[str, Value]"
    event_ns: int


def write(
    client: Any,
    url: str,
    layout: Layout,
    rows: Sequence[ValueRow],
    epoch: int,
    redis_key: "Callable[[EntityKey], bytes]",
    progress: Callable[[int], Any] | None = None,
) -> WriteCounts:
    """Offer rows of a view; raises `UserError` for a key without a value, and where Redis fails."""
    written = 0
    script = client.register_script(_REPLACE)
    with redis_errors(url):
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[begin : begin + ROWS_AT_ONCE]
            written += sum(script(keys=[redis_key(row.entity)], args=list(_said(layout, row, epoch))) for row in some)
            if progress:
                progress(len(some))
    return WriteCounts(written, len(rows) - written)


def _said(layout: Layout, row: ValueRow, epoch: int) -> Iterator[bytes | str | int]:
    if any(value.WhichOneof("val") in (None, "null_val") for value in row.entity.entity_values):
        raise UserError(f"a row of {layout.view} has no key: leave out rows without a key")
    held = [value is not None and value.WhichOneof("val") not in (None, "null_val") for value in _values(layout, row)]
    yield layout.version_field
    yield f"{epoch:08d}{row.event_ns + _YEAR_ONE_NS:021d}"
    yield held.count(False)
    yield from (field for field, is_held in zip(layout.value_fields, held, strict=True) if not is_held)
    yield layout.time_field
    yield serialised_instant(row.event_ns)
    for field, value in zip(layout.value_fields, _values(layout, row), strict=True):
        if value is not None and value.WhichOneof("val") not in (None, "null_val"):
            yield field
            yield value.SerializeToString()


def _values(layout: Layout, row: ValueRow) -> "list[Value | None]":
    return [row.values.get(name) for name, _ in layout.columns]
