"""Find the messages about races and horses that nobody had declared: in the tables, and in the log beyond them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import duckdb

from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.messages import Message, Race, Racecard, Result, Runner, notice_of
from velo.racing.undeclared import Undeclared, undeclared
from velo.storage import table_versions
from velo.storage.log.index import RACES_NEAR
from velo.storage.log.reader import end
from velo.storage.log.tail import UNREADABLE, FoundRecord, LogTail, about, message_of
from velo.storage.store import Home

MEMORY_LIMIT: Final = "500MB"
READ_AT_ONCE: Final = 2000
SUSPECTS: Final = """
WITH cards AS (
    SELECT race_id, horse_id, min(known_at) AS at FROM runners WHERE type = 'racecard' GROUP BY race_id, horse_id
), races AS (
    SELECT
        race_id, min(known_at) FILTER (type = 'racecard') AS carded, min(known_at) FILTER (type = 'result') AS ran
    FROM runners
    GROUP BY race_id
), named AS (
    SELECT race_id, known_at, horse_id FROM notices WHERE type <> 'market'
    UNION ALL
    SELECT race_id, known_at, unnest(map_keys(prices)) FROM notices WHERE type = 'market'
)
SELECT DISTINCT named.race_id
FROM named
LEFT JOIN races ON races.race_id = named.race_id
LEFT JOIN cards ON cards.race_id = named.race_id AND cards.horse_id = named.horse_id
WHERE
    (races.ran IS NULL OR races.ran > named.known_at)
    AND (races.carded IS NULL OR races.carded > named.known_at
        OR (named.horse_id IS NOT NULL AND (cards.at IS NULL OR cards.at > named.known_at)))
"""
"""Races with a message that names the race, or one of its horses, before a card did."""


def undeclared_of(home: Home) -> list[Undeclared]:
    """Return every message that named nobody declared when it came, in log order; `declared_at` says when a card declared it."""
    log_end = end(home).next_seq
    folder = table_versions.current(home)
    built = min(table_versions.manifest_of(folder).next_seq if folder else 0, log_end)
    noticed = {race_id for line in _lines(home, built) if (race_id := _noticed(line)) is not None}
    messages: dict[str, list[Message]] = {}
    races: list[str] = []
    if built:
        messages, races = _of_tables(home, noticed)
    for line in _lines(home, built):
        of = about(line.text)
        if of.kind == "racecard" and of.race_id is not None:
            races.append(of.race_id)
        if of.race_id in noticed or of.race_id in messages:
            try:
                messages.setdefault(of.race_id or "", []).append(message_of(line.text))
            except UNREADABLE:
                continue
    near = list(dict.fromkeys(races))[-RACES_NEAR:]
    found = [each for of_race in messages.values() for each in undeclared(of_race, near)]
    return sorted(found, key=lambda each: str(each.known_at))


def _noticed(line: FoundRecord) -> str | None:
    """Return the race of a message other than a card or a result."""
    of = about(line.text)
    return None if of.kind in ("racecard", "result", "tick") else of.race_id


def _lines(home: Home, from_seq: int) -> Iterator[FoundRecord]:
    tail = LogTail(home, from_seq)
    try:
        while lines := tail.read(READ_AT_ONCE):
            yield from (line for line in lines if line.whole)
    finally:
        tail.close()


def _of_tables(home: Home, noticed: set[str]) -> tuple[dict[str, list[Message]], list[str]]:
    """Return the messages of suspect races and of `noticed` ones by race, and the latest declared races."""
    snapshot = Snapshot()
    with changelog.engine(MEMORY_LIMIT) as connection:
        for kind in ("runners", "notices"):
            rows = changelog.scan(snapshot.parts(home.offline / kind), changelog.BY_NAME)
            connection.execute(f"CREATE TEMP VIEW {kind} AS SELECT * FROM {rows}")  # noqa: S608 paths are quoted
        wanted = [*noticed, *(race_id for (race_id,) in connection.execute(SUSPECTS).fetchall())]
        last = "SELECT race_id FROM runners WHERE type = 'racecard' GROUP BY race_id ORDER BY max(seq) DESC LIMIT ?"
        races = [race_id for (race_id,) in connection.execute(last, [RACES_NEAR]).fetchall()][::-1]
        messages: dict[str, list[Message]] = {}
        for kind, made in (("runners", _race), ("notices", notice_of)):
            for row in _rows(connection, kind, wanted):
                messages.setdefault(row["race_id"], []).append(made(row))
    return messages, races


def _rows(connection: duckdb.DuckDBPyConnection, kind: str, wanted: list[str]) -> list[dict[str, Any]]:
    grouped = (
        "SELECT race_id, type, known_at, any_value(race_date) AS race_date, any_value(off_time) AS off_time, "
        "any_value(course) AS course, list(horse_id) AS horses FROM runners "
        "WHERE race_id IN (SELECT unnest($wanted)) GROUP BY race_id, type, known_at"
    )
    query = grouped if kind == "runners" else "SELECT * FROM notices WHERE race_id IN (SELECT unnest($wanted))"
    rows: list[dict[str, Any]] = connection.sql(query, params={"wanted": wanted}).to_arrow_table().to_pylist()
    return rows


def _race(row: Mapping[str, Any]) -> Message:
    """Return a card or a result with only the keys of its horses."""
    race = Race(row["race_id"], row["race_date"], row["off_time"], row["course"])
    horses = tuple(map(Runner, row["horses"]))
    return (
        Racecard(race, horses, row["known_at"])
        if row["type"] == "racecard"
        else Result(race, horses, known_at=row["known_at"])
    )
