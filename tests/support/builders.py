"""Small builders for readable tests: a test says what matters to it and the rest is an ordinary race.

Two forms. Rows: `a_race(a_runner("Arkle", 1), a_runner("Mill House", 2), race_id="R1")` is the rows of one version of
one race in the runner table (contract 3), all columns present. Records: `a_result(...)`, `a_tick(...)`, `a_message(...)`
joined by `a_log(...)` are what a log holds (contract 10). Instants may be given as aware datetimes or as text like
"2024-05-01 14:15" or "2024-05-01T14:15:00Z", always UTC; dates as `date` or "2024-05-01".
"""

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.oracle_starts import instant
from tests.support.runner_table_oracle import RACE_COLUMNS, iso, name_key, next_known_at

Row = dict[str, Any]
Record = dict[str, Any]

SECTIONS = ("first_call_position", "last_call_position", "first_section_ms", "last_section_ms", "widest_path")
FLAGS = ("slow_away", "hampered")
INTEGER_COLUMNS = (
    "race_no",
    "race_class",
    "runner_no",
    "draw",
    "age",
    "official_rating",
    "position",
    "result_version",
    *SECTIONS,
)
FLOAT_COLUMNS = (
    "distance_m",
    "weight_lbs",
    "body_weight_lbs",
    "beaten_lengths",
    "finish_time_s",
    "sp_decimal",
)
RUNNER_COLUMNS = (
    "runner_no",
    "draw",
    "horse_id",
    "horse",
    "jockey_id",
    "jockey",
    "trainer_id",
    "trainer",
    "age",
    "sex",
    "weight_lbs",
    "body_weight_lbs",
    "official_rating",
    "headgear",
    "status",
    "position",
    "beaten_lengths",
    "finish_time_s",
    "sp_decimal",
    *SECTIONS,
    *FLAGS,
)
TABLE_COLUMNS = (
    "race_id",
    *(column for column in RACE_COLUMNS if column != "known_at"),
    *RUNNER_COLUMNS,
    "result_version",
    "known_at",
)
AN_ORDINARY_RACE: Row = {
    "race_id": "R1",
    "race_date": date(2024, 5, 1),
    "off_time": datetime(2024, 5, 1, 14, 0, tzinfo=UTC),
    "race_no": 1,
    "course": "Ascot",
    "race_type": "Flat",
    "race_class": 4,
    "surface": "Turf",
    "going": "Good",
    "distance_m": 1609.0,
}


def at(given: datetime | str | None) -> datetime | None:
    """An instant as an aware UTC datetime; text without an offset is UTC."""
    if given is None or isinstance(given, datetime):
        return given
    parsed = datetime.fromisoformat(given)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def on(given: date | str) -> date:
    return date.fromisoformat(given) if isinstance(given, str) else given


def a_runner(horse: str | None = "Horse A", position: int | None = None, **columns: Any) -> Row:
    """The runner columns of one row: a FINISHED where a position is given, else a PU, unless `status` is given."""
    status = "PU" if position is None else "FINISHED"
    row: Row = dict.fromkeys(RUNNER_COLUMNS)
    row |= {"horse": horse, "position": position, "status": status, "jockey": "A Jockey", "trainer": "A Trainer"}
    row |= {"sp_decimal": 4.0, "weight_lbs": 126.0, "beaten_lengths": 0.0 if position == 1 else None}
    unknown = set(columns) - set(RUNNER_COLUMNS)
    if unknown:
        raise TypeError(f"{sorted(unknown)} are no runner columns: give them to a_race")
    return row | columns


def a_field(count: int, **columns: Any) -> list[Row]:
    """`count` finishers in order, Horse 1 the winner, drawn and numbered 1 to `count`."""
    return [
        a_runner(f"Horse {place}", place, runner_no=place, draw=place, beaten_lengths=place - 1.0, **columns)
        for place in range(1, count + 1)
    ]


def a_race(*runners: Mapping[str, Any], result_version: int = 1, known_at: Any = None, **columns: Any) -> list[Row]:
    """The rows of one version of one race, in the runners' order; two finishers where no runner is given.

    A race on another `race_date` without an `off_time` of its own has none, and so the contract's 13:00 local.
    """
    race: Row = dict.fromkeys(RACE_COLUMNS) | AN_ORDINARY_RACE
    if "race_date" in columns:
        race |= {"off_time": None, "race_date": on(columns.pop("race_date"))}
    if "off_time" in columns:
        race["off_time"] = at(columns.pop("off_time"))
    unknown = set(columns) - {"race_id", *RACE_COLUMNS}
    if unknown:
        raise TypeError(f"{sorted(unknown)} are no race columns: give them to a_runner")
    race |= columns | {"result_version": result_version, "known_at": at(known_at)}
    rows = [race | dict(runner) for runner in runners or a_field(2)]
    return [{column: row.get(column) for column in TABLE_COLUMNS} for row in rows]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a CSV, as a spreadsheet would write them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_runner_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows as a Parquet file with the types of the real ones; `path` is given back."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(column: str) -> Any:
        if column == "race_date":
            return pa.date32()
        if column in ("off_time", "known_at"):
            return pa.timestamp("us", tz="UTC")
        if column in FLAGS:
            return pa.bool_()
        return pa.int32() if column in INTEGER_COLUMNS else pa.float64() if column in FLOAT_COLUMNS else pa.string()

    schema = pa.schema([(column, kind(column)) for column in TABLE_COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)
    return path


def a_result(*runners: Mapping[str, Any], known_at: Any = "2024-05-01 14:15", **columns: Any) -> Record:
    """One `result` record: `a_race` with keys made from the names, not yet given its seq (see `a_log`)."""
    rows = a_race(*runners, known_at=known_at, **columns)
    if rows[0]["off_time"] is None:
        raise TypeError("a record is past the importer: give off_time with race_date")
    race = {column: rows[0][column] for column in RACE_COLUMNS}
    found = []
    for row in rows:
        runner = {column: row[column] for column in RUNNER_COLUMNS}
        found.append(runner | {f"{who}_id": row[f"{who}_id"] or name_key(row[who]) for who in _WHO})
    race |= {"race_date": rows[0]["race_date"].isoformat(), "off_time": iso(race["off_time"])}
    head = {"type": "result", "schema_version": 1, "race_id": rows[0]["race_id"]}
    version = {"result_version": rows[0]["result_version"], "known_at": iso(race["known_at"])}
    return {**head, **race, **version, "runners": found}


def a_tick(midnight: Any) -> Record:
    """The clock's own record: a local midnight passed, known at that very instant."""
    when = at(midnight)
    if when is None:
        raise TypeError("a tick needs its midnight")
    return {"type": "tick", "schema_version": 1, "known_at": iso(when), "race_id": None, "midnight": iso(when)}


def a_message(kind: str, known_at: Any, race_id: str = "R1", **fields: Any) -> Record:
    """Any other record, e.g. `a_message("going_change", "2024-05-01 12:00", going="Soft")`."""
    when = at(known_at)
    if when is None:
        raise TypeError(f"a {kind} needs its known_at")
    return {"type": kind, "schema_version": 1, "known_at": iso(when), "race_id": race_id, **fields}


def a_log(*records: Mapping[str, Any], timezone: str = "Europe/London") -> list[Record]:
    """The records in the order given as a log: numbered, each after the one before, no message on a local midnight."""
    zone, log = ZoneInfo(timezone), list[Record]()
    end: datetime | None = None
    for record in records:
        claimed = instant(record["known_at"])
        clock = record["type"] == "tick" and (end is None or claimed > end)
        end = claimed if clock else next_known_at(claimed, end, zone)
        log.append({"seq": len(log), **record, "known_at": iso(end)})
    return log


_WHO = ("horse", "trainer", "jockey")
