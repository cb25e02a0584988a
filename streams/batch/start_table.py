"""The table `starts`, from which views are computed: every start that took effect, or only those that new messages concern.

A view gets a row for each instant at which a key's values change. So a build that continues earlier tables needs only the keys
of starts that became known, were retracted, or left a window since then, and of those keys only the starts that a later value
can depend on: all of them where a view has career totals or recent values, else those that its longest window may still hold.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from velo.feature_repo.catalogue.families import Family
from velo.racing.clock import EPOCH, MICROSECOND, local_midnight
from velo.storage.store import Home
from velo.streams.batch.measuring import query
from velo.streams.batch.render import has_key
from velo.streams.batch.staging import parquet, parts_of

if TYPE_CHECKING:
    import duckdb

START_COLUMNS: Final = (
    "seq", "known_at", "race_id", "race_date", "off_time", "race_day", "one",
    "trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell",
)  # fmt: skip
"""The columns of every laid out start, whichever views are made of it."""
SLACK_DAYS: Final = 2
"""More days than a local midnight and UTC's can differ by."""


def lay_out(
    connection: "duckdb.DuckDBPyConnection", home: Home, timezone: ZoneInfo, families: Collection[Family]
) -> None:
    """Create the table `starts` of a store: every start of every version that took effect, with its windows' midnights."""
    lay_out_parts(connection, parts_of(home, "results"), parts_of(home, "starts"), timezone, families)


def lay_out_parts(
    connection: "duckdb.DuckDBPyConnection",
    results: Sequence[Path],
    starts: Sequence[Path],
    timezone: ZoneInfo,
    families: Collection[Family],
    narrowed: str = "",
    before_seq: int | None = None,
) -> None:
    """Create the table `starts` from the parts of measured results and starts.

    The clause `narrowed`, a join or a condition, picks starts; `before_seq` leaves out later results.
    """
    windows = windows_of(families)
    _lay_out_results(connection, results, timezone, windows, before_seq)
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW measured AS SELECT * FROM {parquet(starts)} AS every {narrowed}"  # noqa: S608 quoted
    )
    connection.execute("CREATE OR REPLACE TABLE starts AS " + laid_out(windows, families))


def lay_out_changed(
    connection: "duckdb.DuckDBPyConnection",
    home: Home,
    timezone: ZoneInfo,
    families: Collection[Family],
    after: datetime,
    until: datetime,
) -> dict[str, str]:
    """Create tables of the starts of the keys that change after an instant, up to another; returns each view's query of them.

    Rows of a view in that time are those that all starts would give.
    """
    midnights = _lay_out_results(connection, parts_of(home, "results"), timezone, windows_of(families))
    connection.execute(f"CREATE OR REPLACE TEMP VIEW measured AS FROM {parquet(parts_of(home, 'starts'))}")
    bound = {"after": after, "until": until}
    keys = ", ".join(dict.fromkeys(key for family in families for key in family.keys))
    passed = [day for day, midnight in midnights.items() if after < midnight <= until]
    ended = sorted({day - timedelta(days) for day in passed for days in windows_of(families)})
    connection.execute(
        f"""CREATE OR REPLACE TABLE changing AS
        WITH changed AS (
            SELECT seq FROM applied
            WHERE known_at > $after AND known_at <= $until OR retracted_at > $after AND retracted_at <= $until)
        SELECT DISTINCT {keys}, NULL::DATE AS ended FROM measured SEMI JOIN changed USING (seq)
        UNION ALL
        SELECT DISTINCT {keys}, race_date FROM measured WHERE race_date IN ({_dates(ended)})""",  # noqa: S608 our own names
        bound,
    )
    tables = {}
    for number, group in enumerate(_groups(families)):
        named = f"starts_{number}"
        connection.execute(
            f"CREATE OR REPLACE TABLE {named} AS WITH narrowed AS ("
            f"FROM measured SEMI JOIN ({_changing(group.families, group.keys, passed)}) USING ({', '.join(group.keys)}) "
            f"WHERE {group.needed(after)}) "
            + laid_out(windows_of(group.families), group.families, "narrowed", group.columns),
            {"after": after} if group.days is not None else {},
        )
        for family in group.families:
            changing = _changing((family,), family.keys, passed)
            tables[family.view] = f"FROM {named} SEMI JOIN ({changing}) USING ({', '.join(family.keys)})"
    return tables


@dataclass(frozen=True, slots=True)
class _Group:
    """Families whose starts are read at once: they have a key in common, and depend on starts of the last `days`, or on all."""

    days: int | None
    families: tuple[Family, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that all have."""
        first, *rest = self.families
        return tuple(key for key in first.keys if all(key in family.keys for family in rest))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that their queries read beside measures."""
        keys = dict.fromkeys(key for family in self.families for key in family.keys)
        order = [column for family in self.families if family.recent for column in family.start_order]
        return ("known_at", "race_date", "one", *keys, *order)

    def needed(self, after: datetime) -> str:
        """The condition of the starts that a row after an instant can depend on; `$after` is the instant."""
        if self.days is None:
            return "true"
        # a start whose last window ended by then came and went at earlier instants, unless it became known later
        oldest = after.astimezone(UTC).date() - timedelta(self.days + SLACK_DAYS)
        return f"(race_date >= DATE '{oldest}' OR known_at > $after)"


def _groups(families: Collection[Family]) -> list[_Group]:
    found: dict[tuple[str, int | None], list[Family]] = {}
    for family in families:
        days = None if family.career or family.recent or not family.windows else max(family.windows)
        anchor = "horse_id" if "horse_id" in family.keys else family.keys[0]
        found.setdefault((anchor, days), []).append(family)
    return [_Group(days, tuple(of_group)) for (_, days), of_group in found.items()]


def _changing(families: Collection[Family], keys: Sequence[str], passed: Sequence[date]) -> str:
    """The query of the keys that change: each value of `keys` in a start that concerns one of the families."""
    ended = sorted({day - timedelta(days) for day in passed for days in windows_of(families)})
    known = " OR ".join(f"({has_key(family)})" for family in families)
    return f"SELECT DISTINCT {', '.join(keys)} FROM changing WHERE ({known}) AND (ended IS NULL OR ended IN ({_dates(ended)}))"  # noqa: S608


def _dates(days: Sequence[date]) -> str:
    return ", ".join(f"DATE '{day}'" for day in days) or "NULL"


def _lay_out_results(
    connection: "duckdb.DuckDBPyConnection",
    results: Sequence[Path],
    timezone: ZoneInfo,
    windows: Sequence[int],
    before_seq: int | None = None,
) -> Mapping[date, datetime]:
    """Create `results`, `applied` and `midnights`; returns the first instant of each local day in these."""
    limit = "" if before_seq is None else f" WHERE seq < {before_seq}"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW results AS SELECT * FROM {parquet(results)}{limit}")  # noqa: S608 quoted
    connection.execute("CREATE OR REPLACE TEMP TABLE applied AS " + query("applied"))
    [(first, last)] = connection.execute("SELECT min(race_date), max(race_date) FROM results").fetchall()
    days, midnights = midnights_of(first, last, timezone, windows)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE midnights AS "
        "SELECT unnest($days::DATE[]) AS day, make_timestamptz(unnest($midnights::BIGINT[])) AS midnight",
        {"days": days, "midnights": midnights},
    )
    return {day: EPOCH + midnight * MICROSECOND for day, midnight in zip(days, midnights, strict=True)}


def windows_of(families: Collection[Family]) -> list[int]:
    """The distinct window lengths of families, in days, ascending."""
    return sorted({days for family in families for days in family.windows})


def midnights_of(
    first: date | None, last: date | None, timezone: ZoneInfo, windows: Sequence[int]
) -> tuple[list[date], list[int]]:
    """Each local day from the first race to the end of the last race's windows, and the first instant of each (µs)."""
    if first is None or last is None:
        return [], []
    days = [first + timedelta(days=number) for number in range((last - first).days + max(windows, default=0) + 2)]
    return days, [(local_midnight(day, timezone) - EPOCH) // MICROSECOND for day in days]


def laid_out(
    windows: Sequence[int],
    families: Collection[Family],
    source: str = "measured",
    columns: Collection[str] = START_COLUMNS,
) -> str:
    """The query of `starts` in SQL that DuckDB and Spark share: one row for each start of a source that took effect.

    It has some `columns`, and the measures that `families` use.
    """
    used = sorted(measure for family in families for measure in family.used_measures)
    named = ", ".join(f"measured.{name}" for name in dict.fromkeys((*columns, *used)))
    midnights = "".join(f", m{days}.midnight AS midnight_{days}" for days in windows)
    joins = " ".join(f"JOIN midnights m{days} ON m{days}.day = race_date + {days}" for days in windows)
    return f"""
        SELECT {named}, applied.retracted_at, after.midnight AS day_after{midnights}
        FROM {source} AS measured JOIN applied USING (seq) JOIN midnights after ON after.day = race_date + 1 {joins}"""  # noqa: S608 only our own names and windows' lengths are put in
