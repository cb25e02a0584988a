"""A whole log through every shard in one process: what the dataflow does, without its engine.

The plain twin of the dataflow in tests, and how a stream takes over from a batch build.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from feature_repo.catalogue.families import FAMILIES, Family
from streams.aggregation.local_days import LocalDays
from streams.aggregation.ratings import Elo, entries_of
from streams.aggregation.result_delta import RaceState, ResultDelta, apply_version
from streams.aggregation.routing import KeyUpdate, Router
from streams.aggregation.spill import MemorySpill
from streams.aggregation.window_state import BEGINNING, Row, ShardState, WindowAggregator
from velo.racing.clock import to_us
from velo.racing.messages import Message, Result

SHARDS = 16
"""Shards of a family: enough to spread over processes, few enough that a tick to all of them costs little."""


class Replay:
    """All state of the fold, and the rows each message makes. Messages are told in log order."""

    def __init__(self, timezone: ZoneInfo, families: Sequence[Family] = FAMILIES, shards: int = SHARDS) -> None:
        self.races: dict[str, RaceState] = {}
        self._days = LocalDays(timezone)
        self._today = BEGINNING
        self._router = Router(families, shards)
        shelf = MemorySpill()
        self._elo = Elo(shelf)
        rollers = [WindowAggregator(family, self._days, shelf) for family in families]
        self._shards: dict[str, tuple[WindowAggregator, ShardState]] = {
            name: (roller, ShardState())
            for roller, names in zip(rollers, self._router.shards, strict=True)
            for name in names
        }

    def tell(self, message: Message) -> Iterator[tuple[Family, list[Row]]]:
        """The rows one message makes, some of a family at a time; exhaust it before the next message.

        The first message of a local day, whatever it is about, brings every shard to that day.
        """
        assert message.known_at is not None, "a message of the log has its instant"
        known_at_us = to_us(message.known_at)
        if self._days.day_of(known_at_us) > self._today:
            self._today = self._days.day_of(known_at_us)
            for roller, state in self._shards.values():
                yield roller.family, _rows(roller, state, known_at_us, ())
        if isinstance(message, Result):
            before = self.races.get(message.race_id)
            self.races[message.race_id], change = apply_version(before, message, self._elo.rate)
            for name, touches in self._router.route(change):
                roller, state = self._shards[name]
                yield roller.family, _rows(roller, state, known_at_us, touches)

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

        A key of which nothing is left is not among them; its next row is the same as if it were.
        """
        replay = cls(timezone, families, shards)
        known_at_us = to_us(known_at)
        replay._today = replay._days.day_of(known_at_us)
        for roller, state in replay._shards.values():
            roller.settle(state, known_at_us, ())
        for race_id, race in races.items():
            replay.races[race_id] = race
            replay._elo.hold(race_id, entries_of(race.starts))
            for name, touches in replay._router.route(
                ResultDelta(race_id, added_off_us=race.off_us, added=race.starts)
            ):
                roller, state = replay._shards[name]
                roller.settle(state, known_at_us, touches)
        return replay

    def dump(self) -> dict[str, bytes]:
        """Each shard by name, as `WindowAggregator.dump` has it."""
        return {name: roller.dump(state) for name, (roller, state) in self._shards.items()}

    def load(self, dumped: Mapping[str, bytes], races: Mapping[str, RaceState]) -> None:
        """Take over the shards of a `dump` made at any instant, with the races as they were then."""
        self.races = dict(races)
        for race_id, race in races.items():
            self._elo.hold(race_id, entries_of(race.starts))
        for name, content in dumped.items():
            roller, _ = self._shards[name]
            self._shards[name] = roller, roller.load(content)
            self._today = max(self._today, self._shards[name][1].today)


def _rows(roller: WindowAggregator, state: ShardState, known_at_us: int, touches: Iterable[KeyUpdate]) -> list[Row]:
    return [roller.row_of(rolled) for rolled in roller.roll(state, ((known_at_us, touches),))]


def changelog(replay: Replay, messages: Iterable[Message]) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """Every row of every view by its key, in order of event time; holds them all, so for logs of modest size."""
    rows: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for message in messages:
        for family, made in replay.tell(message):
            of_view = rows.setdefault(family.view, {})
            for row in made:
                of_view.setdefault(row[0], []).append(row)
    return rows
