"""The warehouse: `warehouse.duckdb`, read-only views over the published tables, for an analyst's SQL.

Views have no data of their own, so they are as new as the tables. Beside the feature views (changelogs) there are `runners` and
`notices` (the messages), `starts` (one row for each start of the latest version), and a `…_daily` view for four families.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import duckdb

from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.stores import changelog
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Store
from velo.storage.table_versions import changing_parts, current, manifest_of
from velo.streams.batch import measuring, staging
from velo.streams.batch.render import has_key
from velo.streams.batch.staging import first_line

DAILY: Final = ("trainer_velocity", "jockey_velocity", "horse_form", "draw_bias")
ROWS_SHOWN: Final = 10_000
_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)
"""Statements that only read; a PIVOT is a MULTI statement."""
_LISTED: Final = '`velo sql "show tables"` lists what there is'


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query; `cut` where there were more than `ROWS_SHOWN`."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


def make_warehouse(store: Store) -> None:
    """Write a new warehouse file and move it into place, so that readers of the old one are not disturbed.

    One that has the same views already is left as it is.
    """
    aside = store.home.warehouse.with_name(".warehouse.duckdb")
    made = make_folder(store.home.batch) / "warehouse.json"
    with changing_parts(store.home):
        views = _views(store)
        mark = _mark(store, views)
        if store.home.warehouse.exists() and _read(made) == mark:
            return
        made.unlink(missing_ok=True)
        aside.unlink(missing_ok=True)
        aside.with_name(f"{aside.name}.wal").unlink(missing_ok=True)
        with duckdb.connect(str(aside)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for view, query in views.items():
                connection.execute(f"CREATE VIEW {view} AS {query}")
        aside.replace(store.home.warehouse)
        write_atomically(made, mark)


def _mark(store: Store, views: Mapping[str, str]) -> bytes:
    """The identity of a warehouse: its queries, the formulas of its tables' columns, and the version that wrote the file."""
    folder = current(store.home)
    formulas = manifest_of(folder).fingerprint if folder is not None else ""
    return json.dumps({"duckdb": duckdb.__version__, "formulas": formulas, "views": views}).encode()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _views(store: Store) -> dict[str, str]:
    """Return the query of each view, in order of dependency. Views that need a build are left out before the first build."""
    views = {family.view: f"FROM {_parts(store, family.view)}" for family in FAMILIES if _has_parts(store, family.view)}
    if not all(_has_parts(store, kind) for kind in staging.KINDS):
        return views
    return {
        **views,
        **{kind: f"FROM {_parts(store, kind)}" for kind in ("runners", "notices", "results")},
        "applied": measuring.query("applied"),
        "starts": f"FROM {_parts(store, 'starts')} SEMI JOIN (FROM applied WHERE retracted_at IS NULL) USING (seq)",
        **{f"{view}_daily": daily(BY_VIEW[view], store.timezone) for view in DAILY if view in views},
    }


def _has_parts(store: Store, view: str) -> bool:
    return any((store.home.offline / view).rglob("*.parquet"))


def daily(family: Family, timezone: ZoneInfo) -> str:
    """One row per key and day it had a runner: the values held just before that day's first result became known.

    If all results of a day became known late, its row has the values at the end of that day, without later results.
    """
    keys = ", ".join(family.keys)
    same = " AND ".join(f"values_then.{key} = days.{key}" for key in family.keys)
    columns = ", ".join(f"values_then.{feature.name}" for feature in family.features)
    return f"""
        WITH first_results AS (
            SELECT race_date,
                least(min(known_at), (race_date + 1)::TIMESTAMP AT TIME ZONE '{timezone.key}') AS first_known
            FROM results GROUP BY race_date),
        days AS (SELECT DISTINCT {keys}, race_date, first_known FROM starts JOIN first_results USING (race_date)
            WHERE {has_key(family)})
        SELECT {", ".join(f"days.{key}" for key in family.keys)}, days.race_date, {columns}
        FROM days ASOF LEFT JOIN {family.view} AS values_then
            ON {same} AND days.first_known > values_then.event_timestamp"""  # noqa: S608 names are the catalogue's


def ask(store: Store, query: str) -> Answer:
    """Return the first `ROWS_SHOWN` rows of the warehouse's answer to one query, as `reading` describes."""
    with reading(store, query) as connection:
        cursor = connection.execute(query)
        columns = [column[0] for column in cursor.description or ()]
        rows = cursor.fetchmany(ROWS_SHOWN + 1)
    return Answer(columns, rows[:ROWS_SHOWN], len(rows) > ROWS_SHOWN)


@contextmanager
def reading(store: Store, query: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the warehouse for one query, which is checked and not run. Raises `UserError` where there are no tables, or for an
    invalid query.

    Before the first build the warehouse has only the feature views of the stream. A query can only read, and only this store:
    no other file, no network, no writes.
    """
    if not store.home.warehouse.exists():
        if not store.home.offline.exists():
            raise UserError(f"there is no warehouse at {store.home.warehouse}: run `velo build` first")
        # the tables come from a stream without a build
        make_warehouse(store)
    try:
        connection = duckdb.connect(str(store.home.warehouse), read_only=True)
    except duckdb.Error as refused:
        raise UserError(
            f"{store.home.warehouse} cannot be opened ({first_line(refused)}): remove it and run `velo build`"
        ) from None
    with connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET allowed_directories = $folders", {"folders": [str(store.home.offline)]})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            statements = connection.extract_statements(query)
            if not statements:
                raise UserError(f"{query!r} asks nothing: write a SELECT; {_LISTED}")
            if any(statement.type not in _READING for statement in statements):
                raise UserError(
                    f"the warehouse refused the query ({query!r} does more than read): write a SELECT; {_LISTED}"
                )
            yield connection
        except duckdb.Error as refused:
            built = "" if _has_parts(store, "starts") else "; `velo build` adds the messages and the daily views"
            raise UserError(
                f"the warehouse refused the query ({first_line(refused)}): correct it; {_LISTED}{built}"
            ) from None


def _parts(store: Store, view: str) -> str:
    return changelog.scan([store.home.offline / view / "**" / "*.parquet"], changelog.BY_NAME)
