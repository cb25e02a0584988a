"""The steps of the dataflow, thin shells around the aggregation, and the items that pass between them."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar
from zlib import crc32

from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink

from velo.racing.clock import to_us
from velo.racing.messages import Message, Result, type_name
from velo.storage.log.tail import UNREADABLE, FoundRecord, about, line_at, message_of
from velo.storage.store import Home
from velo.streams.aggregation.local_days import LocalDays
from velo.streams.aggregation.result_delta import ResultDelta, replacing
from velo.streams.aggregation.routing import KeyUpdate, Router
from velo.streams.aggregation.window_state import BEGINNING, PackedRow, ShardState, WindowAggregator
from velo.streams.dataflow.bootstrap import Bootstrap, CurrentVersion
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.importers.dead_letters import DeadLetter

RACE_SHARDS: Final = 16
ALL: Final = "log"
"""The one key under which messages are put back in order."""
SHOWN_BYTES: Final = 4000


Item = TypeVar("Item")
State = TypeVar("State")
Reads = Literal["records", "letters", "rows"]
"""Records of the log (`LogRecord`), keyed by race; dead letters; rows of features (`RowBatch`), keyed by view."""


class StreamSink(FixedPartitionedSink[Item, State]):
    """A sink that the graph connects to the stream it `reads`; `step` is its id, which keys its recovery data for good.

    It must accept the same item twice: after a crash the stream repeats what came since the last checkpoint.
    """

    step: ClassVar[str]
    reads: ClassVar[Reads]


class LogRecord(NamedTuple):
    """A record on its way in. `base` is where this execution began, `live` whether it stood at the log's very end."""

    base: int
    live: bool
    line: FoundRecord


class RecordEffect(NamedTuple):
    """What one record does: exactly one for each, whatever it is, so that their order can be restored.

    `known_at_us` is None for a record that could not be read. `kind` is the message's type. `change` is what it does to a
    race, until that is rated: which is done in the log's order, and only then is it `routed` to the views of ratings.
    """

    seq: int
    base: int
    live: bool
    known_at_us: int | None
    kind: str
    stale: bool
    routed: list[tuple[str, list[KeyUpdate]]]
    letter: DeadLetter | None
    change: ResultDelta | None = None
    new_day: bool = False


class KeyUpdates(NamedTuple):
    """What the messages from `first_seq` to `last_seq` do to one shard: of each its `known_at` in µs and its touches.

    No touches where a message only tells that a new day has begun.
    """

    shard: str
    first_seq: int
    last_seq: int
    base: int
    live: bool
    told: list[tuple[int, Sequence[KeyUpdate]]]


class RowBatch(NamedTuple):
    """Rows of one view made by one shard from the messages from `first_seq` to `last_seq`, in their order."""

    first_seq: int
    last_seq: int
    live: bool
    known_at_us: int
    rows: list[PackedRow]


def race_shard(line: FoundRecord) -> str:
    """Which of the keys of the version step a record goes to: all of one race to the same."""
    race_id = about(line.text).race_id if line.whole else None
    return f"races/{crc32((race_id or '').encode()) % RACE_SHARDS:02d}"


class VersionLogic(StatefulBatchLogic[LogRecord, RecordEffect, None]):
    """Parses each record and tells what its version of a race takes back and adds, shard by shard."""

    def __init__(self, home: Home, ground: Bootstrap, router: Router) -> None:
        self._home, self._ground, self._router = home, ground, router

    def on_batch(self, values: list[LogRecord]) -> tuple[Iterable[RecordEffect], bool]:
        """One step for each record, in the order they came."""
        return [self._step(told) for told in values], False

    def snapshot(self) -> None:
        """Nothing: the log holds it all."""

    def _step(self, told: LogRecord) -> RecordEffect:
        line = told.line
        try:
            if not line.whole:
                raise ValueError("the checksum does not match, or the record is missing")
            message = message_of(line.text)
            assert message.known_at is not None
            change, stale = self._change(told, message)
        except UNREADABLE as unreadable:
            letter = _letter(line, unreadable)
            return RecordEffect(
                line.seq, told.base, told.live, None, "unreadable", stale=False, routed=[], letter=letter
            )
        known_at_us = to_us(message.known_at)
        routed = self._router.route(change) if change else []
        to_rate = change if self._ground.rated else None
        return RecordEffect(
            line.seq, told.base, told.live, known_at_us, type_name(message), stale, routed, None, to_rate
        )

    def _change(self, told: LogRecord, message: Message) -> tuple[ResultDelta | None, bool]:
        if not isinstance(message, Result):
            return None, False
        # each race is told to one process alone, which knows of it what the others do not
        races = self._ground.at(told.base).held
        held = races.get(message.race_id)
        before = None
        if held is not None:
            if message.result_version <= held.result_version:
                return None, True
            earlier = message_of(line_at(self._home, held.place))
            assert isinstance(earlier, Result)
            before = earlier
        change = replacing(message, before)
        races.put(message.race_id, CurrentVersion(message.result_version, told.line.place))
        return change, False


class ResequenceLogic(StatefulBatchLogic[RecordEffect, RecordEffect, None]):
    """Puts the steps back in the log's order, marks the first of each local day, and rates each race by those before it."""

    def __init__(self, days: LocalDays, ground: Bootstrap, router: Router) -> None:
        self._days, self._ground, self._router = days, ground, router
        self._today = BEGINNING
        self._next_seq: int | None = None
        self._early: list[tuple[int, RecordEffect]] = []

    def on_batch(self, values: list[RecordEffect]) -> tuple[Iterable[RecordEffect], bool]:
        """Every step whose turn has come."""
        for step in values:
            heappush(self._early, (step.seq, step))
            if self._next_seq is None:
                self._next_seq = step.base
        return list(self._due()), False

    def snapshot(self) -> None:
        """Nothing: an epoch ends between two records, so none waits for another."""
        assert not self._early, "an epoch holds whole runs of the log"

    def _due(self) -> Iterator[RecordEffect]:
        while self._early and self._early[0][0] == self._next_seq:
            step = heappop(self._early)[1]
            self._next_seq = step.seq + 1
            if step.known_at_us is not None:
                day = self._days.day_of(step.known_at_us)
                if day > self._today:
                    self._today = day
                    step = step._replace(new_day=True)
            yield self._rated(step) if step.change else step

    def _rated(self, step: RecordEffect) -> RecordEffect:
        assert step.change is not None
        rated = self._ground.at(step.base).elo.rate(step.change)
        return step._replace(routed=step.routed + self._router.route(rated), change=None)


class Fanout:
    """From ordered steps to what each shard is told of them at once; the first of a day is told to all of them."""

    def __init__(self, shards: Sequence[str], telemetry: Telemetry) -> None:
        self._shards = shards
        self._telemetry = telemetry

    def __call__(self, steps: list[tuple[str, RecordEffect]]) -> Iterator[tuple[str, KeyUpdates]]:
        """One item for each shard that these steps touch, with what they do to it in order."""
        told: dict[str, list[tuple[int, Sequence[KeyUpdate]]]] = {}
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for _, step in steps:
            self._telemetry.told(step.kind, stale=step.stale)
            at_us = step.known_at_us
            if at_us is None:
                continue
            routed: Iterable[tuple[str, Sequence[KeyUpdate]]] = step.routed
            if step.new_day:
                touched = dict(step.routed)
                routed = [(shard, touched.get(shard, ())) for shard in self._shards]
            for shard, touches in routed:
                if shard in told:
                    told[shard].append((at_us, touches))
                else:
                    told[shard] = [(at_us, touches)]
                    first[shard] = step.seq
                last[shard] = step.seq
        if told:
            newest = steps[-1][1]
            for shard, of_shard in told.items():
                yield shard, KeyUpdates(shard, first[shard], last[shard], newest.base, newest.live, of_shard)


class WindowLogic(StatefulBatchLogic[KeyUpdates, RowBatch, None]):
    """One shard of a family: the fold's own roll, and its rows in a block."""

    def __init__(self, ground: Bootstrap) -> None:
        self._ground = ground
        self._rolled: tuple[WindowAggregator, ShardState] | None = None

    def on_batch(self, values: list[KeyUpdates]) -> tuple[Iterable[RowBatch], bool]:
        """One block of all rows that these messages make; none where they make none."""
        if self._rolled is None:
            self._rolled = self._ground.at(values[0].base).take(values[0].shard)
        roller, state = self._rolled
        last = values[-1]
        rows = roller.roll(state, last.told if len(values) == 1 else [one for each in values for one in each.told])
        if not rows:
            return [], False
        return [RowBatch(values[0].first_seq, last.last_seq, last.live, last.told[-1][0], rows)], False

    def snapshot(self) -> None:
        """Nothing: `Bootstrap` works it out from the log."""


def all_shards(router: Router) -> list[str]:
    """Every shard of every family."""
    return [name for names in router.shards for name in names]


def _letter(line: FoundRecord, why: Exception) -> DeadLetter:
    row: dict[str, Any] = {
        "seq": line.seq,
        "segment": line.place.first_seq,
        "byte": line.place.offset,
        "text": line.text[:SHOWN_BYTES].decode(errors="replace"),
    }
    told = about(line.text) if line.whole else None
    reason = "the record is no message" if line.whole else "the record is damaged"
    return DeadLetter(
        "stream", told.race_id if told else None, told.result_version if told else None, reason, str(why), (row,)
    )
