"""`velo explain`: each value of a runner's features, its formula in words, and the starts that it was computed from.

The stored values are compared, bit for bit, with a plain recomputation from the measured starts: `value` of the catalogue's own
declarations, called with only the starts known at the instant.
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
from velo.feature_repo.catalogue.aggregates import Value
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH, Last
from velo.feature_repo.catalogue.request_view import RequestView
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import Declared
from velo.racing.clock import EPOCH, local_date, local_midnight
from velo.racing.messages import Runner
from velo.racing.race_values import days_since_1970
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.batch import measuring, staging
from velo.streams.batch.formulas import fingerprint

MeasuredStart = Mapping[str, Any]
"""One measured start from the tables, with `retracted_at` of its version."""


@dataclass(frozen=True, slots=True)
class MadeOf:
    """A start known at the instant; `result_version` is the version current then.

    `position` is None for a horse that did not finish, or whose place is unknown; `won` is set in either case. `named` is the
    name that the result gives the view's horse, trainer or jockey: an alias leaves it as it was.
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
    named: str | None


@dataclass(frozen=True, slots=True)
class ExplainedFeature:
    """One value as stored and as recomputed; `made_of` has indexes of its view's `starts`."""

    name: str
    formula: str
    value: Value | str
    recomputed: Value | str
    agrees: bool
    made_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExplainedView:
    """A view's row for the runner's key; both instants and all values are None for a key without a start.

    `starts` are the key's known starts that count in a feature, newest first. `stale`: a window had lost a start since the
    row was written.
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
    """A runner's features as of `instant`, view by view; the last view has those computed at request time.

    `tables_until` is the end of the last build. For a later instant the values are those at `tables_until`, since the measured
    starts that a stream has added are not kept. `differences` lists stored values that differ from the recomputed ones: the
    store is faulty, and those values must not be used.
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
    """Explain every stored and request-time feature of one of `race`'s runners, as of `race.instant`.

    Ranks and z-scores within the race are left out: they depend on these values of all its runners. Raises `UserError` for a
    horse that does not run in the race, or where there is no build.
    """
    at = next((at for at, runner in enumerate(race.runners) if runner.horse_id == horse_id), None)
    if at is None:
        known = ", ".join(runner.horse_id for runner in race.runners)
        gone = " (it was withdrawn)" if any(runner.horse_id == horse_id for runner in race.withdrawn) else ""
        raise UserError(f"horse {horse_id!r} does not run in {race.race.race_id!r} then{gone}: name one of {known}")
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
    """A family's values in the order of `features`, the indexes of the starts behind each, and `valid_until`."""

    values: tuple[Value, ...]
    made_of: tuple[tuple[int, ...], ...]
    valid_until: datetime | None


def recomputed(family: Family, current: Sequence[MeasuredStart], as_of: datetime, timezone: ZoneInfo) -> Recomputed:
    """Compute a key's values as of an instant; `current` are its starts that are not retracted then, newest off first."""
    today = days_since_1970(local_date(as_of, timezone))
    values: list[Value] = []
    made_of: list[tuple[int, ...]] = []
    for total in family.career:
        values.append(total.value(_totals(current, total.measures)))
        made_of.append(tuple(range(len(current))))
    for recent in family.recent:
        measured = [start[recent.measure] for start in current]
        known = [at for at, value in enumerate(measured) if value is not None]
        newest = [measured[at] for at in known[:RECENT_DEPTH]]
        values.append(recent.value(newest, measured[0]) if current else None)
        made_of.append(tuple(range(len(current)))[:1] if isinstance(recent, Last) else tuple(known[: recent.depth]))
    ends: list[int] = []
    for days in family.windows:
        within = tuple(at for at, start in enumerate(current) if start["race_day"] > today - days)
        ends += [current[at]["race_day"] + days for at in within]
        for total in family.windowed:
            values.append(total.value(_totals([current[at] for at in within], total.measures)))
            made_of.append(within)
    until = local_midnight(EPOCH.date() + timedelta(days=min(ends)), timezone) if ends else None
    return Recomputed(tuple(values), tuple(made_of), until)


def _totals(starts: Sequence[MeasuredStart], measures: Iterable[str]) -> dict[str, int]:
    return {measure: sum(start[measure] or 0 for start in starts) for measure in measures}


@dataclass(frozen=True, slots=True)
class _Tables:
    """One generation of the tables as of an instant; `starts` are those of the runner's keys known by then."""

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
        """Return the tables with the starts of one runner's horse, trainer, jockey and draw cell."""
        of_family = [{name: keys[name] for name in family.keys} for family in FAMILIES]
        known = [key for key in of_family if None not in key.values()]
        named = {name: value for key in known for name, value in key.items()}
        whose = " OR ".join(dict.fromkeys(" AND ".join(f"starts.{name} = ${name}" for name in key) for key in known))
        query = f"""
            WITH results AS (FROM read_parquet($results, hive_partitioning = false)), applied AS ({measuring.query("applied").rstrip()})
            SELECT starts.*, applied.retracted_at, named.horse AS horse, named.jockey AS jockey, named.trainer AS trainer
            FROM read_parquet($starts, hive_partitioning = false) AS starts JOIN applied USING (seq)
            LEFT JOIN (FROM read_parquet($runners, hive_partitioning = false) WHERE type = 'result') AS named
                ON named.seq = starts.seq AND named.horse_id = starts.horse_id
            WHERE starts.known_at <= $as_of AND ({whose})"""  # noqa: S608 the names are columns
        files = {kind: _parts(folder, kind) for kind in ("results", "starts", "runners")}
        answer = connection.execute(query, {**named, **files, "as_of": as_of})
        return cls(connection, folder, as_of, timezone, _rows(answer))

    def known(self, key: Mapping[str, str | None]) -> list[MeasuredStart]:
        """Return every start of a key known by then, retracted ones too."""
        if None in key.values():
            return []
        starts = [*self.starts]
        for name, value in key.items():
            starts = [start for start in starts if start[name] == value]
        return starts

    def row(self, family: Family, key: Mapping[str, str | None]) -> Mapping[str, Any] | None:
        """Return a key's stored row at the instant."""
        if None in key.values():
            return None
        same = " AND ".join(f"{name} = ${name}" for name in key)
        query = f"""
            FROM read_parquet($parts, hive_partitioning = false) WHERE {same} AND event_timestamp <= $as_of
            ORDER BY event_timestamp DESC LIMIT 1"""
        bound = {**key, "parts": _parts(self.folder, family.view), "as_of": self.as_of}
        rows = _rows(self.connection.execute(query, bound))
        return rows[0] if rows else None


def _view(tables: _Tables, family: Family, keys: Mapping[str, str | None], instant: datetime) -> ExplainedView:
    key = {name: keys[name] for name in family.keys}
    ever = tables.known(key)
    current = [start for start in ever if start["retracted_at"] is None or start["retracted_at"] > tables.as_of]
    current.sort(key=_off, reverse=True)
    row = tables.row(family, key)
    made = recomputed(family, current, tables.as_of, tables.timezone) if ever else _nothing(family)
    # an unexpected row, or one with another `valid_until`, makes each of its values suspect
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
        starts=tuple(_made_of(current[at], _named(family.keys)) for at in counted),
    )


def _at_request_time(
    view: RequestView, race: Declared, runner: Runner, sources: Sequence[ExplainedView]
) -> ExplainedView:
    """Explain the features of the race itself, by the declaration that training and serving use.

    `sources` are the views that it reads; its starts are those behind the values that it reads.
    """
    of = race.race
    of_race: dict[str, Any] = {
        "race_day": days_since_1970(of.race_date),
        "race_class": of.race_class,
        "distance_m": of.distance_m,
        "weight_lbs": runner.weight_lbs,
        "official_rating": runner.official_rating,
    }
    names = {(value.view, value.feature) for value in view.stored}
    read = [
        (source, feature) for source in sources for feature in source.features if (source.view, feature.name) in names
    ]
    stored = {f"{source.view}__{feature.name}": feature.value for source, feature in read}
    again = {f"{source.view}__{feature.name}": feature.recomputed for source, feature in read}
    made: dict[str, list[Any]] = dict(view.listed(of_race | stored))
    remade: dict[str, list[Any]] = dict(view.listed(of_race | again))
    starts = list(dict.fromkeys(source.starts[at] for source, value in read for at in value.made_of))
    places = tuple(range(len(starts)))
    features = []
    for feature in view.features:
        value, recomputed_value = made[feature.name][0], remade[feature.name][0]
        agrees = same_bits(value, recomputed_value) and all(each.agrees for _, each in read)
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


def same_bits(value: object, other: object) -> bool:
    """Whether two values are the same to the last bit."""
    if isinstance(value, float) and isinstance(other, float):
        return value.hex() == other.hex()
    return type(value) is type(other) and value == other


def _differences(views: Iterable[ExplainedView]) -> Iterator[str]:
    for view in views:
        for feature in view.features:
            if not feature.agrees:
                yield (
                    f"{view.view}__{feature.name}: stored {feature.value!r}, but its starts make it "
                    f"{feature.recomputed!r}"
                )


def _off(start: MeasuredStart) -> tuple[datetime, str, str]:
    return start["off_time"], start["race_id"], start["horse_id"]


def _nothing(family: Family) -> Recomputed:
    features = len(family.features)
    return Recomputed((None,) * features, ((),) * features, None)


def _named(keys: Sequence[str]) -> str | None:
    """The column with the name of a view's first key; None for a draw."""
    return next((key.removesuffix("_id") for key in keys if key.endswith("_id")), None)


def _made_of(start: MeasuredStart, named: str | None) -> MadeOf:
    names = "race_id", "race_date", "horse_id", "position", "field", "result_version"
    same = {name: start[name] for name in names}
    return MadeOf(
        **same,
        won=bool(start["win"]),
        place_known=bool(start["place_known"]),
        known_at=start["known_at"],
        named=named and start[named],
    )


def _rows(answer: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _parts(folder: Path, kind: str) -> list[str]:
    return Snapshot().parts(folder / kind)
