"""Read the messages of one race from the tables, and count the newer messages of the log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.messages import Message, Race, Racecard, Result, Runner, instant_of, notice_of
from velo.storage import table_versions
from velo.storage.log import reader
from velo.storage.store import Home

MEMORY_LIMIT: Final = "500MB"
_RACE: Final = tuple(field.name for field in fields(Race))
_RUNNER: Final = tuple(field.name for field in fields(Runner) if field.name != "kept")


class UnbuiltLogView(Protocol):
    """The log after the end of the tables."""

    def messages(self, race_id: str, from_seq: int) -> Sequence[Message]:
        """The messages of a race from a seq on, in order."""
        ...


@dataclass(frozen=True, slots=True)
class RaceMessages:
    """One race's messages in the order of the log.

    `known_at` is the instant up to which the tables hold the log, `behind` how many messages the log has beyond it.
    """

    messages: tuple[Message, ...]
    known_at: datetime
    behind: int


@dataclass(frozen=True, slots=True)
class Tables:
    """One race's messages in one generation of the tables, which hold the log before `next_seq`, known at `known_at`."""

    folder: Path
    messages: tuple[Message, ...]
    next_seq: int
    known_at: datetime


class UnknownRace(UserError):
    """The store has no card or result of that race id."""


def tables_of(home: Home, race_id: str, held: Tables | None = None, snapshot: Snapshot | None = None) -> Tables:
    """The messages that the tables hold of a race; returns `held` where the tables have not changed."""
    look = snapshot or Snapshot()
    folder = look.folder(home.offline / "runners").parent
    if held is not None and held.folder == folder:
        return held
    parts = {kind: look.parts(home.offline / kind) for kind in ("runners", "notices")}
    manifest = table_versions.manifest_of(folder)
    with changelog.engine(MEMORY_LIMIT) as connection:
        rows = {kind: _selected(connection, files, "race_id = $id", {"id": race_id}) for kind, files in parts.items()}
    messages = (*_races(rows["runners"]), *map(notice_of, rows["notices"]))
    return Tables(folder, messages, manifest.next_seq, manifest.known_at)


def messages_of_race(
    home: Home,
    race_id: str,
    snapshot: Snapshot | None = None,
    log: UnbuiltLogView | None = None,
    tables: Tables | None = None,
) -> RaceMessages:
    """A race's messages in the tables, and in the `log` after them if it is given; raises `UnknownRace` if there are none.

    With a `log`, `behind` is 0. `tables` saves the lookup if the caller has just made it.
    """
    tables = tables or tables_of(home, race_id, snapshot=snapshot)
    newer = log.messages(race_id, tables.next_seq) if log is not None else ()
    behind = max(0, reader.end(home).next_seq - tables.next_seq) if log is None else 0
    messages = tuple(sorted((*tables.messages, *newer), key=instant_of))
    if not any(isinstance(message, Racecard | Result) for message in messages):
        more = f" (the log has {behind:,} newer messages: run `velo build`)" if behind else ""
        raise UnknownRace(f"race {race_id!r} was never declared nor run here{more}: see `velo sql` for the races held")
    return RaceMessages(messages, tables.known_at, behind)


def messages_between(home: Home, first: date, last: date) -> list[tuple[Message, ...]]:
    """The messages in the tables about the races of some local dates, both included, by race; empty without tables."""
    look = Snapshot()
    try:
        parts = {kind: look.parts(home.offline / kind) for kind in ("runners", "notices")}
    except (OSError, UserError):
        return []
    with changelog.engine(MEMORY_LIMIT) as connection:
        days = {"first": first, "last": last}
        held = _selected(connection, parts["runners"], "race_date BETWEEN $first AND $last", days)
        by_race: dict[str, list[Message]] = {}
        for message in _races(held):
            by_race.setdefault(message.race_id or "", []).append(message)
        about = _selected(connection, parts["notices"], "race_id IN (SELECT unnest($ids))", {"ids": [*by_race]})
    for notice in map(notice_of, about if by_race else ()):
        by_race[notice.race_id or ""].append(notice)
    return [tuple(sorted(messages, key=instant_of)) for messages in by_race.values()]


def _selected(connection: Any, files: list[str], where: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    if not files:
        return []
    # the rows of a message are in one file, in the order of its runners, which a sort by seq alone would not keep
    scan = changelog.scan(files, f"{changelog.BY_NAME}, file_row_number = true")
    query = f"SELECT * FROM {scan} WHERE {where} ORDER BY seq, file_row_number"  # noqa: S608 paths are quoted
    rows: list[dict[str, Any]] = connection.sql(query, params=params).to_arrow_table().to_pylist()
    return rows


def _races(rows: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Cards and results, from one row per runner."""
    by_message: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_message.setdefault(row["seq"], []).append(row)
    return [_race(runners) for runners in by_message.values()]


def _race(rows: list[Mapping[str, Any]]) -> Message:
    first = rows[0]
    # the tables have no dividends: they are in the log
    race = Race(**{name: first[name] for name in _RACE if name in first})
    runners = tuple(Runner(**{name: row[name] for name in _RUNNER if name in row}) for row in rows)
    if first["type"] == "result":
        return Result(race, runners, first["result_version"], first["known_at"])
    return Racecard(race, runners, first["known_at"])
