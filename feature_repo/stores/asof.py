"""Point-in-time joins in DuckDB over the changelogs of feature views. Knows nothing of Feast.

A view's row holds from its event time until the next row of the same key, so the value at an instant is the latest
row at or before it: DuckDB's ASOF JOIN finds it in one sorted pass. Joined view by view, each reading only the
columns asked for and the keys that occur, so that memory follows the entity rows and not the history.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from velo.errors import UserError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROW = "__row"
AT = "__at"


@dataclass(frozen=True, slots=True)
class Column:
    """A feature to fetch: its column in the table, its name in the answer, its SQL type where the table is empty."""

    source: str
    name: str
    sql_type: str


@dataclass(frozen=True, slots=True)
class Table:
    """One view's changelog: finished Parquet parts, and which columns mean what.

    `keys` maps the table's key columns to columns of the entity rows. Rows older than `ttl` at an entity row's
    instant are none. Of rows of one key and instant the one created last counts.
    """

    view: str
    parts: Sequence[str]
    keys: Sequence[tuple[str, str]]
    event: str
    created: str | None
    columns: Sequence[Column]
    ttl: timedelta | None = None

    @property
    def scan(self) -> str:
        """SQL of the table's rows; typed and empty where there is no part."""
        if self.parts:
            files = ", ".join(text(part) for part in self.parts)
            return f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
        empty = [f"NULL::VARCHAR AS {name(key)}" for key, _ in self.keys]
        empty += [f"NULL::TIMESTAMPTZ AS {name(column)}" for column in (self.event, self.created) if column]
        empty += [f"NULL::{column.sql_type} AS {name(column.source)}" for column in self.columns]
        return f"(SELECT {', '.join(empty)} WHERE false)"


@contextmanager
def engine(memory_limit: str, threads: int | None = None) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A DuckDB of its own, in UTC, that spills to a folder it removes."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="velo-duckdb-") as spill:
        connection = duckdb.connect(
            config={"memory_limit": memory_limit, "temp_directory": spill, "threads": threads or os.cpu_count() or 1}
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        except duckdb.OutOfMemoryException as full:
            raise UserError(
                f"the join needs more than memory_limit {memory_limit!r} ({full}): raise it under offline_store in "
                "feature_store.yaml, or ask for fewer entity rows at a time"
            ) from None
        finally:
            connection.close()


def point_in_time(
    connection: "duckdb.DuckDBPyConnection", entities: "pa.Table", at: str, tables: Sequence[Table]
) -> "pa.Table":
    """The entity rows, in their order, with the columns of every table as of each row's instant.

    `at` names the instant's column, TIMESTAMPTZ in µs (nanoseconds are refused by DuckDB). A row is never dropped or
    repeated: an unknown key, a null key and a null instant all give nulls. Raises `UserError` for a missing key
    column or one of another type than the table's.
    """
    import pyarrow as pa

    numbered = entities.append_column(ROW, pa.array(range(entities.num_rows), pa.int64()))
    connection.register("entities", numbered)
    columns: list[tuple[str, pa.ChunkedArray]] = []
    for table in tables:
        _check_keys(connection, table, entities)
        joined = connection.sql(_join_sql(table, at)).to_arrow_table()
        columns += [(column.name, joined.column(column.name)) for column in table.columns]
    connection.unregister("entities")
    for column_name, values in columns:
        entities = entities.append_column(column_name, values)
    return entities


def latest_sql(
    scan: str,
    keys: Sequence[str],
    columns: Sequence[str],
    event: str,
    created: str | None,
    touched: str = "true",
) -> str:
    """SQL of the newest row of each key up to $end, for keys with a row for which `touched` holds.

    Finds each key's latest instant on narrow rows first and fetches the wide ones after.
    """
    names = ", ".join(name(key) for key in keys)
    wanted = ", ".join(f"f.{name(column)}" for column in (*keys, *columns, event, *((created,) if created else ())))
    on = " AND ".join(f"f.{name(key)} = newest.{name(key)}" for key in keys)
    order = f"f.{name(created)} DESC NULLS LAST" if created else "1"
    partition = ", ".join(f"f.{name(key)}" for key in keys)
    return f"""
        WITH newest AS (
            SELECT {names}, max({name(event)}) AS __newest FROM {scan}
            WHERE {name(event)} <= $until GROUP BY {names} HAVING bool_or({touched})
        )
        SELECT {wanted} FROM {scan} f JOIN newest ON {on} AND f.{name(event)} = newest.__newest
        QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {order}) = 1
    """  # noqa: S608 names are quoted, values are bound


def within_sql(event: str, start: datetime | None, end: datetime | None) -> tuple[str, dict[str, datetime]]:
    """A condition on the event time and its values: from `start` to `end`, both included, either open if None."""
    values = {key: value for key, value in (("since", start), ("until", end)) if value is not None}
    conditions = [f"{name(event)} {'>=' if key == 'since' else '<='} ${key}" for key in values]
    return " AND ".join(conditions) or "true", values


def name(identifier: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def text(literal: str) -> str:
    """A string literal, quoted for SQL."""
    return "'" + literal.replace("'", "''") + "'"


def _join_sql(table: Table, at: str) -> str:
    """One row per entity row, in order: the columns of the latest row of its key at its instant.

    The ASOF join runs over keys and instants alone; the wide columns are fetched for the rows it found. Were they
    carried through, every column of the history would be sorted with them.
    """
    keys = [f"__key_{number}" for number in range(len(table.keys))]
    listed = ", ".join(keys)
    asked = ", ".join(f"{name(column)} AS {key}" for key, (_, column) in zip(keys, table.keys, strict=True))
    stored = ", ".join(f"{name(column)} AS {key}" for key, (column, _) in zip(keys, table.keys, strict=True))
    same = " AND ".join(f"a.{key} = f.{key}" for key in keys)
    life = table.ttl // timedelta(microseconds=1) if table.ttl else None
    fresh = f"epoch_us(a.{AT}) - epoch_us(f.__event) <= {life}" if life else "true"
    values = ", ".join(f"w.__value_{number} AS {name(c.name)}" for number, c in enumerate(table.columns))
    wide = ", ".join(f"{name(c.source)} AS __value_{number}" for number, c in enumerate(table.columns))
    tie = f"{name(table.created)}" if table.created else "NULL"
    found = " AND ".join(f"w.{key} = m.{key}" for key in keys)
    return f"""
        WITH asked AS (SELECT DISTINCT {asked}, {name(at)} AS {AT} FROM entities WHERE {name(at)} IS NOT NULL),
        history AS (
            SELECT {stored}, {name(table.event)}::TIMESTAMPTZ AS __event FROM {table.scan}
            WHERE __event <= (SELECT max({AT}) FROM asked)
        ),
        met AS MATERIALIZED (
            SELECT {", ".join(f"a.{key}" for key in keys)}, a.{AT}, f.__event
            FROM asked a ASOF JOIN (
                SELECT * FROM history WHERE ({listed}) IN (SELECT ({listed}) FROM asked)
            ) f ON {same} AND a.{AT} >= f.__event
            WHERE {fresh}
        ),
        rows_met AS (SELECT DISTINCT {listed}, __event FROM met),
        wide AS (
            SELECT {", ".join(f"s.{key}" for key in keys)}, s.__event, s.* EXCLUDE ({listed}, __event)
            FROM (
                SELECT {stored}, {name(table.event)}::TIMESTAMPTZ AS __event, {tie} AS __created, {wide}
                FROM {table.scan}
            ) s JOIN rows_met r ON {" AND ".join(f"s.{key} = r.{key}" for key in keys)} AND s.__event = r.__event
            QUALIFY row_number() OVER (
                PARTITION BY {", ".join(f"s.{key}" for key in keys)}, s.__event ORDER BY s.__created DESC NULLS LAST
            ) = 1
        )
        SELECT {values}
        FROM entities e
        LEFT JOIN met m ON {" AND ".join(f"e.{name(c)} = m.{k}" for k, (_, c) in zip(keys, table.keys, strict=True))}
            AND e.{name(at)} = m.{AT}
        LEFT JOIN wide w ON {found} AND w.__event = m.__event
        ORDER BY e.{ROW}
    """  # noqa: S608 names are quoted


def _check_keys(connection: "duckdb.DuckDBPyConnection", table: Table, entities: "pa.Table") -> None:
    held = {
        row[0]: row[1]
        for row in connection.execute(f"DESCRIBE SELECT * FROM {table.scan}").fetchall()  # noqa: S608
    }
    given = {row[0]: row[1] for row in connection.execute("DESCRIBE SELECT * FROM entities").fetchall()}
    for key, column in table.keys:
        if column not in given:
            raise UserError(
                f"the entity rows have no column {column!r}, which {table.view} is keyed by: add it, null where unknown"
            )
        if given[column] != held.get(key, given[column]):
            raise UserError(
                f"{column} is {given[column]} in the entity rows and {held[key]} in {table.view}: cast it, ids are text"
            )
    for column in table.columns:
        if column.source not in held:
            raise UserError(
                f"{table.view} has no column {column.source!r} in its feature table: run `velo build` to make it anew"
            )
