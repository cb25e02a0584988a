"""`velo catalogue`: every feature in words, with what the store's tables hold of it."""

# ruff: noqa: S608  names are the catalogue's own, values are bound
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import duckdb
from rich.console import Group

from velo.errors import UserError
from velo.feature_repo.catalogue.described import OURS, FeatureDescription, described, described_request
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.catalogue.request_time import VIEWS
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.storage import table_versions
from velo.storage.store import Store
from velo.text_tables import markdown_table, table_of

MEMORY_LIMIT: Final = "1GB"
COLUMNS: Final = ("feature", "type", "formula", "unit", "window", "null", "coverage")


@dataclass(frozen=True, slots=True)
class Held:
    """What the tables hold of a view: rows, keys, and `last_update`, the instant (UTC) of the newest row.

    `coverage` is the share of the rows that have a value, by feature; empty without rows.
    """

    rows: int = 0
    keys: int = 0
    last_update: datetime | None = None
    coverage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """One feature view; `held` is None without tables, and for features that are made at request time, which have no keys."""

    name: str
    about: str
    owner: str
    keys: tuple[str, ...]
    features: tuple[FeatureDescription, ...]
    held: Held | None


def catalogue(store: Store, names: Sequence[str] = ()) -> list[CatalogueView]:
    """Return the views of the catalogue, or those named, with what the tables hold; raises `UserError` for an unknown name."""
    known = [family.view for family in FAMILIES] + [view.name for view in VIEWS]
    if strange := [name for name in names if name not in known]:
        raise UserError(f"there is no view {strange[0]!r}: name some of {', '.join(known)}")
    wanted = set(names or known)
    families = [family for family in FAMILIES if family.view in wanted]
    held = _held(store, families)
    views = [
        CatalogueView(
            family.view, family.about, family.owner or OURS, family.keys, described(family), held.get(family.view)
        )
        for family in families
    ]
    return views + [
        CatalogueView(view.name, view.about, view.owner or OURS, (), described_request(view), None)
        for view in VIEWS
        if view.name in wanted
    ]


def _held(store: Store, families: Sequence[Family]) -> dict[str, Held]:
    """What the tables hold of each family; empty where none were built."""
    if table_versions.current(store.home) is None:
        return {}
    snapshot, found = Snapshot(), {}
    with changelog.engine(MEMORY_LIMIT) as connection:
        for family in families:
            table = snapshot.folder(store.home.offline / family.view)
            parts = snapshot.parts(store.home.offline / family.view) if table.is_dir() else []
            if parts:
                found[family.view] = _held_of(connection, family, parts)
    return found


def _held_of(connection: duckdb.DuckDBPyConnection, family: Family, parts: list[str]) -> Held:
    names = [feature.name for feature in family.features]
    counted = ", ".join(("count(*)", f"count(DISTINCT ({', '.join(family.keys)}))", "max(event_timestamp)"))
    query = f"SELECT {counted}, {', '.join(f'count({name})' for name in names)} FROM read_parquet($parts, hive_partitioning = false)"
    rows, keys, last, *known = connection.execute(query, {"parts": parts}).fetchall()[0]
    return Held(
        rows, keys, last, {name: count / rows for name, count in zip(names, known, strict=True)} if rows else {}
    )


def rows_of(view: CatalogueView) -> Iterator[tuple[str, ...]]:
    """The cells of each feature, in the order of `COLUMNS`."""
    coverage = view.held.coverage if view.held else {}
    for feature in view.features:
        share = f"{coverage[feature.name]:.0%}" if feature.name in coverage else "–"
        yield feature.name, feature.kind, feature.formula, feature.unit, feature.window, feature.null, share


def heading_of(view: CatalogueView) -> str:
    """The view in one line: what it is, its keys, its owner and what the tables hold."""
    if not view.keys:
        return f"{view.about}; at request time; owner {view.owner}"
    held = "no rows"
    if view.held is not None and view.held.last_update is not None:
        last = f"{view.held.last_update:%Y-%m-%d %H:%M:%S} UTC"
        held = f"{view.held.rows:,} rows of {view.held.keys:,} keys, last update {last}"
    return f"{view.about}; by {', '.join(view.keys)}; owner {view.owner}; {held}"


def markdown(views: Sequence[CatalogueView]) -> str:
    """The catalogue as Markdown, one table a view."""
    lines = []
    for view in views:
        lines += [f"## {view.name}", "", heading_of(view), ""]
        lines += [*markdown_table(COLUMNS, rows_of(view)), ""]
    return "\n".join(lines)


def tables(views: Sequence[CatalogueView]) -> Group:
    """The catalogue for a terminal, one table a view."""
    left = [name for name in COLUMNS if name != "coverage"]
    return Group(*(table_of(f"{view.name}: {heading_of(view)}", COLUMNS, rows_of(view), left) for view in views))
