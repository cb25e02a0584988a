"""Write feature rows to Redis: a newer row replaces an older one. Does not import Feast.

A row replaces another only if its version (epoch, event time) is greater, in one atomic step on the server. An equal or
lower version changes nothing, so a write may be repeated and writers may race. A null deletes its field, so no value of
the older row survives. Stock Feast ignores versions: do not let it write to the same project.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.feature_repo.stores.materialization_mark import mark_key
from velo.feature_repo.stores.redis_client import is_cluster, redis_errors
from velo.feature_repo.stores.redis_layout import ColumnKind, Layout, varint
from velo.feature_repo.stores.redis_script import NOTE_ALL

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 2000
"""Rows per round trip; limits the memory of one pipeline on client and server."""

CALL_ROWS: Final = 5
"""Rows per script call. A call blocks readers while it runs; with five rows the server spends no more per row than
with fifty, and the client hardly more."""

NOTED_AT_ONCE: Final = 500
"""Keys per call that adds them to a view's index on a cluster."""

Offer = tuple[bytes, str, bytes, bytes]
"""A row to write: its Redis key, version, event time and packed values."""
Offers = Sequence[Offer]
Trip = Sequence[tuple[Layout, Offers]]

_NOTE_SHA: Final = sha1(NOTE_ALL.encode(), usedforsecurity=False).hexdigest()
_YEAR_ONE_US: Final = 62_135_596_800_000_000


@dataclass(frozen=True, slots=True)
class WriteCounts:
    """Counts of rows `written`, and `skipped` because Redis had a row of the same or a later version."""

    written: int = 0
    skipped: int = 0

    def __add__(self, other: "WriteCounts") -> "WriteCounts":
        return WriteCounts(self.written + other.written, self.skipped + other.skipped)


@dataclass(frozen=True, slots=True)
class RowBatchToWrite:
    """Rows of one view to write: keys (in the order of `layout.keys`), event times (µs), values (rows, columns)."""

    layout: Layout
    keys: Sequence[Sequence[str]]
    event_us: NDArray[np.int64]
    values: NDArray[np.float64]
    epoch: int


@dataclass(frozen=True, slots=True)
class RowWriter:
    """Writes rows through one client; `url` names the server in errors."""

    client: Any
    url: str = "redis"

    def write_rows(
        self, layout: Layout, table: "pa.Table", epoch: int, progress: Callable[[int], Any] | None = None
    ) -> WriteCounts:
        """Write the rows of an Arrow table: join keys (text), the view's columns and `event_timestamp`, in any chunks.

        `progress` is called with the number of rows of each batch. Raises `UserError` for a null or non-text key, or if
        Redis fails; earlier batches may then be written.
        """
        outcome = WriteCounts()
        for chunk in table.to_batches(max_chunksize=BATCH_ROWS * 10):
            keys = _key_columns(layout, chunk)
            event_us = _event_us(chunk.column("event_timestamp"))
            values = np.column_stack([_numbers(chunk.column(name), kind) for name, kind in layout.columns])
            outcome += self.write(layout, keys, event_us, values, epoch)
            if progress:
                progress(chunk.num_rows)
        return outcome

    def write(
        self,
        layout: Layout,
        keys: Sequence[Sequence[str]],
        event_us: NDArray[np.int64],
        values: NDArray[np.float64],
        epoch: int,
    ) -> WriteCounts:
        """Write the rows of one batch; the arguments are the fields of `RowBatchToWrite`."""
        return self.write_batches([RowBatchToWrite(layout, keys, event_us, values, epoch)])[0]

    def write_batches(
        self, batches: Sequence[RowBatchToWrite], then: Sequence[tuple[Any, ...]] = ()
    ) -> tuple[WriteCounts, list[Any]]:
        """Write the rows of several views, then run the commands `then`, in one round trip if the rows are few.

        Returns the counts and the answers of the commands. A command may be sent again after a failure, so it must be
        safe to repeat.
        """
        offers = [(batch.layout, _offers(batch)) for batch in batches]
        count = sum(len(rows) for _, rows in offers)
        written, answers = 0, list[Any]()
        with redis_errors(self.url):
            trips = list(_in_trips(offers))
            for trip in trips[:-1]:
                written += self._offer(trip)[0]
            last, answers = self._offer(trips[-1] if trips else [], then)
        return WriteCounts(written + last, count - written - last), answers

    def _offer(self, trip: Trip, then: Sequence[tuple[Any, ...]] = ()) -> tuple[int, list[Any]]:
        from redis.exceptions import MovedError, NoScriptError

        # A restarted server has lost the script, and a cluster may have moved the key; a repeated write is safe.
        for _ in range(4):
            try:
                return self._sent_to_cluster(trip, then) if is_cluster(self.client) else self._sent_to_one(trip, then)
            except NoScriptError:
                for layout, offers in trip:
                    for client, _share in self._by_node(offers):
                        client.script_load(layout.script)
                    if is_cluster(self.client):
                        self._node_of(layout.index_key).script_load(NOTE_ALL)
                continue
            except MovedError:
                self.client.nodes_manager.initialize()
                continue
        raise UserError(f"the Redis at {self.url} keeps moving its keys: try again when the cluster is stable")

    def _sent_to_one(self, trip: Trip, then: Sequence[tuple[Any, ...]]) -> tuple[int, list[Any]]:
        with self.client.pipeline(transaction=False) as pipe:
            for layout, offers in trip:
                _call(pipe, layout, offers, CALL_ROWS, indexed=True)
            for command in then:
                pipe.execute_command(*command)
            answers = pipe.execute()
        rows = len(answers) - len(then)
        return sum(answers[:rows]), answers[rows:]

    def _sent_to_cluster(self, trip: Trip, then: Sequence[tuple[Any, ...]]) -> tuple[int, list[Any]]:
        """Write to a cluster, one key per call, through its nodes: a cluster pipeline refuses EVALSHA."""
        written = 0
        for layout, offers in trip:
            # index first: an indexed row that is missing is written again, but an unindexed row could vanish unnoticed
            for start in range(0, len(offers), NOTED_AT_ONCE):
                keys = [offer[0] for offer in offers[start : start + NOTED_AT_ONCE]]
                self._node_of(layout.index_key).evalsha(_NOTE_SHA, 1, layout.index_key, *keys)
            for client, share in self._by_node(offers):
                with client.pipeline(transaction=False) as pipe:
                    _call(pipe, layout, share, 1, indexed=False)
                    written += sum(pipe.execute())
        return written, [self.client.execute_command(*command) for command in then]

    def _by_node(self, offers: Offers) -> Iterator[tuple[Any, Offers]]:
        """Yield each server with its share of the rows."""
        if not is_cluster(self.client):
            yield self.client, offers
            return
        shares: dict[Any, list[Offer]] = {}
        for offer in offers:
            shares.setdefault(self.client.get_node_from_key(offer[0]), []).append(offer)
        for node, share in shares.items():
            yield self.client.get_redis_connection(node), share

    def _node_of(self, key: bytes) -> Any:
        """Return a client of the cluster node that has a key."""
        return self.client.get_redis_connection(self.client.get_node_from_key(key))

    def delete_view(self, layout: Layout) -> int:
        """Delete a view's index and rows, nothing else; returns the number of entities changed."""
        with redis_errors(self.url):
            self.client.delete(layout.index_key)
        return self.delete_rows(layout)

    def delete_rows(self, layout: Layout) -> int:
        """Delete a view's fields from every entity of its project; returns the number of entities changed."""
        pattern = _glob_escaped(layout.key_prefix) + b"*" + _glob_escaped(layout.project.encode())
        touched = 0
        with redis_errors(self.url):
            self.client.delete(mark_key(layout.project, layout.view))
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


def _offers(batch: RowBatchToWrite) -> list[Offer]:
    layout, keys = batch.layout, batch.keys
    packed = np.empty(len(keys), dtype=layout.packed_type)
    packed["fingerprint"], packed["event_us"], packed["values"] = layout.fingerprint, batch.event_us, batch.values
    blob, width = packed.tobytes(), layout.packed_type.itemsize
    return [
        (
            layout.redis_key(key),
            f"{batch.epoch:08d}{instant + _YEAR_ONE_US:018d}",
            serialised_instant(instant * 1000),
            blob[at * width : (at + 1) * width],
        )
        for at, (key, instant) in enumerate(zip(keys, batch.event_us.tolist(), strict=True))
    ]


def _in_trips(offers_by_layout: Sequence[tuple[Layout, list[Offer]]]) -> Iterator[list[tuple[Layout, list[Offer]]]]:
    """Split the rows into round trips of `BATCH_ROWS`."""
    trip, room = list[tuple[Layout, list[Offer]]](), BATCH_ROWS
    for layout, offers in offers_by_layout:
        at = 0
        while at < len(offers):
            some = offers[at : at + room]
            trip.append((layout, some))
            at, room = at + len(some), room - len(some)
            if not room:
                yield trip
                trip, room = [], BATCH_ROWS
    if trip:
        yield trip


def _call(pipe: Any, layout: Layout, offers: Offers, at_once: int, *, indexed: bool) -> None:
    """Queue script calls for these rows, `at_once` per call; `indexed` also adds them to the view's index."""
    index = [layout.index_key] if indexed else []
    for start in range(0, len(offers), at_once):
        some = offers[start : start + at_once]
        arguments = [part for offer in some for part in offer[1:]]
        keys = [*index, *(offer[0] for offer in some)]
        pipe.execute_command("EVALSHA", layout.script_sha, len(keys), *keys, len(index), *arguments)


def _key_columns(layout: Layout, chunk: "pa.RecordBatch") -> list[tuple[str, ...]]:
    import pyarrow as pa

    columns: list[list[str]] = []
    for name in layout.keys:
        column = chunk.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise UserError(f"{layout.view}.{name} is {column.type}, but a key must be text: cast it to a string")
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
    """Return a column as doubles, NaN for null, instants in µs. Refuses integers that a double cannot hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "instant" and not pa.types.is_null(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    try:
        return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as refused:
        raise UserError(f"a feature cannot be kept as a double ({refused}): keep such views in a stock store") from None


def serialised_instant(instant_ns: int) -> bytes:
    """Serialise nanoseconds since 1970 as a google.protobuf.Timestamp."""
    seconds, nanos = divmod(instant_ns, 1_000_000_000)
    written = b"\x08" + varint(seconds) if seconds else b""
    return written + (b"\x10" + varint(nanos) if nanos else b"")


def _glob_escaped(literal: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in literal)
