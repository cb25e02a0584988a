"""The online sink: each view's newest rows into Redis, each replacing only what is older.

While the stream catches up only the newest row of each key is written, now and then; at the log's end every block is
written as it comes. Redis remembers how far it was brought (`velo:stream`): one that forgot, or was never told, is
filled from the offline tables first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from feature_repo.catalogue.families import BY_VIEW, Family
from feature_repo.stores.redis_client import told
from feature_repo.stores.redis_layout import Layout
from feature_repo.stores.redis_rows import RedisRows
from streams.dataflow.handover import fill_view
from streams.dataflow.parquet_sink import Formulas
from streams.dataflow.source import Clock
from streams.dataflow.steps import Block
from streams.dataflow.telemetry import Telemetry, say
from streams.dataflow.waiting import Waiting
from streams.fold.days import to_us
from streams.fold.roll import Row
from streams.fold.shapes import Key
from velo.store import Home

MARKS: Final = "velo:stream"
"""Redis hash: how far each view was brought, as `log generation:epoch:seq of the last message that made a row`."""
ROWS_HELD: Final = 20_000
"""Keys whose newest rows wait, at most, before they are written."""


@dataclass(frozen=True, slots=True)
class RedisSink(FixedPartitionedSink[Block, int]):
    """One partition a view. `connect` gives a client that has answered; `begin` is where a stream without a past begins."""

    home: Home
    views: Sequence[str]
    formulas: Formulas
    begin: int
    connect: Callable[[], Any]
    clock: Clock
    telemetry: Telemetry
    waiting: Waiting

    def list_parts(self) -> list[str]:
        """Every view; Bytewax shares them out over the workers."""
        return list(self.views)

    def part_fn(self, item_key: str) -> int:
        """A view's place among the sorted views."""
        return sorted(self.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "RedisPartition":
        """Redis must hold what was written before: the build's rows, or up to the snapshot."""
        partition = RedisPartition(self, BY_VIEW[for_part], self.begin - 1 if resume_state is None else resume_state)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class RedisPartition(StatefulSinkPartition[Block, int]):
    """The writer of one view; `last_seq` is the last message of which Redis has the rows, −1 for none."""

    sink: RedisSink
    family: Family
    last_seq: int
    _pending: dict[Key, Row] = field(default_factory=dict)
    _offered: int = 0
    _newest_us: int = 0
    _told_seq: int = -1
    _client: Any = None
    _layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self._layout = Layout.of(self.family)
        self._told_seq = self.last_seq

    def make_ready(self) -> None:
        """Connect, and fill the view from the offline tables where Redis does not hold what it was brought to."""
        client = self.sink.connect()
        with told("the online store"):
            generation, epoch, seq = mark_of(client.hget(MARKS, self.family.view))
        mine = self.sink.formulas
        if generation not in (-1, mine.log_generation):
            # of another log: its rows may claim instants that this one never reaches
            RedisRows(client).delete_view(self._layout)
            seq = -1
        if seq < self.last_seq or epoch != mine.epoch:
            rows = fill_view(self.sink.home, self._layout, RedisRows(client), mine.epoch) if self.last_seq >= 0 else 0
            say("stream.filled_online", view=self.family.view, rows=rows, up_to_seq=self.last_seq)
            self._write_mark(client)
        self._client = client

    def write_batch(self, values: list[Block]) -> None:
        """Take rows; those of live messages are readable when this returns."""
        live = False
        for block in values:
            for row in block.rows:
                held = self._pending.get(row[0])
                if held is None or held[1] < row[1]:
                    self._pending[row[0]] = row
            self._offered += len(block.rows)
            self._told_seq = max(self._told_seq, block.last_seq)
            self._newest_us = max(self._newest_us, block.known_at_us)
            live = live or block.live
        if live or len(self._pending) >= ROWS_HELD:
            self._flush(live=live)

    def snapshot(self) -> int:
        """Write what waits; the seq of the last message that made a row."""
        if self._pending:
            self._flush(live=False)
        if self._told_seq > self.last_seq:
            self.last_seq = self._told_seq
            self.sink.waiting.until_done("online", lambda: self._write_mark(self._ready()))
        return self.last_seq

    def _flush(self, *, live: bool) -> None:
        rows = list(self._pending.values())
        self.sink.waiting.until_done("online", lambda: self._offer(rows))
        view, telemetry = self.family.view, self.sink.telemetry
        telemetry.rows.labels("online", view).inc(len(rows))
        telemetry.coalesced.inc(self._offered - len(rows))
        if live:
            telemetry.fresh.observe(max(0.0, (to_us(self.sink.clock()) - self._newest_us) / 1e6))
        self._pending, self._offered = {}, 0

    def _offer(self, rows: Sequence[Row]) -> None:
        client = self._ready()
        try:
            offer(RedisRows(client), self._layout, rows, self.sink.formulas.epoch)
        except BaseException:
            self._client = None
            raise

    def _ready(self) -> Any:
        if self._client is None:
            self.make_ready()
        return self._client

    def _write_mark(self, client: Any) -> None:
        mine = self.sink.formulas
        try:
            with told("the online store"):
                client.hset(MARKS, self.family.view, f"{mine.log_generation}:{mine.epoch}:{self.last_seq}")
        except BaseException:
            self._client = None
            raise


def offer(redis: RedisRows, layout: Layout, rows: Sequence[Row], epoch: int) -> None:
    """Write the fold's rows of a view, each where it is newer than what is there."""
    import numpy as np

    keys, instants, values, until = zip(*rows, strict=True)
    matrix = np.empty((len(rows), len(layout.columns)), dtype=np.float64)
    matrix[:, :-1] = np.array(values, dtype=np.float64)
    matrix[:, -1] = np.array(until, dtype=np.float64)
    redis.write(layout, keys, np.array(instants, dtype=np.int64), matrix, epoch)


def mark_of(written: bytes | None) -> tuple[int, int, int]:
    """Log generation, epoch and seq of a mark; −1 where there is none."""
    if written is None:
        return -1, -1, -1
    generation, epoch, seq = written.decode().split(":")
    return int(generation), int(epoch), int(seq)
