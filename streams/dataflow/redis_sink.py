"""The online sink: each view's newest rows into Redis, each replacing only what is older.

While the stream catches up only the newest row of each key is written, now and then; at the log's end every block is
written as it comes. Redis remembers how far it was brought, and by which write (`velo:stream`): one that was never
told is filled from the offline tables first, and one that forgot (emptied, or restarted from an old snapshot of its
own) is noticed at the next write and filled again.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from typing import Any, Final

import numpy as np
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
from streams.dataflow.waiting import MustRestart, Waiting, go_on
from streams.fold.arrays import Arrays
from streams.fold.days import to_us
from streams.fold.roll import Rolled
from streams.fold.shapes import Key
from velo.errors import UserError
from velo.files import make_folder
from velo.store import Home

MARKS: Final = "velo:stream"
"""Redis hash: how far each view was brought, as `log generation:epoch:seq of the last message that made a row:write`.

The last part is of one write alone: whoever finds another than it left knows that rows written since may be gone.
"""
REPLACE_MARK: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
FILL_LOCK: Final = "online-{view}.lock"
"""Beside the stream's own lock: one thread of one process at a time looks whether a view must be filled, and fills it."""
FILLERS: Final = 2
"""Views filled at a time: while the server takes the rows of one, those of the next are made."""
FILLING: Final = -1
"""The epoch of a mark while a view is filled: no stream takes it for its own."""
ROWS_KEPT: Final = 10_000
"""Rows written since the last snapshot that are kept, at most, to be written again to a Redis that forgot them."""
ROWS_HELD: Final = 20_000
"""Keys whose newest rows wait, at most, before they are written."""


@dataclass(frozen=True, slots=True)
class RedisSink(FixedPartitionedSink[Block, int]):
    """One partition a view. `connect` gives a client that has answered; `begin` is where a stream without a past begins.

    `sealing` says whether the rows go to the offline tables too.
    """

    home: Home
    views: Sequence[str]
    formulas: Formulas
    begin: int
    connect: Callable[[], Any]
    clock: Clock
    telemetry: Telemetry
    waiting: Waiting
    sealing: bool = True

    def prepares(self, then: Callable[[int], None]) -> list[Callable[[int], None]]:
        """What has Redis hold what the tables do, each to be called in a thread of its own before the first record.

        `then` follows once all views are there: whoever reads by what it writes must find them. The engine makes no
        partition of a view before its first row.
        """
        left, ended = iter(self.views), count(1)

        def fill_next(base: int) -> None:
            for view in left:
                partition = RedisPartition(self, BY_VIEW[view], self.begin - 1, self.waiting.go_on)
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
        partition = RedisPartition(self, BY_VIEW[for_part], self.begin - 1 if resume_state is None else resume_state)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class RedisPartition(StatefulSinkPartition[Block, int]):
    """The writer of one view; `last_seq` is the last message of which Redis has the rows, −1 for none.

    `go_on` is called now and then while the view is filled.
    """

    sink: RedisSink
    family: Family
    last_seq: int
    go_on: Callable[[], None] = go_on
    _pending: dict[Key, Rolled] = field(default_factory=dict)
    _since: dict[Key, Rolled] | None = field(default_factory=dict)
    _offered: int = 0
    _newest_us: int = 0
    _told_seq: int = -1
    _client: Any = None
    _written: bytes | None = None
    _layout: Layout = field(init=False)
    _arrays: Arrays = field(init=False)

    def __post_init__(self) -> None:
        self._layout = Layout.of(self.family)
        self._arrays = Arrays(self.family)
        self._told_seq = self.last_seq

    def make_ready(self) -> None:
        """Connect, and fill the view where Redis does not hold what it was brought to.

        From the offline tables, which have all up to the last snapshot, and the rows written since. Raises
        `MustRestart` where those are too many to have been kept.
        """
        with _one_at_a_time(self.sink.home, self.family.view):
            self._make_ready()

    def _make_ready(self) -> None:
        client = self.sink.connect()
        with told("the online store"):
            held = client.hget(MARKS, self.family.view)
        generation, epoch, seq = _read_mark(held)
        mine = self.sink.formulas
        if generation not in (-1, mine.log_generation):
            # of another log: its rows may claim instants that this one never reaches
            RedisRows(client).delete_view(self._layout)
            seq = -1
        forgot = self._written is not None and held != self._written
        if seq < self.last_seq or epoch != mine.epoch or forgot:
            self._fill(client, forgot=forgot)
        else:
            self._written = held
        self._client = client

    def _fill(self, client: Any, *, forgot: bool) -> None:
        if self._since is None:
            raise MustRestart(
                "Redis lost rows while the stream was catching up: start the stream again, it fills Redis and goes on "
                "where its last snapshot was"
            )
        if not self.sink.sealing and self.last_seq >= self.sink.begin:
            raise MustRestart(
                "Redis lost rows that no table holds (the stream keeps none, by --no-offline): run `velo build`, then "
                "start the stream again"
            )
        epoch, redis = self.sink.formulas.epoch, RedisRows(client)
        filling = self._mark(FILLING)
        with told("the online store"):
            client.hset(MARKS, self.family.view, filling)
        rows = fill_view(self.sink.home, self._layout, redis, epoch, self.go_on) if self.last_seq >= 0 else 0
        if self._since:
            offer(redis, self._layout, self._arrays, list(self._since.values()), epoch)
        filled = self._mark(epoch)
        if not self._replaced(client, filling, filled):
            raise UserError("Redis was emptied, or filled by another stream, while it was filled")
        self._written = filled
        say("stream.filled_online", view=self.family.view, rows=rows, up_to_seq=self.last_seq, forgot=forgot)

    def write_batch(self, values: list[Block]) -> None:
        """Take rows; those of live messages are readable when this returns."""
        live = False
        for block in values:
            # a key is of one shard, and a shard's rows come in their order: the later is the newer
            self._pending.update([(row[0], row) for row in block.rows])
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
        self.last_seq = max(self.last_seq, self._told_seq)
        self.sink.waiting.until_done("online", self._mark_write)
        # an epoch begins when all of the one before is sealed: from now on the offline tables have these rows
        self._since = {}
        return self.last_seq

    def _flush(self, *, live: bool) -> None:
        rows = list(self._pending.values())
        self.sink.waiting.until_done("online", lambda: self._offer(rows))
        if self._since is not None:
            self._since |= self._pending
            if len(self._since) > ROWS_KEPT:
                self._since = None
        self.sink.waiting.until_done("online", self._mark_write)
        view, telemetry = self.family.view, self.sink.telemetry
        telemetry.rows.labels("online", view).inc(len(rows))
        telemetry.coalesced.inc(self._offered - len(rows))
        if live:
            telemetry.fresh.observe(max(0.0, (to_us(self.sink.clock()) - self._newest_us) / 1e6))
        self._pending, self._offered = {}, 0

    def _offer(self, rows: Sequence[Rolled]) -> None:
        client = self._ready()
        try:
            offer(RedisRows(client), self._layout, self._arrays, rows, self.sink.formulas.epoch)
        except BaseException:
            self._client = None
            raise

    def _ready(self) -> Any:
        if self._client is None:
            self.make_ready()
        return self._client

    def _mark_write(self) -> None:
        """Put a new mark in place of the one left last; where that is gone so are rows, and the view is filled."""
        client, mark = self._ready(), self._mark(self.sink.formulas.epoch)
        try:
            if self._replaced(client, self._written, mark):
                self._written = mark
                return
        except BaseException:
            self._client = None
            raise
        self._client = None
        self.make_ready()

    def _mark(self, epoch: int) -> bytes:
        return f"{self.sink.formulas.log_generation}:{epoch}:{self.last_seq}:{token_hex(8)}".encode()

    def _replaced(self, client: Any, old: bytes | None, new: bytes) -> bool:
        with told("the online store"):
            return bool(client.eval(REPLACE_MARK, 1, MARKS, self.family.view, old or b"", new))


@contextmanager
def _one_at_a_time(home: Home, view: str) -> Iterator[None]:
    descriptor = os.open(make_folder(home.stream) / FILL_LOCK.format(view=view), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def offer(redis: RedisRows, layout: Layout, arrays: Arrays, rows: Sequence[Rolled], epoch: int) -> None:
    """Write the fold's rows of a view, each where it is newer than what is there."""
    matrix = np.empty((len(rows), len(layout.columns)), dtype=np.float64)
    matrix[:, :-1] = arrays.of(rows).T
    matrix[:, -1] = np.array([row[5] for row in rows], dtype=np.float64)
    redis.write(layout, [row[0] for row in rows], np.array([row[1] for row in rows], dtype=np.int64), matrix, epoch)


def _read_mark(written: bytes | None) -> tuple[int, int, int]:
    """Log generation, epoch and seq of a mark; −1 where there is none."""
    if written is None:
        return -1, -1, -1
    generation, epoch, seq = written.decode().split(":")[:3]
    return int(generation), int(epoch), int(seq)
