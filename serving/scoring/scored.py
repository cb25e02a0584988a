"""A scored race: its runners with their probabilities, and notes on how far to trust them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import compress
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.cards import Declared
from velo.racing.messages import Result
from velo.serving.scoring.drivers import Driver, DriverExplainer
from velo.serving.scoring.feature_matrix import VIEWS, FeatureMatrix
from velo.training.bundle import BLEND, Bundle

Origin = Literal["redis", "offline history"]
Floats = NDArray[np.float64]
Interval = tuple[float, float]
SP: Final = "SP"
NOTHING_KNOWN: Final = (
    "nothing is known of its runners: no result known by then has any of these horses, jockeys or trainers, so the "
    "chances rest on the card alone"
)
_OF_RUNNERS: Final = [bool({"horse_id", "jockey_id", "trainer_id"} & {*family.keys}) for family in FAMILIES]
"""Which views describe a horse, jockey or trainer, and not the course alone."""


@dataclass(frozen=True, slots=True)
class ScoredRunner:
    """One declared runner. Odds are decimal; `market` is None where none are known.

    `probability` is the model's own; `blended` puts the market to it, None unless every runner has odds and the model
    knows how. `market_source` names whose odds they are: of a snapshot, or `SP`, told with the result and so never
    known before. `interval` and `blended_interval` are 95 % bounds of the rate at which runners given such a chance win, None
    where the model has none (`velo.training.market.calibration.CalibrationInterval` says what they cover). `missing` and
    `stale` name feature views: without a row of the runner's key, or past `valid_until`.
    """

    runner_no: int | None
    draw: int | None
    horse_id: str
    horse: str
    jockey: str | None
    trainer: str | None
    probability: float
    fair_odds: float
    blended: float | None
    market_odds: float | None
    market_source: str | None
    drivers: tuple[Driver, ...]
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    jockey_id: str | None = None
    trainer_id: str | None = None
    interval: Interval | None = None
    blended_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class ScoredRace:
    """A race scored; probabilities sum to 1, runners stand most likely first.

    `as_of` is the instant it stands on: all told by then is in it, nothing later; scored again as of it, it is the same.
    `scored_at` is when that was done, `fingerprint` that of its feature vectors. `declared_by` is what named the
    runners, `features_from` where their features were read, `missing` and `stale` the views that any runner lacks or
    has too old, `notes` whatever a reader should know before leaning on it. `withdrawn` names the non-runners.
    """

    race_id: str
    race_name: str | None
    course: str
    going: str | None
    distance_m: float | None
    off_time: datetime
    as_of: datetime
    scored_at: datetime
    declared_by: str
    features_from: Origin
    odds_known_at: datetime | None
    model: str
    gate: str
    mode: str
    fingerprint: str
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    runners: tuple[ScoredRunner, ...]
    withdrawn: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RaceSnapshot:
    """What a race is scored with: how it stood, the vectors of its runners, the instant and origin of both."""

    race: Declared
    vectors: FeatureMatrix
    as_of: datetime
    origin: Origin


def scored_race(
    model: Bundle,
    stood: RaceSnapshot,
    now: datetime,
    *,
    result: Result | None = None,
    notes: Sequence[str] = (),
    explainer: DriverExplainer | None = None,
) -> ScoredRace:
    """Score a race; `result`, where it has been run, shows starting prices where no odds were told before.

    `explainer` adds each runner's drivers; without it there are none.
    """
    race, vectors, said = stood.race, stood.vectors, list(notes)
    runners = _runners(model, race, vectors, result, explainer)
    said.extend(model.differences)
    if any(runner.market_source == SP for runner in runners):
        said.append("market odds are starting prices, told with the result: not known before the off, no input")
    if vectors.missing[:, _OF_RUNNERS].all():
        said.append(NOTHING_KNOWN)
    if vectors.stale.any():
        said.append("some values are stale: a window has moved on since they were written (run `velo tick`)")
    off = race.race
    return ScoredRace(
        race_id=off.race_id,
        race_name=off.race_name,
        course=off.course,
        going=off.going,
        distance_m=off.distance_m,
        off_time=off.off_time,
        as_of=stood.as_of,
        scored_at=now,
        declared_by=race.source,
        features_from=stood.origin,
        odds_known_at=race.odds.known_at if race.odds else None,
        model=model.version,
        gate=model.gate,
        mode=model.mode,
        fingerprint=fingerprint(race, vectors),
        missing=_views([any(of) for of in zip(*vectors.missing.tolist(), strict=True)]),
        stale=_views([any(of) for of in zip(*vectors.stale.tolist(), strict=True)]),
        runners=tuple(
            sorted(runners, key=lambda runner: (-runner.probability, runner.runner_no or 0, runner.horse_id))
        ),
        withdrawn=tuple(runner.horse or runner.horse_id for runner in race.withdrawn),
        notes=tuple(said),
    )


def _runners(
    model: Bundle, race: Declared, vectors: FeatureMatrix, result: Result | None, explainer: DriverExplainer | None
) -> list[ScoredRunner]:
    """The runners of a race with their chances, in the order of its card."""
    matrix = vectors.select(model.features)
    chances = model.probabilities(matrix)
    told: Sequence[tuple[Driver, ...]] = (
        [()] * len(race.runners) if explainer is None else explainer.tell(model, vectors)
    )
    prices = _starting_prices(result)
    snapshot = {horse: odds for horse, odds in race.odds.prices.items() if odds > 1.0} if race.odds else {}
    market = [(snapshot if race.odds else prices).get(runner.horse_id) for runner in race.runners]
    blended = _blended(model, chances, market, matrix) if race.odds else None
    mixed = [None] * len(race.runners) if blended is None else blended.tolist()
    bounds = _pairs(model.interval(chances), len(mixed))
    mixed_bounds = [None] * len(mixed) if blended is None else _pairs(model.interval(blended, BLEND), len(mixed))
    own, fair = chances.tolist(), (1.0 / chances).tolist()
    missing, stale = vectors.missing.tolist(), vectors.stale.tolist()
    runners = []
    for at, runner in enumerate(race.runners):
        price = market[at]
        scored = ScoredRunner(
            runner_no=runner.runner_no,
            draw=runner.draw,
            horse_id=runner.horse_id,
            horse=runner.horse or runner.horse_id,
            jockey=runner.jockey or runner.jockey_id,
            trainer=runner.trainer or runner.trainer_id,
            probability=own[at],
            fair_odds=fair[at],
            blended=mixed[at],
            market_odds=price,
            market_source=None if price is None else race.odds.source if race.odds else SP,
            drivers=told[at],
            missing=_views(missing[at]),
            stale=_views(stale[at]),
            jockey_id=runner.jockey_id,
            trainer_id=runner.trainer_id,
            interval=bounds[at],
            blended_interval=mixed_bounds[at],
        )
        runners.append(scored)
    return runners


def fingerprint(race: Declared, vectors: FeatureMatrix) -> str:
    """32 hex digits that stand for the runners of a race, in order, and every bit of their vectors."""
    digest = blake2b("\0".join(runner.horse_id for runner in race.runners).encode(), digest_size=16)
    # one NaN, one zero: the others are told apart by no model
    digest.update(np.where(np.isnan(vectors.matrix), np.nan, vectors.matrix + 0.0).tobytes())
    return digest.hexdigest()


def _blended(model: Bundle, chances: Floats, market: Sequence[float | None], matrix: Floats) -> Floats | None:
    blend: Any = getattr(model, "blend", None)
    if blend is None:
        return None
    odds = np.array([np.nan if price is None else price for price in market], dtype=np.float64)
    found: Floats | None = blend(chances, odds, matrix)
    return found


def _pairs(bounds: Floats | None, runners: int) -> Sequence[Interval | None]:
    return [None] * runners if bounds is None else [(low, high) for low, high in bounds.tolist()]


def _starting_prices(result: Result | None) -> Mapping[str, float]:
    runners = result.runners if result else ()
    return {
        runner.horse_id: runner.sp_decimal
        for runner in runners
        if runner.sp_decimal is not None and runner.sp_decimal > 1.0
    }


def _views(flags: Sequence[bool]) -> tuple[str, ...]:
    return tuple(compress(VIEWS, flags))
