"""The log as a Bytewax source: one partition; its position is the seq of the next record."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from velo.errors import UserError
from velo.racing.clock import local_date, local_midnight, to_text
from velo.storage.log.format import generation
from velo.storage.log.reader import end
from velo.storage.log.tail import FoundRecord, LogTail
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.dataflow.background_ingest import BackgroundIngest
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.metrics import Position, Telemetry, say
from velo.streams.dataflow.operators import LogRecord, race_shard
from velo.streams.dataflow.retry import FarBehind

BATCH_RECORDS: Final = 100
IDLE: Final = timedelta(milliseconds=5)
"""How long to wait at the log's end before looking again."""
REPORT_EVERY: Final = timedelta(seconds=1)
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class LogSource(FixedPartitionedSource[tuple[str, LogRecord], int]):
    """Every record of a store's log, from `begin` on if there is no snapshot, under the key of its race.

    With `once` it ends at the log's end, else when `stop` is set. With `ticks` it appends the tick of a local midnight where
    no writer of the log did. Each of
    `prepare` is called once, in a thread of its own, with the seq this execution begins at; no record is read before all
    have returned. `readable` says whether the sinks have written everything that was read so far.
    With a `feeding` the log is read as far as that has synced it, and ends when that is over. `refuse_replaced` is called
    every second and raises where the tables are no longer those of `epoch`, the formulas of this execution. `FarBehind` is
    raised where the end of the log gets `most_behind` messages further away than it was at the beginning; 0 for never.
    """

    store: Store
    begin: int
    once: bool
    clock: Clock
    stop: threading.Event
    telemetry: Telemetry
    ticks: bool = True
    batch: int = BATCH_RECORDS
    prepare: Sequence[Callable[[int], object]] = ()
    sealing: CheckpointWriter = field(default_factory=lambda: CheckpointWriter(beside=False))
    readable: Callable[[], bool] = lambda: True
    feeding: BackgroundIngest | None = None
    epoch: int = 0
    refuse_replaced: Callable[[], None] = lambda: None
    most_behind: int = 0

    def list_parts(self) -> list[str]:
        """The log is one sequence."""
        return ["log"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "LogPartition":
        """Return the reader, at the position of the snapshot."""
        base = self.begin if resume_state is None else resume_state
        say("stream.begins", seq=base, resumed=resume_state is not None)
        return LogPartition(self, base, LogTail(self.store.home, base), Preparation(self.prepare, base, self.stop))


class Preparation:
    """Runs in parallel what must be done before the first record is read: some of it waits for a server, the rest computes."""

    def __init__(self, prepare: Sequence[Callable[[int], object]], base: int, stop: threading.Event) -> None:
        self._base = base
        self._stop = stop
        self._failed: list[BaseException] = []
        self._begun = time.perf_counter()
        # daemons: an error of the engine does not wait for them
        self._threads = [threading.Thread(target=self._work, args=(job,), daemon=True) for job in prepare]
        for thread in self._threads:
            thread.start()

    def done(self) -> bool:
        """Whether everything is done. Raises the first error, after the other jobs have ended."""
        if self._failed:
            self._stop.set()
            self.end()
            raise self._failed[0]
        if any(thread.is_alive() for thread in self._threads):
            return False
        if self._threads:
            say("stream.prepared", up_to_seq=self._base, seconds=round(time.perf_counter() - self._begun, 1))
            self._threads = []
        return not self._failed

    def end(self) -> None:
        """Wait for the threads, which were asked to stop: one in DuckDB's code at the interpreter's end would abort it."""
        for thread in self._threads:
            thread.join()

    def _work(self, prepare: Callable[[int], object]) -> None:
        try:
            prepare(self._base)
        except BaseException as failed:  # noqa: BLE001  raised where the stream asks for it
            self._failed.append(failed)


@dataclass(slots=True)
class LogPartition(StatefulSourcePartition[tuple[str, LogRecord], int]):
    """The reader of the log; `base` is where this execution began."""

    source: LogSource
    base: int
    tail: LogTail
    preparing: Preparation
    _awake: datetime | None = None
    _reported: datetime | None = None
    _ticked: datetime | None = None
    _checked: datetime | None = None
    _ended: bool = False
    _sealed_seq: int = field(init=False)
    _snapshot_seq: int = field(init=False)
    _began_behind: int = field(init=False)

    def __post_init__(self) -> None:
        self._sealed_seq = self._snapshot_seq = self.base
        self._began_behind = end(self.source.store.home).next_seq - self.base

    def next_batch(self) -> list[tuple[str, LogRecord]]:
        """Return the records that were appended, up to a batch. Ends the stream when `stop` is set."""
        if self.source.stop.is_set():
            # nothing is read before Redis is filled: an error in filling it is raised, not hidden by the stop
            self.preparing.end()
        if not self.preparing.done():
            self._awake = datetime.now(UTC) + IDLE
            return []
        if self.source.stop.is_set():
            self._end()
        over = self.source.feeding is None or self.source.feeding.over()
        lines = self._read()
        if not lines:
            if self.source.once and over:
                self._end()
            if self.source.ticks:
                self._tick()
        live = len(lines) < self.source.batch
        # the engine's clock, not the store's
        self._awake = None if lines else datetime.now(UTC) + IDLE
        self._report(at_end=not lines and self.source.readable())
        return [(race_shard(line), LogRecord(self.base, live, line)) for line in lines]

    def next_awake(self) -> datetime | None:
        """Return None (at once) while there are records, else a moment later."""
        return self._awake

    def snapshot(self) -> int:
        """Return a seq before which all rows are sealed: the next record's at the stream's end, else the previous snapshot's.

        An epoch begins when everything of the previous one has gone through the sinks, so its rows are at least queued by now,
        and `wait` returns when they are sealed.
        """
        # the log must outlive a power cut as far as the sealed rows do
        self.tail.sync()
        self.source.sealing.wait()
        self._sealed_seq, self._snapshot_seq = self._snapshot_seq, self.tail.next_seq
        return self._snapshot_seq if self._ended else self._sealed_seq

    def close(self) -> None:
        """Report the final position and close the log."""
        self.preparing.end()
        self._sealed_seq = self.tail.next_seq
        self._report(at_end=True, running=False)
        self.tail.close()

    def _read(self) -> list[FoundRecord]:
        """Return the next records, up to a batch; of a log that this process writes, only synced ones."""
        if self.source.feeding is None:
            return self.tail.read(self.source.batch)
        with self.source.feeding.durable() as before:
            most = self.source.batch if before is None else min(self.source.batch, before - self.tail.next_seq)
            return self.tail.read(most) if most > 0 else []

    def _end(self) -> None:
        """End the stream; the last snapshot seals what was read."""
        self._ended = True
        self.source.sealing.at_once()
        raise StopIteration

    def _report(self, *, at_end: bool, running: bool = True) -> None:
        now = self.source.clock()
        if running and self._reported is not None and now < self._reported + REPORT_EVERY:
            return
        self._reported = now
        if running:
            self.source.refuse_replaced()
        home, telemetry = self.source.store.home, self.source.telemetry
        telemetry.next_seq.set(self.tail.next_seq)
        behind = 0 if at_end else end(home).next_seq - self.tail.next_seq
        telemetry.lag_messages.set(behind)
        where = self.tail.next_seq, self._sealed_seq, to_text(now), at_end, running
        Position(generation(home), *where, self.source.epoch).write(home)
        most = self.source.most_behind
        if running and most and behind - self._began_behind > most:
            raise FarBehind(
                f"the stream is {behind:,} messages behind the end of the log: the next start catches up by batch"
            )

    def _tick(self) -> None:
        """Append the tick of the last local midnight if the log has no message from this day, unless another writer has the log."""
        now, timezone = self.source.clock(), self.source.store.timezone
        midnight = local_midnight(local_date(now, timezone), timezone)
        if midnight == self._ticked or (self._checked is not None and now < self._checked + REPORT_EVERY):
            return
        self._checked = now
        log_end = end(self.source.store.home).known_at
        if log_end is None:
            return
        if log_end < midnight:
            try:
                with LogWriter.open(self.source.store, clock=self.source.clock) as writer:
                    appended = writer.tick(midnight)
                    writer.sync()
            except UserError:
                # the process with the log's lock appends the tick; check again later
                return
            say("stream.ticked", midnight=to_text(midnight), seq=appended.seq)
        self._ticked = midnight
