"""One view in Redis: its connection, its mark, and how it is filled from the offline tables.

The mark of a view says how far it was written, by which write and since which fill (`stores.whole`):

- a view that was never filled is filled from the offline tables first: so a stream takes over from a build;
- a view that lost data (emptied, restored from older data, rows evicted) is filled again. Its mark says so at the next write,
  or within a second where none comes (`keeper`);
- a view that another store filled is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.stores.changelog import engine, latest_sql, scan
from velo.feature_repo.stores.fills import fill_remembered, forget, new_fill
from velo.feature_repo.stores.redis_client import redis_errors
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_writer import RowBatchToWrite, RowWriter
from velo.feature_repo.stores.whole import (
    OtherStore,
    RedisContents,
    begin,
    finish,
    new_mark,
    read,
    refuse_other_store,
)
from velo.storage import locks, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log.reader import end
from velo.storage.store import Home
from velo.streams.aggregation.vectorized import Rows, VectorizedColumns
from velo.streams.dataflow.metrics import say
from velo.streams.dataflow.plan import TableVersion
from velo.streams.dataflow.retry import RestartRequired, go_on

MEMORY_LIMIT: Final = "1GB"
ROWS_AT_ONCE: Final = 20_000
FILL_LOCK: Final = "online-{view}.lock"
"""Beside the stream's own lock: one thread of one process at a time checks whether a view must be filled, and fills it."""
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
FILLING: Final = -1
"""The epoch of a mark while a view is filled: it equals that of no stream."""
ROWS_KEPT: Final = 10_000
"""The most rows written since the last snapshot that are kept, to write them again where Redis lost them."""


@dataclass(slots=True)
class RedisView:
    """The state of one view in Redis. `last_seq` is the last message whose rows Redis has, −1 for none.

    `begin` is the first seq of a stream without a snapshot. `sealing` says whether the tables get the rows too, and
    `sealed_seq` is the last message whose rows they certainly have. `written` is the mark of the last write; `offered` that of
    the write in flight. `suspect` means that rows are known to be lost, whatever the mark says; `filled`, that this object
    filled the view. `_since` has the rows written after the last snapshot, `_before` those between the two last snapshots;
    each is None where they were too many to keep. `go_on` is called regularly while the view is filled.
    """

    home: Home
    family: Family
    formulas: TableVersion
    begin: int
    sealing: bool
    last_seq: int
    sealed_seq: int = -1
    go_on: Callable[[], None] = go_on
    written: bytes | None = None
    offered: bytes = b""
    suspect: bool = False
    filled: bool = False
    layout: Layout = field(init=False)
    _since: list[Rows] | None = field(default_factory=list)
    _before: list[Rows] | None = field(default_factory=list)
    _arrays: VectorizedColumns = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout.of(self.family)
        self._arrays = VectorizedColumns(self.family)

    @property
    def epoch(self) -> int:
        """The epoch of the view's rows."""
        return self.formulas.epochs[self.family.view]

    def make_whole(self, client: Any) -> None:
        """Fill the view where Redis does not hold what was written, and take its mark over where it does.

        It is filled from the offline tables, which have every row up to the last snapshot but one, and from the rows kept since.
        Raises `RestartRequired` where those were too many to keep, or the view is another store's.
        """
        home, view, mine = self.home, self.family.view, self.formulas
        held, old = self._held(client)
        try:
            refuse_other_store(home, "Redis", {view: held.owner})
        except OtherStore as theirs:
            raise RestartRequired(str(theirs)) from None
        expected = fill_remembered(home, view)
        generation, epoch, seq = _read_mark(held.mark or old)
        unknown = expected is None and held.fill is None
        if unknown or generation not in (-1, mine.log_generation) or seq >= end(home).next_seq:
            # written by an unknown store, from another log, or from messages that this log does not have: its rows may be
            # later than any this stream makes, and would never be replaced
            forget(home, view)
            RowWriter(client).delete_view(self.layout)
            seq = -1
        # a write whose answer did not arrive left its mark as well
        lost = self.written is not None and held.mark not in (self.written, self.offered)
        lost = lost or self.suspect or held.lost
        if seq < self.last_seq or epoch != self.epoch or lost or held.fill is None or held.fill != expected:
            self._fill(client, lost=lost)
        else:
            self.written = held.mark

    def continue_from(self, first: "RedisView") -> None:
        """Continue from the writer that filled the view before the engine had rows for it."""
        self.written = first.written
        if first.filled:
            # it was filled up to where this execution begins; the engine makes the later rows again
            self.last_seq = min(self.last_seq, first.last_seq)

    def differs(self, held: RedisContents) -> bool:
        """Whether Redis does not hold what was written. Sets `suspect` where the view was lost or filled by another store.

        May be wrongly true while a write is in flight; that write's own mark then decides.
        """
        if held.lost or held.fill is None or held.fill != fill_remembered(self.home, self.family.view):
            self.suspect = True
            return True
        return held.mark != self.written

    def keep(self, rows: Rows) -> None:
        """Keep rows that were written, to write them again where Redis loses them."""
        if self._since is not None:
            self._since.append(rows)
            if sum(map(len, self._since)) > ROWS_KEPT:
                newest = Rows.joined(self._since).newest_of_each_key()
                self._since = [newest] if len(newest) <= ROWS_KEPT else None

    def snapshot(self) -> None:
        """Forget the rows from before the previous snapshot, which the tables have by now."""
        self._before, self._since = self._since, []

    def batch(self, rows: Rows) -> RowBatchToWrite:
        """Return rows with their columns computed, as the Redis writer takes them."""
        matrix = np.empty((len(rows), len(self.layout.columns)), dtype=np.float64)
        matrix[:, :-1] = self._arrays.of(rows).T
        matrix[:, -1] = rows.valid_until()
        return RowBatchToWrite(self.layout, rows.texts(), rows.event_us, matrix, self.epoch)

    def mark(self, seq: int) -> bytes:
        """Return a new mark for a write up to message `seq`."""
        return self._mark(self.epoch, seq)

    def replace_mark(self) -> tuple[Any, ...]:
        """Return the command that replaces the last mark by that of the write in flight."""
        return "EVAL", REPLACE_MARK, 1, self.layout.index_key, self.written or b"", self.offered

    def _held(self, client: Any) -> tuple[RedisContents, bytes | None]:
        """Return the state of the view in Redis, and its mark from an earlier version of this software."""
        [held] = read(client, [self.layout])
        with redis_errors("the online store"):
            return held, None if held.mark else client.hget(OLD_MARKS, self.family.view)

    def _fill(self, client: Any, *, lost: bool) -> None:
        home, view, mine = self.home, self.family.view, self.formulas
        if self.sealing:
            self.last_seq = max(self.last_seq, self.sealed_seq)
        # from tables of other formulas the rows would be wrong, or lack a column
        mine.refuse_replaced(home)
        filling = self._mark(FILLING, self.last_seq)
        # mark it as being filled before any error: readers must not use an incomplete view
        begin(client, self.layout, filling)
        if self._since is None or self._before is None:
            raise RestartRequired(
                "Redis lost rows while the stream was catching up: start the stream again, it fills Redis and resumes from "
                "its last snapshot"
            )
        if not self.sealing and self.last_seq >= self.begin:
            raise RestartRequired(
                "Redis lost rows that are in no table (the stream runs with --no-offline): run `velo build`, then start the "
                "stream again"
            )
        redis = RowWriter(client)
        rows = fill_view(home, self.layout, redis, self.epoch, self.go_on) if self.last_seq >= 0 else 0
        if since := [*self._before, *self._since]:
            redis.write_batches([self.batch(Rows.joined(since).newest_of_each_key())])
        filled = self.mark(self.last_seq)
        mine.refuse_replaced(home)
        if not finish(
            home, client, self.layout, filling, filled, new_fill(self.layout, home, mine.log_generation, self.epoch)
        ):
            raise UserError("Redis was emptied, or filled by another stream, while it was filled")
        with redis_errors("the online store"):
            client.hdel(OLD_MARKS, view)
        self.written, self.suspect, self.filled = filled, False, True
        say("stream.filled_online", view=view, rows=rows, up_to_seq=self.last_seq, forgot=lost)

    def _mark(self, epoch: int, seq: int) -> bytes:
        return new_mark(self.home, self.formulas.log_generation, epoch, seq)


def _read_mark(written: bytes | None) -> tuple[int, int, int]:
    """Return log generation, epoch and seq of a mark; −1 each where there is none."""
    if written is None:
        return -1, -1, -1
    generation, epoch, seq = written.decode().split(":")[:3]
    return int(generation), int(epoch), int(seq)


def fill_view(home: Home, layout: Layout, redis: RowWriter, epoch: int, go_on: Callable[[], None] = go_on) -> int:
    """Write the newest row of every key in a view's current parts; returns the number of keys.

    `go_on` is called between batches of rows.
    """
    generation = table_versions.current(home)
    parts = sorted((generation / layout.view).glob("*.parquet")) if generation else []
    if not parts:
        return 0
    columns = [column for column, _ in layout.columns]
    rows = 0
    with engine(MEMORY_LIMIT) as connection:
        newest = latest_sql(scan(parts), layout.keys, columns, "event_timestamp", None)
        query = connection.sql(newest.replace("$until", "'infinity'::TIMESTAMPTZ"))
        for batch in query.to_arrow_reader(ROWS_AT_ONCE):
            go_on()
            import pyarrow as pa

            redis.write_rows(layout, pa.Table.from_batches([batch]), epoch)
            rows += batch.num_rows
    return rows


@contextmanager
def one_at_a_time(home: Home, view: str) -> Iterator[None]:
    """Hold the right to check whether a view must be filled, and to fill it."""
    with locks.holding(make_folder(home.stream) / FILL_LOCK.format(view=view), wait=True):
        yield
