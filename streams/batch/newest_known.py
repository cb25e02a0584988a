"""The newest known values of each key's starts, in arrays: a window of SQL takes several times as long.

`starts_in_order` gives a family's starts, `recents` makes its recent features of what the arrays find between them. A start's
k-th newest known value of a measure is found by counting: the known values are numbered along all starts, and a key's begin
where the counts before its first start end.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH
from velo.streams.batch.arrow_numbers import Flags, Numbers, column_of_numbers, known_in, numbers_of

if TYPE_CHECKING:
    import duckdb

ROWS_AT_ONCE: Final = 100_000
"""Rows whose newest values are in memory at a time: some 500 bytes each."""


def looked_back_on(family: Family) -> tuple[str, ...]:
    """The measures whose values before the last start are used by a family's recent features."""
    return tuple(dict.fromkeys(recent.measure for recent in family.recent if recent.depth))


def column_of(measure: str, back: int) -> str:
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
    """One row per key and instant at which its known starts change: each recent feature from then on."""
    values = ",\n    ".join(
        f"{aggregate.sql(partial(column_of, aggregate.measure), aggregate.measure)} AS {aggregate.name}"
        for aggregate in family.recent
    )
    return f"""-- one row per key of {family.view} and instant at which its known starts change
SELECT key_id, t,
    {values}
FROM newest_first"""  # noqa: S608 our own names


def make_recents(connection: "duckdb.DuckDBPyConnection", family: Family) -> None:
    """Create the table `recents` of a family from the tables `starts` and `keys`."""
    starts = connection.sql(starts_in_order(family)).to_arrow_table().combine_chunks()
    newest = _Newest(starts, looked_back_on(family))
    made = "CREATE OR REPLACE TEMP TABLE recents AS"
    for begin in range(0, max(len(newest.rows), 1), ROWS_AT_ONCE):
        connection.register("newest_first", newest.table(slice(begin, begin + ROWS_AT_ONCE)))
        connection.execute(f"{made} {recents(family)}")
        made = "INSERT INTO recents"
    connection.unregister("newest_first")


class _Newest:
    """Starts in groups: all of a key, or those that a key knew at one instant. `rows` are those that features are made of.

    Of a group at an instant, and of starts that a key learned of at one instant, that is the last start alone.
    """

    def __init__(self, starts: pa.Table, measures: Sequence[str]) -> None:
        self._starts = starts
        key, instant, known_at = (numbers_of(starts[name]) for name in ("key_id", "known_at_us", "t_us"))
        begins = np.ones(starts.num_rows, np.bool_)
        begins[1:] = (key[1:] != key[:-1]) | (instant[1:] != instant[:-1])
        first = np.flatnonzero(begins)
        first_of_row = first[np.cumsum(begins) - 1] if starts.num_rows else first
        ends = np.append(begins[1:], True)[: starts.num_rows]
        last_of_instant = np.append(known_at[1:] != known_at[:-1], True)[: starts.num_rows]
        self.rows: Numbers = np.flatnonzero(ends | ((instant == 0) & last_of_instant))
        self._firsts = first_of_row[self.rows]
        self._values = {
            measure: NewestKnown(numbers_of(starts[measure]), known_in(starts[measure])) for measure in measures
        }

    def table(self, some: slice) -> pa.Table:
        """The key, the instant, the measures and the newest known values of some of `rows`."""
        rows, firsts = self.rows[some], self._firsts[some]
        table = self._starts.take(column_of_numbers(rows))
        for measure, known in self._values.items():
            for back in range(RECENT_DEPTH):
                table = table.append_column(
                    column_of(measure, back), column_of_numbers(*known.newest(rows, firsts, back))
                )
        return table


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
