"""The plain twin of the dataflow: a whole log through every shard in one process, without the engine."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from struct import Struct
from zoneinfo import ZoneInfo

import orjson

from velo.feature_repo.catalogue.aggregates import Value
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.racing.clock import LocalDays, to_us
from velo.racing.elo import PARTS
from velo.racing.messages import Message, Result
from velo.racing.starts import Start, starts_of
from velo.streams.aggregation.key_history import KeyHistories, PackedHistory, _place
from velo.streams.aggregation.layout import Key, RememberedStart, Sums
from velo.streams.aggregation.ratings import Elo, Entry, _starter
from velo.streams.aggregation.result_delta import ResultDelta
from velo.streams.aggregation.routing import SHARDS, KeyUpdate, Router
from velo.streams.aggregation.window_state import BEGINNING, PackedRow, ShardState, WindowAggregator

Row = tuple[Key, int, tuple[Value, ...], int | None]
"""(key values, event_timestamp in µs, values in the order of `Family.features`, valid_until in µs or None)."""


class MemorySpill:
    """A spill in memory, for logs of modest size."""

    def __init__(self) -> None:
        self._contents: list[bytes] = []

    def put(self, content: bytes) -> int:
        # a copy: the bytes that orjson returns keep the 4 KB buffer they were written in
        self._contents.append(bytes(bytearray(content)))
        return len(self._contents)

    def get(self, place: int) -> bytes:
        return self._contents[place - 1]

    def part(self, place: int, begin: int, length: int) -> bytes:
        return self._contents[place - 1][begin : begin + length]


@dataclass(frozen=True, slots=True)
class RaceState:
    """The current version of a race; `off_us` is its off in µs since 1970. A void version has no starts."""

    result_version: int
    off_us: int
    starts: tuple[Start, ...]


def apply_version(
    state: RaceState | None, result: Result, rate: Callable[[ResultDelta], ResultDelta] = lambda change: change
) -> tuple[RaceState, ResultDelta]:
    """The race's state after a result, and what the result changed; a lower or equal version changes nothing.

    `rate` fills in the measures that depend on other races.
    """
    if state is not None and result.result_version <= state.result_version:
        return state, ResultDelta(result.race_id)
    off_us, added = to_us(result.race.off_time), tuple(starts_of(result.race, result.runners))
    change = ResultDelta(result.race_id, added_off_us=off_us, added=added)
    if state is not None:
        change = replace(change, retracted_off_us=state.off_us, retracted=state.starts)
    change = rate(change)
    return RaceState(result.result_version, off_us, change.added), change


class Replay:
    """All state of the aggregation, and the rows each message makes. Messages come in log order."""

    def __init__(self, timezone: ZoneInfo, families: Sequence[Family] = FAMILIES, shards: int = SHARDS) -> None:
        self.races: dict[str, RaceState] = {}
        self._days = LocalDays(timezone)
        self._today = BEGINNING
        self._router = Router(families, shards)
        spill = MemorySpill()
        self._elo = Elo(spill)
        aggregators = [WindowAggregator(family, self._days, spill) for family in families]
        self._shards: dict[str, tuple[WindowAggregator, ShardState]] = {
            name: (aggregator, ShardState())
            for aggregator, names in zip(aggregators, self._router.shards, strict=True)
            for name in names
        }

    def tell(self, message: Message) -> Iterator[tuple[Family, list[Row]]]:
        """The rows of one message, some of a family at a time; exhaust it before the next message.

        The first message of a local day, whatever it is about, advances every shard to that day.
        """
        assert message.known_at is not None, "a message of the log has its instant"
        known_at_us = to_us(message.known_at)
        if self._days.day_of(known_at_us) > self._today:
            self._today = self._days.day_of(known_at_us)
            for aggregator, state in self._shards.values():
                yield aggregator.family, _rows(aggregator, state, known_at_us, ())
        if isinstance(message, Result):
            before = self.races.get(message.race_id)
            self.races[message.race_id], change = apply_version(before, message, self._elo.rate)
            for name, updates in self._router.route(change):
                aggregator, state = self._shards[name]
                yield aggregator.family, _rows(aggregator, state, known_at_us, updates)

    @classmethod
    def settled(
        cls,
        races: Mapping[str, RaceState],
        known_at: datetime,
        timezone: ZoneInfo,
        families: Sequence[Family] = FAMILIES,
        shards: int = SHARDS,
    ) -> "Replay":
        """The replay of a log that ended at `known_at` with these races, in any order, without making its rows.

        A key without starts is not in it; its next row is the same as if it were.
        """
        restored = cls(timezone, families, shards)
        known_at_us = to_us(known_at)
        restored._today = restored._days.day_of(known_at_us)
        for aggregator, state in restored._shards.values():
            aggregator.restore(state, known_at_us, ())
        for race_id, race in races.items():
            restored.races[race_id] = race
            restored._elo.hold(race_id, _entries_of(race.starts))
            change = ResultDelta(race_id, added_off_us=race.off_us, added=race.starts)
            for name, updates in restored._router.route(change):
                aggregator, state = restored._shards[name]
                aggregator.restore(state, known_at_us, updates)
        return restored

    def dump(self) -> dict[str, bytes]:
        """Each shard by name, as `dumped` writes it."""
        return {name: dumped(aggregator, state) for name, (aggregator, state) in self._shards.items()}

    def load(self, shards: Mapping[str, bytes], races: Mapping[str, RaceState]) -> None:
        """Take over the shards of a `dump` made at any instant, with the races as they were then."""
        self.races = dict(races)
        for race_id, race in races.items():
            self._elo.hold(race_id, _entries_of(race.starts))
        for name, content in shards.items():
            aggregator, _ = self._shards[name]
            self._shards[name] = aggregator, loaded(aggregator, content)
            self._today = max(self._today, self._shards[name][1].today)


def dumped(aggregator: WindowAggregator, state: ShardState) -> bytes:
    """A shard as JSON: the same bytes for the same starts on the same day, however it came there."""
    career, windowed = len(aggregator._columns.layout.career), len(aggregator._columns.layout.windowed)
    every = state.keys | {key: aggregator._activate(record) for key, record in state.idle.items()}
    keys = [
        (
            key,
            unpack(each.career, career),
            [(day, unpack(each.daily[day], windowed)) for day in each.days],
            starts_in(aggregator._histories, each.history),
        )
        for key, each in sorted(every.items())
    ]
    return orjson.dumps((state.today, keys))


def starts_in(histories: KeyHistories, history: PackedHistory) -> list[RememberedStart]:
    """The starts of a packed history, oldest first."""
    return histories._since(_place(history), None)[1]


def loaded(aggregator: WindowAggregator, content: bytes) -> ShardState:
    """The shard of `dumped`: windows, recent values and expiries are computed again."""
    today, keys = orjson.loads(content)
    state = ShardState(today)
    for key, career, daily, history in keys:
        sums = [(day, pack(of_day)) for day, of_day in daily]
        aggregator.put(state, tuple(key), pack(career), sums, [tuple(memory) for memory in history])
    return state


def pack(sums: Sequence[int]) -> Sums:
    """Several sums in one integer, 64 bits each, the first lowest."""
    return int.from_bytes(Struct(f"<{len(sums)}Q").pack(*sums), "little")


def unpack(sums: Sums, lanes: int) -> tuple[int, ...]:
    """The sums of `pack`."""
    return Struct(f"<{lanes}Q").unpack(sums.to_bytes(lanes * 8, "little"))


def _rows(aggregator: WindowAggregator, state: ShardState, known_at_us: int, updates: Iterable[KeyUpdate]) -> list[Row]:
    return [_row_of(aggregator, row) for row in aggregator.roll(state, ((known_at_us, updates),))]


def _row_of(aggregator: WindowAggregator, row: PackedRow) -> Row:
    """A row with its columns made one by one: what `vectorized` makes for many, bit for bit."""
    key, event_us, career, recent, within, until_us = row
    return key, event_us, aggregator._columns.values(career, recent, within), until_us


def _entries_of(starts: Sequence[Start]) -> list[Entry]:
    """What these starts earned; empty where they are not rated."""
    return [
        Entry(_starter(start), tuple(getattr(start, part.measure) for part in PARTS))
        for start in starts
        if start.elo_rated
    ]


def changelog(replay: Replay, messages: Iterable[Message]) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """Every row of every view by its key, in order of event time; holds them all, so for logs of modest size."""
    rows: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for message in messages:
        for family, made in replay.tell(message):
            of_view = rows.setdefault(family.view, {})
            for row in made:
                of_view.setdefault(row[0], []).append(row)
    return rows
