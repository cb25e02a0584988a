"""The online sink: writes each view's newest rows to Redis, each only over an older one.

While the stream catches up, only the newest row of each key is written, from time to time; at the log's end every block is
written as it comes, by a thread beside the engine (`redis_flusher`). `redis_view` keeps each view whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any, ClassVar, Final

from bytewax.outputs import StatefulSinkPartition

from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores.redis_writer import RowBatchToWrite, RowWriter
from velo.racing.clock import to_us
from velo.storage.store import Home
from velo.streams.aggregation.vectorized import Rows
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import Reads, RowBatch, StreamSink
from velo.streams.dataflow.plan import TableVersion
from velo.streams.dataflow.redis_flusher import RedisFlusher
from velo.streams.dataflow.redis_view import RedisView, one_at_a_time
from velo.streams.dataflow.retry import Retry, go_on

FILLERS: Final = 2
"""Views filled at the same time: while the server stores the rows of one, those of the other are made."""
ROWS_HELD: Final = 20_000
"""The most keys whose newest rows are pending before they are written."""


@dataclass(frozen=True, slots=True)
class RedisSink(StreamSink[RowBatch, int]):
    """One partition for each view. `connect` returns a client that has answered; `begin` is the first seq of a stream without a snapshot.

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
        """Return functions that fill Redis from the tables, each to be called in its own thread before the first record.

        The last to end calls `then`: what it writes makes readers look for the views, so all must be there. Filling cannot
        be left to the engine, which makes no partition of a view before its first row.
        """
        remaining, ended = iter(self.views), count(1)

        def fill_next(base: int) -> None:
            for view in remaining:
                partition = RedisPartition(self, self._view(view, self.begin - 1, base - 1, self.waiting.go_on))
                self.waiting.until_done("online", partition.make_ready)
            if next(ended) == FILLERS:
                then(base)

        return [fill_next] * FILLERS

    def list_parts(self) -> list[str]:
        """Return every view."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """Return the index of a view among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "RedisPartition":
        """Return the engine's writer of a view, when Redis holds the rows before: those of the build, or up to the snapshot."""
        last_seq = self.begin - 1 if resume_state is None else resume_state
        partition = RedisPartition(self, self._view(for_part, last_seq), engines=True)
        self.waiting.until_done("online", partition.make_ready)
        return partition

    def _view(self, view: str, last_seq: int, sealed_seq: int = -1, go_on: Callable[[], None] = go_on) -> RedisView:
        shared = self.home, BY_VIEW[view], self.formulas, self.begin, self.sealing
        return RedisView(*shared, last_seq, sealed_seq, go_on)


@dataclass(slots=True)
class PendingRows:
    """Rows to write, the number of rows offered, and the last message that made one.

    Of a key only the newest row is written; `held` counts the rows of `parts`, older ones too. `live_us` has the `known_at` of
    the live messages among theirs.
    """

    last_seq: int
    parts: list[Rows] = field(default_factory=list)
    held: int = 0
    offered: int = 0
    live_us: set[int] = field(default_factory=set)

    def add(self, rows: Rows) -> None:
        """Add rows, newer than those before."""
        self.parts.append(rows)
        self.held += len(rows)
        self.offered += len(rows)
        if self.held >= 2 * ROWS_HELD:
            self.newest()

    def newest(self) -> Rows | None:
        """The newest row of each key; older ones are dropped."""
        if not self.parts:
            return None
        rows = Rows.joined(self.parts).newest_of_each_key()
        self.parts, self.held = [rows], len(rows)
        return rows


@dataclass(slots=True, eq=False)
class RedisPartition(StatefulSinkPartition[RowBatch, int]):
    """The writer of one view.

    Rows go through two buffers: `_next` takes new rows, `_load` is what the flusher is writing, and `due` says that it is not
    written yet. `engines` says whether the engine passes its rows to this writer; if not, it only filled the view.
    """

    sink: RedisSink
    view: RedisView
    engines: bool = False
    due: bool = False
    _next: PendingRows = field(init=False)
    _load: PendingRows = field(init=False)
    _client: Any = None

    def __post_init__(self) -> None:
        self._next = self._load = PendingRows(self.view.last_seq)

    def make_ready(self) -> None:
        """Connect, and fill the view where Redis does not hold what was written. Raises `RestartRequired` where it cannot be filled."""
        name, partitions = self.view.family.view, self.sink.partitions
        with one_at_a_time(self.sink.home, name):
            first = partitions.get(name)
            if first is not None and first is not self:
                if not self.engines:
                    # the engine's writer was first, and found the view complete or filled it
                    return
                self.view.continue_from(first.view)
            client = self.sink.connect()
            self.view.make_whole(client)
            self._client = client
            partitions[name] = self

    def waits(self) -> bool:
        """Whether rows are pending that the flusher has not taken."""
        return bool(self._next.parts)

    def write_batch(self, values: list[RowBatch]) -> None:
        """Add rows to the pending ones; the flusher is asked to write at once where a message is live."""
        flusher = self.sink.flusher
        with flusher.changing:
            pending = self._next
            for block in values:
                pending.add(block.rows)
                pending.last_seq = max(pending.last_seq, block.last_seq)
                if block.live:
                    pending.live_us.add(block.known_at_us)
            full = pending.held >= ROWS_HELD and len(pending.newest() or ()) >= ROWS_HELD
            flusher.enqueue(self)
            if pending.live_us or full:
                flusher.ask(self)
        if full:
            flusher.until_taken(self)

    def snapshot(self) -> int:
        """Write all pending rows; returns the seq of the last message that made a row."""
        self.sink.flusher.until_delivered(self)
        self.view.snapshot()
        return self.view.last_seq

    def ready(self) -> None:
        """Connect where needed, to a Redis that holds what was written before."""
        if self._client is None:
            self.make_ready()

    def take(self) -> None:
        """Make the pending rows the next write."""
        self._load, self._next, self.due = self._next, PendingRows(self._next.last_seq), True
        self.view.offered = self.view.mark(self._load.last_seq)

    @property
    def redis(self) -> RowWriter:
        """The writer of the connected server."""
        return RowWriter(self._client)

    def pending(self) -> RowBatchToWrite | None:
        """Return the rows of the next write; None where only its mark is written."""
        rows = self._load.newest()
        return None if rows is None else self.view.batch(rows)

    def lose(self) -> None:
        """Drop the connection after an error: `ready` then checks what the server holds before the next write."""
        self._client = None

    def delivered(self, *, remembered: bool) -> None:
        """Record that the write is in Redis; where Redis had lost the rows before it (not `remembered`), fill the view."""
        load, view, telemetry = self._load, self.view, self.sink.telemetry
        written = load.newest()
        if written is not None:
            view.keep(written)
        view.last_seq = max(view.last_seq, load.last_seq)
        if remembered and not view.suspect:
            view.written = view.offered
        else:
            self._client = None
            self.make_ready()
        self.due = False
        telemetry.rows.labels("online", view.family.view).inc(load.held)
        telemetry.coalesced.inc(load.offered - load.held)
        now_us = to_us(self.sink.clock())
        for known_at_us in load.live_us:
            telemetry.fresh.observe(max(0.0, (now_us - known_at_us) / 1e6))


def deliver(partitions: Sequence[RedisPartition]) -> None:
    """Write the rows that each view has taken, and its new mark; a view whose mark is gone lost rows, and is filled.

    On a repeated call after an error, views that were written are skipped.
    """
    due = [partition for partition in partitions if partition.due]
    if not due:
        return
    try:
        batches = [batch for partition in due if (batch := partition.pending()) is not None]
        marks = [partition.view.replace_mark() for partition in due]
        _, replaced = due[0].redis.write_batches(batches, marks)
    except BaseException:
        for partition in due:
            partition.lose()
        raise
    for partition, remembered in zip(due, replaced, strict=True):
        partition.delivered(remembered=bool(remembered))
