"""`velo score`: a race's runners with their winning probabilities, from what was known at an instant."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from serving.drivers import Driver, drivers
from serving.told import Told, told_of
from serving.vectors import VIEWS, Vectors, offline, online
from training.bundle import Bundle, load
from velo.errors import UserError
from velo.racing.cards import Declared, decision_time, declared_at, first_result
from velo.racing.clock import to_text
from velo.racing.messages import Result
from velo.store import Store

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.stores.redis_rows import RedisRows

Origin = Literal["redis", "offline history"]
SP: Final = "SP"


@dataclass(frozen=True, slots=True)
class ScoredRunner:
    """One declared runner. Odds are decimal; `market` is None where none are known.

    `market_source` names whose odds they are: of a snapshot, or `SP`, told with the result and so never known before.
    `missing` and `stale` name feature views: without a row of the runner's key, or past their `valid_until`.
    """

    runner_no: int | None
    draw: int | None
    horse_id: str
    horse: str
    jockey: str | None
    trainer: str | None
    probability: float
    fair_odds: float
    market_odds: float | None
    market_source: str | None
    drivers: tuple[Driver, ...]
    missing: tuple[str, ...]
    stale: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoredRace:
    """A race scored with what was known at `as_of`; probabilities sum to 1, runners stand most likely first.

    `declared_by` is what named the runners, `features_from` where their features were read, `notes` whatever a reader
    should know before leaning on it. `withdrawn` names the non-runners.
    """

    race_id: str
    race_name: str | None
    course: str
    going: str | None
    distance_m: float | None
    off_time: datetime
    as_of: datetime
    declared_by: str
    features_from: Origin
    odds_known_at: datetime | None
    model: str
    gate: str
    mode: str
    runners: tuple[ScoredRunner, ...]
    withdrawn: tuple[str, ...]
    notes: tuple[str, ...]


def score(
    store: Store,
    race_id: str,
    *,
    now: datetime,
    as_of: datetime | None = None,
    bundle: Bundle | None = None,
    feast: "FeatureStore | None" = None,
    rows: "RedisRows | None" = None,
) -> ScoredRace:
    """Score a race with the current model: as of now from Redis, or as of an instant from the offline history.

    A race whose result is known is scored as of its decision time unless told otherwise: the features of today know
    the result. `bundle`, `feast` and `rows` are opened anew unless given. Raises `UserError` for a race unknown or not
    declared by then, an instant to come, no model or one that does not fit, and a Redis that cannot be reached or
    holds nothing of the race.
    """
    if as_of is not None and as_of > now:
        raise UserError(f"--as-of {to_text(as_of)} is still to come: leave it out to score with what is known now")
    catalogue = _catalogue(store)
    told = told_of(store.home, race_id)
    model = bundle or load(store.home, catalogue)
    result = first_result(told.messages)
    run = result is not None and result.known_at is not None and result.known_at <= now
    notes = _notes_on_time(told, as_of)
    if as_of is None and run:
        as_of = decision_time(told.messages, timedelta(seconds=model.lead_s))
        assert as_of is not None
        notes.append(f"the race has been run: scored as of its decision time, {as_of:%Y-%m-%d %H:%M:%S} UTC")
    race = declared_at(told.messages, as_of or now)
    if race is None or not race.runners:
        raise UserError(
            f"race {race_id!r} had no declared runner by {to_text(as_of or now)}: ask for a later instant, or load "
            "its card and run `velo build`"
        )
    if race.source != "racecard":
        notes.append("no racecard was known by then: runners, riders and going are those of the result")
    vectors = offline(store, race, feast) if as_of else online(rows or _redis(store), race)
    if vectors.missing.all():
        where = "the offline tables hold" if as_of else "Redis holds"
        raise UserError(
            f"{where} no feature of any runner of {race_id!r}: run `velo build`"
            + ("" if as_of else " and `feast materialize`, so that they reach it")
        )
    return _scored(model, race, vectors, result if run else None, "offline history" if as_of else "redis", notes)


def _scored(
    model: Bundle, race: Declared, vectors: Vectors, result: Result | None, origin: Origin, notes: list[str]
) -> ScoredRace:
    matrix = vectors.select(model.features)
    chances = model.probabilities(matrix)
    told = drivers(vectors, model.features, model.contributions(matrix))
    prices = _starting_prices(result)
    snapshot = {horse: odds for horse, odds in race.odds.prices.items() if odds > 1.0} if race.odds else {}
    runners = []
    for at, runner in enumerate(race.runners):
        known = snapshot.get(runner.horse_id)
        price = known if race.odds else prices.get(runner.horse_id)
        source = None if price is None else race.odds.source if race.odds else SP
        scored = ScoredRunner(
            runner_no=runner.runner_no,
            draw=runner.draw,
            horse_id=runner.horse_id,
            horse=runner.horse or runner.horse_id,
            jockey=runner.jockey or runner.jockey_id,
            trainer=runner.trainer or runner.trainer_id,
            probability=float(chances[at]),
            fair_odds=float(1.0 / chances[at]),
            market_odds=price,
            market_source=source,
            drivers=told[at],
            missing=_views(vectors.missing[at]),
            stale=_views(vectors.stale[at]),
        )
        runners.append(scored)
    if any(runner.market_source == SP for runner in runners):
        notes.append("market odds are starting prices, told with the result: not known before the off, no input")
    if vectors.stale.any():
        notes.append("some values are stale: a window has moved on since they were written (run `velo tick`)")
    off = race.race
    return ScoredRace(
        race_id=off.race_id,
        race_name=off.race_name,
        course=off.course,
        going=off.going,
        distance_m=off.distance_m,
        off_time=off.off_time,
        as_of=race.instant,
        declared_by=race.source,
        features_from=origin,
        odds_known_at=race.odds.known_at if race.odds else None,
        model=model.version,
        gate=model.gate,
        mode=model.mode,
        runners=tuple(sorted(runners, key=lambda one: (-one.probability, one.runner_no or 0, one.horse_id))),
        withdrawn=tuple(one.horse or one.horse_id for one in race.withdrawn),
        notes=tuple(notes),
    )


def _catalogue(store: Store) -> str:
    if not store.epochs:
        raise UserError(f"there are no feature tables at {store.home.offline}: run `velo build` first")
    return store.epochs[-1]


def _redis(store: Store) -> "RedisRows":
    from feature_repo.stores.redis_client import connect
    from feature_repo.stores.redis_rows import RedisRows

    return RedisRows(connect(store.home, store.redis_url))


def _notes_on_time(told: Told, as_of: datetime | None) -> list[str]:
    notes = []
    if told.behind:
        notes.append(f"the log has {told.behind:,} messages that the tables do not hold yet: run `velo build`")
    if as_of is not None and as_of > told.known_at:
        notes.append(f"the tables end at {told.known_at:%Y-%m-%d %H:%M:%S} UTC: nothing later is known to them")
    return notes


def _starting_prices(result: Result | None) -> dict[str, float]:
    runners = result.runners if result else ()
    return {one.horse_id: one.sp_decimal for one in runners if one.sp_decimal is not None and one.sp_decimal > 1.0}


def _views(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[str, ...]:
    return tuple(view for view, flagged in zip(VIEWS, flags.tolist(), strict=True) if flagged)
