"""The steps of the dataflow, thin shells around the aggregation, and the items that pass between them."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar
from zlib import crc32

from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink

from velo.racing.clock import to_us
from velo.racing.messages import Message, Result, type_name
from velo.storage.log.tail import UNREADABLE, FoundRecord, about, line_at, message_of
from velo.storage.store import Home
from velo.streams.aggregation.result_delta import ResultDelta, replacing
from velo.streams.aggregation.vectorized import Rows
from velo.streams.dataflow.bootstrap import Bootstrap, CurrentVersion
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.importers.dead_letters import DeadLetter

NO_CHANGE: Final = ResultDelta("")
"""The change by a message that is not a result, or by one of a lower version."""
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

    `known_at_us` is None for an unreadable record. `kind` is the message's type. `change` is the change to its race.
    """

    seq: int
    base: int
    live: bool
    known_at_us: int | None
    kind: str
    stale: bool
    letter: DeadLetter | None
    change: ResultDelta = NO_CHANGE


class RowBatch(NamedTuple):
    """Rows of one view that the messages from `first_seq` to `last_seq` made, the last of them known at `known_at_us`."""

    first_seq: int
    last_seq: int
    live: bool
    known_at_us: int
    rows: Rows


ViewRows = tuple[str, RowBatch]
"""Rows by their view."""


def race_shard(line: FoundRecord) -> str:
    """Return the key of the version step that a record goes to: the same one for all records of a race."""
    race_id = about(line.text).race_id if line.whole else None
    return f"races/{crc32((race_id or '').encode()) % RACE_SHARDS:02d}"


class VersionLogic(StatefulBatchLogic[LogRecord, RecordEffect, None]):
    """Parses each record and computes what a result retracts and adds."""

    def __init__(self, home: Home, bootstrap: Bootstrap) -> None:
        self._home, self._bootstrap = home, bootstrap

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
            return RecordEffect(line.seq, record.base, record.live, None, "unreadable", stale=False, letter=letter)
        known_at_us = to_us(message.known_at)
        return RecordEffect(
            line.seq, record.base, record.live, known_at_us, type_name(message), stale, letter=None, change=change
        )

    def _change(self, record: LogRecord, message: Message) -> tuple[ResultDelta, bool]:
        if not isinstance(message, Result):
            return NO_CHANGE, False
        races = self._bootstrap.at(record.base).held
        held = races.get(message.race_id)
        before = None
        if held is not None:
            if message.result_version <= held.result_version:
                return NO_CHANGE, True
            earlier = message_of(line_at(self._home, held.place))
            assert isinstance(earlier, Result)
            before = earlier
        change = replacing(message, before)
        races.put(message.race_id, CurrentVersion(message.result_version, record.line.place))
        return change, False


class ResequenceLogic(StatefulBatchLogic[RecordEffect, RecordEffect, None]):
    """Restores the log's order, and rates each race by the races before it.

    Records come back out of order, because the engine groups a batch by key. Each record has exactly one effect, so the heap
    holds back those whose predecessor is still missing.
    """

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
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
            if effect.change and self._bootstrap.rated:
                effect = effect._replace(change=self._bootstrap.at(effect.base).elo.rate(effect.change))
            yield effect


class FoldLogic(StatefulBatchLogic[RecordEffect, ViewRows, None]):
    """Aggregates ordered effects, and returns the rows of each view in one batch."""

    def __init__(self, bootstrap: Bootstrap, telemetry: Telemetry) -> None:
        self._bootstrap, self._telemetry = bootstrap, telemetry

    def on_batch(self, values: list[RecordEffect]) -> tuple[Iterable[ViewRows], bool]:
        """Return all rows that these messages make, by view."""
        for effect in values:
            self._telemetry.count_record(effect.kind, stale=effect.stale)
        readable = [effect for effect in values if effect.known_at_us is not None]
        messages = [(effect.known_at_us or 0, effect.change) for effect in readable]
        if not messages:
            return [], False
        live, made = values[-1].live, self._bootstrap.at(values[0].base).fold.roll(messages)
        batches = []
        for view, rows in made:
            first, last = int(rows.message[0]), int(rows.message[-1])
            batch = RowBatch(readable[first].seq, readable[last].seq, live, messages[last][0], rows)
            batches.append((view, batch))
        return batches, False

    def snapshot(self) -> None:
        """Return no state: `Bootstrap` computes it from the log."""


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
