"""Point-in-time joins in DuckDB over the changelogs of feature views. Knows nothing of Feast.

A view's row holds from its event time until the next row of the same key, so the value at an instant is the latest
row at or before it: DuckDB's ASOF JOIN finds it in one sorted pass. Joined view by view: first the instant, on narrow
rows of the keys that occur, then the columns asked for, of the rows found, so that memory follows the entity rows and
not the history.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.stores.spill import bound, spill_folder
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
    """A DuckDB of its own, in UTC, that spills to a folder it removes, and no more than `spill.bound` allows."""
    import duckdb

    with spill_folder() as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "temp_directory": str(spill),
                "max_temp_directory_size": bound(spill),
                "threads": threads or os.cpu_count() or 1,
            }
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
        _check(connection, table)
        joined = _join(connection, table, at)
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


def _join(connection: "duckdb.DuckDBPyConnection", table: Table, at: str) -> "pa.Table":
    """One row per entity row, in order: the columns of the latest row of its key at its instant.

    The instant is found on narrow rows, keys as small numbers; the wide rows are read after, only those found.
    """
    keys = [f"__key_{number}" for number in range(len(table.keys))]
    asked = ", ".join(f"{name(column)} AS {key}" for key, (_, column) in zip(keys, table.keys, strict=True))
    listed = ", ".join(keys)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE asked AS SELECT {ROW}, {asked}, {name(at)} AS {AT} FROM entities")  # noqa: S608
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known AS SELECT *, row_number() OVER () AS __id FROM (SELECT DISTINCT {listed} FROM asked)"  # noqa: S608
    )
    connection.execute(_found_sql(table, keys))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT DISTINCT {listed}, __event FROM found WHERE __event IS NOT NULL"  # noqa: S608
    )
    connection.execute(_wide_sql(table, keys))
    wanted, held = connection.sql("SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM wide)").fetchall()[0]
    return connection.sql(_joined_sql(table, keys, break_ties=held > wanted)).to_arrow_table()


def _found_sql(table: Table, keys: Sequence[str]) -> str:
    """Each entity row with the instant of the row that holds for it, null where none does."""
    event = f"s.{name(table.event)}::TIMESTAMPTZ"
    life = table.ttl // timedelta(microseconds=1) if table.ttl else None
    fresh = f"epoch_us(a.{AT}) - epoch_us(h.__event) <= {life}" if life else "true"
    return f"""
        CREATE OR REPLACE TEMP TABLE found AS
        WITH history AS (
            SELECT k.__id, {event} AS __event FROM {table.scan} s JOIN known k ON {_same(table, keys, "k")}
            WHERE {event} <= (SELECT max({AT}) FROM asked)
        ),
        numbered AS (
            SELECT a.*, k.__id FROM asked a LEFT JOIN known k ON {" AND ".join(f"a.{key} = k.{key}" for key in keys)}
        )
        SELECT a.{ROW}, {", ".join(f"a.{key}" for key in keys)}, CASE WHEN {fresh} THEN h.__event END AS __event
        FROM numbered a ASOF LEFT JOIN history h ON a.__id = h.__id AND a.{AT} >= h.__event
    """  # noqa: S608 names are quoted


def _wide_sql(table: Table, keys: Sequence[str]) -> str:
    """The rows found, each once, or as often as the table has a row of that key and instant."""
    values = [f"s.{name(column.source)} AS __value_{number}" for number, column in enumerate(table.columns)]
    created = f"s.{name(table.created)}" if table.created else "NULL"
    listed = ", ".join([*(f"w.{key}" for key in keys), "w.__event", f"{created} AS __created", *values])
    return f"""
        CREATE OR REPLACE TEMP TABLE wide AS
        SELECT {listed} FROM {table.scan} s
        JOIN wanted w ON {_same(table, keys, "w")} AND s.{name(table.event)}::TIMESTAMPTZ = w.__event
    """  # noqa: S608 names are quoted


def _joined_sql(table: Table, keys: Sequence[str], *, break_ties: bool) -> str:
    """The entity rows' columns, in their order; of rows of one key and instant, the one created last."""
    partition = ", ".join((*keys, "__event"))
    newest = f"QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY __created DESC NULLS LAST) = 1"
    values = [f"w.__value_{number} AS {name(column.name)}" for number, column in enumerate(table.columns)]
    return f"""
        SELECT {", ".join(values or [f"f.{ROW}"])} FROM found f
        LEFT JOIN (SELECT * FROM wide {newest if break_ties else ""}) w
            ON {" AND ".join(f"f.{key} = w.{key}" for key in (*keys, "__event"))}
        ORDER BY f.{ROW}
    """  # noqa: S608 names are quoted


def _same(table: Table, keys: Sequence[str], other: str) -> str:
    return " AND ".join(f"s.{name(column)} = {other}.{key}" for key, (column, _) in zip(keys, table.keys, strict=True))


def _check(connection: "duckdb.DuckDBPyConnection", table: Table) -> None:
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
    for feature in table.columns:
        if feature.source not in held:
            raise UserError(
                f"{table.view} has no column {feature.source!r} in its feature table: run `velo build` to make it anew"
            )
