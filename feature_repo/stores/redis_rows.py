"""Feature rows in Redis: how they lie there, how they are replaced, how they are read. Knows nothing of Feast.

One hash per entity key, in Feast's own layout: a field per feature (murmur3 of `view:feature`) with the serialised
value, `_ts:<view>` with the event's time. Beside them, for us: `_ver:<view>`, what the row was written as (epoch,
event time), and `_pk:<view>`, the whole row packed, so that a reader takes one small field a view.

A row replaces another only where its (epoch, event time) is greater, in one atomic step on the server; equal or lower
changes nothing, so any write may be repeated, and writers may race. A null deletes the field, so no value of an older
row survives in a newer. Writers of stock Feast do not look at `_ver`: let none write to the same project.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalogue.families import Family
from feature_repo.stores.redis_client import told
from velo.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

PROJECT: Final = "velo"
VALID_UNTIL: Final = "valid_until"
BATCH_ROWS: Final = 2000
"""Rows a round trip: bounds what client and server hold for one pipeline."""

ColumnKind = Literal["int32", "int64", "float64", "instant"]
Key = str | None | Sequence[str | None]

_HEADER: Final = struct.Struct("<Iq")
_YEAR_ONE_US: Final = 62_135_596_800_000_000
_TAGS: Final = {"int32": 0x18, "int64": 0x20, "float64": 0x29, "instant": 0x40}
"""First byte of a serialised feast.types.Value: its field number and wire type."""
_STRING: Final = 2


@dataclass(frozen=True)
class Layout:
    """How the rows of one view lie in Redis. `columns` are (name, kind) in the order they are packed."""

    view: str
    keys: tuple[str, ...]
    columns: tuple[tuple[str, ColumnKind], ...]
    project: str = PROJECT

    @classmethod
    def of(cls, family: Family, project: str = PROJECT) -> "Layout":
        """The layout of a family of the catalogue: its features, then `valid_until`."""
        columns: list[tuple[str, ColumnKind]] = [
            (feature.name, "int32" if feature.kind == "int" else "float64") for feature in family.features
        ]
        return cls(family.view, family.keys, (*columns, (VALID_UNTIL, "instant")), project)

    @property
    def version_field(self) -> str:
        """The field that holds what the row was written as."""
        return f"_ver:{self.view}"

    @property
    def time_field(self) -> str:
        """The field that holds the row's event time, for Feast."""
        return f"_ts:{self.view}"

    @property
    def packed_field(self) -> str:
        """The field that holds the whole row."""
        return f"_pk:{self.view}"

    @cached_property
    def value_fields(self) -> tuple[bytes, ...]:
        """Feast's field of each column."""
        import mmh3

        return tuple(struct.pack("<I", mmh3.hash(f"{self.view}:{name}", signed=False)) for name, _ in self.columns)

    @property
    def fields(self) -> tuple[str | bytes, ...]:
        """Every field a row of this view may have."""
        return (*self.value_fields, self.time_field, self.version_field, self.packed_field)

    @cached_property
    def fingerprint(self) -> int:
        """Tells rows packed under another list of columns apart."""
        return zlib.crc32(repr(self.columns).encode())

    @cached_property
    def packed_type(self) -> "np.dtype[np.void]":
        """A packed row: fingerprint, event time (µs), a double a column, NaN for null, instants in µs."""
        return np.dtype([("fingerprint", "<u4"), ("event_us", "<i8"), ("values", "<f8", (len(self.columns),))])

    @cached_property
    def key_prefix(self) -> bytes:
        """What the Redis keys of every entity with these join keys begin with."""
        names = [name.encode() for name in sorted(self.keys)]
        return struct.pack("<I", len(names)) + b"".join(struct.pack("<II", _STRING, len(n)) + n for n in names)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return tuple(sorted(range(len(self.keys)), key=lambda at: self.keys[at]))

    def redis_key(self, key: Sequence[str]) -> bytes:
        """The Redis key of an entity, its key values given in the order of `keys`."""
        encoded = (key[at].encode() for at in self._order)
        values = b"".join(struct.pack("<II", _STRING, len(value)) + value for value in encoded)
        return self.key_prefix + values + self.project.encode()

    def owns(self, redis_key: bytes) -> bool:
        """Whether a Redis key is one of an entity with these join keys, of this very project."""
        at = len(self.key_prefix)
        if redis_key[:at] != self.key_prefix:
            return False
        for _ in self.keys:
            if len(redis_key) < at + 8:
                return False
            kind, length = struct.unpack_from("<II", redis_key, at)
            at += 8 + length
        return redis_key[at:] == self.project.encode()

    @cached_property
    def script(self) -> str:
        """Lua that replaces a row if the one offered is newer: KEYS[1], then version, event time, packed row."""
        from feature_repo.stores.redis_script import replace_if_newer

        return replace_if_newer(self, _TAGS, _HEADER.size)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the rows offered: `written`, and `skipped` because the store held as new or newer ones."""

    written: int = 0
    skipped: int = 0

    def __add__(self, other: "Written") -> "Written":
        return Written(self.written + other.written, self.skipped + other.skipped)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows read, one a key asked for, in its order.

    `values` is float64 (keys, features), NaN for null, without `valid_until`; the two instants are UTC, NaT for null;
    `present` is False where the store has no row of the key, or only one packed under another list of features,
    which is as absent until it is written again.
    """

    values: NDArray[np.float64]
    event_timestamp: NDArray[np.datetime64]
    valid_until: NDArray[np.datetime64]
    present: NDArray[np.bool_]

    def stale(self, as_of: np.datetime64) -> NDArray[np.bool_]:
        """Which rows a window has moved on from by `as_of` (UTC): read at or after their `valid_until`."""
        return np.asarray(self.valid_until <= as_of, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class RedisRows:
    """Rows of features behind one client; `url` only names the server in what is said when it fails."""

    client: Any
    url: str = "redis"

    def write_rows(self, layout: Layout, table: "pa.Table", epoch: int) -> Written:
        """Offer rows of a view: an Arrow table of join keys (text), columns and `event_timestamp`, in any chunks.

        Raises `UserError` for a null or non-text key, and where Redis fails; rows offered before that may be written.
        """
        outcome = Written()
        for chunk in table.to_batches(max_chunksize=BATCH_ROWS * 10):
            keys = _key_columns(layout, chunk)
            event_us = _event_us(chunk.column("event_timestamp"))
            values = np.column_stack([_numbers(chunk.column(name), kind) for name, kind in layout.columns])
            outcome += self.write(layout, keys, event_us, values, epoch)
        return outcome

    def write(
        self,
        layout: Layout,
        keys: Sequence[Sequence[str]],
        event_us: NDArray[np.int64],
        values: NDArray[np.float64],
        epoch: int,
    ) -> Written:
        """Offer rows given as keys (in the order of `layout.keys`), event times (µs), and values (rows, columns)."""
        packed = np.empty(len(keys), dtype=layout.packed_type)
        packed["fingerprint"], packed["event_us"], packed["values"] = layout.fingerprint, event_us, values
        blob, width = packed.tobytes(), layout.packed_type.itemsize
        offers = [
            (
                layout.redis_key(key),
                f"{epoch:08d}{instant + _YEAR_ONE_US:018d}",
                _timestamp(instant),
                blob[at * width : (at + 1) * width],
            )
            for at, (key, instant) in enumerate(zip(keys, event_us.tolist(), strict=True))
        ]
        written = 0
        with told(self.url):
            for start in range(0, len(offers), BATCH_ROWS):
                written += sum(self._offer(layout, offers[start : start + BATCH_ROWS]))
        return Written(written, len(offers) - written)

    def _offer(self, layout: Layout, offers: Sequence[tuple[bytes, str, bytes, bytes]]) -> list[int]:
        from redis.exceptions import MovedError, NoScriptError

        # A server that restarted has forgotten the script, a cluster may have moved the key: offering again is safe.
        for _ in range(3):
            answers: list[int] = []
            try:
                for client, share in self._by_node(offers):
                    sha = client.script_load(layout.script)
                    with client.pipeline(transaction=False) as pipe:
                        for key, version, time, row in share:
                            pipe.execute_command("EVALSHA", sha, 1, key, version, time, row)
                        answers += pipe.execute()
            except NoScriptError:
                continue
            except MovedError:
                self.client.nodes_manager.initialize()
                continue
            return answers
        raise UserError(f"the Redis at {self.url} keeps moving its keys: try again when the cluster is settled")

    def _by_node(self, offers: Sequence[tuple[bytes, str, bytes, bytes]]) -> Iterator[tuple[Any, Sequence[Any]]]:
        """Each server and its share: a cluster's pipelines refuse EVALSHA, those of its nodes do not."""
        if not hasattr(self.client, "get_node_from_key"):
            yield self.client, offers
            return
        shares: dict[Any, list[Any]] = {}
        for offer in offers:
            shares.setdefault(self.client.get_node_from_key(offer[0]), []).append(offer)
        for node, share in shares.items():
            yield self.client.get_redis_connection(node), share

    def read_packed(self, wanted: Sequence[tuple[Layout, Sequence[Key]]]) -> list[Rows]:
        """The rows of many keys of many views, in one round trip.

        A key is the text of a single join key, or as many as the view has, in the order of `layout.keys`. A key with
        a null in it has no row.
        """
        spots: list[NDArray[np.intp]] = []
        commands: list[tuple[bytes, str]] = []
        for layout, keys in wanted:
            seen: dict[bytes, int] = {}
            spot = np.full(len(keys), -1, dtype=np.intp)
            for at, key in enumerate(keys):
                parts = (key,) if key is None or isinstance(key, str) else tuple(key)
                if None not in parts:
                    redis_key = layout.redis_key(parts)  # type: ignore[arg-type]  # no None among them
                    spot[at] = seen.setdefault(redis_key, len(commands) + len(seen))
            commands += [(redis_key, layout.packed_field) for redis_key in seen]
            spots.append(spot)
        with told(self.url), self.client.pipeline(transaction=False) as pipe:
            for redis_key, field in commands:
                pipe.hget(redis_key, field)
            answers = pipe.execute() if commands else []
        return [_unpacked(layout, spot, answers) for (layout, _), spot in zip(wanted, spots, strict=True)]

    def delete_view(self, layout: Layout) -> int:
        """Remove the fields of a view from every entity of its project, nothing else; returns the entities touched."""
        pattern = _glob_escaped(layout.key_prefix) + b"*" + _glob_escaped(layout.project.encode())
        touched = 0
        with told(self.url):
            batch: list[bytes] = []
            for key in self.client.scan_iter(match=pattern, count=5000):
                if layout.owns(key):
                    batch.append(key)
                if len(batch) == BATCH_ROWS:
                    touched += self._delete_fields(layout, batch)
                    batch = []
            touched += self._delete_fields(layout, batch)
        return touched

    def _delete_fields(self, layout: Layout, keys: Sequence[bytes]) -> int:
        if not keys:
            return 0
        with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hdel(key, *layout.fields)
            return sum(1 for removed in pipe.execute() if removed)


def _unpacked(layout: Layout, spot: NDArray[np.intp], answers: Sequence[bytes | None]) -> Rows:
    row_type = layout.packed_type
    absent = np.zeros(1, dtype=row_type)
    absent["values"] = np.nan
    missing = absent.tobytes()
    cells = [answers[at] if at >= 0 else None for at in spot.tolist()]
    rows = np.frombuffer(
        b"".join(cell if cell is not None and len(cell) == row_type.itemsize else missing for cell in cells),
        dtype=row_type,
    )
    held = np.fromiter((cell is not None and len(cell) == row_type.itemsize for cell in cells), np.bool_, len(cells))
    present = held & (rows["fingerprint"] == layout.fingerprint)
    values = np.where(present[:, None], rows["values"], np.nan)
    names = [name for name, _ in layout.columns]
    until = np.full(len(cells), np.nan)
    if VALID_UNTIL in names:
        until = values[:, names.index(VALID_UNTIL)]
        values = np.delete(values, names.index(VALID_UNTIL), axis=1)
    event = np.where(present, rows["event_us"], np.iinfo(np.int64).min)
    return Rows(values, event.astype("datetime64[us]"), _instants(until), present)


def _instants(micros: NDArray[np.float64]) -> NDArray[np.datetime64]:
    known = ~np.isnan(micros)
    whole = np.full(micros.shape, np.iinfo(np.int64).min, dtype=np.int64)
    whole[known] = micros[known].astype(np.int64)
    return whole.astype("datetime64[us]")


def _key_columns(layout: Layout, chunk: "pa.RecordBatch") -> list[tuple[str, ...]]:
    import pyarrow as pa

    columns: list[list[str]] = []
    for name in layout.keys:
        column = chunk.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise UserError(f"{layout.view}.{name} is {column.type}, but a key is text: cast it to a string")
        if column.null_count:
            raise UserError(f"{layout.view}.{name} is null in {column.null_count} rows: leave out rows without a key")
        columns.append(column.to_pylist())
    return list(zip(*columns, strict=True))


def _event_us(column: Any) -> NDArray[np.int64]:
    import pyarrow as pa

    if column.null_count:
        raise UserError(f"event_timestamp is null in {column.null_count} rows: every row needs one")
    return np.asarray(column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False))


def _numbers(column: Any, kind: ColumnKind) -> NDArray[np.float64]:
    """A column as doubles, NaN for null; instants in µs. Whole numbers past 2^53 would lose digits: refused."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "instant" and not pa.types.is_null(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    try:
        return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as refused:
        raise UserError(f"a feature cannot be kept as a double ({refused}): keep such views in a stock store") from None


def _timestamp(instant_us: int) -> bytes:
    """A serialised google.protobuf.Timestamp."""
    seconds, micros = divmod(instant_us, 1_000_000)
    written = b"\x08" + _varint(seconds) if seconds else b""
    return written + (b"\x10" + _varint(micros * 1000) if micros else b"")


def _varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _glob_escaped(literal: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in literal)
