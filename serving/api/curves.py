"""Feature curves of a horse, a trainer or a jockey: its changelog rows as known at an instant."""

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
"""Each query has its own engine: more at a time would take the memory that scoring needs."""


class UnknownKey(UserError):
    """No message names a horse, trainer or jockey with this id."""


class NoTables(UserError):
    """No feature tables were built yet."""


@dataclass(frozen=True, slots=True)
class CurveFeature:
    """A feature of the catalogue, with its formula in words."""

    name: str
    formula: str
    kind: str


@dataclass(frozen=True, slots=True)
class Point:
    """The values from `at` until the next point, in the order of `features`, null if unknown; stale from `valid_until` on."""

    at: datetime
    valid_until: datetime | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """One point per change of a key's features, oldest first, all known at `as_of`; instants are UTC.

    `rows` counts all changes. If they are more than the points asked for, `points` are an even selection with the first and the
    last. `name` is the key's latest name, None if no message has one.
    """

    kind: Kind
    id: str
    name: str | None
    about: str
    as_of: datetime
    features: tuple[CurveFeature, ...]
    rows: int
    points: tuple[Point, ...]


def curves_of(home: Home, kind: Kind, key: str, as_of: datetime, since: datetime | None, points: int) -> Curves:
    """The changes of a key from the row that held at `since` to `as_of`, at most `points` of them (at least 2).

    Raises `UnknownKey` for a key that no message names, `NoTables` if no tables were built.
    """
    family = BY_VIEW[VIEWS[kind]]
    snapshot = Snapshot()
    try:
        parts, runners = snapshot.parts(home.offline / family.view), snapshot.parts(home.offline / "runners")
    except UserError as missing:
        raise NoTables(str(missing)) from missing
    with _AT_ONCE, changelog.engine(MEMORY_LIMIT) as connection:
        found = _changes(connection, family, parts, key, as_of, since, points)
        name, named = _name(connection, runners, kind, key, as_of)
    if not found and not named:
        raise UnknownKey(f"no message names {kind} {key!r} by {to_text(as_of)}: use the {kind}_id of a card")
    features = tuple(
        CurveFeature(feature.name, formula, feature.kind)
        for feature, formula in zip(family.features, family.formulas, strict=True)
    )
    rows = int(found[0][0]) if found else 0
    chosen = tuple(Point(row[1], row[2], tuple(row[3:])) for row in found)
    return Curves(kind, key, name, family.about, as_of, features, rows, chosen)


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
            SELECT event_timestamp, valid_until, {columns} FROM {changelog.scan(parts, changelog.BY_NAME)}
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
    """The latest name of a key known at an instant, and whether any message names it."""
    if not parts:
        return None, False
    query = f"""
        SELECT arg_max({kind}, seq), count(*) FROM {changelog.scan(parts, changelog.BY_NAME)}
        WHERE {kind}_id = $key AND known_at <= $as_of
    """  # noqa: S608 the kind is one of three words, paths are quoted, values are bound
    row = connection.execute(query, {"key": key, "as_of": as_of}).fetchone()
    return (None, False) if row is None else (row[0], row[1] > 0)
