"""Where a dataflow begins: what every shard and race knew at a position of the log, worked out from the log itself.

Measured against snapshots of the shards themselves: at 170K starts a snapshot of all shards takes over a second, in
which nothing else happens, and the first message of any day touches every shard; what a build has measured is laid at
a hundred thousand starts a second (`laying`), what was told since is read and settled at ten thousand.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import orjson

from feature_repo.catalogue.families import Family
from streams.aggregation.local_days import LocalDays
from streams.aggregation.ratings import Elo, parted
from streams.aggregation.result_delta import replacing
from streams.aggregation.routing import Router, view_of
from streams.aggregation.spill import FileSpill
from streams.aggregation.window_state import ShardState, WindowAggregator
from streams.dataflow.bootstrap_from_tables import MeasuredResults
from streams.dataflow.metrics import say
from streams.dataflow.retry import go_on
from velo.racing.clock import from_text, to_us
from velo.racing.messages import Result
from velo.storage.compact_map import CompactMap
from velo.storage.log.migrations import upgraded
from velo.storage.log.tail import UNREADABLE, FoundRecord, LogTail, RecordOffset, about, message_of
from velo.storage.store import Home

READ_AT_ONCE: Final = 2000


class Held(NamedTuple):
    """The version of a race that holds, and where the log tells it."""

    result_version: int
    place: RecordOffset


class HeldRaces:
    """Which version of each race holds: all that is kept of a race for good, so a few bytes beside its name."""

    def __init__(self) -> None:
        self._races = CompactMap()

    def get(self, race_id: str) -> Held | None:
        """What holds of a race; None where it was never told."""
        record = self._races.get((race_id,))
        if record is None:
            return None
        result_version, *place = orjson.loads(record)
        return Held(result_version, RecordOffset(*place))

    def put(self, race_id: str, held: Held) -> None:
        """Have this hold of a race."""
        self._races.put((race_id,), orjson.dumps((held.result_version, *held.place)))

    def items(self) -> Iterator[tuple[str, Held]]:
        """Every race with what holds of it, in no order."""
        for (race_id,), record in self._races.items():
            result_version, *place = orjson.loads(record)
            yield race_id, Held(result_version, RecordOffset(*place))


class _Survey(NamedTuple):
    """The results that hold (seq to race), those that held before and no longer do, and the last record's instant in µs."""

    holding: dict[int, str]
    replaced: set[int]
    known_at_us: int


@dataclass(slots=True)
class Bootstrap:
    """The state of the fold before record `base`, made once in a process and then handed out shard by shard.

    `rated` is whether any of the families has ratings: else no race is rated.
    """

    home: Home
    timezone: ZoneInfo
    families: Sequence[Family]
    shards: int
    fingerprint: str
    held: HeldRaces = field(default_factory=HeldRaces)
    elo: Elo = field(init=False)
    rated: bool = field(init=False)
    _base: int = -1
    _days: LocalDays = field(init=False)
    _router: Router = field(init=False)
    _rollers: dict[str, WindowAggregator] = field(init=False)
    _states: dict[str, ShardState] = field(init=False)
    _shelf: FileSpill = field(init=False)
    _taken: dict[str, ShardState] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._days = LocalDays(self.timezone)
        self._router = Router(self.families, self.shards)
        self._rollers = {}
        shelf = self._shelf = FileSpill(self.home.stream)
        self.elo = Elo(shelf)
        self.rated = bool(parted(self.families)[1])
        for family, names in zip(self.families, self._router.shards, strict=True):
            self._rollers |= dict.fromkeys(names, WindowAggregator(family, self._days, shelf))
        self._states = {}

    def at(self, base: int, go_on: Callable[[], None] = go_on) -> "Bootstrap":
        """The ground before record `base`; worked out at the first call, which all of one execution agree on.

        `go_on` is called now and then meanwhile; what it raises leaves the ground to another call.
        """
        with self._making:
            if self._base < 0:
                begun = time.perf_counter()
                self._lay(base, go_on)
                say("stream.laid", up_to_seq=base, seconds=round(time.perf_counter() - begun, 1))
                self._base = base
        assert self._base == base, "one execution begins at one position"
        return self

    def take(self, shard: str) -> tuple[WindowAggregator, ShardState]:
        """A shard and what rolls it; the shard is the caller's from now on."""
        self._taken[shard] = self._states.pop(shard)
        return self._rollers[shard], self._taken[shard]

    def keys(self, view: str) -> int:
        """How many keys of a view the shards know that were taken here; asked by another thread it may be one behind."""
        return sum(len(self._taken[name]) for name in list(self._taken) if view_of(name) == view)

    def _lay(self, base: int, go_on: Callable[[], None]) -> None:
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._settle(base, go_on)
        finally:
            gc.freeze()
            if collecting:
                gc.enable()

    def _settle(self, base: int, go_on: Callable[[], None]) -> None:
        unreadable: set[int] = set()
        while True:
            self._states = {name: ShardState() for name in self._rollers}
            if base == 0:
                return
            survey = self._survey(base, unreadable, go_on)
            for name, state in self._states.items():
                self._rollers[name].restore(state, survey.known_at_us, ())
            self.elo = Elo(self._shelf)
            measured = MeasuredResults.of(self.home, self.fingerprint)
            laid = measured.lay(base, survey.holding, self._by_family(), self.elo if self.rated else None, go_on)
            replaced = {seq for seq in survey.replaced if self.rated and seq >= measured.next_seq}
            refused = self._settle_races(base, survey.holding.keys() - laid, replaced, survey.known_at_us, go_on)
            if not refused:
                return
            # a version that cannot be read was never told: what the race was before it holds
            unreadable |= refused

    def _by_family(self) -> list[tuple[Family, WindowAggregator, list[ShardState]]]:
        named = zip(self.families, self._router.shards, strict=True)
        return [(family, self._rollers[names[0]], [self._states[name] for name in names]) for family, names in named]

    def _survey(self, base: int, unreadable: set[int], go_on: Callable[[], None]) -> "_Survey":
        """Note which version of each race holds, and which did before."""
        self.held = HeldRaces()
        holding: dict[str, int] = {}
        replaced: set[int] = set()
        last = b""
        for line in self._lines(0, base, go_on):
            last = line.text
            told = about(last)
            if told.race_id is None or told.result_version is None or line.seq in unreadable:
                continue
            held = self.held.get(told.race_id)
            if held is None or told.result_version > held.result_version:
                if held is not None:
                    replaced.add(holding[told.race_id])
                self.held.put(told.race_id, Held(told.result_version, line.place))
                holding[told.race_id] = line.seq
        races = {seq: race_id for race_id, seq in holding.items()}
        return _Survey(races, replaced, to_us(from_text(upgraded(orjson.loads(last))["known_at"])))

    def _settle_races(
        self, base: int, seqs: set[int], replaced: set[int], known_at_us: int, go_on: Callable[[], None]
    ) -> set[int]:
        """Fold in the results at these places, rated in their order with those since `replaced`; returns those that cannot be read."""
        refused: set[int] = set()
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
            change = replacing(result)
            if self.rated:
                change = self.elo.rate(change)
            if line.seq in seqs:
                for name, touches in self._router.route(change):
                    self._rollers[name].restore(self._states[name], known_at_us, touches)
        return refused

    def _lines(self, begin: int, base: int, go_on: Callable[[], None]) -> Iterator[FoundRecord]:
        """The whole records from `begin` on, before `base`."""
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
