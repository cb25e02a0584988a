"""What the store was told of one race: its messages, from the tables beside the features, and whether more came since."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from feature_repo.stores import asof
from feature_repo.stores.parts import Snapshot
from velo.errors import UserError
from velo.racing.clock import from_text
from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Result,
    Runner,
)
from velo.store import Home

MEMORY_LIMIT: Final = "500MB"
_RACE: Final = tuple(one.name for one in fields(Race))
_RUNNER: Final = tuple(one.name for one in fields(Runner) if one.name != "kept")
_SEQ: Final = re.compile(rb'^\{"crc":"[0-9a-f]{8}","seq":(\d+),.*\}$')
_TAIL_BYTES: Final = 2**16


@dataclass(frozen=True, slots=True)
class Told:
    """One race's messages in the order of the log.

    `known_at` is the instant up to which the tables hold the log, `behind` how many messages the log has beyond it.
    """

    messages: tuple[Message, ...]
    known_at: datetime
    behind: int


def told_of(home: Home, race_id: str, snapshot: Snapshot | None = None) -> Told:
    """Everything the tables hold of a race; raises `UserError` where they hold nothing, and says what to do."""
    look = snapshot or Snapshot()
    parts = {kind: look.parts(home.offline / kind) for kind in ("runners", "notices")}
    manifest = json.loads((look.folder(home.offline / "runners").parent / "manifest.json").read_bytes())
    behind = max(0, _log_length(home) - manifest["next_seq"])
    with asof.engine(MEMORY_LIMIT) as connection:
        rows = {kind: _rows(connection, files, race_id) for kind, files in parts.items()}
    messages = tuple(sorted((*_races(rows["runners"]), *map(_notice, rows["notices"])), key=_known_at))
    if not any(isinstance(one, Racecard | Result) for one in messages):
        more = f" (the log has {behind:,} newer messages: run `velo build`)" if behind else ""
        raise UserError(f"race {race_id!r} was never declared nor run here{more}: see `velo sql` for the races held")
    return Told(messages, from_text(manifest["known_at"]), behind)


def _rows(connection: Any, files: list[str], race_id: str) -> list[dict[str, Any]]:
    if not files:
        return []
    listed = ", ".join(asof.text(file) for file in files)
    query = f"SELECT * FROM read_parquet([{listed}]) WHERE race_id = $race_id ORDER BY seq"  # noqa: S608 paths are quoted
    rows: list[dict[str, Any]] = connection.sql(query, params={"race_id": race_id}).to_arrow_table().to_pylist()
    return rows


def _races(rows: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Cards and results, each from the rows of its runners."""
    by_message: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_message.setdefault(row["seq"], []).append(row)
    return [_race(told) for told in by_message.values()]


def _race(rows: list[Mapping[str, Any]]) -> Message:
    first = rows[0]
    race = Race(**{name: first[name] for name in _RACE})
    runners = tuple(Runner(**{name: row[name] for name in _RUNNER if name in row}) for row in rows)
    if first["type"] == "result":
        return Result(race, runners, first["result_version"], first["known_at"])
    return Racecard(race, runners, first["known_at"])


def _notice(row: Mapping[str, Any]) -> Message:
    race_id, known_at = row["race_id"], row["known_at"]
    match row["type"]:
        case "non_runner":
            return NonRunner(race_id, row["horse_id"], row["reason"], known_at)
        case "jockey_change":
            return JockeyChange(race_id, row["horse_id"], row["jockey_id"], row["jockey"], known_at)
        case "going_change":
            return GoingChange(race_id, row["going"], known_at)
    return Market(race_id, dict(row["prices"] or ()), row["source"], known_at)


def _known_at(message: Message) -> datetime:
    assert message.known_at is not None
    return message.known_at


def _log_length(home: Home) -> int:
    """How many records the log holds, by the last whole line of its last segment; 0 where it cannot be told."""
    segments = sorted(home.log.glob("*.ndjson")) if home.log.is_dir() else []
    for segment in reversed(segments):
        with segment.open("rb") as file:
            size = file.seek(0, 2)
            for reach in (_TAIL_BYTES, size):
                file.seek(max(0, size - reach))
                found = [match for line in file.read().splitlines() if (match := _SEQ.match(line))]
                if found:
                    return int(found[-1][1]) + 1
    return 0
