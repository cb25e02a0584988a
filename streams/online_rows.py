"""Every row of every view in Redis, for an audit: from the packed rows, and where Feast's own fields differ from them."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.feast_store import prepare_feast
from velo.feature_repo.stores.redis_client import redis_errors
from velo.feature_repo.stores.redis_layout import VALID_UNTIL, Layout, serialised_value
from velo.feature_repo.stores.redis_rows import unpacked

KEYS_AT_ONCE: Final = 5_000
Key = tuple[str, ...]
Fields = Mapping[bytes, bytes]


class FieldDifference(NamedTuple):
    """A field of Feast's own that differs from the packed row beside it."""

    key: Key
    feature: str
    expected: float | None
    found: Any


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """The rows of one view: its keys, instants (UTC, µs) and features by key; and `apart`, the fields that differ."""

    table: pa.Table
    apart: Sequence[FieldDifference]


@dataclass(slots=True)
class _View:
    """The rows of one view read so far."""

    family: Family
    layout: Layout
    tables: list[pa.Table] = field(default_factory=list)
    apart: list[FieldDifference] = field(default_factory=list)

    def add(self, hashes: Sequence[tuple[bytes, Fields]]) -> None:
        """Add the rows of some Redis keys that have one of this view."""
        packed = self.layout.packed_field.encode()
        held = [(_key_of(self.layout, key), fields) for key, fields in hashes if packed in fields]
        rows = unpacked(self.layout, [fields[packed] for _, fields in held])
        columns: dict[str, Any] = {
            name: pa.array([key[at] for key, _ in held], pa.string()) for at, name in enumerate(self.family.keys)
        }
        for name, instants in (("event_timestamp", rows.event_timestamp), (VALID_UNTIL, rows.valid_until)):
            columns[name] = pa.array(instants.astype("datetime64[us]")).cast(pa.timestamp("us", "UTC"))
        for place, feature in enumerate(self.family.features):
            values = pa.array(rows.values[:, place], mask=np.isnan(rows.values[:, place]))
            columns[feature.name] = values.cast(pa.int64()) if feature.kind == "int" else values
        self.tables.append(pa.table(columns))
        for (key, fields), present in zip(held, rows.present.tolist(), strict=True):
            if present:
                self.apart += _feast_apart(self.layout, key, fields)


def read_all(client: Any) -> dict[str, OnlineRows]:
    """Read every row of every view. The server's keys are listed once, and an entity's hash is read once for all its views.

    Raises `UserError` if Redis fails.
    """
    views = {family.view: _View(family, Layout.of(family)) for family in FAMILIES}
    of_entity: dict[bytes, list[_View]] = {}
    for view in views.values():
        of_entity.setdefault(view.layout.key_prefix, []).append(view)
    owned: dict[bytes, list[bytes]] = {entity: [] for entity in of_entity}
    with redis_errors("the online store"):
        for key in client.scan_iter(match=None, count=KEYS_AT_ONCE):
            for entity, [view, *_] in of_entity.items():
                if view.layout.owns(key):
                    owned[entity].append(key)
    for entity, keys in owned.items():
        # a view without a row has a table without one
        for start in range(0, max(len(keys), 1), KEYS_AT_ONCE):
            hashes = _hashes(client, keys[start : start + KEYS_AT_ONCE])
            for view in of_entity[entity]:
                view.add(hashes)
    return {name: OnlineRows(pa.concat_tables(view.tables), view.apart) for name, view in views.items()}


def _hashes(client: Any, keys: Sequence[bytes]) -> list[tuple[bytes, Fields]]:
    with redis_errors("the online store"), client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
        return list(zip(keys, pipe.execute(), strict=True))


def _key_of(layout: Layout, redis_key: bytes) -> Key:
    """Return the key values of a Redis key, in the order of the view's keys."""
    at = len(layout.key_prefix)
    values: dict[str, str] = {}
    for name in sorted(layout.keys):
        _, length = struct.unpack_from("<II", redis_key, at)
        values[name] = redis_key[at + 8 : at + 8 + length].decode()
        at += 8 + length
    return tuple(values[name] for name in layout.keys)


def _feast_apart(layout: Layout, key: Key, fields: Fields) -> Iterator[FieldDifference]:
    """Yield where Feast's own fields of a row differ from the packed row."""
    packed = np.frombuffer(fields[layout.packed_field.encode()], dtype=layout.packed_type)[0]["values"]
    for (name, kind), value_field, number in zip(layout.columns, layout.value_fields, packed.tolist(), strict=True):
        written = fields.get(value_field)
        if written != serialised_value(kind, number):
            found = _feast_value(written)
            expected = None if number != number else number // 1e6 if kind == "instant" else number
            if found != expected:
                yield FieldDifference(key, name, expected, found)


def _feast_value(written: bytes | None) -> Any:
    """Return the value in a field of Feast's own; None where it has none."""
    prepare_feast()
    from feast.protos.feast.types.Value_pb2 import Value

    value = Value.FromString(written) if written else None
    which = value.WhichOneof("val") if value is not None else None
    return None if value is None or which is None else getattr(value, which)
