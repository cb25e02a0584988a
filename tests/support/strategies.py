"""Hypothesis strategies: small, nasty loads of runner tables and the logs they make.

Few horses, trainers, jockeys and courses, so that keys collide; dates one window's length apart and on days the clock
changes; results that are late, tied, at a local midnight or a microsecond beside it, amended, voided, lower than what
is known, sent twice; races that must be refused.

    @given(random_loads())
    def test_…(load): load.files -> rows per file, load.timezone

    @given(random_logs())
    def test_…(log): log.records -> records in log order, log.timezone
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.support.builders import FLAGS, SECTIONS, Row, a_log, a_message, a_race, a_runner, a_tick
from tests.support.oracle_starts import STARTED, instant, local_date, local_midnight
from tests.support.runner_table_oracle import Load, iso, load

MICROSECOND = timedelta(microseconds=1)
OUTCOMES = ("status", "position", "beaten_lengths", "finish_time_s", "sp_decimal", *SECTIONS, *FLAGS)
TIMEZONES = ("Europe/London", "Asia/Hong_Kong", "America/New_York", "Australia/Lord_Howe")
YEAR = 2021
"""Loads begin in this year; the longest window (1,095 days) ends inside the years drawn."""

WINDOW_EDGES_DAYS = (0, 0, 0, 1, 2, 13, 14, 15, 29, 30, 31, 89, 90, 91, 364, 365, 366, 1094, 1095, 1096)
HORSES = ("Arkle", " ARKLE ", "Mill  House", "mill house", "Red Rum (IRE)", "\uff32ed Rum (IRE)", "Shergar", "Enable")
TRAINERS = ("T. Dreaper", "t. dreaper", "D McCain", "Sir M Stoute", None, "-", "\u2013", " ")
JOCKEYS = ("P Taaffe", "P  TAAFFE", "L Dettori", None, "---")
GOINGS = (
    "Good",
    "Good to Firm",
    "Good to Soft (Soft in places)",
    "HEAVY",
    "Standard to Slow",
    "Frozen",
    "Good To Yielding",
    None,
)
DISTANCES_M = (1006.0, 1299.9, 1300.0, 1899.9, 1900.0, 2700.0, None)
ODDS = (1.0, 0.0, 1.0625, 1.5, 2.375, 4.333333, 8.5, 51.0, 1001.0)
TIMES_S = (None, 0.0, 0.0004, 57.314, 70.005, 88.61, 153.0, 86_400.0)
BANDS = (None, "80-60", "0-75", "Class 4", "(2024) 60-40", "open")
CALLS = (None, None, 0, 1, 1, 2, 3, 4, 5, 7, 13)
SECTIONS_MS = (None, 0, 1, 13_280, 23_010, 23_011, 24_250, 86_399_999, 86_400_000)
LENGTHS = (None, 0.0, 0.05, 1.25, 3.75, 29.99, 30.0, 40.0)
FELL = tuple(sorted(STARTED - {"FINISHED", "RAN"}))


@dataclass(frozen=True)
class RandomLoad:
    """The rows of the files of one load, in file order, and the store's zone."""

    timezone: str
    files: list[list[Row]]

    def told(self) -> Load:
        """What the plain reader makes of it: records, dead letters, counts."""
        return load(self.files, self.timezone)


@dataclass(frozen=True)
class RandomLog:
    """Records in log order, `known_at` strictly increasing, and the store's zone."""

    timezone: str
    records: list[dict[str, Any]]

    def until(self, seq: int) -> "RandomLog":
        """The log as it stood when it held `seq` records."""
        return RandomLog(self.timezone, self.records[:seq])


def days_the_clock_changes(timezone: str, year: int) -> list[date]:
    """The local dates of a year whose length is not 24 hours."""
    zone = ZoneInfo(timezone)
    days = [date(year, 1, 1) + timedelta(days=day) for day in range(365)]
    return [
        day
        for day in days
        if local_midnight(day + timedelta(days=1), zone) - local_midnight(day, zone) != timedelta(days=1)
    ]


def timezones() -> st.SearchStrategy[str]:
    return st.sampled_from(TIMEZONES)


@st.composite
def race_dates(draw: st.DrawFn, timezone: str) -> date:
    """Dates whose windows end on one another and on the days the clock changes."""
    anchors = [date(YEAR, 6, 1), *days_the_clock_changes(timezone, YEAR)]
    return draw(st.sampled_from(anchors)) + timedelta(days=draw(st.sampled_from(WINDOW_EDGES_DAYS)))


@st.composite
def off_times(draw: st.DrawFn, race_date: date, zone: ZoneInfo) -> datetime | None:
    local = draw(st.sampled_from((None, time(0, 0), time(1, 30), time(13, 0), time(13, 30), time(23, 50))))
    return None if local is None else datetime.combine(race_date, local, tzinfo=zone).astimezone(UTC)


def local_off(race_date: date, days: int) -> datetime:
    """An off some days from its race's date."""
    return datetime.combine(race_date + timedelta(days=days), time(11, 0), tzinfo=UTC)


@st.composite
def known_ats(draw: st.DrawFn, race_date: date, zone: ZoneInfo) -> datetime | None:
    """Missing, the same afternoon (so that races tie), at or beside a local midnight, late, now and then too early."""
    how = draw(st.sampled_from(("missing", "missing", "afternoon", "midnight", "midnight", "late", "early")))
    if how == "missing":
        return None
    if how == "afternoon":
        return datetime.combine(race_date, time(14, 15), tzinfo=zone).astimezone(UTC)
    if how == "early":
        return local_midnight(race_date, zone) - timedelta(hours=6)
    days = draw(st.sampled_from((1, 1, 2, 14, 30, 90, 365) if how == "midnight" else (3, 20, 100, 400)))
    beside = draw(st.sampled_from((-1, 0, 0, 0, 1))) * timedelta(microseconds=1)
    hours = timedelta(hours=0 if how == "midnight" else 11)
    return local_midnight(race_date + timedelta(days=days), zone) + hours + beside


@st.composite
def fields(draw: st.DrawFn) -> list[Row]:
    """One race's runners, mostly a possible result; now and then one that must be refused."""
    distinct = draw(st.integers(0, 19)) > 0
    names = draw(st.lists(st.sampled_from(HORSES), min_size=1, max_size=6, unique_by=(_plain,) if distinct else None))
    if draw(st.integers(0, 7)) == 0:
        names += [f"Rival {number}" for number in range(draw(st.integers(1, 6)))]
    with_draws, with_odds = draw(st.booleans()), draw(st.booleans())
    placeless = draw(st.integers(0, 3)) == 0
    runners, position = [], 0
    for order, name in enumerate(names):
        kind = draw(st.sampled_from(("ran", "ran", "ran", "ran", "ran", "fell", "NR"))) if order else "ran"
        status, place = kind, None
        if kind == "fell":
            status = draw(st.sampled_from(FELL))
            place = draw(st.sampled_from((None, None, 1, 2)))
        elif kind == "ran":
            level, gap = draw(st.integers(0, 5)) == 0, draw(st.sampled_from((1, 1, 1, 1, 5)))
            position = max(1, position) if level else position + (gap if order else 1)
            status, place = "FINISHED", position
            if placeless and draw(st.booleans()):
                status, place = "RAN", draw(st.sampled_from((None, position) if order else (1,)))
        runners.append(_runner(draw, name, status, place, order + 1, with_draws, with_odds))
    return runners


def _runner(
    draw: st.DrawFn, horse: str, status: str, place: int | None, number: int, with_draws: bool, with_odds: bool
) -> Row:
    return a_runner(
        horse,
        place,
        status=status,
        runner_no=number,
        draw=number if with_draws else draw(st.sampled_from((None, 0, number))),
        trainer=draw(st.sampled_from(TRAINERS)),
        jockey=draw(st.sampled_from(JOCKEYS)),
        sp_decimal=draw(st.sampled_from(ODDS[2:] if with_odds else (*ODDS, None))),
        beaten_lengths=draw(st.sampled_from(LENGTHS)),
        finish_time_s=draw(st.sampled_from(TIMES_S)),
        weight_lbs=draw(
            st.sampled_from((126.0, 133.0, 113.5, None)) if number == 1 else st.sampled_from((126.0, 119.0))
        ),
        official_rating=draw(st.sampled_from((70, 85, None))),
        body_weight_lbs=draw(st.sampled_from((1020.0, 1133.5, None))),
        **draw(in_running()),
    )


@st.composite
def in_running(draw: st.DrawFn) -> Row:
    """What a runner did between the off and the finish; for one in three nothing is known."""
    if draw(st.integers(0, 2)) == 0:
        return {}
    drawn: Row = {
        "first_call_position": draw(st.sampled_from(CALLS)),
        "last_call_position": draw(st.sampled_from(CALLS)),
        "first_section_ms": draw(st.sampled_from(SECTIONS_MS)),
        "last_section_ms": draw(st.sampled_from(SECTIONS_MS)),
        "widest_path": draw(st.sampled_from((None, 0, 1, 3, 8))),
    }
    return drawn | {name: draw(st.sampled_from((None, False, True))) for name in FLAGS}


def _plain(name: str) -> str:
    return " ".join(name.replace("\uff32", "R").split()).casefold()


@st.composite
def amended(draw: st.DrawFn, runners: list[Row]) -> list[Row]:
    """Another version's runners: voided, nobody started, placings reversed, winner disqualified, odds corrected, unchanged."""
    ways = ("same", "void", "part void", "none ran", "reversed", "disqualified", "odds", "sections", "again")
    how = draw(st.sampled_from(ways))
    if how == "void":
        return [{**runner, "status": "VOID", "position": None} for runner in runners]
    if how == "none ran":
        return [{**runner, "status": "NR"} for runner in runners]
    if how == "part void":
        return [*runners[:-1], {**runners[-1], "status": "VOID", "position": None}]
    if how == "reversed":
        places = [runner["position"] for runner in runners if runner["status"] == "FINISHED"]
        return [
            {**runner, "position": places.pop()} if runner["status"] == "FINISHED" else runner for runner in runners
        ]
    if how == "disqualified":
        return [{**runner, "status": "DSQ"} if runner["position"] == 1 else _promoted(runner) for runner in runners]
    if how == "odds":
        return [{**runner, "sp_decimal": draw(st.sampled_from(ODDS))} for runner in runners]
    if how == "sections":
        nothing = dict.fromkeys((*SECTIONS, *FLAGS))
        return [{**runner, **nothing, **draw(in_running())} for runner in runners]
    return draw(fields()) if how == "again" else runners


def _promoted(runner: Row) -> Row:
    return runner if runner["position"] is None else {**runner, "position": max(1, runner["position"] - 1)}


@st.composite
def spoiled(draw: st.DrawFn, rows: list[Row]) -> list[Row]:
    """One of the faults that refuse a race, or race values given in some rows only."""
    faults = ("status", "position", "winner", "twice", "nameless", "blank", "conflict", "course", "date", "off")
    how = draw(st.sampled_from(faults))
    some = draw(st.integers(0, len(rows) - 1))
    change: dict[str, Row] = {
        "status": {"status": "XX"},
        "position": {"status": "FINISHED", "position": draw(st.sampled_from((None, 0)))},
        "nameless": {"horse": draw(st.sampled_from((None, " ", "--")))},
        "blank": {"distance_m": None, "going": None},
        "conflict": {"distance_m": 1700.0},
        "course": {"course": draw(st.sampled_from(("Ascot", " ASCOT ", "York")))},
        "date": {"race_date": rows[0]["race_date"] + timedelta(days=draw(st.sampled_from((-1, 0, 1))))},
        "off": {"off_time": local_off(rows[0]["race_date"], draw(st.sampled_from((-2, -1, 1, 2))))},
    }
    if how == "winner":
        return [{**row, "position": row["position"] and row["position"] + 1} for row in rows]
    if how == "twice":
        return [*rows, rows[some]]
    return [{**row, **change[how]} if order == some else row for order, row in enumerate(rows)]


@st.composite
def races(draw: st.DrawFn, race_id: str, timezone: str) -> list[list[Row]]:
    """The versions of one race, each as its rows, in any order of number and of time."""
    zone = ZoneInfo(timezone)
    race_date = draw(race_dates(timezone))
    columns: dict[str, Any] = {
        "race_id": race_id,
        "race_date": race_date,
        "off_time": draw(off_times(race_date, zone)),
        "race_no": draw(st.sampled_from((None, 1, 2, 9))),
        "course": draw(st.sampled_from(("Ascot", "Lingfield (AW)"))),
        "surface": draw(st.sampled_from(("Turf", "AW", None))),
        "going": draw(st.sampled_from(GOINGS)),
        "distance_m": draw(st.sampled_from(DISTANCES_M)),
        "race_class": draw(st.sampled_from((1, 4, None))),
        "rating_band": draw(st.sampled_from(BANDS)),
    }
    runners = draw(fields())
    versions: list[list[Row]] = []
    for number in draw(st.sampled_from(((1,), (1,), (1,), (1, 2), (2, 1), (1, 3, 2), (2,), (1, 2, 3)))):
        if versions:
            runners = draw(amended(runners))
            columns |= {"distance_m": draw(st.sampled_from((columns["distance_m"], *DISTANCES_M)))}
        rows = a_race(*runners, result_version=number, known_at=draw(known_ats(race_date, zone)), **columns)
        versions.append(draw(spoiled(rows)) if draw(st.integers(0, 7)) == 0 else rows)
    return versions


@st.composite
def random_loads(draw: st.DrawFn, timezone: str | None = None, max_races: int = 6) -> RandomLoad:
    """One to two files of up to `max_races` races; the second may tell versions of the first again, or otherwise."""
    zone_name = timezone or draw(timezones())
    count = draw(st.integers(1, max_races))
    versions = [rows for number in range(count) for rows in draw(races(f"R{number}", zone_name))]
    versions = draw(st.permutations(versions))
    first = [row for rows in versions for row in rows]
    if draw(st.integers(0, 4)) == 0:
        first = list(draw(st.permutations(first)))  # a race's rows need not stand together
    again: list[Row] = []
    if draw(st.integers(0, 3)) == 0:
        again = list(draw(st.sampled_from(versions)))
        how = draw(st.sampled_from(("same", "going", "unread", "turned")))
        if how == "going":
            again = [{**row, "going": "Firm"} for row in again]
        elif how == "unread":
            again = [{**row, "race_type": "Chase", "course_config": "B"} for row in again]
        elif how == "turned":
            again.reverse()
    return RandomLoad(zone_name, [first, again] if again else [first])


@st.composite
def random_logs(draw: st.DrawFn, timezone: str | None = None, max_races: int = 6) -> RandomLog:
    """The log of a random load, all other types of records between, and the clock's ticks, some long after the last."""
    messages = draw(random_loads(timezone, max_races))
    zone, records = ZoneInfo(messages.timezone), messages.told().records
    if not records:
        return RandomLog(messages.timezone, [])
    last = instant(records[-1]["known_at"])
    ends_on = local_date(last, zone) + timedelta(days=draw(st.sampled_from((0, 1, 14, 31, 90, 365, 1095))))
    passed = [date.fromisoformat(record["race_date"]) + timedelta(days=draw(windows())) for record in records]
    extra = [a_tick(midnight) for day in {*passed, ends_on} if _inside(midnight := local_midnight(day, zone), records)]
    if ends_on > local_date(last, zone):
        extra.append(a_tick(local_midnight(ends_on, zone)))
    for record in records:
        if draw(st.integers(0, 2)) == 0:
            extra += draw(about_a_race(record, instant(records[0]["known_at"]), zone))
    ordered = sorted([*records, *extra], key=lambda record: record["known_at"])
    return RandomLog(messages.timezone, a_log(*ordered, timezone=messages.timezone))


@st.composite
def busy_logs(draw: st.DrawFn, timezone: str | None = None) -> RandomLog:
    """Several random logs in one, some sharing horses, trainers and courses and some with all of their own.

    A build costs the same for thirty races as for three.
    """
    timezone = timezone or draw(timezones())
    logs = draw(st.lists(random_logs(timezone, max_races=5), min_size=1, max_size=4))
    records = [
        _renamed(record, number, own=draw(st.booleans())) for number, log in enumerate(logs) for record in log.records
    ]
    records.sort(key=itemgetter("known_at"))
    return RandomLog(timezone, a_log(*records, timezone=timezone))


def _renamed(record: dict[str, Any], number: int, *, own: bool) -> dict[str, Any]:
    """A record with a race id of its log's own, and where asked all else of its log's own too."""
    named = record | {"race_id": record["race_id"] and f"{number}-{record['race_id']}"}
    if own and "runners" in record:
        who = ("horse_id", "trainer_id", "jockey_id")
        named["runners"] = [
            runner | {name: runner[name] and f"{runner[name]} {number}" for name in who} for runner in record["runners"]
        ]
    return named


@st.composite
def about_a_race(draw: st.DrawFn, record: dict[str, Any], begun: datetime, zone: ZoneInfo) -> list[dict[str, Any]]:
    """The messages of a race besides its result: cards, withdrawals, changes, odds; before the log begins is left out.

    Before and after the off, at and beside local midnights, twice, of horses and races that nobody declared.
    """
    off, race_id = instant(record["off_time"]), record["race_id"]
    midnight = local_midnight(date.fromisoformat(record["race_date"]), zone)
    instants = (off - timedelta(hours=2), midnight, midnight - MICROSECOND, off, off + timedelta(days=1))
    horse = record["runners"][0]["horse_id"]
    card = {name: value for name, value in record.items() if name not in ("seq", "digest", "result_version")}
    card["runners"] = [
        {name: value for name, value in runner.items() if name not in OUTCOMES} for runner in record["runners"]
    ]
    made: dict[str, Callable[[datetime], dict[str, Any]]] = {
        "card": lambda at: card | {"type": "racecard", "known_at": iso(at)},
        "non_runner": lambda at: a_message("non_runner", at, race_id, horse_id=horse, reason="lame"),
        "reinstated": lambda at: a_message("reinstated", at, race_id, horse_id=horse),
        "no such horse": lambda at: a_message("non_runner", at, race_id, horse_id="nobody"),
        "jockey": lambda at: a_message("jockey_change", at, race_id, horse_id=horse, jockey_id="l dettori", jockey="L"),
        "going": lambda at: a_message("going_change", at, race_id, going="Heavy"),
        "no such race": lambda at: a_message("going_change", at, "never declared", going="Soft"),
        "odds": lambda at: a_message("market", at, race_id, prices={horse: 2.5}, source="test"),
    }
    found = draw(st.lists(st.tuples(st.sampled_from(sorted(made)), st.sampled_from(instants)), min_size=1, max_size=5))
    return [made[what](at) for what, at in found if at > begun]


def windows() -> st.SearchStrategy[int]:
    return st.sampled_from((14, 30, 90, 365, 1095))


def _inside(at: datetime, records: list[dict[str, Any]]) -> bool:
    return instant(records[0]["known_at"]) < at < instant(records[-1]["known_at"])
