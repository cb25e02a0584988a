"""The log beyond the tables: a race's messages and results since the last build, without waiting for the next one.

The reader keeps the offset and the instant of every message after the tables, and reads what was appended at each call. So
an answer covers the log to its end at the moment of the call.
"""

from array import array
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from struct import Struct
from threading import Lock
from typing import Final, NamedTuple
from weakref import finalize

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.clock import from_us, to_us
from velo.racing.messages import Message, Racecard, Result, instant_of
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
from velo.streams.dataflow.metrics import sealed_into

READ_AT_ONCE: Final = 2000
RACES_LOOKED_UP: Final = 2000
"""Races whose first result in the tables is cached."""
_ENTRY: Final = Struct("<QQIQI?")
"""A message of a race: its seq, its `RecordOffset` (first seq, schema version, offset, length), and whether it is a result."""
_FIRST_RESULT: Final = Struct("<q")
"""Before a race's entries: the `known_at` (µs) of its first result. A score asks for it twice, so it must not read all entries."""
_NO_RESULT: Final = -1


class LogPosition(NamedTuple):
    """The `known_at` of a race's first result and of the log's last record at the moment of the call; None where there is none."""

    first_result: datetime | None
    log_end: datetime | None


@dataclass(slots=True, weakref_slot=True)
class UnbuiltLog:
    """Reads a store's log from the end of its tables. Thread-safe; it reads nothing before the first call.

    For record `_begin + i`, `_known_us[i]` is its `known_at` in µs. `_by_race` has a `_FIRST_RESULT` and packed `_ENTRY`s by race, and `_results`
    the (seq, race, offset) of results in order, `_every_result` and `_every_card` the (seq, offset) of all since `_begin`.
    """

    home: Home
    _tail: LogTail | None = None
    _begin: int = 0
    _built_known_at: datetime | None = None
    _known_us: "array[int]" = field(default_factory=lambda: array("q"))
    _by_race: CompactMap = field(default_factory=CompactMap)
    _results: "deque[tuple[int, str, RecordOffset]]" = field(default_factory=deque)
    _every_result: list[tuple[int, RecordOffset]] = field(default_factory=list)
    _every_card: list[tuple[int, RecordOffset]] = field(default_factory=list)
    _offs: dict[int, tuple[str, datetime, datetime]] = field(default_factory=dict)
    _in_tables: "OrderedDict[str, int]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def messages(self, race_id: str, from_seq: int) -> list[Message]:
        """The messages of a race from a seq on, in order; skips records that cannot be read."""
        with self._lock:
            self._refresh(from_seq)
            offsets = [offset for seq, offset, _ in self._entries(race_id) if seq >= from_seq]
        return [message for offset in offsets if (message := self._message_at(offset)) is not None]

    def complete_until(self, seq: int) -> datetime | None:
        """The `known_at` of the first record from a seq on; None at the log's end."""
        with self._lock:
            self._refresh(seq)
            index = seq - self._begin
            return from_us(self._known_us[index]) if index < len(self._known_us) else None

    def seen(self, race_id: str) -> LogPosition:
        """The first result of a race, of any version, and the end of the log."""
        with self._lock:
            self._refresh(None)
            first = self._first_before(race_id)
            if first == _NO_RESULT:
                noted = self._by_race.get((race_id,))
                first = _FIRST_RESULT.unpack_from(noted)[0] if noted else _NO_RESULT
            end = from_us(self._known_us[-1]) if self._known_us else self._built_known_at
            return LogPosition(None if first == _NO_RESULT else from_us(first), end)

    def tables_end(self) -> int:
        """The seq before which the offline tables hold every record: that of the last build, or of what the stream sealed since."""
        folder = table_versions.current(self.home)
        if folder is None:
            return 0
        manifest = table_versions.manifest_of(folder)
        return max(manifest.next_seq, sealed_into(self.home, manifest))

    def settled(self) -> tuple[int, int]:
        """The seq before which both stores certainly hold every record, and the `known_at` (µs) of the record before it; 0 if none."""
        seq = self.tables_end()
        with self._lock:
            self._refresh(None)
            index = min(seq - self._begin, len(self._known_us)) - 1
            if index >= 0:
                return seq, self._known_us[index]
            return seq, to_us(self._built_known_at) if self._built_known_at is not None else 0

    def results(self, from_seq: int, to_seq: int) -> list[tuple[Result, bool]]:
        """The results from one seq to another, both included, each with whether the log beyond the tables has an earlier result
        of its race.

        Skips records that cannot be read. Forgets results before `from_seq`: a later call must not ask for them.
        """
        with self._lock:
            self._refresh(None)
            while self._results and self._results[0][0] < from_seq:
                self._results.popleft()
            wanted = [result for result in self._results if result[0] <= to_seq]
            has_earlier = [
                any(is_result and before < seq for before, _, is_result in self._entries(race_id))
                for seq, race_id, _ in wanted
            ]
        results = []
        for (_, _, offset), earlier in zip(wanted, has_earlier, strict=True):
            message = self._message_at(offset)
            if isinstance(message, Result):
                results.append((message, earlier))
        return results

    def results_after(self, from_seq: int) -> list[tuple[int, Result]]:
        """The results from a seq on, each with its seq, in order; skips records that cannot be read."""
        with self._lock:
            self._refresh(from_seq)
            first = bisect_left(self._every_result, from_seq, key=lambda result: result[0])
            wanted = self._every_result[first:]
        found = ((seq, self._message_at(offset)) for seq, offset in wanted)
        return [(seq, message) for seq, message in found if isinstance(message, Result)]

    def offs_after(self, from_seq: int) -> list[tuple[str, datetime, datetime]]:
        """The race, the `known_at` and the off of each racecard from a seq on, in order; each card is parsed once."""
        with self._lock:
            self._refresh(from_seq)
            wanted = self._every_card[bisect_left(self._every_card, from_seq, key=lambda record: record[0]) :]
            unread = [(seq, offset) for seq, offset in wanted if seq not in self._offs]
        for seq, offset in unread:
            card = self._message_at(offset)
            if isinstance(card, Racecard):
                self._offs[seq] = (card.race.race_id, instant_of(card), card.race.off_time)
        return [off for seq, _ in wanted if (off := self._offs.get(seq)) is not None]

    def _message_at(self, offset: RecordOffset) -> Message | None:
        try:
            return message_of(line_at(self.home, offset))
        except OSError:
            raise UserError(f"the log at {self.home.log} was replaced during the read: repeat the command") from None
        except UNREADABLE:
            return None

    def _refresh(self, from_seq: int | None) -> None:
        """Read what was appended. Starts over where the log was replaced, or `from_seq` is before `_begin`."""
        if self._tail is None or (from_seq is not None and from_seq < self._begin):
            self._begin_at(self._built(), from_seq)
        assert self._tail is not None
        try:
            self._take(self._tail)
        except UserError:
            # the log is not the one that was opened: a rebuild or a restore replaced it
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
        self._every_result.clear()
        self._every_card.clear()
        self._offs.clear()
        self._in_tables.clear()

    def _take(self, tail: LogTail) -> None:
        while lines := tail.read(READ_AT_ONCE):
            for line in lines:
                self._note(line)

    def _note(self, line: FoundRecord) -> None:
        before = self._known_us[-1] if self._known_us else 0
        # a damaged record has no instant that can be read; known_at strictly increases, so its least possible one is used
        self._known_us.append(to_us(known_at_of(line.text)) if line.whole else before + 1)
        head = about(line.text) if line.whole else None
        if head is not None and head.race_id is not None:
            key = (head.race_id,)
            noted = self._by_race.get(key) or _FIRST_RESULT.pack(_NO_RESULT)
            if head.kind == "result":
                self._results.append((line.seq, head.race_id, line.place))
                self._every_result.append((line.seq, line.place))
                if _FIRST_RESULT.unpack_from(noted)[0] == _NO_RESULT:
                    noted = _FIRST_RESULT.pack(self._known_us[-1]) + noted[_FIRST_RESULT.size :]
            elif head.kind == "racecard":
                self._every_card.append((line.seq, line.place))
            self._by_race.put(key, noted + _ENTRY.pack(line.seq, *line.place, head.kind == "result"))

    def _entries(self, race_id: str) -> Iterator[tuple[int, RecordOffset, bool]]:
        noted = self._by_race.get((race_id,)) or b""
        for seq, *place, is_result in _ENTRY.iter_unpack(noted[_FIRST_RESULT.size :]):
            yield seq, RecordOffset(*place), is_result

    def _built(self) -> tuple[int, datetime | None]:
        """The `next_seq` and `known_at` of this log's tables; 0 and None where there are none, or they are of another log."""
        folder = table_versions.current(self.home)
        if folder is None:
            return 0, None
        manifest = table_versions.manifest_of(folder)
        if manifest.log_generation != generation(self.home) or not manifest.next_seq:
            return 0, None
        return manifest.next_seq, manifest.known_at

    def _first_before(self, race_id: str) -> int:
        """The `known_at` (µs) of a race's first result before `_begin`, from the tables; `_NO_RESULT` where there is none."""
        if self._begin == 0:
            return _NO_RESULT
        first_us = self._in_tables.get(race_id)
        if first_us is None:
            if self._built()[0] < self._begin:
                # older tables were restored: read what they lack from the log
                self._begin_at(self._built())
                self._refresh(None)
            first_us = self._in_tables[race_id] = self._first_in_tables(race_id)
            if len(self._in_tables) > RACES_LOOKED_UP:
                self._in_tables.popitem(last=False)
        return first_us

    def _first_in_tables(self, race_id: str) -> int:
        parts = Snapshot().parts(self.home.offline / "runners")
        if not parts:
            return _NO_RESULT
        query = (
            f"SELECT epoch_us(min(known_at)) FROM {changelog.scan(parts)}"  # noqa: S608 paths are quoted
            " WHERE race_id = $id AND type = 'result'"
        )
        with changelog.engine("500MB") as connection:
            row = connection.execute(query, {"id": race_id}).fetchone()
        return _NO_RESULT if row is None or row[0] is None else int(row[0])
