"""The online sink: each view's newest rows into Redis, each replacing only what is older.

While the stream catches up only the newest row of each key is written, now and then; at the log's end every block is
on its way as it comes, in a thread beside the engine (`courier`). Redis remembers how far each view was brought, by
which write and by which filling (`stores.whole`): one that was never filled is filled from the offline tables first,
one that forgot (emptied, restored from older data, rows evicted) is noticed at the next write, or within a second where
none comes (`keeper`), and filled again. One that another store filled is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any, Final

import numpy as np
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from feature_repo.catalogue.families import BY_VIEW, Family
from feature_repo.stores.redis_client import errors_told
from feature_repo.stores.redis_layout import Layout
from feature_repo.stores.redis_writer import RowBatchToWrite, RowWriter
from feature_repo.stores.whole import (
    Held,
    OtherStore,
    begin,
    fill_remembered,
    finish,
    forget,
    new_fill,
    new_mark,
    read,
    refuse_other_store,
)
from streams.aggregation.layout import Key
from streams.aggregation.vectorized import VectorizedColumns
from streams.aggregation.window_state import PackedRow
from streams.dataflow.backfill import fill_view, one_at_a_time
from streams.dataflow.log_source import Clock
from streams.dataflow.metrics import Telemetry, say
from streams.dataflow.operators import RowBatch
from streams.dataflow.parquet_sink import TableVersion
from streams.dataflow.redis_flusher import RedisFlusher
from streams.dataflow.retry import RestartRequired, Retry, go_on
from velo.errors import UserError
from velo.racing.clock import to_us
from velo.storage.log.reader import end
from velo.storage.store import Home

OLD_MARKS: Final = "velo:stream"
"""Redis hash in which earlier versions kept the marks of all views, and no identity."""
REPLACE_MARK: Final = """
local held = redis.call('HGET', KEYS[1], 'mark')
if held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'mark', ARGV[2])
return 1
"""
"""A mark is `log generation:epoch:seq of the last message that made a row:write`.

The last part is of one write alone: whoever finds another than it left knows that rows written since may be gone.
"""
FILLERS: Final = 2
"""Views filled at a time: while the server takes the rows of one, those of the next are made."""
FILLING: Final = -1
"""The epoch of a mark while a view is filled: no stream takes it for its own."""
ROWS_KEPT: Final = 10_000
"""Rows written since the last snapshot that are kept, at most, to be written again to a Redis that forgot them."""
ROWS_HELD: Final = 20_000
"""Keys whose newest rows wait, at most, before they are written."""


@dataclass(frozen=True, slots=True)
class RedisSink(FixedPartitionedSink[RowBatch, int]):
    """One partition a view. `connect` gives a client that has answered; `begin` is where a stream without a past begins.

    `sealing` says whether the rows go to the offline tables too.
    """

    home: Home
    views: Sequence[str]
    formulas: TableVersion
    begin: int
    connect: Callable[[], Any]
    clock: Clock
    telemetry: Telemetry
    waiting: Retry
    courier: "RedisFlusher[RedisPartition]"
    sealing: bool = True
    partitions: "dict[str, RedisPartition]" = field(default_factory=dict, compare=False)
    """Who writes each view in this process: at first the one that filled it, from its first row on the engine's own."""
    cards_lost: Event = field(default_factory=Event, compare=False)
    """Set where Redis no longer holds every open race: the cards' writer brings them again."""

    def prepares(self, then: Callable[[int], None]) -> list[Callable[[int], None]]:
        """What has Redis hold what the tables do, each to be called in a thread of its own before the first record.

        `then` follows once all views are there: whoever reads by what it writes must find them. The engine makes no
        partition of a view before its first row.
        """
        left, ended = iter(self.views), count(1)

        def fill_next(base: int) -> None:
            for view in left:
                partition = RedisPartition(self, BY_VIEW[view], self.begin - 1, self.waiting.go_on, sealed_seq=base - 1)
                self.waiting.until_done("online", partition.make_ready)
            if next(ended) == FILLERS:
                then(base)

        return [fill_next] * FILLERS

    def list_parts(self) -> list[str]:
        """Every view; Bytewax shares them out over the workers."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """A view's place among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "RedisPartition":
        """Redis must hold what was written before: the build's rows, or up to the snapshot."""
        last_seq = self.begin - 1 if resume_state is None else resume_state
        partition = RedisPartition(self, BY_VIEW[for_part], last_seq, engines=True)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class PendingRows:
    """Rows on their way: the newest of each key, how many came for them, and the last message they are of.

    `live_us` has the instants of live messages among them, and `mark` is what the load leaves in Redis.
    """

    last_seq: int
    rows: dict[Key, PackedRow] = field(default_factory=dict)
    offered: int = 0
    live_us: set[int] = field(default_factory=set)
    mark: bytes = b""


@dataclass(slots=True, eq=False)
class RedisPartition(StatefulSinkPartition[RowBatch, int]):
    """The writer of one view; `last_seq` is the last message of which Redis has the rows, −1 for none.

    `go_on` is called now and then while the view is filled. `_next` waits and `_load` is what the courier delivers,
    which it has not yet where `due`; `_since` has the rows written after the last snapshot and `_before` those of the snapshot before.
    """

    sink: RedisSink
    family: Family
    last_seq: int
    go_on: Callable[[], None] = go_on
    sealed_seq: int = -1
    """The last message of which the tables have the rows for certain, where that is more than `last_seq`."""
    filled: bool = False
    _next: PendingRows = field(init=False)
    _load: PendingRows = field(init=False)
    due: bool = False
    engines: bool = False
    """Whether the engine gives it rows; else another process may write the view."""
    suspect: bool = False
    """Whether rows are known to be gone, whatever the marks say."""
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
        """Connect, and fill the view where Redis does not hold what it was brought to.

        From the offline tables, which have all up to the last snapshot but one, and the rows written since. Raises
        `RestartRequired` where those are too many to have been kept.
        """
        view, partitions = self.family.view, self.sink.partitions
        with one_at_a_time(self.sink.home, view):
            first = partitions.get(view)
            if first is not None and first is not self:
                if not self.engines:
                    # the engine's own came first, and found the view whole or filled it
                    return
                self._take_over(first)
            self._make_ready()
            partitions[view] = self

    def _take_over(self, first: "RedisPartition") -> None:
        """Go on from the writer that had the view before the engine had rows of it."""
        self._written = first._written  # noqa: SLF001  one of this kind
        if first.filled:
            # what it was filled with ends where this execution begins; the rest is made again
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
            # of no store that says its name, of another log, or of more than this log holds: its rows may claim instants
            # that this one never reaches
            forget(home, self.family.view)
            RowWriter(client).delete_view(self._layout)
            seq = -1
        # the mark of a load whose answer was lost is ours too
        forgot = self._written is not None and held.mark not in (self._written, self._load.mark)
        forgot = forgot or self.suspect or held.lost
        if seq < self.last_seq or epoch != mine.epoch or forgot or held.fill is None or held.fill != expected:
            self._fill(client, forgot=forgot)
        else:
            self._written = held.mark
        self._client = client

    def _held(self, client: Any) -> tuple[Held, bytes | None]:
        """What Redis says of the view, and the mark that an earlier version left of it."""
        [held] = read(client, [self._layout])
        with errors_told("the online store"):
            return held, None if held.mark else client.hget(OLD_MARKS, self.family.view)

    def _fill(self, client: Any, *, forgot: bool) -> None:
        home, view, mine = self.sink.home, self.family.view, self.sink.formulas
        if self.sink.sealing:
            self.last_seq = max(self.last_seq, self.sealed_seq)
        filling = self._mark(FILLING, self.last_seq)
        # nobody reads a view that is not whole, also where it cannot be filled now
        begin(client, self._layout, filling)
        if self._since is None or self._before is None:
            raise RestartRequired(
                "Redis lost rows while the stream was catching up: start the stream again, it fills Redis and goes on "
                "where its last snapshot was"
            )
        if not self.sink.sealing and self.last_seq >= self.sink.begin:
            raise RestartRequired(
                "Redis lost rows that no table holds (the stream keeps none, by --no-offline): run `velo build`, then "
                "start the stream again"
            )
        redis = RowWriter(client)
        rows = fill_view(home, self._layout, redis, mine.epoch, self.go_on) if self.last_seq >= 0 else 0
        if since := self._before | self._since:
            redis.write_lots([self._lot(list(since.values()))])
        filled = self._mark(mine.epoch, self.last_seq)
        if not finish(home, client, self._layout, filling, filled, new_fill(self._layout, home, mine.log_generation)):
            raise UserError("Redis was emptied, or filled by another stream, while it was filled")
        with errors_told("the online store"):
            client.hdel(OLD_MARKS, view)
        self._written, self.suspect, self.filled = filled, False, True
        say("stream.filled_online", view=view, rows=rows, up_to_seq=self.last_seq, forgot=forgot)

    def differs(self, held: Held) -> bool:
        """Whether the view is not what this writer left, by what Redis says of it; one that is filled anew is suspect.

        It may only seem so while a load is on its way: its next delivery settles that.
        """
        if held.lost or held.fill is None or held.fill != fill_remembered(self.sink.home, self.family.view):
            self.suspect = True
            return True
        if self.engines or held.mark == self._written:
            return held.mark != self._written
        # another process may have written the view: it never goes back
        _, epoch, seq = _read_mark(held.mark)
        if epoch != self.sink.formulas.epoch or seq < self.last_seq:
            return True
        self._written, self.last_seq = held.mark, seq
        return False

    def waits(self) -> bool:
        """Whether rows wait that are not on their way."""
        return bool(self._next.rows)

    def write_batch(self, values: list[RowBatch]) -> None:
        """Take rows; those of live messages are on their way when this returns."""
        courier = self.sink.courier
        with courier.changing:
            load = self._next
            for block in values:
                # a key is of one shard, and a shard's rows come in their order: the later is the newer
                load.rows.update([(row[0], row) for row in block.rows])
                load.offered += len(block.rows)
                load.last_seq = max(load.last_seq, block.last_seq)
                if block.live:
                    load.live_us.add(block.known_at_us)
            full = len(load.rows) >= ROWS_HELD
            courier.lade(self)
            if load.live_us or full:
                courier.ask(self)
        if full:
            courier.until_taken(self)

    def snapshot(self) -> int:
        """Have all that waits written; the seq of the last message that made a row."""
        self.sink.courier.until_delivered(self)
        # what was written before the snapshot before this one is sealed by now
        self._before, self._since = self._since, {}
        return self.last_seq

    def ready(self) -> None:
        """Connected to a Redis that holds what was written before."""
        if self._client is None:
            self.make_ready()

    def take(self) -> None:
        """What waits is what is delivered next."""
        self._load, self._next, self.due = self._next, PendingRows(self._next.last_seq), True
        self._load.mark = self._mark(self.sink.formulas.epoch, self._load.last_seq)

    @property
    def redis(self) -> RowWriter:
        """The server it is connected to."""
        return RowWriter(self._client)

    def laden(self) -> RowBatchToWrite | None:
        """The rows that are delivered next."""
        return self._lot(list(self._load.rows.values())) if self._load.rows else None

    def leaves_mark(self) -> tuple[Any, ...]:
        """The command that puts this load's mark in place of the one left last."""
        return self._replace_mark(self._written, self._load.mark)

    def lose(self) -> None:
        """The server did not answer: look again, before anything else, what it holds."""
        self._client = None

    def delivered(self, *, remembered: bool) -> None:
        """The load is in Redis; where that had forgotten what was there before, it is filled."""
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
        return lot_of(self._layout, self._arrays, rows, self.sink.formulas.epoch)

    def _mark(self, epoch: int, seq: int) -> bytes:
        return new_mark(self.sink.home, self.sink.formulas.log_generation, epoch, seq)

    def _replace_mark(self, old: bytes | None, new: bytes) -> tuple[Any, ...]:
        return "EVAL", REPLACE_MARK, 1, self._layout.index_key, old or b"", new


def deliver(partitions: Sequence[RedisPartition]) -> None:
    """Write what the views have set aside, and a new mark of each; a view whose mark is gone lost rows, and is filled.

    A view that was done with when this failed before is left out.
    """
    due = [one for one in partitions if one.due]
    if not due:
        return
    try:
        lots = [lot for one in due if (lot := one.laden()) is not None]
        marks = [one.leaves_mark() for one in due]
        _, replaced = due[0].redis.write_lots(lots, marks)
    except BaseException:
        for one in due:
            one.lose()
        raise
    for one, remembered in zip(due, replaced, strict=True):
        one.delivered(remembered=bool(remembered))


def lot_of(layout: Layout, arrays: VectorizedColumns, rows: Sequence[PackedRow], epoch: int) -> RowBatchToWrite:
    """The fold's rows of a view, as Redis is offered them."""
    matrix = np.empty((len(rows), len(layout.columns)), dtype=np.float64)
    matrix[:, :-1] = arrays.of(rows).T
    matrix[:, -1] = np.array([row[5] for row in rows], dtype=np.float64)
    return RowBatchToWrite(
        layout, [row[0] for row in rows], np.array([row[1] for row in rows], dtype=np.int64), matrix, epoch
    )


def _read_mark(written: bytes | None) -> tuple[int, int, int]:
    """Log generation, epoch and seq of a mark; −1 where there is none."""
    if written is None:
        return -1, -1, -1
    generation, epoch, seq = written.decode().split(":")[:3]
    return int(generation), int(epoch), int(seq)
