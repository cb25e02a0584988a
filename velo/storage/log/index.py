"""The writer's index of the log: which contents the log has, and where it ends."""

import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import orjson

from velo.errors import Refused, UserError
from velo.racing.aliases import GIVEN, NONE, REPEATS, SOURCE_VERSION, Aliases, as_given
from velo.racing.clock import MICROSECOND, from_text, is_local_midnight
from velo.racing.messages import SCHEMA_VERSION, Alias, Message, is_marked, type_name
from velo.racing.undeclared import Undeclared, horses_of, nearest
from velo.storage.compact_map import CompactMap
from velo.storage.log.format import IDEMPOTENCY_KEY, REPEATED, Segment, digest_of, lines, placed_records
from velo.storage.log.migrations import upgraded

Outcome = Literal["appended", "identical", "lower_version"]

_LINE: Final = re.compile(
    rb'\{"crc":"[0-9a-f]{8}","seq":(\d+),"digest":"([0-9a-f]{16})","known_at":"([^"]+)","type":"(\w+)",'
    rb'"schema_version":\d+(?:,"race_id":("(?:[^"\\]|\\.)*"))?(?:,"result_version":(\d+))?(?:,"alias_source_version":(\d+))?'
)
_VERSION: Final = Struct("<q8sqq")
"""A packed `HeldVersion` with its version: version (64 bits, as in the tables), digest, seq, byte offset in its segment."""
_SOURCE: Final = Struct("<qq")
"""A version of a result in the log, and its source's number of it, where they differ."""
_COUNT_BYTES: Final = 8
_SUBJECTS: Final = {"non_runner": "horse_id", "reinstated": "horse_id", "jockey_change": "horse_id", "market": "source"}
_ONE_SUBJECT: Final = {"reinstated": "non_runner"}
"""A reinstatement and a withdrawal have one subject: the later of the two counts."""
_OVERRULED: Final = bytes(8)
"""Replaces the digest of a message that a later one overruled, so that no message repeats it."""
RACES_NEAR: Final = 500
"""How many of the latest declared races are searched for the name nearest to an undeclared one."""
_TAKEN_BACK: Final = b"taken back"
"""Follows the digest of a reinstatement."""
_MARKED: Final = b"marked"
"""Replaces the digest of a withdrawal that the latest card marks."""
_ENDS_BYTES: Final = 64
_OF_A_RACE: Final = {"race_date", "course"}
"""Columns that an amendment hardly ever changes: a difference more often means a reused race_id."""


class Changed(Exception):
    """The log is not the one that the index was made from: it was rebuilt or truncated."""


class HeldVersion(NamedTuple):
    """A version of a result in the log: its digest, its seq, and its byte offset in its segment."""

    digest: str
    seq: int
    place: int


Differences = Callable[[HeldVersion], Sequence[str]]
"""Returns the columns in which a result differs from a version in the log; none where they are the same."""


@dataclass(slots=True)
class Index:
    """The contents of a log by digest, and its end.

    `_results` has each race's versions. `_times_held` counts the other messages by digest. `_latest` has the digest of the
    last message about each subject, `_declared` the horses on a race's cards, `_changed` the races with a withdrawal or a
    change, `_races` the latest declared races, `_sources` the sources' numbers of versions that aliases raised, `aliases` those in
    force. `last_alias` has the last alias, and the
    seq of the last record that repeats a message under its keys. All but `_races` grow with the log, so they are packed. `tied_since` is the
    earliest instant that counts as tied with the end: tied instants are moved by 1 µs each, so a series of instants without a
    gap may all have claimed the first.
    """

    timezone: ZoneInfo
    next_seq: int = 0
    known_at: datetime | None = None
    tied_since: datetime | None = None
    last_tick: str = ""
    _results: CompactMap = field(default_factory=CompactMap)
    _times_held: CompactMap = field(default_factory=CompactMap)
    _latest: CompactMap = field(default_factory=CompactMap)
    _declared: CompactMap = field(default_factory=CompactMap)
    _changed: CompactMap = field(default_factory=CompactMap)
    _near: dict[str, str | None] = field(default_factory=dict)
    _races: deque[str] = field(default_factory=lambda: deque(maxlen=RACES_NEAR))
    _noted: dict[str, "_Noted"] = field(default_factory=dict)
    _sources: CompactMap = field(default_factory=CompactMap)
    aliases: Aliases = NONE
    last_alias: tuple[Alias, int] | None = None

    def outcome_of_result(self, race_id: str, version: int, digest: str, differences: Differences) -> Outcome:
        """Return the outcome of appending a result, its version as its source numbers it.

        Raises `Refused` where the log has that version with other content. `differences` is called only where the digests differ:
        columns that nothing reads do not count.
        """
        held = self._versions(race_id)
        if not held:
            return "appended"
        number = self.log_version(race_id, version)
        if number in held:
            if held[number].digest == digest or not (named := differences(held[number])):
                return "identical"
            other = "if it is another race, give it a race_id of its own; else " if _OF_A_RACE & {*named} else ""
            raise Refused(
                "raise result_version",
                f"race {race_id} has other content in result_version {version} ({', '.join(named)}): {other}give the "
                f"amended result result_version {max(self._source_versions(race_id).values()) + 1}",
            )
        return "lower_version" if number < max(held) else "appended"

    def log_version(self, race_id: str, version: int) -> int:
        """Return the log's number of a source's version: higher by the times that aliases repeated the race's result before it."""
        if self._sources.get((race_id,)) is None:
            return version
        held = self._source_versions(race_id)
        if same := [number for number, source in held.items() if source == version]:
            return max(same)
        below = [(source, number) for number, source in held.items() if source < version]
        source, number = max(below, default=(0, 0))
        return version + number - source

    def current(self, race_id: str) -> HeldVersion | None:
        """Return the highest version of a race's result; None without one."""
        held = self._versions(race_id)
        return held[max(held)] if held else None

    def _source_versions(self, race_id: str) -> dict[int, int]:
        """Return each of a race's versions in the log with its source's number."""
        raised = dict(_SOURCE.iter_unpack(self._sources.get((race_id,)) or b""))
        return {number: raised.get(number, number) for number in self._versions(race_id)}

    def has_keyed(self, record: Mapping[str, Any], digest: str) -> bool:
        """Whether the log has this message other than a result under the idempotency key that it brings; `digest` is of it as given."""
        return IDEMPOTENCY_KEY in record and self.times_held(digest) > 0

    def repeats(self, record: Mapping[str, Any], digest: str) -> bool:
        """Whether a live message other than a result repeats the last message about its subject, whatever its idempotency key.

        A market never does: unchanged odds are news. Nor does a message that was overruled meanwhile: a withdrawal that a
        card or a reinstatement took back, or a card that a later message changed.
        """
        return record["type"] != "market" and self._latest.get(_subject(record)) == _word(record, digest)

    def undeclared(self, message: Message) -> Undeclared | None:
        """Return what a new message names that nobody declared; None for most, and for messages about a race with a result."""
        named = horses_of(message)
        if named is None or message.race_id is None or self._versions(message.race_id):
            return None
        held = self._declared.get((message.race_id,))
        if held is None:
            return Undeclared(type_name(message), message.race_id, (), self._nearest_race(message.race_id))
        horses = held.decode().split("\0")
        strangers = tuple(horse for horse in named if horse not in horses)
        return (
            Undeclared(type_name(message), message.race_id, strangers, nearest(strangers[0], horses))
            if strangers
            else None
        )

    def _nearest_race(self, race_id: str) -> str | None:
        """Return the nearest of the latest declared races; cached, as a feed sends many messages about one race."""
        if race_id not in self._near:
            if len(self._near) >= RACES_NEAR:
                self._near.clear()
            self._near[race_id] = nearest(race_id, self._races)
        return self._near[race_id]

    def times_held(self, digest: str) -> int:
        """Return how often the log has a message other than a result."""
        return int.from_bytes(self._times_held.get((digest,)) or b"", "little")

    def hold(self, record: Mapping[str, Any], held: HeldVersion) -> None:
        """Index a record."""
        kind, digest = record["type"], held.digest
        if kind == "result":
            versions = self._versions(record["race_id"]) | {record["result_version"]: held}
            packed = (
                _VERSION.pack(version, bytes.fromhex(each.digest), each.seq, each.place)
                for version, each in versions.items()
            )
            self._results.put((record["race_id"],), b"".join(packed))
            if (source := record.get(SOURCE_VERSION)) is not None:
                key = (record["race_id"],)
                self._sources.put(key, (self._sources.get(key) or b"") + _SOURCE.pack(record["result_version"], source))
            return
        if kind == "tick":
            self.last_tick = max(self.last_tick, record["midnight"])
        if REPEATS not in record:
            self._times_held.add((digest_of(as_given(record)) if GIVEN in record else digest,), 1, _COUNT_BYTES)
        if kind == "alias":
            alias = Alias(record["of"], record["key"], record.get("same_as"))
            self.aliases = self.aliases.after(alias)
            self.last_alias = alias, held.seq + record.get(REPEATED, 0)
        if kind == "racecard":
            self._declare(record)
        elif kind != "market":
            card = ("racecard", record.get("race_id") or "", "")
            latest = self._latest.get(_subject(record))
            self._changed.put((record.get("race_id") or "",), b"")
            # a change after the card: the same card sent again is then news, since it undoes the change
            if latest not in (_MARKED, _word(record, digest)) and self._latest.get(card) is not None:
                self._latest.put(card, _OVERRULED)
        self._latest.put(_subject(record), _word(record, digest))

    def _declare(self, card: Mapping[str, Any]) -> None:
        """Index a new card: the horses that it declares, and the earlier messages about the race that it overrules."""
        race_id = card["race_id"]
        held = self._declared.get((race_id,))
        named = [] if held is None else held.decode().split("\0")
        named += sorted({runner["horse_id"] for runner in card["runners"]} - {*named})
        self._declared.put((race_id,), "\0".join(named).encode())
        if held is None:
            self._races.append(race_id)
            self._near.clear()
        if any(map(is_marked, card["runners"])):
            self._changed.put((race_id,), b"")
        if self._changed.get((race_id,)) is None:
            return
        overruled = [("going_change", race_id, "")]
        for runner in card["runners"]:
            withdrawal = ("non_runner", race_id, runner["horse_id"])
            if is_marked(runner):
                latest = self._latest.get(withdrawal)
                if latest is None or latest == _OVERRULED or latest.endswith(_TAKEN_BACK):
                    self._latest.put(withdrawal, _MARKED)
            else:
                overruled.append(withdrawal)
            overruled.append(("jockey_change", race_id, runner["horse_id"]))
        for subject in overruled:
            if self._latest.get(subject) is not None:
                self._latest.put(subject, _OVERRULED)

    def advance(self, known_at: datetime) -> None:
        """Move the end of the log by one record."""
        if self.known_at is None or known_at - self.known_at > self._bump():
            # a message that claimed the midnight itself was moved 1 µs after it
            midnight = is_local_midnight(known_at - MICROSECOND, self.timezone)
            self.tied_since = known_at - MICROSECOND if midnight else known_at
        self.known_at = known_at
        self.next_seq += 1

    def _versions(self, race_id: str) -> dict[int, HeldVersion]:
        packed = self._results.get((race_id,)) or b""
        return {
            version: HeldVersion(digest.hex(), seq, place)
            for version, digest, seq, place in _VERSION.iter_unpack(packed)
        }

    def _bump(self) -> timedelta:
        assert self.known_at is not None
        after = self.known_at + MICROSECOND
        return 2 * MICROSECOND if is_local_midnight(after, self.timezone) else MICROSECOND

    def scan(self, segment: Segment, length: int) -> None:
        """Index the records in a segment's first `length` bytes, except those indexed before.

        Raises `UserError` where the segment does not continue the log, `Changed` where what was indexed before has changed.
        """
        begin = self._noted_of(segment, length)
        if begin == 0 and self.next_seq != segment.first_seq:
            raise UserError(
                f"{segment.path} begins with record {segment.first_seq}, but {self.next_seq} comes next: "
                "run `velo log check`"
            )
        if begin < length:
            if segment.schema_version == SCHEMA_VERSION:
                self._scan_lines(segment, length, begin)
            elif begin:
                raise Changed
            else:
                for place, old in placed_records(segment, length):
                    record = upgraded(old)
                    self._note(segment, record["seq"], record["known_at"])
                    self.hold(record, HeldVersion(digest_of(record), record["seq"], place))
        self._noted[segment.path.name] = _Noted.of(segment.path, length)

    def noted(self, every: Sequence[Segment]) -> None:
        """Record that these segments are indexed to their ends, so that a later `scan` begins there."""
        self._noted = {segment.path.name: _Noted.of(segment.path, segment.path.stat().st_size) for segment in every}

    def _noted_of(self, segment: Segment, length: int) -> int:
        before = self._noted.get(segment.path.name)
        if before is None:
            return 0
        if before.length > length or before != _Noted.of(segment.path, before.length):
            raise Changed
        return before.length

    def _scan_lines(self, segment: Segment, length: int, begin: int) -> None:
        """Index lines by their first fields: a log of millions of runners is indexed without parsing its JSON."""
        for place, line in lines(segment.path, length, begin):
            match = _LINE.match(line)
            if match is None:
                raise UserError(f"{segment.path} is damaged at byte {place}: run `velo log check`")
            seq, digest, known_at, kind, race_id, version, source = match.groups()
            self._note(segment, int(seq), known_at.decode())
            record = (
                {"type": "result", "race_id": orjson.loads(race_id), "result_version": int(version)}
                | ({SOURCE_VERSION: int(source)} if source else {})
                if kind == b"result"
                else orjson.loads(line)
            )
            self.hold(record, HeldVersion(digest.decode(), int(seq), place))

    def _note(self, segment: Segment, seq: int, known_at: str) -> None:
        if seq != self.next_seq:
            raise UserError(f"{segment.path} holds record {seq} where {self.next_seq} belongs: run `velo log check`")
        self.advance(from_text(known_at))


def _word(record: Mapping[str, Any], digest: str) -> bytes:
    if IDEMPOTENCY_KEY in record:
        digest = digest_of({name: value for name, value in record.items() if name != IDEMPOTENCY_KEY})
    return bytes.fromhex(digest) + (_TAKEN_BACK if record["type"] == "reinstated" else b"")


@dataclass(frozen=True, slots=True)
class _Noted:
    """Identifies the indexed part of a file: its inode, length, and last bytes."""

    inode: int
    length: int
    ends: bytes

    @classmethod
    def of(cls, path: Path, length: int) -> "_Noted":
        with path.open("rb") as file:
            ends = os.pread(file.fileno(), _ENDS_BYTES, max(0, length - _ENDS_BYTES))
            return cls(os.fstat(file.fileno()).st_ino, length, ends[: min(length, _ENDS_BYTES)])


def _subject(record: Mapping[str, Any]) -> tuple[str, ...]:
    kind = record["type"]
    if kind == "alias":
        return kind, record["of"], record["key"]
    about = record.get(_SUBJECTS[kind]) if kind in _SUBJECTS else None
    return (_ONE_SUBJECT.get(kind, kind), record.get("race_id") or "", str(about or ""))
