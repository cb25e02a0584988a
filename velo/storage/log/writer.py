"""The only writer of the log: it applies the clock of contract 2 and ignores duplicates."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from velo.errors import Refused, UserError
from velo.racing.aliases import COLUMNS, SOURCE_VERSION, Aliases
from velo.racing.clock import RESULT_DELAY, is_local_midnight, next_known_at, to_text
from velo.racing.messages import Alias, Message, Racecard, Result, Tick, differences, from_record, to_record
from velo.racing.undeclared import Undeclared
from velo.storage.log.appender import SegmentWriter
from velo.storage.log.format import (
    RECORD_BYTES,
    REPEATED,
    SEGMENT_BYTES,
    body_of,
    digest_of,
    finish_swap,
    framed,
    segments_in,
    with_field,
    with_origin,
)
from velo.storage.log.index import Changed, HeldVersion, Index, Outcome
from velo.storage.log.migrations import upgraded
from velo.storage.log.repeats import races_naming, repeats
from velo.storage.store import Store

Clock = Callable[[], datetime]
Progress = Callable[[int, int], None]
"""Called with the number of messages of a load that are done, and their total."""

_FRAME_BYTES: Final = 2**10
"""More than a record has beside its body: checksum, seq, digest, instant and origin."""
_ABOUT: Final = ("type", "race_id", "result_version")


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of one live message. `seq` is None where it was not appended.

    `undeclared` says which race or horse it names that nobody declared. `repeated` counts the records that an alias brought.
    """

    seq: int | None
    outcome: Outcome
    undeclared: Undeclared | None = None
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message with the rest of its record: unknown fields, and its offset in the feed that it came from."""

    message: Message
    kept: Mapping[str, Any]
    origin: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The outcome of a bulk load; `lower_version` counts among `appended`."""

    appended: int = 0
    identical: int = 0
    lower_version: int = 0
    first_seq: int | None = None
    refused: tuple[tuple[Message, Refused], ...] = ()


@dataclass(slots=True)
class _Candidate:
    """A message of a load that may be new. `about` has the fields that the index needs."""

    known_at: datetime
    message: Message
    about: Mapping[str, Any]
    digest: str
    body: bytes


@dataclass(slots=True)
class LogWriter:
    """Appends to a store's log. Use `LogWriter.open`, as a context manager."""

    store: Store
    clock: Clock
    _index: Index
    _segments: SegmentWriter

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        clock: Clock,
        folder: Path | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        index: Index | None = None,
    ) -> "LogWriter":
        """Return the writer of a store's log, or of the log in another `folder`; repairs a torn tail.

        `index` is that of an earlier writer that closed without an error: only later records are read. Raises `LogInUse`
        where another process writes to the log, `UserError` where the log is damaged or the store is an environment, which
        shares the log of its store.
        """
        store.home.refuse_environment("log of its own to write to")
        if folder is None:
            finish_swap(store.home)
        where = folder or store.home.log
        writer: LogWriter | None = None
        if index is not None:
            with suppress(Changed):
                writer = cls(store, clock, index, SegmentWriter.open(where, segment_bytes, index.scan))
        if writer is None:
            index = Index(store.timezone)
            writer = cls(store, clock, index, SegmentWriter.open(where, segment_bytes, index.scan))
        writer._finish_alias()
        return writer

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Sync, and release the log's lock."""
        self._segments.close()

    def close_to_go_on(self) -> Index | None:
        """Close, and return the index for a later `open`; None where a write failed."""
        if self._segments.broken:
            self.close()
            return None
        self.sync()
        self._index.noted(segments_in(self._segments.folder))
        self.close()
        return self._index

    def sync(self) -> None:
        """Sync everything appended so far to the disk."""
        self._segments.sync()

    @property
    def next_seq(self) -> int:
        """The seq of the next message."""
        return self._index.next_seq

    @property
    def known_at(self) -> datetime | None:
        """The `known_at` of the log's last message; None for an empty log."""
        return self._index.known_at

    def append(
        self, message: Message, kept: Mapping[str, Any] | None = None, origin: Mapping[str, str] | None = None
    ) -> Appended:
        """Append a live message with the clock's instant, whatever `known_at` it has; `kept` are unknown fields.

        `origin` is its offset in a feed; it is written with the message, but is not part of its content. Readers see the
        message at once; `sync` before it is acknowledged. Raises `Refused` for a result whose version the log has with other
        content in columns that count, and for a message that is too long.
        """
        if isinstance(message, Alias):
            [applied] = self.apply([message])
            if isinstance(applied, Refused):
                raise applied
            return applied
        record = {**(kept or {}), **to_record(replace(message, known_at=None))}
        digest = digest_of(record)
        if self._index.has_keyed(record, digest):
            return Appended(None, "identical")
        if self._index.last_alias is not None:
            message, record = self._under_keys(message, record)
            digest = digest_of(record)
        outcome = self._outcome(message, digest)
        if outcome == "identical" or self._index.repeats(record, digest):
            return Appended(None, "identical")
        seq = self._index.next_seq
        body = body_of(record)
        _refuse_too_long(body)
        self._put(self.clock(), record, digest, with_origin(body, origin) if origin else body)
        self._segments.flush()
        return Appended(seq, outcome, self._index.undeclared(message))

    def apply(self, aliases: Sequence[Alias]) -> list[Appended | Refused]:
        """Append aliases, each followed by what brings the log's races under the keys in force (contract 11).

        Returns the outcome of each, `Refused` for one that cannot be.
        """
        return self._apply(aliases, self.clock)

    def _apply(self, aliases: Sequence[Alias], clock: Clock) -> list[Appended | Refused]:
        self._segments.flush()
        keys = {key for _, key in self._index.aliases.same_as} | {alias.key for alias in aliases}
        races = races_naming(self._segments.folder, keys)
        outcomes: list[Appended | Refused] = []
        for alias in aliases:
            try:
                outcomes.append(self._append_alias(alias, races, clock()))
            except Refused as why:
                outcomes.append(why)
        return outcomes

    def _load_alias(self, alias: Alias, claimed: datetime) -> Outcome:
        [applied] = self._apply([alias], lambda: claimed)
        if isinstance(applied, Refused):
            raise applied
        return applied.outcome

    def _append_alias(self, alias: Alias, races: Mapping[str, Sequence[str]], claimed: datetime) -> Appended:
        record = to_record(replace(alias, known_at=None))
        digest = digest_of(record)
        if self._index.repeats(record, digest):
            return Appended(None, "identical")
        aliases = self._index.aliases.after(alias)
        repeated = self._repeats(alias, aliases, races, claimed)
        seq = self._index.next_seq
        self._put(
            claimed, record | {REPEATED: len(repeated)}, digest, with_field(body_of(record), REPEATED, len(repeated))
        )
        self._put_repeats(repeated, claimed)
        return Appended(seq, "appended", repeated=len(repeated))

    def _repeats(
        self, alias: Alias, aliases: Aliases, races: Mapping[str, Sequence[str]], now: datetime | None
    ) -> list[dict[str, Any]]:
        named = (race_id for key in aliases.through(COLUMNS[alias.of], alias.key) for race_id in races[key])
        self._segments.flush()
        return repeats(alias, list(dict.fromkeys(named)), aliases, self._current_result, self._segments.folder, now)

    def _put_repeats(self, repeated: Sequence[Mapping[str, Any]], claimed: datetime) -> None:
        for record in repeated:
            self._put(claimed, record, digest_of(record), body_of(record))
        self._segments.flush()

    def _finish_alias(self) -> None:
        """Append what an interrupted writer left out after the log's last alias."""
        if self._index.last_alias is None or self._index.next_seq > self._index.last_alias[1]:
            return
        alias, aliases = self._index.last_alias[0], self._index.aliases
        races = races_naming(self._segments.folder, aliases.through(COLUMNS[alias.of], alias.key))
        assert self.known_at is not None
        self._put_repeats(self._repeats(alias, aliases, races, None), self.known_at)
        self.sync()

    def _current_result(self, race_id: str) -> dict[str, Any] | None:
        held = self._index.current(race_id)
        return None if held is None else upgraded(self._segments.record_at(held.seq, held.place))

    def _under_keys(self, message: Message, record: Mapping[str, Any]) -> tuple[Message, dict[str, Any]]:
        """Return a message and its record under the keys in force; the message keeps its source's version.

        Raises `Refused` where two of its runners are then one horse.
        """
        under_keys = self._index.aliases.renamed(record)
        if under_keys != record:
            message = replace(from_record(under_keys), known_at=message.known_at)
        if isinstance(message, Result):
            number = self._index.log_version(message.race_id, message.result_version)
            if number != message.result_version:
                under_keys |= {"result_version": number, SOURCE_VERSION: message.result_version}
        return message, under_keys

    def tick(self, midnight: datetime) -> Appended:
        """Append a tick for a local midnight (given in UTC); identical if the log has this one or a later one.

        Raises ValueError where the instant is not a local midnight, or is in the future.
        """
        if not is_local_midnight(midnight, self.store.timezone):
            raise ValueError(f"{midnight} is not a midnight in {self.store.timezone.key}")
        if midnight > self.clock():
            raise ValueError(f"{midnight} is in the future")
        if to_text(midnight) <= self._index.last_tick:
            return Appended(None, "identical")
        return self.append(Tick(midnight))

    def load(
        self, messages: Iterable[Message | Recorded], *, late: bool = False, progress: Progress | None = None
    ) -> LoadReport:
        """Append many messages with their own `known_at`; they are synced to the disk on return.

        Messages that the log has are skipped, so a load that is repeated, also after an interruption, gives the same log.
        Raises `UserError`, and appends nothing, where a message is older than the log's end, unless `late`: then it
        becomes known after the end. A result without `known_at` is known 15 minutes after its off, a tick at its midnight,
        other messages now.
        """
        ordered = sorted((self._candidate(message) for message in messages), key=_in_order)
        fresh, refused = self._not_held(ordered)
        if not late:
            self._refuse_late(fresh)
        outcomes: Counter[str] = Counter(identical=len(ordered) - len(fresh) - len(refused))
        first_seq = self._index.next_seq
        for done, candidate in enumerate(fresh):
            if progress and done % 500 == 0:
                progress(done, len(fresh))
            try:
                if isinstance(candidate.message, Alias):
                    outcomes[self._load_alias(candidate.message, candidate.known_at)] += 1
                    continue
                if self._index.last_alias is not None:
                    candidate = self._candidate_under_keys(candidate)
                outcome = self._outcome(candidate.message, candidate.digest)
            except Refused as why:
                refused.append((candidate.message, why))
                continue
            outcomes[outcome] += 1
            if outcome != "identical":
                card = isinstance(candidate.message, Racecard) and "runners" not in candidate.about
                about = to_record(candidate.message) if card else candidate.about
                self._put(candidate.known_at, about, candidate.digest, candidate.body)
        self.sync()
        if progress:
            progress(len(fresh), len(fresh))
        appended = self._index.next_seq - first_seq
        return LoadReport(
            appended=appended,
            identical=outcomes["identical"],
            lower_version=outcomes["lower_version"],
            first_seq=first_seq if appended else None,
            refused=tuple(refused),
        )

    def _candidate(self, given: Message | Recorded) -> _Candidate:
        recorded = given if isinstance(given, Recorded) else Recorded(given, {})
        message, kept, origin = recorded.message, recorded.kept, recorded.origin
        known_at = message.known_at
        if known_at is None:
            if isinstance(message, Result):
                known_at = message.race.off_time + RESULT_DELAY
            else:
                known_at = message.midnight if isinstance(message, Tick) else self.clock()
        record = {**kept, **to_record(message)}
        record.pop("known_at", None)
        about = record if not isinstance(message, Result | Racecard) else {name: record.get(name) for name in _ABOUT}
        body = body_of(record)
        return _Candidate(known_at, message, about, digest_of(record), with_origin(body, origin) if origin else body)

    def _candidate_under_keys(self, candidate: _Candidate) -> _Candidate:
        record = orjson.loads(b"{" + candidate.body)
        origin = record.pop("origin", None)
        message, record = self._under_keys(candidate.message, record)
        body = body_of(record)
        body = with_origin(body, origin) if origin else body
        return _Candidate(candidate.known_at, message, record, digest_of(record), body)

    def _not_held(self, ordered: list[_Candidate]) -> tuple[list[_Candidate], list[tuple[Message, Refused]]]:
        """Return the candidates that the log lacks, and those refused. A message that comes twice is there when the log has it twice."""
        fresh: list[_Candidate] = []
        refused: list[tuple[Message, Refused]] = []
        times: Counter[str] = Counter()
        for candidate in ordered:
            try:
                _refuse_too_long(candidate.body)
                held = self._outcome(candidate.message, candidate.digest) == "identical"
            except Refused as why:
                refused.append((candidate.message, why))
                continue
            if not isinstance(candidate.message, Result):
                times[candidate.digest] += 1
                held = times[candidate.digest] <= self._index.times_held(candidate.digest)
            if not held:
                fresh.append(candidate)
        return fresh, refused

    def _outcome(self, message: Message, digest: str) -> Outcome:
        if isinstance(message, Result):
            return self._index.outcome_of_result(
                message.race_id, message.result_version, digest, lambda held: self._differences(message, held)
            )
        return "appended"

    def _differences(self, result: Result, held: HeldVersion) -> Sequence[str]:
        """Return the columns that count in which a result differs from a version in the log."""
        both = upgraded(self._segments.record_at(held.seq, held.place)), to_record(result)
        if self._index.last_alias is not None:
            both = self._index.aliases.renamed(both[0]), self._index.aliases.renamed(both[1])
        other, ours = map(from_record, both)
        assert isinstance(other, Result)
        assert isinstance(ours, Result)
        return differences(other, ours, self.store.extra_columns())

    def _refuse_late(self, fresh: list[_Candidate]) -> None:
        tied_since = self._index.tied_since
        if tied_since is None or not fresh or fresh[0].known_at >= tied_since:
            return
        older = sum(candidate.known_at < tied_since for candidate in fresh)
        assert self._index.known_at is not None
        raise UserError(
            f"{older} of {len(fresh)} new messages are older than the log's end ({to_text(self._index.known_at)}), the "
            f"first of race {fresh[0].message.race_id} known at {to_text(fresh[0].known_at)}: add --late to have them "
            "known only now, or make a new log of everything with `velo log rebuild FILE…`"
        )

    def _put(self, claimed: datetime, record: Mapping[str, Any], digest: str, body: bytes) -> None:
        known_at = next_known_at(claimed, self._index.known_at, self.store.timezone)
        seq = self._index.next_seq
        place = self._segments.put(seq, framed(seq, digest, to_text(known_at), body))
        self._index.hold(record, HeldVersion(digest, seq, place))
        self._index.advance(known_at)


def _refuse_too_long(body: bytes) -> None:
    """Raise `Refused` for a body that readers would refuse: once it is in the log, no table could be built."""
    if len(body) > RECORD_BYTES - _FRAME_BYTES:
        raise Refused(
            "too long",
            f"{len(body):,} bytes, but a record of the log has {RECORD_BYTES:,} at most: leave out the columns that "
            "nothing reads",
        )


def _in_order(candidate: _Candidate) -> tuple[datetime, str, int]:
    return candidate.known_at, candidate.message.race_id or "", candidate.about.get("result_version") or 0
