"""The online sink: writes each view's newest rows to Redis, each only over an older one.

While the stream catches up, only the newest row of each key is written, from time to time; at the log's end every block is
written as it comes, by a thread beside the engine (`redis_flusher`). Each view has a mark in Redis that says how far it was
written, by which write and since which fill (`stores.whole`):

- a view that was never filled is filled from the offline tables first;
- a view that lost data (emptied, restored from older data, rows evicted) is filled again. Its mark says so at the next write,
  or within a second where none comes (`keeper`);
- a view that another store filled is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any, ClassVar, Final

import numpy as np
from bytewax.outputs import StatefulSinkPartition

from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores.redis_client import redis_errors
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowBatchToWrite, RowWriter
from velo.feature_repo.stores.whole import (
    OtherStore,
    RedisContents,
    begin,
    fill_remembered,
    finish,
    forget,
    new_fill,
    new_mark,
    read,
    refuse_other_store,
)
from velo.racing.clock import to_us
from velo.storage.log.reader import end
from velo.storage.store import Home
from velo.streams.aggregation.layout import Key
from velo.streams.aggregation.vectorized import VectorizedColumns
from velo.streams.aggregation.window_state import PackedRow
from velo.streams.dataflow.backfill import fill_view, one_at_a_time
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Telemetry, say
from velo.streams.dataflow.operators import Reads, RowBatch, StreamSink
from velo.streams.dataflow.plan import TableVersion
from velo.streams.dataflow.redis_flusher import RedisFlusher
from velo.streams.dataflow.retry import RestartRequired, Retry, go_on

OLD_MARKS: Final = "velo:stream"
"""The Redis hash of earlier versions: the marks of all views, without the identity of the store."""
REPLACE_MARK: Final = """
local held = redis.call('HGET', KEYS[1], 'mark')
if held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'mark', ARGV[2])
return 1
"""
"""A mark is `log generation:epoch:seq of the last message that made a row:write`.

The last part is different for every write: a writer that finds another mark than it left knows that later rows may be lost.
The script accepts the new mark too, as a write whose answer was lost is repeated.
"""
FILLERS: Final = 2
"""Views filled at the same time: while the server stores the rows of one, those of the other are made."""
FILLING: Final = -1
"""The epoch of a mark while a view is filled: it equals that of no stream."""
ROWS_KEPT: Final = 10_000
"""The most rows written since the last snapshot that are kept, to write them again where Redis lost them."""
ROWS_HELD: Final = 20_000
"""The most keys whose newest rows are pending before they are written."""


@dataclass(frozen=True, slots=True)
class RedisSink(StreamSink[RowBatch, int]):
    """One partition a view. `connect` returns a client that has answered; `begin` is the first seq of a stream without a snapshot.

    `sealing` says whether the rows are written to the offline tables too.
    """

    step: ClassVar[str] = "online"
    reads: ClassVar[Reads] = "rows"

    home: Home
    views: Sequence[str]
    formulas: TableVersion
    begin: int
    connect: Callable[[], Any]
    clock: Clock
    telemetry: Telemetry
    waiting: Retry
    flusher: "RedisFlusher[RedisPartition]"
    sealing: bool = True
    partitions: "dict[str, RedisPartition]" = field(default_factory=dict, compare=False)
    """The writer of each view in this process: first the one that filled it, then, from its first row on, the engine's."""
    cards_lost: Event = field(default_factory=Event, compare=False)
    """Set where Redis no longer holds every open race: the writer of the race cards then writes them again."""

    def prepares(self, then: Callable[[int], None]) -> list[Callable[[int], None]]:
        """Functions that fill Redis from the tables, each to be called in its own thread before the first record.

        The last to end calls `then`: what it writes makes readers look for the views, so all must be there. Filling cannot
        be left to the engine, which makes no partition of a view before its first row.
        """
        remaining, ended = iter(self.views), count(1)

        def fill_next(base: int) -> None:
            for view in remaining:
                partition = RedisPartition(self, BY_VIEW[view], self.begin - 1, self.waiting.go_on, sealed_seq=base - 1)
                self.waiting.until_done("online", partition.make_ready)
            if next(ended) == FILLERS:
                then(base)

        return [fill_next] * FILLERS

    def list_parts(self) -> list[str]:
        """Every view; Bytewax shares them out over the workers."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """The index of a view among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "RedisPartition":
        """The engine's writer of a view, once Redis holds the rows before it: those of the build, or up to the snapshot."""
        last_seq = self.begin - 1 if resume_state is None else resume_state
        partition = RedisPartition(self, BY_VIEW[for_part], last_seq, engines=True)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class PendingRows:
    """Rows to write: the newest of each key, the number of rows offered, and the last message that made one.

    `live_us` has the `known_at` of the live messages among theirs; `mark` is the mark that this write leaves in Redis.
    """

    last_seq: int
    rows: dict[Key, PackedRow] = field(default_factory=dict)
    offered: int = 0
    live_us: set[int] = field(default_factory=set)
    mark: bytes = b""


@dataclass(slots=True, eq=False)
class RedisPartition(StatefulSinkPartition[RowBatch, int]):
    """The writer of one view; `last_seq` is the last message whose rows Redis has, −1 for none.

    `go_on` is called regularly while the view is filled. Rows go through two buffers: `_next` takes new rows, `_load` is what
    the flusher is writing, and `due` says that it is not written yet. `_since` has the rows written after the last snapshot,
    `_before` those between the two last snapshots; each is None where they were too many to keep.
    """

    sink: RedisSink
    family: Family
    last_seq: int
    go_on: Callable[[], None] = go_on
    sealed_seq: int = -1
    """The last message whose rows the tables certainly have, where that is later than `last_seq`."""
    filled: bool = False
    _next: PendingRows = field(init=False)
    _load: PendingRows = field(init=False)
    due: bool = False
    engines: bool = False
    """Whether the engine passes its rows to this writer; if not, it only filled the view."""
    suspect: bool = False
    """Whether rows are known to be lost, whatever the mark says."""
    _since: dict[Key, PackedRow] | None = field(default_factory=dict)
    _before: dict[Key, PackedRow] | None = field(default_factory=dict)
    _client: Any = None
    _written: bytes | None = None
    _layout: Layout = field(init=False)
    _arrays: VectorizedColumns = field(init=False)

    def __post_init__(self) -> None:
        self._layout = Layout.of(self.family)
        self._arrays = VectorizedColumns(self.family)
        self._next = self._load = PendingRows(self.last_seq)

    def make_ready(self) -> None:
        """Connect, and fill the view where Redis does not hold what was written.

        It is filled from the offline tables, which have every row up to the last snapshot but one, and from the rows kept since.
        Raises `RestartRequired` where those were too many to keep.
        """
        view, partitions = self.family.view, self.sink.partitions
        with one_at_a_time(self.sink.home, view):
            first = partitions.get(view)
            if first is not None and first is not self:
                if not self.engines:
                    # the engine's writer was first, and found the view complete or filled it
                    return
                self._take_over(first)
            self._make_ready()
            partitions[view] = self

    def _take_over(self, first: "RedisPartition") -> None:
        """Continue from the writer that filled the view before the engine had rows for it."""
        self._written = first._written  # noqa: SLF001  an instance of this class
        if first.filled:
            # it was filled up to where this execution begins; the engine makes the later rows again
            self.last_seq = min(self.last_seq, first.last_seq)

    def _make_ready(self) -> None:
        client, home, mine = self.sink.connect(), self.sink.home, self.sink.formulas
        held, old = self._held(client)
        try:
            refuse_other_store(home, "Redis", {self.family.view: held.owner})
        except OtherStore as theirs:
            raise RestartRequired(str(theirs)) from None
        expected = fill_remembered(home, self.family.view)
        generation, epoch, seq = _read_mark(held.mark or old)
        unknown = expected is None and held.fill is None
        if unknown or generation not in (-1, mine.log_generation) or seq >= end(home).next_seq:
            # written by an unknown store, from another log, or from messages that this log does not have: its rows may be
            # later than any this stream makes, and would never be replaced
            forget(home, self.family.view)
            RowWriter(client).delete_view(self._layout)
            seq = -1
        # a write whose answer did not arrive left its mark as well
        lost = self._written is not None and held.mark not in (self._written, self._load.mark)
        lost = lost or self.suspect or held.lost
        if seq < self.last_seq or epoch != mine.epoch or lost or held.fill is None or held.fill != expected:
            self._fill(client, lost=lost)
        else:
            self._written = held.mark
        self._client = client

    def _held(self, client: Any) -> tuple[RedisContents, bytes | None]:
        """The state of the view in Redis, and its mark from an earlier version of this software."""
        [held] = read(client, [self._layout])
        with redis_errors("the online store"):
            return held, None if held.mark else client.hget(OLD_MARKS, self.family.view)

    def _fill(self, client: Any, *, lost: bool) -> None:
        home, view, mine = self.sink.home, self.family.view, self.sink.formulas
        if self.sink.sealing:
            self.last_seq = max(self.last_seq, self.sealed_seq)
        filling = self._mark(FILLING, self.last_seq)
        # mark it as being filled before any error: readers must not use an incomplete view
        begin(client, self._layout, filling)
        if self._since is None or self._before is None:
            raise RestartRequired(
                "Redis lost rows while the stream was catching up: start the stream again, it fills Redis and resumes from "
                "its last snapshot"
            )
        if not self.sink.sealing and self.last_seq >= self.sink.begin:
            raise RestartRequired(
                "Redis lost rows that are in no table (the stream runs with --no-offline): run `velo build`, then start the "
                "stream again"
            )
        redis = RowWriter(client)
        rows = fill_view(home, self._layout, redis, mine.epoch, self.go_on) if self.last_seq >= 0 else 0
        if since := self._before | self._since:
            redis.write_batches([self._lot(list(since.values()))])
        filled = self._mark(mine.epoch, self.last_seq)
        if not finish(home, client, self._layout, filling, filled, new_fill(self._layout, home, mine.log_generation)):
            raise UserError("Redis was emptied, or filled by another stream, while it was filled")
        with redis_errors("the online store"):
            client.hdel(OLD_MARKS, view)
        self._written, self.suspect, self.filled = filled, False, True
        say("stream.filled_online", view=view, rows=rows, up_to_seq=self.last_seq, forgot=lost)

    def differs(self, held: RedisContents) -> bool:
        """Whether Redis does not hold what this writer wrote. Sets `suspect` where the view was lost or filled by another.

        May be wrongly true while a write is in flight; that write's own mark then decides.
        """
        if held.lost or held.fill is None or held.fill != fill_remembered(self.sink.home, self.family.view):
            self.suspect = True
            return True
        return held.mark != self._written

    def waits(self) -> bool:
        """Whether rows are pending that the flusher has not taken."""
        return bool(self._next.rows)

    def write_batch(self, values: list[RowBatch]) -> None:
        """Add rows to the pending ones; the flusher is asked to write at once where a message is live."""
        flusher = self.sink.flusher
        with flusher.changing:
            load = self._next
            for block in values:
                # all rows of a key come from one shard, in order: the later row is the newer
                load.rows.update([(row[0], row) for row in block.rows])
                load.offered += len(block.rows)
                load.last_seq = max(load.last_seq, block.last_seq)
                if block.live:
                    load.live_us.add(block.known_at_us)
            full = len(load.rows) >= ROWS_HELD
            flusher.enqueue(self)
            if load.live_us or full:
                flusher.ask(self)
        if full:
            flusher.until_taken(self)

    def snapshot(self) -> int:
        """Write all pending rows; returns the seq of the last message that made a row."""
        self.sink.flusher.until_delivered(self)
        # rows from before the previous snapshot are sealed in the tables by now
        self._before, self._since = self._since, {}
        return self.last_seq

    def ready(self) -> None:
        """Connect where needed, to a Redis that holds what was written before."""
        if self._client is None:
            self.make_ready()

    def take(self) -> None:
        """Make the pending rows the next write."""
        self._load, self._next, self.due = self._next, PendingRows(self._next.last_seq), True
        self._load.mark = self._mark(self.sink.formulas.epoch, self._load.last_seq)

    @property
    def redis(self) -> RowWriter:
        """The writer of the connected server."""
        return RowWriter(self._client)

    def pending(self) -> RowBatchToWrite | None:
        """The rows of the next write; None where only its mark is written."""
        return self._lot(list(self._load.rows.values())) if self._load.rows else None

    def leaves_mark(self) -> tuple[Any, ...]:
        """The command that replaces the last mark with that of this write."""
        return self._replace_mark(self._written, self._load.mark)

    def lose(self) -> None:
        """Drop the connection after an error: `ready` then checks what the server holds before the next write."""
        self._client = None

    def delivered(self, *, remembered: bool) -> None:
        """Record that the write is in Redis; where Redis had lost the rows before it (not `remembered`), fill the view."""
        load, view, telemetry = self._load, self.family.view, self.sink.telemetry
        if self._since is not None:
            self._since |= load.rows
            if len(self._since) > ROWS_KEPT:
                self._since = None
        self.last_seq = max(self.last_seq, load.last_seq)
        if remembered and not self.suspect:
            self._written = load.mark
        else:
            self._client = None
            self.make_ready()
        self.due = False
        telemetry.rows.labels("online", view).inc(len(load.rows))
        telemetry.coalesced.inc(load.offered - len(load.rows))
        now_us = to_us(self.sink.clock())
        for known_at_us in load.live_us:
            telemetry.fresh.observe(max(0.0, (now_us - known_at_us) / 1e6))

    def _lot(self, rows: Sequence[PackedRow]) -> RowBatchToWrite:
        return batch_to_write(self._layout, self._arrays, rows, self.sink.formulas.epoch)

    def _mark(self, epoch: int, seq: int) -> bytes:
        return new_mark(self.sink.home, self.sink.formulas.log_generation, epoch, seq)

    def _replace_mark(self, old: bytes | None, new: bytes) -> tuple[Any, ...]:
        return "EVAL", REPLACE_MARK, 1, self._layout.index_key, old or b"", new


def deliver(partitions: Sequence[RedisPartition]) -> None:
    """Write the rows that each view has taken, and its new mark; a view whose mark is gone lost rows, and is filled.

    On a repeated call after an error, views that were written are skipped.
    """
    due = [partition for partition in partitions if partition.due]
    if not due:
        return
    try:
        batches = [batch for partition in due if (batch := partition.pending()) is not None]
        marks = [partition.leaves_mark() for partition in due]
        _, replaced = due[0].redis.write_batches(batches, marks)
    except BaseException:
        for partition in due:
            partition.lose()
        raise
    for partition, remembered in zip(due, replaced, strict=True):
        partition.delivered(remembered=bool(remembered))


def batch_to_write(layout: Layout, arrays: VectorizedColumns, rows: Sequence[PackedRow], epoch: int) -> RowBatchToWrite:
    """The rows of a view with their columns made, as the Redis writer takes them."""
    matrix = np.empty((len(rows), len(layout.columns)), dtype=np.float64)
    matrix[:, :-1] = arrays.of(rows).T
    matrix[:, -1] = np.array([row[5] for row in rows], dtype=np.float64)
    return RowBatchToWrite(
        layout, [row[0] for row in rows], np.array([row[1] for row in rows], dtype=np.int64), matrix, epoch
    )


def _read_mark(written: bytes | None) -> tuple[int, int, int]:
    """Log generation, epoch and seq of a mark; −1 each where there is none."""
    if written is None:
        return -1, -1, -1
    generation, epoch, seq = written.decode().split(":")[:3]
    return int(generation), int(epoch), int(seq)
