"""The table `starts`, from which SQL computes views: every start that took effect, with the midnights of its windows."""

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from velo.feature_repo.catalogue.families import Family
from velo.racing.clock import EPOCH, MICROSECOND, local_midnight
from velo.streams.batch.measuring import query
from velo.streams.batch.staging import parquet

if TYPE_CHECKING:
    import duckdb

START_COLUMNS: Final = (
    "seq", "known_at", "race_id", "race_date", "off_time", "race_day", "one",
    "trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell",
)  # fmt: skip
"""The columns of every laid out start, whichever views are made of it."""


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


def _lay_out_results(
    connection: "duckdb.DuckDBPyConnection",
    results: Sequence[Path],
    timezone: ZoneInfo,
    windows: Sequence[int],
    before_seq: int | None = None,
) -> None:
    """Create `results`, `applied` and `midnights`."""
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


def laid_out(windows: Sequence[int], families: Collection[Family]) -> str:
    """The query of `starts` in SQL that DuckDB and Spark share: one row for each measured start that took effect.

    It has the columns of `START_COLUMNS`, and the measures that `families` use.
    """
    used = sorted(measure for family in families for measure in family.used_measures)
    named = ", ".join(f"measured.{name}" for name in dict.fromkeys((*START_COLUMNS, *used)))
    midnights = "".join(f", m{days}.midnight AS midnight_{days}" for days in windows)
    joins = " ".join(f"JOIN midnights m{days} ON m{days}.day = race_date + {days}" for days in windows)
    return f"""
        SELECT {named}, applied.retracted_at, after.midnight AS day_after{midnights}
        FROM measured JOIN applied USING (seq) JOIN midnights after ON after.day = race_date + 1 {joins}"""  # noqa: S608 only our own names and windows' lengths are put in
