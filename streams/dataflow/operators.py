"""The steps of the dataflow, thin shells around the aggregation, and the items that pass between them."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar
from zlib import crc32

from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink

from velo.racing.clock import LocalDays, to_us
from velo.racing.messages import Message, Result, type_name
from velo.storage.log.tail import UNREADABLE, FoundRecord, about, line_at, message_of
from velo.storage.store import Home
from velo.streams.aggregation.result_delta import ResultDelta, replacing
from velo.streams.aggregation.routing import KeyUpdate, Router
from velo.streams.aggregation.window_state import BEGINNING, PackedRow, ShardState, WindowAggregator
from velo.streams.dataflow.bootstrap import Bootstrap, CurrentVersion
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.importers.dead_letters import DeadLetter

RACE_SHARDS: Final = 16
ALL: Final = "log"
"""The one key under which records are put back in order."""
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
    """A record of the log. `base` is where this execution began; `live` says whether the record was at the log's end."""

    base: int
    live: bool
    line: FoundRecord


class RecordEffect(NamedTuple):
    """The effect of one record: exactly one for each record, of any kind, so that their order can be restored.

    `known_at_us` is None for an unreadable record. `kind` is the message's type. `change` is the change to its race, until
    the race is rated: ratings depend on the log's order, so only then is it `routed` to the views of ratings.
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
    """The changes of the messages from `first_seq` to `last_seq` in one shard: for each its `known_at` in µs and its updates.

    A message without updates only says that a new day has begun.
    """

    shard: str
    first_seq: int
    last_seq: int
    base: int
    live: bool
    updates: list[tuple[int, Sequence[KeyUpdate]]]


class RowBatch(NamedTuple):
    """Rows of one view made by one shard from the messages from `first_seq` to `last_seq`, in their order."""

    first_seq: int
    last_seq: int
    live: bool
    known_at_us: int
    rows: list[PackedRow]


def race_shard(line: FoundRecord) -> str:
    """Return the key of the version step that a record goes to: the same one for all records of a race."""
    race_id = about(line.text).race_id if line.whole else None
    return f"races/{crc32((race_id or '').encode()) % RACE_SHARDS:02d}"


class VersionLogic(StatefulBatchLogic[LogRecord, RecordEffect, None]):
    """Parses each record and computes what a result retracts and adds, shard by shard."""

    def __init__(self, home: Home, bootstrap: Bootstrap, router: Router) -> None:
        self._home, self._bootstrap, self._router = home, bootstrap, router

    def on_batch(self, values: list[LogRecord]) -> tuple[Iterable[RecordEffect], bool]:
        """Return one effect for each record, in the order of arrival."""
        return [self._effect(record) for record in values], False

    def snapshot(self) -> None:
        """Return no state: the log has it all."""

    def _effect(self, record: LogRecord) -> RecordEffect:
        line = record.line
        try:
            if not line.whole:
                raise ValueError("the checksum does not match, or the record is missing")
            message = message_of(line.text)
            assert message.known_at is not None
            change, stale = self._change(record, message)
        except UNREADABLE as unreadable:
            letter = _letter(line, unreadable)
            return RecordEffect(
                line.seq, record.base, record.live, None, "unreadable", stale=False, routed=[], letter=letter
            )
        known_at_us = to_us(message.known_at)
        routed = self._router.route(change) if change else []
        to_rate = change if self._bootstrap.rated else None
        return RecordEffect(
            line.seq, record.base, record.live, known_at_us, type_name(message), stale, routed, None, to_rate
        )

    def _change(self, record: LogRecord, message: Message) -> tuple[ResultDelta | None, bool]:
        if not isinstance(message, Result):
            return None, False
        races = self._bootstrap.at(record.base).held
        held = races.get(message.race_id)
        before = None
        if held is not None:
            if message.result_version <= held.result_version:
                return None, True
            earlier = message_of(line_at(self._home, held.place))
            assert isinstance(earlier, Result)
            before = earlier
        change = replacing(message, before)
        races.put(message.race_id, CurrentVersion(message.result_version, record.line.place))
        return change, False


class ResequenceLogic(StatefulBatchLogic[RecordEffect, RecordEffect, None]):
    """Restores the log's order, marks the first record of each local day, and rates each race by the races before it.

    Records come back out of order, because the engine groups a batch by key. Each record has exactly one effect, so the heap
    holds back those whose predecessor is still missing.
    """

    def __init__(self, days: LocalDays, bootstrap: Bootstrap, router: Router) -> None:
        self._days, self._bootstrap, self._router = days, bootstrap, router
        self._today = BEGINNING
        self._next_seq: int | None = None
        self._early: list[tuple[int, RecordEffect]] = []

    def on_batch(self, values: list[RecordEffect]) -> tuple[Iterable[RecordEffect], bool]:
        """Return every effect whose predecessors were returned."""
        for effect in values:
            heappush(self._early, (effect.seq, effect))
            if self._next_seq is None:
                self._next_seq = effect.base
        return list(self._due()), False

    def snapshot(self) -> None:
        """Return no state: an epoch ends between two records, so none is held back."""
        assert not self._early, "an epoch has every record up to its last"

    def _due(self) -> Iterator[RecordEffect]:
        while self._early and self._early[0][0] == self._next_seq:
            effect = heappop(self._early)[1]
            self._next_seq = effect.seq + 1
            if effect.known_at_us is not None:
                day = self._days.day_of(effect.known_at_us)
                if day > self._today:
                    self._today = day
                    effect = effect._replace(new_day=True)
            yield self._rated(effect) if effect.change else effect

    def _rated(self, effect: RecordEffect) -> RecordEffect:
        assert effect.change is not None
        rated = self._bootstrap.at(effect.base).elo.rate(effect.change)
        return effect._replace(routed=effect.routed + self._router.route(rated), change=None)


class Fanout:
    """Groups ordered effects by shard; the first record of a local day goes to every shard, since windows lose starts at midnight."""

    def __init__(self, shards: Sequence[str], telemetry: Telemetry) -> None:
        self._shards = shards
        self._telemetry = telemetry

    def __call__(self, effects: list[tuple[str, RecordEffect]]) -> Iterator[tuple[str, KeyUpdates]]:
        """Yield one item for each shard that these effects change, with its updates in order."""
        updates: dict[str, list[tuple[int, Sequence[KeyUpdate]]]] = {}
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for _, effect in effects:
            self._telemetry.count_record(effect.kind, stale=effect.stale)
            at_us = effect.known_at_us
            if at_us is None:
                continue
            routed: Iterable[tuple[str, Sequence[KeyUpdate]]] = effect.routed
            if effect.new_day:
                changed = dict(effect.routed)
                routed = [(shard, changed.get(shard, ())) for shard in self._shards]
            for shard, of_keys in routed:
                if shard in updates:
                    updates[shard].append((at_us, of_keys))
                else:
                    updates[shard] = [(at_us, of_keys)]
                    first[shard] = effect.seq
                last[shard] = effect.seq
        if updates:
            newest = effects[-1][1]
            for shard, of_shard in updates.items():
                yield shard, KeyUpdates(shard, first[shard], last[shard], newest.base, newest.live, of_shard)


class WindowLogic(StatefulBatchLogic[KeyUpdates, RowBatch, None]):
    """Updates one shard of a family, and returns its rows in one batch."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._shard: tuple[WindowAggregator, ShardState] | None = None

    def on_batch(self, values: list[KeyUpdates]) -> tuple[Iterable[RowBatch], bool]:
        """Return one batch of all rows that these messages make, or nothing if they make no row."""
        if self._shard is None:
            self._shard = self._bootstrap.at(values[0].base).take(values[0].shard)
        aggregator, state = self._shard
        last = values[-1]
        updates = last.updates if len(values) == 1 else [update for each in values for update in each.updates]
        rows = aggregator.roll(state, updates)
        if not rows:
            return [], False
        return [RowBatch(values[0].first_seq, last.last_seq, last.live, last.updates[-1][0], rows)], False

    def snapshot(self) -> None:
        """Return no state: `Bootstrap` computes it from the log."""


def all_shards(router: Router) -> list[str]:
    """Return every shard of every family."""
    return [name for names in router.shards for name in names]


def _letter(line: FoundRecord, why: Exception) -> DeadLetter:
    row: dict[str, Any] = {
        "seq": line.seq,
        "segment": line.place.first_seq,
        "byte": line.place.offset,
        "text": line.text[:SHOWN_BYTES].decode(errors="replace"),
    }
    head = about(line.text) if line.whole else None
    reason = "the record is not a message" if line.whole else "the record is damaged"
    return DeadLetter(
        "stream", head.race_id if head else None, head.result_version if head else None, reason, str(why), (row,)
    )
