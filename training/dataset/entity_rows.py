"""Runners declared in each race at its decision time, their outcomes, and the prices before the off, in SQL over the messages.

A price is that of the latest snapshot of its race, from any source, as `velo.racing.cards.declared_at` takes it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from velo.feature_repo.catalogue import market_moves
from velo.feature_repo.point_in_time import numbers
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import DRIFT_MINUTES
from velo.racing.deductions import Withdrawal
from velo.racing.going import distance_band, going_group
from velo.racing.messages import STARTED
from velo.racing.place_bets import terms_of
from velo.racing.settlement import deducted, venue_of
from velo.storage.store import Home
from velo.training.dataset.by_race import Floats, Indices, starts_of

MEMORY_LIMIT: Final = "1500MB"
_LATER_COLUMNS: Final = (
    " UNION ALL BY NAME SELECT NULL::MAP(VARCHAR, DOUBLE) AS volumes, NULL::DOUBLE AS reduction_factor WHERE false"
)
"""Adds the columns that tables of an earlier version lack."""
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
    with message_views(home, snapshot or Snapshot()) as connection:
        _register(connection, "goings", "going", pa.string(), "goes", going_group)
        _register(connection, "distances", "distance_m", pa.float64(), "band", distance_band)
        bound = {"lead": lead, "since": period.since, "until": period.until, "started": sorted(STARTED)}
        return connection.sql(_query("declared"), params=bound).to_arrow_table()


def outcomes(home: Home, snapshot: Snapshot | None = None) -> pa.Table:
    """One row per runner of version 1 of each result; grain and columns as `sql/outcomes.sql` says."""
    with message_views(home, snapshot or Snapshot()) as connection:
        return connection.sql(_query("outcomes"), params={"started": sorted(STARTED)}).to_arrow_table()


@contextmanager
def message_views(home: Home, snapshot: Snapshot) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views `runners` and `notices`: the content of the messages, every version."""
    with changelog.engine(MEMORY_LIMIT) as connection:
        for kind in ("runners", "notices"):
            rows = f"SELECT * FROM {changelog.scan(snapshot.parts(home.offline / kind), changelog.BY_NAME)}"  # noqa: S608 paths are quoted
            connection.execute(f"CREATE TEMP VIEW {kind} AS {rows}{_LATER_COLUMNS if kind == 'notices' else ''}")
        yield connection


def _register(
    connection: duckdb.DuckDBPyConnection, name: str, column: str, kind: pa.DataType, made: str, of: Callable[..., str]
) -> None:
    """Register a table of each value that occurs in a column, beside the value that racing's rule derives from it."""
    sources = ("runners", "notices") if column == "going" else ("runners",)
    union = " UNION ".join(f"SELECT DISTINCT {column} FROM {source} WHERE {column} IS NOT NULL" for source in sources)  # noqa: S608 names of our own
    values = [row[0] for row in connection.execute(union).fetchall()]
    table = pa.table({column: pa.array(values, kind), made: pa.array(map(of, values), pa.string())})
    connection.register(name, table)


def _query(name: str) -> str:
    return files("velo.training.dataset").joinpath("sql", f"{name}.sql").read_text()


def place_counts(home: Home, race_ids: Sequence[str], starters: Indices) -> Indices:
    """How many places a place bet pays on in each race, by the country and kind of its first result; 0 where it is not offered."""
    with message_views(home, Snapshot()) as connection:
        query = """
            SELECT race_id, any_value(country), coalesce(any_value(handicap), false)
            FROM runners WHERE type = 'result' AND result_version = 1 GROUP BY race_id
        """
        terms = {race: (country, handicap) for race, country, handicap in connection.execute(query).fetchall()}
    counts = []
    for race, size in zip(race_ids, starters.tolist(), strict=True):
        country, handicap = terms[race]
        counts.append(terms_of(country, size, handicap=handicap).places)
    return np.asarray(counts, dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Prices:
    """Decimal odds of each row of a training set, NaN where none: at decision time (`taken`), and the last (`closing`).

    The last is SP, and where a runner has none, the last snapshot before the off. `settled` is the price taken less what later
    withdrawals of the race deduct, NaN where a deduction is not known. `moves` are the market's columns at decision
    time, (rows, `market_moves.COLUMNS`), which no model but a blend with the market takes.
    """

    taken: Floats
    closing: Floats
    moves: Floats
    settled: Floats


def prices(home: Home, identity: pa.Table, lead: timedelta, sp: Floats, started: NDArray[np.bool_]) -> Prices:
    """The prices of a training set's rows, in their order, from its `identity`, its lead, each row's SP and whether it started.

    A declared runner that did not start was withdrawn after the decision. Raises `UserError` if no tables were built.
    """
    race = ["race_id", "decision_time", "off_time"]
    with message_views(home, Snapshot()) as connection:
        connection.register("races", identity.select(race).group_by(race).aggregate([]))
        shown = connection.sql(_query("prices"), params={"lead": lead}).to_arrow_table()
    ordered = identity.select(["race_id", "horse_id", "decision_time"]).append_column(
        "row", pa.array(np.arange(identity.num_rows))
    )
    joined = ordered.join(shown, ["race_id", "horse_id"], join_type="left outer").sort_by("row")
    taken, last_shown, volume = (numbers(joined.column(name)) for name in ("taken", "last_shown", "volume"))
    then = np.stack([numbers(joined.column(f"then_{minutes}")) for minutes in DRIFT_MINUTES], axis=1)
    moves = market_moves.market_columns(taken, then, volume, starts_of(joined.column("race_id").to_numpy()))
    return Prices(taken, np.where(np.isnan(sp), last_shown, sp), moves, _settled(joined, taken, started))


def _settled(rows: pa.Table, taken: Floats, started: NDArray[np.bool_]) -> Floats:
    """The prices taken less the deductions of each race's late withdrawals; `rows` are joined with `sql/prices.sql`."""
    settled = taken.copy()
    races = rows.column("race_id").to_pylist()
    gone: dict[str, list[Withdrawal]] = {}
    for row in rows.filter(pa.array(~started)).to_pylist():
        late = Withdrawal(row["horse_id"], row["decision_time"], row["when_withdrawn"], row["reduction_factor"])
        gone.setdefault(row["race_id"], []).append(late)
    for place in np.flatnonzero(started & ~np.isnan(taken)) if gone else ():
        later = gone.get(races[place])
        if later:
            price, _ = deducted(float(taken[place]), later, venue_of(rows.column("taken_source")[place].as_py()))
            settled[place] = np.nan if price is None else price
    return settled


def closing_line_value(taken: Floats, closing: Floats) -> Floats:
    """The price taken ÷ the closing price − 1: above 0 where the market came to agree; NaN where either is missing."""
    return np.asarray(taken / closing - 1.0, dtype=np.float64)
