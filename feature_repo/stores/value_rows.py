"""Write rows with features that do not fit in a packed row: text, booleans, lists, 32-bit floats.

A row has Feast's own layout, one field per feature, and the field of its version. A newer row replaces an older one in one
atomic step on the server, as in `redis_writer` for packed rows.
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
# versions are digits of one length, so text order is numeric order
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
    """A row to write: its entity, its values by feature (null or absent is null), its event time (ns since 1970, UTC)."""

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
    """Write rows of a view; raises `UserError` for a key with a null, or if Redis fails."""
    written = 0
    script = client.register_script(_REPLACE)
    with redis_errors(url):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            written += sum(
                script(keys=[redis_key(row.entity)], args=list(_arguments(layout, row, epoch))) for row in some
            )
            if progress:
                progress(len(some))
    return WriteCounts(written, len(rows) - written)


def _arguments(layout: Layout, row: ValueRow, epoch: int) -> Iterator[bytes | str | int]:
    if any(is_null(value) for value in row.entity.entity_values):
        raise UserError(f"a row of {layout.view} has no key: leave out rows without a key")
    names = [name for name, _ in layout.columns]
    known = {
        field: row.values[name]
        for field, name in zip(layout.value_fields, names, strict=True)
        if not is_null(row.values.get(name))
    }
    absent = [field for field in layout.value_fields if field not in known]
    yield layout.version_field
    yield f"{epoch:08d}{row.event_ns + _YEAR_ONE_NS:021d}"
    yield len(absent)
    yield from absent
    yield layout.time_field
    yield serialised_instant(row.event_ns)
    for field, value in known.items():
        yield field
        yield value.SerializeToString()


def is_null(value: "Value | None") -> bool:
    """Whether a Feast value is null or absent."""
    return value is None or value.WhichOneof("val") in (None, "null_val")
