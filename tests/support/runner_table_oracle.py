"""A plain reader of the runner table (contract 3) into the records of a new log (contract 2): the importer's twin, for tests.

`load(files, timezone)` takes the rows of one or more files, as dicts in file order, as one load. It imports nothing of
the product.

What the conformance files decide (the other reading gives other probes or refusals):
- Race values are the first non-null one in file order, not the first row's.
- The rows of one version of a race in one file are one message, so a race written twice in a file has its horses twice
  and is refused for that.
- A FINISHED without a position is reported before a missing winner. The rest of the order is that of contract 3's sentence.
- Refusal is per version: version 1 may be refused and version 2 taken, or both refused, each with its own reason.
- A runner that is VOID beside only NRs makes a void race, which is a version without starts.
- A version lower than one already taken is kept in the log and counted; it may push later messages on by 1 us.

What no shared file shows, and is chosen here:
- The same version from another file of the load: equal in all that counts (contract 12), it is counted and takes no place;
  with other content it is refused. The first in log order stands.
- `race_date` and `off_time` are held against `known_at` as brought or filled, before the log moves it.
- Two spellings of a course that make one key are one course.
- Runners without a horse are not each other's twins; VOID beside starters leaves a race with those starters.
- An id given is trimmed and else left alone; a blank one is missing.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.oracle_starts import STARTED, local_date, local_midnight

Row = Mapping[str, Any]

RACE_COLUMNS = (
    "race_date",
    "off_time",
    "race_no",
    "course",
    "country",
    "race_name",
    "race_type",
    "race_class",
    "rating_band",
    "handicap",
    "surface",
    "course_config",
    "going",
    "distance_m",
    "known_at",
)
UNREAD = ("race_type", "handicap", "course_config")
STATUSES = STARTED | {"NR", "VOID"}
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Load:
    """What one load of runner tables comes to: the new log's records, the dead letters and what was only counted.

    `refused` holds (race_id, result_version, reason) in file order.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, int, str]] = field(default_factory=list)
    lower_versions: int = 0
    identical_versions: int = 0


def load(files: Iterable[Sequence[Row]], timezone: str) -> Load:
    """One load of the files' rows into a new log; dates and instants in rows are `date` and aware `datetime`."""
    zone = ZoneInfo(timezone)
    out = Load()
    messages = [message for rows in files for message in _accepted(rows, zone, out)]
    messages.sort(key=lambda message: (message["known_at"], message["race_id"], message["result_version"]))
    found: dict[tuple[str, int], dict[str, Any]] = {}
    highest: dict[str, int] = {}
    end: datetime | None = None
    for message in messages:
        race_id, version = message["race_id"], message["result_version"]
        content = _what_counts(message)
        if found.get((race_id, version)) == content:
            out.identical_versions += 1
            continue
        if (race_id, version) in found:
            out.refused.append((race_id, version, "raise result_version"))
            continue
        out.lower_versions += version < highest.get(race_id, version)
        highest[race_id] = max(version, highest.get(race_id, version))
        found[race_id, version] = content
        end = next_known_at(message["known_at"], end, zone)
        out.records.append({"seq": len(out.records), **message, "known_at": end})
    for record in out.records:
        record["known_at"], record["off_time"] = iso(record["known_at"]), iso(record["off_time"])
        record["race_date"] = record["race_date"].isoformat()
    return out


def _what_counts(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says but for when it was known, what nothing reads, and the order of its runners."""
    counts = {name: value for name, value in message.items() if name not in ("known_at", "runners", *UNREAD)}
    runners = [{name: value for name, value in runner.items() if value is not None} for runner in message["runners"]]
    return counts | {"runners": sorted(runners, key=lambda runner: str(runner["horse_id"]))}


def next_known_at(claimed: datetime | None, end: datetime | None, zone: ZoneInfo) -> datetime:
    """The instant the log gives a message: strictly after its `end`, never the clock's (a midnight)."""
    if end is not None and (claimed is None or claimed <= end):
        claimed = end + MICROSECOND
    if claimed is None:
        raise ValueError("the first message of a log needs a known_at")
    return claimed + MICROSECOND if claimed == local_midnight(local_date(claimed, zone), zone) else claimed


def iso(at: datetime) -> str:
    """A log's way to write an instant: UTC, six decimals, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def name_key(name: str | None) -> str | None:
    """The key a name makes: NFKC, trimmed, single spaces, casefolded; None for a blank one or one of only dashes."""
    plain = " ".join(unicodedata.normalize("NFKC", name or "").split()).casefold()
    if all(unicodedata.category(letter) == "Pd" or letter in "\u2212 " for letter in plain):
        return None
    return plain


def reason_to_refuse(
    race: Mapping[str, Any], rows: Sequence[Row], runners: Sequence[Mapping[str, Any]], zone: ZoneInfo
) -> str | None:
    """Why this version of a race is refused, or None; where several reasons apply, the first of this function."""
    horses = [runner["horse_id"] for runner in runners if runner["horse_id"] is not None]
    if len(set(horses)) < len(horses):
        return "horse appears twice"
    for runner in runners:
        if runner["status"] not in STATUSES:
            return f"unknown status {runner['status']}"
    starters = [runner for runner in runners if runner["status"] in STARTED]
    finishers = [runner for runner in starters if runner["status"] == "FINISHED"]
    if any(runner["position"] is None or runner["position"] < 1 for runner in finishers):
        return "FINISHED without a position"
    if starters and all(runner["status"] not in ("FINISHED", "RAN") or runner["position"] != 1 for runner in starters):
        return "no winner"
    if not starters and all(runner["status"] != "VOID" for runner in runners):
        return "no starters"
    if len(horses) < len(runners):
        return "runner without a horse"
    return _contradiction(race, rows, zone, ran=bool(starters))


def _contradiction(race: Mapping[str, Any], rows: Sequence[Row], zone: ZoneInfo, *, ran: bool) -> str | None:
    race_date, off_time, known_at = race["race_date"], race["off_time"], race["known_at"]
    if race_date > local_date(known_at, zone):
        return "race_date later than known_at"
    if ran and known_at < off_time:
        return "known_at before off_time"
    off_date = local_date(off_time, zone)
    if not race_date - timedelta(days=1) <= off_date <= race_date + timedelta(days=1):
        return "off_time far from race_date"
    for column in ("race_date", "course"):
        named = {row[column] for row in rows if row.get(column) is not None}
        if len(named if column == "race_date" else {name_key(each) for each in named}) > 1:
            return f"more than one {column}"
    return None


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """A runner table's rows in file order; NaN is read as missing."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def _accepted(rows: Sequence[Row], zone: ZoneInfo, out: Load) -> list[dict[str, Any]]:
    """The messages of one file that are not refused, `known_at` filled, not yet given their place in the log."""
    versions: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        version = row.get("result_version")
        versions.setdefault((row["race_id"], 1 if version is None else version), []).append(row)
    messages = []
    for (race_id, version), group in versions.items():
        race = _race(group, zone)
        runners = [_runner(row) for row in group]
        reason = reason_to_refuse(race, group, runners, zone)
        if reason is None:
            head = {"type": "result", "schema_version": 1, "race_id": race_id, "result_version": version}
            messages.append({**head, **race, "runners": runners})
        else:
            out.refused.append((race_id, version, reason))
    return messages


def _race(rows: Sequence[Row], zone: ZoneInfo) -> dict[str, Any]:
    race: dict[str, Any] = {
        column: next((row[column] for row in rows if row.get(column) is not None), None) for column in RACE_COLUMNS
    }
    if race["off_time"] is None:
        one_o_clock = datetime.combine(race["race_date"], time(13), tzinfo=zone).astimezone(UTC)
        race["off_time"] = one_o_clock + timedelta(minutes=30) * ((race["race_no"] or 1) - 1)
    if race["known_at"] is None:
        race["known_at"] = race["off_time"] + timedelta(minutes=15)
    return race


def _runner(row: Row) -> dict[str, Any]:
    runner = {name: value for name, value in row.items() if name not in (*RACE_COLUMNS, "race_id", "result_version")}
    for who in ("horse", "trainer", "jockey"):
        given = row.get(f"{who}_id")
        runner[f"{who}_id"] = (None if given is None else str(given).strip()) or name_key(row.get(who))
    runner["draw"] = row.get("draw") or None
    runner["position"] = row.get("position")
    return runner
