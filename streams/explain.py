"""Where a runner's features came from: each value, its formula in words, and the very starts that made it.

What the tables store is held against a plain recomputation from the measured starts, bit for bit: the formulas are
`value` of the catalogue's own declarations, told nothing but the starts known at the instant.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.aggregates import RECENT_DEPTH, Last, Value
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.catalogue.request_view import RequestView
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import Declared
from velo.racing.clock import EPOCH, local_date, local_midnight
from velo.racing.messages import Runner
from velo.racing.race_values import days_since_1970
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.batch import measuring, staging
from velo.streams.batch.build import fingerprint

MeasuredStart = Mapping[str, Any]
"""One measured start as the tables have it, with `retracted_at` of its version."""


@dataclass(frozen=True, slots=True)
class MadeOf:
    """A start that a view knew; `result_version` is the one that held at the instant.

    `position` is None for who did not finish, or whose place is unknown; `won` holds of either.
    """

    race_id: str
    race_date: date
    horse_id: str
    position: int | None
    won: bool
    place_known: bool
    field: int
    result_version: int
    known_at: datetime


@dataclass(frozen=True, slots=True)
class ExplainedFeature:
    """One value as stored and as recomputed; `made_of` are places in its view's `starts`."""

    name: str
    formula: str
    value: Value | str
    recomputed: Value | str
    agrees: bool
    made_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExplainedView:
    """A view's row of the runner's key: none (both instants None, all values None) where it never had a start.

    `starts` are those known of the key that count in some feature, newest first. `stale`: at the instant asked about
    a window had moved on from the row.
    """

    view: str
    about: str
    key: Mapping[str, str | None]
    event_timestamp: datetime | None
    valid_until: datetime | None
    stale: bool
    features: tuple[ExplainedFeature, ...]
    starts: tuple[MadeOf, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """A runner's features as of `instant`, view by view, and at last those made at request time.

    `tables_until` is how far the last build holds the log: of a later instant the values of that end are told, for the
    starts that a stream has added since are not kept. `differences` are the values that the tables hold otherwise than
    their starts make them: a fault in the store, never to be leant on.
    """

    race_id: str
    horse_id: str
    horse: str
    instant: datetime
    declared_by: str
    tables_until: datetime
    views: tuple[ExplainedView, ...]
    differences: tuple[str, ...]


def explain(store: Store, race: Declared, horse_id: str) -> Explained:
    """Every stored and request-time feature of one of `race`'s runners, as of `race.instant`.

    Ranks and z-scores within the race are not told: they are made of these values of all its runners. Raises
    `UserError` for a horse that is no runner of it, or tables that were never built.
    """
    at = next((at for at, one in enumerate(race.runners) if one.horse_id == horse_id), None)
    if at is None:
        known = ", ".join(one.horse_id for one in race.runners)
        gone = " (it was withdrawn)" if any(one.horse_id == horse_id for one in race.withdrawn) else ""
        raise UserError(f"horse {horse_id!r} is no runner of {race.race.race_id!r} then{gone}: name one of {known}")
    folder = table_versions.current(store.home)
    if folder is None:
        raise UserError(f"there are no feature tables at {store.home.offline}: run `velo build` first")
    manifest = table_versions.manifest_of(folder)
    if manifest.next_seq == 0:
        raise UserError(
            f"the tables at {store.home.offline} are the stream's alone, which keeps no starts to explain a value by: "
            "run `velo build` first (the stream may go on meanwhile)"
        )
    if manifest.fingerprint != fingerprint():
        raise UserError(
            f"the tables at {store.home.offline} are of formulas since replaced: run `velo build`, and ask again"
        )
    until = manifest.known_at
    keys = race.entity_keys()[at]
    try:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            tables = _Tables.of(connection, folder, keys, min(race.instant, until), store.timezone)
            views = [_view(tables, family, keys, race.instant) for family in FAMILIES]
    except duckdb.IOException as gone:
        raise UserError(
            f"the tables at {store.home.offline} cannot be read ({staging.first_line(gone)}): run `velo build`, and ask again"
        ) from None
    by_name = {view.view: view for view in views}
    views += [
        _at_request_time(view, race, race.runners[at], [by_name[name] for name in view.views])
        for view in request_time.VIEWS
    ]
    return Explained(
        race_id=race.race.race_id,
        horse_id=horse_id,
        horse=race.runners[at].horse or horse_id,
        instant=race.instant,
        declared_by=race.source,
        tables_until=until,
        views=tuple(views),
        differences=tuple(_differences(views)),
    )


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A family's values in the order of `features`, the places of the starts that made each, and `valid_until`."""

    values: tuple[Value, ...]
    made_of: tuple[tuple[int, ...], ...]
    valid_until: datetime | None


def recomputed(family: Family, holds: Sequence[MeasuredStart], as_of: datetime, timezone: ZoneInfo) -> Recomputed:
    """What the catalogue makes of a key's starts as of an instant; `holds` are those that hold then, newest off first."""
    today = days_since_1970(local_date(as_of, timezone))
    values: list[Value] = []
    made_of: list[tuple[int, ...]] = []
    for total in family.career:
        values.append(total.value(_totals(holds, total.measures)))
        made_of.append(tuple(range(len(holds))))
    for recent in family.recent:
        measured = [one[recent.measure] for one in holds]
        known = [at for at, value in enumerate(measured) if value is not None]
        newest = [measured[at] for at in known[:RECENT_DEPTH]]
        values.append(recent.value(newest, measured[0]) if holds else None)
        made_of.append(tuple(range(len(holds)))[:1] if isinstance(recent, Last) else tuple(known[: recent.depth]))
    ends: list[int] = []
    for days in family.windows:
        within = tuple(at for at, one in enumerate(holds) if one["race_day"] > today - days)
        ends += [holds[at]["race_day"] + days for at in within]
        for total in family.windowed:
            values.append(total.value(_totals([holds[at] for at in within], total.measures)))
            made_of.append(within)
    until = local_midnight(EPOCH.date() + timedelta(days=min(ends)), timezone) if ends else None
    return Recomputed(tuple(values), tuple(made_of), until)


def _totals(holds: Sequence[MeasuredStart], measures: Iterable[str]) -> dict[str, int]:
    return {measure: sum(one[measure] or 0 for one in holds) for measure in measures}


@dataclass(frozen=True, slots=True)
class _Tables:
    """One generation of the tables, read as of an instant; `starts` are those of any key asked about, told by then."""

    connection: duckdb.DuckDBPyConnection
    folder: Path
    as_of: datetime
    timezone: ZoneInfo
    starts: Sequence[MeasuredStart]

    @classmethod
    def of(
        cls,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        keys: Mapping[str, str | None],
        as_of: datetime,
        timezone: ZoneInfo,
    ) -> "_Tables":
        """The tables with the starts of one runner's horse, people and cell of the draw."""
        of_family = [{name: keys[name] for name in family.keys} for family in FAMILIES]
        known = [key for key in of_family if None not in key.values()]
        named = {name: value for key in known for name, value in key.items()}
        whose = " OR ".join(dict.fromkeys(" AND ".join(f"starts.{name} = ${name}" for name in key) for key in known))
        query = f"""
            WITH results AS (FROM read_parquet($results)), applied AS ({measuring.query("applied").rstrip()})
            SELECT starts.*, applied.retracted_at
            FROM read_parquet($starts) AS starts JOIN applied USING (seq)
            WHERE starts.known_at <= $as_of AND ({whose})"""  # noqa: S608 only columns' names are put in
        files = {kind: _parts(folder, kind) for kind in ("results", "starts")}
        answer = connection.execute(query, {**named, **files, "as_of": as_of})
        return cls(connection, folder, as_of, timezone, _rows(answer))

    def known(self, key: Mapping[str, str | None]) -> list[MeasuredStart]:
        """Every start that a key ever had by then, retracted ones too."""
        if None in key.values():
            return []
        return [one for one in self.starts if all(one[name] == value for name, value in key.items())]

    def row(self, family: Family, key: Mapping[str, str | None]) -> Mapping[str, Any] | None:
        """A key's row at the instant, as stored."""
        if None in key.values():
            return None
        same = " AND ".join(f"{name} = ${name}" for name in key)
        query = f"""
            FROM read_parquet($parts) WHERE {same} AND event_timestamp <= $as_of
            ORDER BY event_timestamp DESC LIMIT 1"""
        bound = {**key, "parts": _parts(self.folder, family.view), "as_of": self.as_of}
        rows = _rows(self.connection.execute(query, bound))
        return rows[0] if rows else None


def _view(tables: _Tables, family: Family, keys: Mapping[str, str | None], instant: datetime) -> ExplainedView:
    key = {name: keys[name] for name in family.keys}
    ever = tables.known(key)
    holds = [one for one in ever if one["retracted_at"] is None or one["retracted_at"] > tables.as_of]
    holds.sort(key=_newest, reverse=True)
    row = tables.row(family, key)
    made = recomputed(family, holds, tables.as_of, tables.timezone) if ever else _nothing(family)
    # a row that should not be there, or of another validity, makes each of its values suspect
    whole = (row is not None) == bool(ever) and (row is None or row["valid_until"] == made.valid_until)
    counted = sorted({at for places in made.made_of for at in places})
    place = {at: number for number, at in enumerate(counted)}
    features = []
    for number, feature in enumerate(family.features):
        value, again = row[feature.name] if row else None, made.values[number]
        places = tuple(place[at] for at in made.made_of[number])
        agrees = whole and same_bits(value, again)
        features.append(ExplainedFeature(feature.name, family.formulas[number], value, again, agrees, places))
    return ExplainedView(
        view=family.view,
        about=family.about,
        key=key,
        event_timestamp=row["event_timestamp"] if row else None,
        valid_until=row["valid_until"] if row else None,
        stale=bool(row and row["valid_until"] and row["valid_until"] <= instant),
        features=tuple(features),
        starts=tuple(_made_of(holds[at]) for at in counted),
    )


def _at_request_time(
    view: RequestView, race: Declared, runner: Runner, sources: Sequence[ExplainedView]
) -> ExplainedView:
    """The features of the race asked about, by the one declaration that training and serving use.

    `sources` are the views that it reads; the starts behind what it reads of them are its starts.
    """
    of = race.race
    asked: dict[str, Any] = {
        "race_day": days_since_1970(of.race_date),
        "race_class": of.race_class,
        "distance_m": of.distance_m,
        "weight_lbs": runner.weight_lbs,
        "official_rating": runner.official_rating,
    }
    names = {(one.view, one.feature) for one in view.stored}
    read = [(source, one) for source in sources for one in source.features if (source.view, one.name) in names]
    stored = {f"{source.view}__{one.name}": one.value for source, one in read}
    again = {f"{source.view}__{one.name}": one.recomputed for source, one in read}
    made: dict[str, list[Any]] = dict(view.listed(asked | stored))
    remade: dict[str, list[Any]] = dict(view.listed(asked | again))
    starts = list(dict.fromkeys(source.starts[at] for source, one in read for at in one.made_of))
    places = tuple(range(len(starts)))
    features = []
    for feature in view.features:
        value, recomputed_value = made[feature.name][0], remade[feature.name][0]
        agrees = same_bits(value, recomputed_value) and all(one.agrees for _, one in read)
        features.append(ExplainedFeature(feature.name, feature.describe(), value, recomputed_value, agrees, places))
    events = [source.event_timestamp for source in sources if source.event_timestamp is not None]
    untils = [source.valid_until for source in sources if source.valid_until is not None]
    return ExplainedView(
        view=view.name,
        about=view.about,
        key={name: value for source in sources for name, value in source.key.items()},
        event_timestamp=max(events, default=None),
        valid_until=min(untils, default=None),
        stale=any(source.stale for source in sources),
        features=tuple(features),
        starts=tuple(starts),
    )


def same_bits(one: object, other: object) -> bool:
    """Whether two values are one and the same, to the last bit."""
    if isinstance(one, float) and isinstance(other, float):
        return one.hex() == other.hex()
    return type(one) is type(other) and one == other


def _differences(views: Iterable[ExplainedView]) -> Iterator[str]:
    for view in views:
        for one in view.features:
            if not one.agrees:
                yield f"{view.view}__{one.name}: stored {one.value!r}, but its starts make it {one.recomputed!r}"


def _newest(one: MeasuredStart) -> tuple[datetime, str, str]:
    return one["off_time"], one["race_id"], one["horse_id"]


def _nothing(family: Family) -> Recomputed:
    features = len(family.features)
    return Recomputed((None,) * features, ((),) * features, None)


def _made_of(one: MeasuredStart) -> MadeOf:
    told = {name: one[name] for name in ("race_id", "race_date", "horse_id", "position", "field", "result_version")}
    return MadeOf(**told, won=bool(one["win"]), place_known=bool(one["place_known"]), known_at=one["known_at"])


def _rows(answer: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [one[0] for one in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _parts(folder: Path, kind: str) -> list[str]:
    return Snapshot().parts(folder / kind)
