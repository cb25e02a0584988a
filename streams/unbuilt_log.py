"""The log beyond the tables, for those who ask about a race before the next build; and whether a race has a result.

The reader stays: it holds of each message after the tables where it stands and when it became known, and reads on each
time it is asked. So what it says of a race is what the log says to its end, at the moment of asking.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from struct import Struct
from threading import Lock
from typing import Final, NamedTuple
from weakref import finalize

from feature_repo.stores import changelog
from feature_repo.stores.parts import Snapshot
from streams.dataflow.metrics import position
from velo.errors import UserError
from velo.racing.clock import from_us, to_us
from velo.racing.messages import Message, Result
from velo.storage import table_versions
from velo.storage.compact_map import CompactMap
from velo.storage.log.format import generation
from velo.storage.log.tail import (
    UNREADABLE,
    FoundRecord,
    LogTail,
    RecordOffset,
    about,
    known_at_of,
    line_at,
    message_of,
)
from velo.storage.store import Home

READ_AT_ONCE: Final = 2000
RACES_LOOKED_UP: Final = 2000
"""Races whose first result is remembered from the tables."""
_ENTRY: Final = Struct("<QQIQI?")
"""A message of a race: its seq, then its place (first seq, schema version, offset, length), and whether it is a result."""
_NO_RESULT: Final = -1


class LogPosition(NamedTuple):
    """What the log holds at the moment of asking: a race's first result, and its last record; by `known_at`, None for none."""

    first_result: datetime | None
    log_end: datetime | None


@dataclass(slots=True, weakref_slot=True)
class UnbuiltLog:
    """Reads a store's log from the end of its tables. Safe for threads; nothing is read before it is asked."""

    home: Home
    _tail: LogTail | None = None
    _begin: int = 0
    _built_known_at: datetime | None = None
    _known_us: "array[int]" = field(default_factory=lambda: array("q"))
    _by_race: CompactMap = field(default_factory=CompactMap)
    _results: "deque[tuple[int, str, RecordOffset]]" = field(default_factory=deque)
    _in_tables: "OrderedDict[str, int]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def messages(self, race_id: str, from_seq: int) -> list[Message]:
        """The messages of a race from a seq on, in order; a record that is no message is left out."""
        with self._lock:
            self._read_on(from_seq)
            places = [place for seq, place, _ in self._entries(race_id) if seq >= from_seq]
        return [message for place in places if (message := self._message_at(place)) is not None]

    def complete_until(self, seq: int) -> datetime | None:
        """The instant of the first record from a seq on; None at the log's end."""
        with self._lock:
            self._read_on(seq)
            at = seq - self._begin
            return from_us(self._known_us[at]) if at < len(self._known_us) else None

    def seen(self, race_id: str) -> LogPosition:
        """Whether a race has a result by the log as it ends now, whatever version, and where that end is."""
        with self._lock:
            self._read_on(None)
            first = self._looked_up(race_id)
            if first == _NO_RESULT:
                results = (seq for seq, _, is_result in self._entries(race_id) if is_result)
                first = next((self._known_us[seq - self._begin] for seq in results), _NO_RESULT)
            end = from_us(self._known_us[-1]) if self._known_us else self._built_known_at
            return LogPosition(None if first == _NO_RESULT else from_us(first), end)

    def tables_end(self) -> int:
        """The seq before which the offline tables hold everything: of the last build, or what the stream sealed since."""
        folder = table_versions.current(self.home)
        built = table_versions.manifest_of(folder).next_seq if folder is not None else 0
        where = position(self.home)
        sealed = where.sealed_seq if where is not None and where.log_generation == generation(self.home) else 0
        return max(built, sealed)

    def settled(self) -> tuple[int, int]:
        """The seq before which both stores hold everything for certain, and the instant (µs) of the record before it."""
        seq = self.tables_end()
        with self._lock:
            self._read_on(None)
            at = min(seq - self._begin, len(self._known_us)) - 1
            if at >= 0:
                return seq, self._known_us[at]
            return seq, to_us(self._built_known_at) if self._built_known_at is not None else 0

    def results(self, from_seq: int, to_seq: int) -> list[tuple[Result, bool]]:
        """The results from one seq to another, both included, and whether the log beyond the tables has an earlier one.

        A record that is no message is left out. Results before `from_seq` are not asked for again.
        """
        with self._lock:
            self._read_on(None)
            while self._results and self._results[0][0] < from_seq:
                self._results.popleft()
            asked = [one for one in self._results if one[0] <= to_seq]
            others = [
                any(is_result and before < seq for before, _, is_result in self._entries(race_id))
                for seq, race_id, _ in asked
            ]
        found = []
        for (_, _, place), other in zip(asked, others, strict=True):
            message = self._message_at(place)
            if isinstance(message, Result):
                found.append((message, other))
        return found

    def _message_at(self, place: RecordOffset) -> Message | None:
        try:
            return message_of(line_at(self.home, place))
        except OSError:
            raise UserError(f"the log at {self.home.log} was replaced while it was read: ask again") from None
        except UNREADABLE:
            return None

    def _read_on(self, from_seq: int | None) -> None:
        """Take in what was appended. Begins anew where the log was replaced, or an earlier record is asked for."""
        if self._tail is None or (from_seq is not None and from_seq < self._begin):
            self._begin_at(self._built(), from_seq)
        assert self._tail is not None
        try:
            self._take(self._tail)
        except UserError:
            self._begin_at(self._built())
            self._take(self._tail)

    def _begin_at(self, built: tuple[int, datetime | None], from_seq: int | None = None) -> None:
        if self._tail is not None:
            self._tail.close()
        seq, self._built_known_at = built
        self._begin = seq if from_seq is None else min(seq, from_seq)
        self._tail = LogTail(self.home, self._begin)
        finalize(self, self._tail.close)
        self._known_us, self._by_race = array("q"), CompactMap()
        self._results.clear()
        self._in_tables.clear()

    def _take(self, tail: LogTail) -> None:
        while lines := tail.read(READ_AT_ONCE):
            for line in lines:
                self._note(line)

    def _note(self, line: FoundRecord) -> None:
        before = self._known_us[-1] if self._known_us else 0
        # a damaged record has no instant of its own: what follows it is later than what went before
        self._known_us.append(to_us(known_at_of(line.text)) if line.whole else before + 1)
        of = about(line.text) if line.whole else None
        if of is not None and of.race_id is not None:
            key = (of.race_id,)
            entry = _ENTRY.pack(line.seq, *line.place, of.kind == "result")
            if of.kind == "result":
                self._results.append((line.seq, of.race_id, line.place))
            self._by_race.put(key, (self._by_race.get(key) or b"") + entry)

    def _entries(self, race_id: str) -> Iterator[tuple[int, RecordOffset, bool]]:
        for seq, *place, is_result in _ENTRY.iter_unpack(self._by_race.get((race_id,)) or b""):
            yield seq, RecordOffset(*place), is_result

    def _built(self) -> tuple[int, datetime | None]:
        """Where the tables of this log end, and the instant of their last record; 0 and None where there are none of it."""
        folder = table_versions.current(self.home)
        if folder is None:
            return 0, None
        manifest = table_versions.manifest_of(folder)
        if manifest.log_generation != generation(self.home) or not manifest.next_seq:
            return 0, None
        return manifest.next_seq, manifest.known_at

    def _looked_up(self, race_id: str) -> int:
        """The first result of a race before the record that reading began with, from the tables."""
        if self._begin == 0:
            return _NO_RESULT
        found = self._in_tables.get(race_id)
        if found is None:
            if self._built()[0] < self._begin:
                # older tables were put back: what they lack is read from the log
                self._begin_at(self._built())
                self._read_on(None)
            found = self._in_tables[race_id] = self._first_in_tables(race_id)
            if len(self._in_tables) > RACES_LOOKED_UP:
                self._in_tables.popitem(last=False)
        return found

    def _first_in_tables(self, race_id: str) -> int:
        parts = Snapshot().parts(self.home.offline / "runners")
        if not parts:
            return _NO_RESULT
        listed = ", ".join(changelog.text(part) for part in parts)
        query = (
            f"SELECT epoch_us(min(known_at)) FROM read_parquet([{listed}])"  # noqa: S608 paths are quoted
            " WHERE race_id = $id AND type = 'result'"
        )
        with changelog.engine("500MB") as connection:
            row = connection.execute(query, {"id": race_id}).fetchone()
        return _NO_RESULT if row is None or row[0] is None else int(row[0])
