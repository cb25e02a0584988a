"""The newest known values of each key's starts, in arrays: a window of SQL takes several times as long.

`starts_in_order` gives a family's starts; the array form of each recent feature computes it from what is found in them. A start's
k-th newest known value of a measure is found by counting: the known values are numbered along all starts, and a key's begin
where the counts before its first start end.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from velo.feature_repo.catalogue.aggregates import Floats
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH, KnownNumbers
from velo.streams.batch.arrow_numbers import Flags, Numbers, column_of_numbers, known_in, numbers_of
from velo.streams.dataflow.arrow_rows import column_of, schema_of

if TYPE_CHECKING:
    import duckdb

ROWS_AT_ONCE: Final = 100_000
"""Rows whose newest values are in memory at a time: some 500 bytes each."""


def newest_column(measure: str, back: int) -> str:
    """The column of the newest known value of a measure but `back`."""
    return f"{measure}_{back}"


def starts_in_order(family: Family) -> str:
    """One row per start of a key, in the order in which they were run: what the newest values are looked up in.

    A key that learned of its starts in that order, and of none twice, has them once, with 0 as `known_at_us`. Any other has them
    for each instant at which they changed (microseconds since 1970), all that it knew then. A trainer with several runners in a
    race learns of all of them at one instant, which is in order.
    """
    order = ", ".join(family.start_order)
    measures = ", ".join(dict.fromkeys(aggregate.measure for aggregate in family.recent))
    return f"""-- one row per start of a key of {family.view}, and instant if the key learned of its starts out of order
WITH known AS (
    SELECT key_id, known_at, retracted_at, {order}, {measures}
    FROM starts JOIN keys USING ({", ".join(family.keys)})
), unsettled AS (
    SELECT DISTINCT key_id
    FROM (SELECT key_id, known_at, retracted_at, lag(known_at) OVER (
            PARTITION BY key_id ORDER BY {order}) AS known_before FROM known)
    WHERE retracted_at IS NOT NULL OR known_at < known_before
), instants AS (
    SELECT key_id, known_at AS t FROM known WHERE key_id IN (FROM unsettled)
    UNION
    SELECT key_id, retracted_at FROM known WHERE retracted_at IS NOT NULL
), every AS (
    SELECT key_id, 0 AS known_at_us, * EXCLUDE (key_id, known_at, retracted_at), known_at AS t
    FROM known WHERE key_id NOT IN (FROM unsettled)
    UNION ALL
    SELECT instants.key_id, epoch_us(instants.t), known.* EXCLUDE (key_id, known_at, retracted_at), instants.t
    FROM instants LEFT JOIN known ON known.key_id = instants.key_id
        AND known.known_at <= instants.t AND (known.retracted_at IS NULL OR known.retracted_at > instants.t)
)
SELECT key_id, known_at_us, epoch_us(t) AS t_us, t, {measures} FROM every ORDER BY key_id, known_at_us, {order}"""  # noqa: S608 our own names


def recents(family: Family) -> str:
    """One row per key and instant at which its known starts change: each recent feature from then on.

    The arrays of `make_recents` compute it; its text is the formulas' part of a view's fingerprint.
    """
    values = ",\n    ".join(
        f"{aggregate.sql(partial(newest_column, aggregate.measure), aggregate.measure)} AS {aggregate.name}"
        for aggregate in family.recent
    )
    return f"""-- one row per key of {family.view} and instant at which its known starts change
SELECT key_id, t,
    {values}
FROM newest_first"""  # noqa: S608 our own names


def make_recents(connection: "duckdb.DuckDBPyConnection", family: Family) -> None:
    """Create the table `recents` of a family from the tables `starts` and `keys`."""
    starts = connection.sql(starts_in_order(family)).to_arrow_table().combine_chunks()
    lasts, firsts = _groups(starts)
    values = RecentValues(family, lambda measure: (numbers_of(starts[measure]), known_in(starts[measure])))
    schema = schema_of(family)
    made = "CREATE OR REPLACE TEMP TABLE recents AS"
    for begin in range(0, max(len(lasts), 1), ROWS_AT_ONCE):
        some = slice(begin, begin + ROWS_AT_ONCE)
        table = starts.select(["key_id", "t"]).take(column_of_numbers(lasts[some]))
        for recent, of_rows in zip(family.recent, values.of(lasts[some], firsts[some]), strict=True):
            table = table.append_column(recent.name, column_of(of_rows, schema.field(recent.name).type))
        connection.register("newest_first", table)
        connection.execute(f"{made} FROM newest_first")
        made = "INSERT INTO recents"
    connection.unregister("newest_first")


def _groups(starts: pa.Table) -> tuple[Numbers, Numbers]:
    """The starts that features are made of, and the first of the group of each: all of a key, or those known at one instant.

    Of a group at an instant, and of starts that a key learned of at one instant, that is the last start alone.
    """
    key, instant, known_at = (numbers_of(starts[name]) for name in ("key_id", "known_at_us", "t_us"))
    begins = np.ones(starts.num_rows, np.bool_)
    begins[1:] = (key[1:] != key[:-1]) | (instant[1:] != instant[:-1])
    first = np.flatnonzero(begins)
    first_of_row = first[np.cumsum(begins) - 1] if starts.num_rows else first
    ends = np.append(begins[1:], True)[: starts.num_rows]
    last_of_instant = np.append(known_at[1:] != known_at[:-1], True)[: starts.num_rows]
    lasts = np.flatnonzero(ends | ((instant == 0) & last_of_instant))
    return lasts, first_of_row[lasts]


class RecentValues:
    """The recent features of a family, of starts in groups, each in order; `numbers` gives a measure of all starts."""

    def __init__(self, family: Family, numbers: Callable[[str], KnownNumbers]) -> None:
        self._recents = family.recent
        self._numbers = {measure: numbers(measure) for measure in {recent.measure for recent in family.recent}}
        self._newest = {
            recent.measure: NewestKnown(*self._numbers[recent.measure]) for recent in family.recent if recent.depth
        }

    def of(self, lasts: Numbers, firsts: Numbers) -> Iterator[Floats]:
        """Each feature as of some starts, NaN for null; `firsts` begin their groups."""
        newest = {
            measure: [known.newest(lasts, firsts, back) for back in range(RECENT_DEPTH)]
            for measure, known in self._newest.items()
        }
        for recent in self._recents:
            values, known = self._numbers[recent.measure]
            yield recent.arrays(newest.get(recent.measure, ()), (values[lasts], known[lasts]))


class NewestKnown:
    """The known values of a measure of starts in groups, each in order, and for each start how many there are up to it."""

    def __init__(self, values: Numbers, known: Flags) -> None:
        self._values = values[known]
        self._counts: Numbers = np.cumsum(known)
        self._counts_before = self._counts - known

    def newest(self, rows: Numbers, firsts: Numbers, back: int) -> tuple[Numbers, Flags]:
        """The newest value but `back` as of some rows, and whether it is known: `firsts` begin the groups of the rows."""
        places = self._counts[rows] - 1 - back
        known = places >= self._counts_before[firsts]
        if not known.any():
            return np.zeros(len(rows), np.int64), known
        return self._values[np.where(known, places, 0)], known
