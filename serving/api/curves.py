"""The curves of a horse, a trainer or a jockey: their changelog rows, as they were known at an instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, Final, Literal

from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.clock import to_text
from velo.storage.store import Home

if TYPE_CHECKING:
    import duckdb

Kind = Literal["horse", "trainer", "jockey"]
VIEWS: Final[Mapping[Kind, str]] = {
    "horse": "horse_form",
    "trainer": "trainer_velocity",
    "jockey": "jockey_velocity",
}
MEMORY_LIMIT: Final = "500MB"
_AT_ONCE: Final = BoundedSemaphore(2)
"""Each query has an engine of its own: more at a time would take the memory that scoring lives on."""


class UnknownKey(UserError):
    """No horse, trainer or jockey of that id was ever told of."""


class NoTables(UserError):
    """No feature tables were built yet."""


@dataclass(frozen=True, slots=True)
class Point:
    """What holds from `at` until the next point; `values` in the order of the features, null where unknown."""

    at: datetime
    valid_until: datetime | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """One row a change of a key's features, oldest first, all known at `as_of`; instants are UTC.

    `rows` counts the changes there are: where that is more than `points` holds, those are evenly chosen among them, the
    first and the last included. `name` is what the key was last called, None where nobody said.
    """

    kind: Kind
    id: str
    name: str | None
    about: str
    as_of: datetime
    features: tuple[dict[str, str], ...]
    rows: int
    points: tuple[Point, ...]


def curves_of(home: Home, kind: Kind, key: str, as_of: datetime, since: datetime | None, points: int) -> Curves:
    """The changes of a key from what held at `since` to `as_of`, at most `points` of them (at least 2).

    Raises `UnknownKey` for a key never told of, `NoTables` where none were built.
    """
    family = BY_VIEW[VIEWS[kind]]
    look = Snapshot()
    try:
        parts, runners = look.parts(home.offline / family.view), look.parts(home.offline / "runners")
    except UserError as none:
        raise NoTables(str(none)) from none
    with _AT_ONCE, changelog.engine(MEMORY_LIMIT) as connection:
        found = _changes(connection, family, parts, key, as_of, since, points)
        name, told = _name(connection, runners, kind, key, as_of)
    if not found and not told:
        raise UnknownKey(f"{kind} {key!r} was never told of by {to_text(as_of)}: use the {kind}_id of a card")
    features = tuple(
        {"name": one.name, "formula": formula, "kind": one.kind}
        for one, formula in zip(family.features, family.formulas, strict=True)
    )
    rows = int(found[0][0]) if found else 0
    made = tuple(Point(row[1], row[2], tuple(row[3:])) for row in found)
    return Curves(kind, key, name, family.about, as_of, features, rows, made)


def _changes(
    connection: "duckdb.DuckDBPyConnection",
    family: Family,
    parts: list[str],
    key: str,
    as_of: datetime,
    since: datetime | None,
    points: int,
) -> list[tuple[Any, ...]]:
    if not parts:
        return []
    (column,) = family.keys
    columns = ", ".join(changelog.name(feature.name) for feature in family.features)
    query = f"""
        WITH known AS (
            SELECT event_timestamp, valid_until, {columns} FROM read_parquet([{_listed(parts)}], union_by_name = true)
            WHERE {changelog.name(column)} = $key AND event_timestamp <= $as_of
            QUALIFY row_number() OVER (PARTITION BY event_timestamp ORDER BY created_timestamp DESC NULLS LAST) = 1
        ),
        held AS (SELECT max(event_timestamp) AS began FROM known WHERE event_timestamp <= $since),
        numbered AS (
            SELECT *, row_number() OVER (ORDER BY event_timestamp) - 1 AS n, count(*) OVER () AS rows
            FROM known WHERE event_timestamp >= coalesce((SELECT began FROM held), event_timestamp)
        )
        SELECT rows, event_timestamp, valid_until, {columns} FROM numbered
        WHERE rows <= $points OR n IN (0, rows - 1)
            OR n * ($points - 1) // rows <> (n - 1) * ($points - 1) // rows
        ORDER BY event_timestamp
    """  # noqa: S608 names are the catalogue's, paths are quoted, values are bound
    bound = {"key": key, "as_of": as_of, "since": since, "points": points}
    return connection.execute(query, bound).fetchall()


def _name(
    connection: "duckdb.DuckDBPyConnection", parts: list[str], kind: Kind, key: str, as_of: datetime
) -> tuple[str | None, bool]:
    """What a key was last called by an instant, and whether it was told of at all."""
    if not parts:
        return None, False
    query = f"""
        SELECT arg_max({kind}, seq), count(*) FROM read_parquet([{_listed(parts)}], union_by_name = true)
        WHERE {kind}_id = $key AND known_at <= $as_of
    """  # noqa: S608 the kind is one of three words, paths are quoted, values are bound
    row = connection.execute(query, {"key": key, "as_of": as_of}).fetchone()
    return (None, False) if row is None else (row[0], row[1] > 0)


def _listed(parts: list[str]) -> str:
    return ", ".join(changelog.text(part) for part in parts)
