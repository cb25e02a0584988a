"""Who was declared in every race at its decision time, and what became of them: from what the messages told, in SQL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from typing import Final

import duckdb
import pyarrow as pa

from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.going import distance_band, going_group
from velo.racing.messages import STARTED
from velo.storage.store import Home

MEMORY_LIMIT: Final = "1500MB"
BEGINNING: Final = date(1, 1, 1)
END: Final = date(9999, 12, 31)


@dataclass(frozen=True, slots=True)
class Period:
    """Local race dates from `since` to `until`, both included."""

    since: date = BEGINNING
    until: date = END


def declared(home: Home, lead: timedelta, period: Period = Period(), snapshot: Snapshot | None = None) -> pa.Table:
    """One row per runner declared at decision time, by race and horse; grain and columns as `sql/declared.sql` says.

    Raises `UserError` where no tables were built.
    """
    with told(home, snapshot or Snapshot()) as connection:
        _register(connection, "goings", "going", pa.string(), "goes", going_group)
        _register(connection, "distances", "distance_m", pa.float64(), "band", distance_band)
        bound = {"lead": lead, "since": period.since, "until": period.until, "started": sorted(STARTED)}
        return connection.sql(_query("declared"), params=bound).to_arrow_table()


def outcomes(home: Home, snapshot: Snapshot | None = None) -> pa.Table:
    """One row per runner of version 1 of each result; grain and columns as `sql/outcomes.sql` says."""
    with told(home, snapshot or Snapshot()) as connection:
        return connection.sql(_query("outcomes"), params={"started": sorted(STARTED)}).to_arrow_table()


@contextmanager
def told(home: Home, snapshot: Snapshot) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views `runners` and `notices`: what the messages told, every version."""
    with changelog.engine(MEMORY_LIMIT) as connection:
        for kind in ("runners", "notices"):
            parts = ", ".join(changelog.text(part) for part in snapshot.parts(home.offline / kind))
            connection.execute(f"CREATE TEMP VIEW {kind} AS SELECT * FROM read_parquet([{parts}])")  # noqa: S608 paths are quoted
        yield connection


def _register(
    connection: duckdb.DuckDBPyConnection, name: str, column: str, kind: pa.DataType, made: str, of: Callable[..., str]
) -> None:
    """A table with each value of a column that occurs, and what the sport's own rule makes of it."""
    sources = ("runners", "notices") if column == "going" else ("runners",)
    union = " UNION ".join(f"SELECT DISTINCT {column} FROM {source} WHERE {column} IS NOT NULL" for source in sources)  # noqa: S608 names of our own
    values = [row[0] for row in connection.execute(union).fetchall()]
    table = pa.table({column: pa.array(values, kind), made: pa.array(map(of, values), pa.string())})
    connection.register(name, table)


def _query(name: str) -> str:
    return files("velo.training").joinpath("sql", f"{name}.sql").read_text()
