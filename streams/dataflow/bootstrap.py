"""The state a dataflow starts with: that of every key and race at a position of the log, rebuilt from tables and log.

State is rebuilt at each start, not stored in snapshots: at 170,000 starts a snapshot of it takes over a second, in which
nothing else runs. Starts that a build has measured are loaded
at some 100,000 a second (`bootstrap_from_tables`); results after the build are read and aggregated at 10,000 a second.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import orjson

from velo.feature_repo.catalogue.families import Family
from velo.racing.clock import LocalDays, from_text, to_us
from velo.racing.messages import Result
from velo.storage.compact_map import CompactMap
from velo.storage.log.migrations import upgraded
from velo.storage.log.tail import UNREADABLE, FoundRecord, LogTail, RecordOffset, about, message_of
from velo.storage.store import Home
from velo.streams.aggregation.array_fold import ArrayFold
from velo.streams.aggregation.ratings import Elo, parted
from velo.streams.aggregation.result_delta import ResultDelta, replacing
from velo.streams.aggregation.spill import FileSpill
from velo.streams.dataflow.bootstrap_from_tables import MeasuredResults
from velo.streams.dataflow.metrics import say
from velo.streams.dataflow.retry import go_on

READ_AT_ONCE: Final = 2000


class CurrentVersion(NamedTuple):
    """The current version of a race, and the offset of its record in the log."""

    result_version: int
    place: RecordOffset


class HeldRaces:
    """The current version of each race. It grows with every race of the log, so each costs a few bytes beside its id."""

    def __init__(self) -> None:
        self._races = CompactMap()

    def get(self, race_id: str) -> CurrentVersion | None:
        """The current version of a race; None where it has no result."""
        record = self._races.get((race_id,))
        if record is None:
            return None
        result_version, *place = orjson.loads(record)
        return CurrentVersion(result_version, RecordOffset(*place))

    def put(self, race_id: str, held: CurrentVersion) -> None:
        """Set the current version of a race."""
        self._races.put((race_id,), orjson.dumps((held.result_version, *held.place)))

    def items(self) -> Iterator[tuple[str, CurrentVersion]]:
        """Every race with its current version, in no order."""
        for (race_id,), record in self._races.items():
            result_version, *place = orjson.loads(record)
            yield race_id, CurrentVersion(result_version, RecordOffset(*place))


class _Survey(NamedTuple):
    """The current results (seq to race), the seqs of results that a later version replaced, and the last record's `known_at` in µs."""

    current: dict[int, str]
    replaced: set[int]
    known_at_us: int


@dataclass(slots=True)
class Bootstrap:
    """The state of the aggregation before record `base`, made once in a process.

    `rated` is whether any family has ratings; without one no race is rated.
    """

    home: Home
    timezone: ZoneInfo
    families: Sequence[Family]
    fingerprint: str
    held: HeldRaces = field(default_factory=HeldRaces)
    elo: Elo = field(init=False)
    rated: bool = field(init=False)
    fold: ArrayFold = field(init=False)
    _base: int = -1
    _days: LocalDays = field(init=False)
    _spill: FileSpill = field(init=False)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._days = LocalDays(self.timezone)
        self._spill = FileSpill(self.home.stream)
        self.elo, self.fold = Elo(self._spill), ArrayFold(self.families, self._days, self._spill)
        self.rated = bool(parted(self.families)[1])

    def at(self, base: int, go_on: Callable[[], None] = go_on) -> "Bootstrap":
        """This bootstrap, its state being that before record `base`. The first call computes it; later calls have the same base.

        `go_on` is called regularly meanwhile; if it raises, the next call computes the state.
        """
        with self._making:
            if self._base < 0:
                started = time.perf_counter()
                self._restore(base, go_on)
                say("state.restored", up_to_seq=base, seconds=round(time.perf_counter() - started, 1))
                self._base = base
        assert self._base == base, "one execution begins at one position"
        return self

    def keys(self, view: str) -> int:
        """The number of keys of a view; may lag by a batch when another thread calls it."""
        return self.fold.count(view)

    def _restore(self, base: int, go_on: Callable[[], None]) -> None:
        collecting = gc.isenabled()
        # the state is millions of objects that live as long as the process: the collector must not walk them, now or later
        gc.disable()
        try:
            self._rebuild(base, go_on)
        finally:
            gc.freeze()
            if collecting:
                gc.enable()

    def _rebuild(self, base: int, go_on: Callable[[], None]) -> None:
        unreadable: set[int] = set()
        while True:
            self.fold = ArrayFold(self.families, self._days, self._spill)
            if base == 0:
                return
            survey = self._survey(base, unreadable, go_on)
            self.fold.roll([(survey.known_at_us, ResultDelta(""))])
            self.elo = Elo(self._spill)
            measured = MeasuredResults.of(self.home, self.fingerprint)
            elo = self.elo if self.rated else None
            loaded = measured.load(base, survey.current, survey.known_at_us, self.fold, elo, go_on)
            # ratings depend on every result in its order, so after the build the replaced ones are rated as well
            replaced = {seq for seq in survey.replaced if self.rated and seq >= measured.next_seq}
            refused = self._apply_results(base, survey.current.keys() - loaded, replaced, survey.known_at_us, go_on)
            if not refused:
                return
            # a version that cannot be read has no effect: survey again, so that the version before it is the current one
            unreadable |= refused

    def _survey(self, base: int, unreadable: set[int], go_on: Callable[[], None]) -> "_Survey":
        """Find the current version of each race, and the versions that it replaced."""
        self.held = HeldRaces()
        current: dict[str, int] = {}
        replaced: set[int] = set()
        last = b""
        for line in self._lines(0, base, go_on):
            last = line.text
            head = about(last)
            if head.race_id is None or head.result_version is None or line.seq in unreadable:
                continue
            held = self.held.get(head.race_id)
            if held is None or head.result_version > held.result_version:
                if held is not None:
                    replaced.add(current[head.race_id])
                self.held.put(head.race_id, CurrentVersion(head.result_version, line.place))
                current[head.race_id] = line.seq
        races = {seq: race_id for race_id, seq in current.items()}
        return _Survey(races, replaced, to_us(from_text(upgraded(orjson.loads(last))["known_at"])))

    def _apply_results(
        self, base: int, seqs: set[int], replaced: set[int], known_at_us: int, go_on: Callable[[], None]
    ) -> set[int]:
        """Aggregate the results at `seqs`, and rate them together with the `replaced` ones in log order; returns the seqs of those
        that cannot be read."""
        refused: set[int] = set()
        deltas: list[tuple[int, ResultDelta]] = []
        rated = seqs | replaced
        for line in self._lines(min(rated, default=base), base, go_on):
            if line.seq not in rated:
                continue
            try:
                result = message_of(line.text)
            except UNREADABLE:
                refused.add(line.seq)
                continue
            assert isinstance(result, Result)
            delta = replacing(result)
            if self.rated:
                delta = self.elo.rate(delta)
            if line.seq in seqs:
                deltas.append((known_at_us, delta))
            if len(deltas) >= READ_AT_ONCE:
                self.fold.restore(self.fold.batch(deltas))
                deltas.clear()
        self.fold.restore(self.fold.batch(deltas))
        return refused

    def _lines(self, begin: int, base: int, go_on: Callable[[], None]) -> Iterator[FoundRecord]:
        """The whole records from `begin` on and before `base`."""
        tail = LogTail(self.home, begin)
        try:
            while lines := tail.read(READ_AT_ONCE):
                go_on()
                for line in lines:
                    if line.seq >= base:
                        return
                    if line.whole:
                        yield line
        finally:
            tail.close()
