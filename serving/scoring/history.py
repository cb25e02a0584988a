"""Read a race as of an instant: its messages known by then and its features, from the tables and the log after them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

from velo.errors import UserError
from velo.racing.cards import FIRST_VERSION, FROM_RESULT, Declared, declared_at
from velo.racing.clock import to_text, to_us
from velo.racing.messages import Message, Result, instant_of
from velo.racing.starts import Start, starts_of
from velo.serving.scoring.feature_matrix import offline, offline_races
from velo.serving.scoring.race_messages import RaceMessages, Tables, messages_of_race, tables_of
from velo.serving.scoring.scored import RaceSnapshot
from velo.storage.store import Store

if TYPE_CHECKING:
    from feast import FeatureStore

RACES_HELD: Final = 500
"""Races whose messages from the tables are cached."""


class TablesBehind(UserError):
    """The tables do not reach the requested instant yet; a later request may succeed."""


class NotDeclared(UserError):
    """The race had no declared runner at that instant."""


class AllWithdrawn(NotDeclared):
    """The race had declared runners, all of them withdrawn."""


class LogPositionView(Protocol):
    """The `known_at` (UTC) of a race's first result and of the log's last record at present; None if absent."""

    @property
    def first_result(self) -> datetime | None: ...  # noqa: D102 as the class says
    @property
    def log_end(self) -> datetime | None: ...  # noqa: D102


class LogView(Protocol):
    """The log: it decides whether a race was run, and holds the messages after the tables."""

    def seen(self, race_id: str) -> LogPositionView:
        """Whether a race has a result, by the log as it ends now."""
        ...

    def messages(self, race_id: str, from_seq: int) -> Sequence[Message]:
        """The messages of a race from a seq on, in order."""
        ...

    def complete_until(self, seq: int) -> datetime | None:
        """The instant of the first record from a seq on, before which the tables are complete; None without such a record."""
        ...

    def tables_end(self) -> int:
        """The seq before which the offline tables hold everything."""
        ...

    def settled(self) -> tuple[int, int]:
        """The seq before which both stores certainly hold everything, and the instant (µs) of the record before it."""
        ...

    def results(self, from_seq: int, to_seq: int) -> Sequence[tuple[Result, bool]]:
        """The results between two seqs, both included, and whether the log after the tables has an earlier one."""
        ...

    def results_after(self, from_seq: int) -> Sequence[tuple[int, Result]]:
        """The results from a seq on, each with its seq, in order."""
        ...

    def offs_after(self, from_seq: int) -> Sequence[tuple[str, datetime, datetime]]:
        """The race, the instant and the off of each racecard from a seq on, in order."""
        ...


@dataclass(slots=True)
class RaceHistory:
    """Reads the past of one store. Feast is opened once, when first needed: it takes seconds."""

    store: Store
    log: LogView
    _feast: "FeatureStore | None" = None
    _tables: "OrderedDict[str, Tables]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _reading: Lock = field(default_factory=Lock)

    def seen(self, race_id: str) -> LogPositionView:
        """Whether a race has a result, by the log as it ends now; raises `TablesBehind` where the log cannot be read."""
        try:
            return self.log.seen(race_id)
        except UserError as unreadable:
            raise TablesBehind(str(unreadable)) from None

    def settled(self) -> tuple[int, int]:
        """As in `velo.serving.scoring.read_consistency.Touches`; raises `TablesBehind` if the log cannot be read."""
        try:
            return self.log.settled()
        except UserError as unreadable:
            raise TablesBehind(str(unreadable)) from None

    def touched(self, from_seq: int, to_seq: int) -> Iterator[tuple[int, list[Start]]]:
        """As in `velo.serving.scoring.read_consistency.Touches`; a result with a lower version than an earlier one changes nothing."""
        try:
            results = self.log.results(from_seq, to_seq)
        except UserError as unreadable:
            raise TablesBehind(str(unreadable)) from None
        for result, others in results:
            starts = list(starts_of(result.race, result.runners))
            if others or result.result_version > FIRST_VERSION:
                before = [
                    message
                    for message in self.messages(result.race_id).messages
                    if isinstance(message, Result) and instant_of(message) < instant_of(result)
                ]
                held = max(before, key=lambda result: result.result_version, default=None)
                if held is not None and held.result_version >= result.result_version:
                    continue
                starts += starts_of(held.race, held.runners) if held is not None else ()
            yield to_us(instant_of(result)), starts

    def messages(self, race_id: str) -> RaceMessages:
        """Every message about a race; raises `UserError` if there is none."""
        tables = tables_of(self.store.home, race_id, self._tables.get(race_id))
        with self._lock:
            self._tables[race_id] = tables
            while len(self._tables) > RACES_HELD:
                self._tables.popitem(last=False)
        return messages_of_race(self.store.home, race_id, log=self.log, tables=tables)

    def behind(self) -> list[str]:
        """A note if the log holds more than the tables."""
        if self.log.complete_until(self.log.tables_end()) is None:
            return []
        return ["the log has messages that the tables do not hold yet: run `velo build`"]

    def snapshot(self, messages: Sequence[Message], as_of: datetime) -> RaceSnapshot:
        """The race as of an instant; raises `UserError` without declared runners, `TablesBehind` if the tables end earlier."""
        snapshot = self.snapshots([(messages, as_of)])[0]
        if isinstance(snapshot, UserError):
            raise snapshot
        return snapshot

    def snapshots(self, races: Sequence[tuple[Sequence[Message], datetime]]) -> list[RaceSnapshot | UserError]:
        """Each race (its messages, an instant) as of its instant, in one read of the tables; the error of a race that has none."""
        first = self.log.complete_until(self.log.tables_end())
        snapshots: list[RaceSnapshot | UserError | None] = []
        found: list[Declared] = []
        for messages, as_of in races:
            try:
                race = declared(messages, as_of)
            except UserError as why:
                snapshots.append(why)
                continue
            if first is not None and first <= as_of:
                snapshots.append(TablesBehind(
                    f"the tables hold what was known before {to_text(first)}, which is earlier than {to_text(as_of)}: "
                    "ask again when the stream has sealed it, or run `velo build`"
                ))  # fmt: skip
                continue
            found.append(race)
            snapshots.append(None)
        if not found:
            return [each for each in snapshots if each is not None]
        feast = self.feast()
        with self._reading:
            made = iter(zip(found, offline_races(self.store, found, feast), strict=True))
        out = list[RaceSnapshot | UserError]()
        for (_, as_of), snapshot in zip(races, snapshots, strict=True):
            if snapshot is None:
                race, rows = next(made)
                snapshot = RaceSnapshot(race, rows, as_of, "offline history")
            out.append(snapshot)
        return out

    def knows(self, race: Declared) -> bool:
        """Whether the tables, as far as they reach, have any row for a race's runners."""
        feast = self.feast()
        with self._reading:
            return not offline(self.store, race, feast).missing.all()

    def warm(self) -> None:
        """Open Feast in advance; a request that needs it meanwhile waits."""
        self.feast()

    def feast(self) -> "FeatureStore":
        """Feast over the store."""
        with self._reading:
            if self._feast is None:
                from velo.feature_repo.feast_store import apply

                self._feast = apply(self.store)
            return self._feast


def declared(messages: Sequence[Message], instant: datetime) -> Declared:
    """The declared race as of an instant; raises `UserError` where it has no runner, or all were withdrawn."""
    race = declared_at(messages, instant)
    of = next((message.race_id for message in messages), None)
    if race is not None and race.source == FROM_RESULT and not race.runners:
        raise NotDeclared(
            f"race {of!r} was void, and no racecard of it was known by {to_text(instant)}: there is no runner to score"
        )
    if race is not None and race.withdrawn and not race.runners:
        raise AllWithdrawn(
            f"all {len(race.withdrawn)} declared runners of race {of!r} were withdrawn by {to_text(instant)}: there is "
            "no runner to score until a card or a reinstatement brings one back"
        )
    if race is None or not race.runners:
        raise NotDeclared(
            f"race {of!r} had no declared runner by {to_text(instant)}: ask for a later instant, or load its card and "
            "run `velo build`"
        )
    return race
