"""A scored race: its runners with their probabilities, and notes on how far to trust them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import compress
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue import market_moves
from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.cards import Declared
from velo.racing.messages import Result
from velo.racing.place_bets import NO_PLACES, PlaceTerms, place_terms
from velo.serving.scoring.drivers import Driver, DriverExplainer
from velo.serving.scoring.feature_matrix import VIEWS, FeatureMatrix, Figures, column_digests, figures_of
from velo.training.bundle import BLEND, OWN, Bundle

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


DOCUMENTED: Final = {"use_attribute_docstrings": True, "extra": "forbid"}
"""How pydantic reads an answer's dataclass: the OpenAPI document has the words below a field, and an answer no other field."""


@dataclass(frozen=True, slots=True)
class ScoredRunner:
    """A scored runner. Odds are decimal, null if unknown; an interval is null if the model has none."""

    __pydantic_config__: ClassVar = DOCUMENTED
    runner_no: int | None
    draw: int | None
    horse_id: str
    horse: str
    jockey_id: str | None
    jockey: str | None
    trainer_id: str | None
    trainer: str | None
    probability: float
    """The fundamental model's."""
    fair_odds: float
    interval: Interval | None
    """95 % interval of the win rate of runners with such a probability."""
    blended_interval: Interval | None
    """The interval of `blended`."""
    blended: float | None
    """Blended with the market; null unless every runner has odds and the model has a blend."""
    market_odds: float | None
    market_source: str | None
    """The source of the odds: a snapshot's, or `SP`, which is known with the result only."""
    drivers: tuple[Driver, ...]
    place: float | None
    """The chance of a place by the race's place terms, from `blended` where it is not null; null without places."""
    each_way: float | None
    """Mean return of a unit each way at the odds; null without fixed place odds."""
    figures: Figures | None
    """Records and changes that its features state; null without drivers."""
    missing: tuple[str, ...]
    """Feature views without a row of the runner's key."""
    stale: tuple[str, ...]
    """Feature views whose row is past its `valid_until`."""
    moves: Mapping[str, float | None] | None
    """The market at `as_of`: price, rank, drift_60m to drift_5m (above 0: lengthened), volume, volume_share; null without odds."""
    unknown_moves: Mapping[str, str] | None
    """Why a value of `moves` is null, by its name."""


@dataclass(frozen=True, slots=True)
class ScoredRace:
    """A scored race: probabilities sum to 1, most likely first. A request with its `as_of` gives the same score.

    The score uses everything known at `as_of` and nothing later.
    """

    __pydantic_config__: ClassVar = DOCUMENTED
    race_id: str
    race_name: str | None
    course: str
    going: str | None
    distance_m: float | None
    off_time: datetime
    as_of: datetime
    scored_at: datetime
    """When it was computed."""
    declared_by: str
    """The source of the runners."""
    features_from: Origin
    odds_known_at: datetime | None
    model: str
    gate: str
    mode: str
    fingerprint: str
    """The digest of its features."""
    missing: tuple[str, ...]
    """Views that any runner lacks a row of."""
    stale: tuple[str, ...]
    """Views that any runner has a stale row of."""
    runners: tuple[ScoredRunner, ...]
    withdrawn: tuple[str, ...]
    """The names of the non-runners."""
    notes: tuple[str, ...]
    """Caveats for the reader."""
    place_terms: PlaceTerms = NO_PLACES
    column_digests: str = ""
    """A digest of each feature column, which shows the ones that differ from those of another score."""


@dataclass(frozen=True, slots=True)
class RaceSnapshot:
    """The inputs of a score: the declared race, the features of its runners, and the instant and origin of both."""

    race: Declared
    matrix: FeatureMatrix
    as_of: datetime
    origin: Origin


def scored_race(
    model: Bundle,
    snapshot: RaceSnapshot,
    now: datetime,
    *,
    result: Result | None = None,
    notes: Sequence[str] = (),
    explainer: DriverExplainer | None = None,
) -> ScoredRace:
    """Score a race; `result`, if it has been run, gives starting prices to show if no odds were known before.

    `explainer` adds each runner's drivers; without it there are none.
    """
    race, matrix, caveats = snapshot.race, snapshot.matrix, list(notes)
    runners = _runners(model, race, matrix, result, explainer)
    caveats.extend(model.differences)
    if any(runner.market_source == SP for runner in runners):
        caveats.append("market odds are starting prices, known with the result: not known before the off, no input")
    if matrix.missing[:, _OF_RUNNERS].all():
        caveats.append(NOTHING_KNOWN)
    if matrix.stale.any():
        caveats.append("some values are stale: a window has moved on since they were written (run `velo tick`)")
    off = race.race
    return ScoredRace(
        race_id=off.race_id,
        race_name=off.race_name,
        course=off.course,
        going=off.going,
        distance_m=off.distance_m,
        off_time=off.off_time,
        as_of=snapshot.as_of,
        scored_at=now,
        declared_by=race.source,
        features_from=snapshot.origin,
        odds_known_at=race.odds.known_at if race.odds else None,
        model=model.version,
        gate=model.gate,
        mode=model.mode,
        fingerprint=fingerprint(race, matrix),
        missing=_views([any(of) for of in zip(*matrix.missing.tolist(), strict=True)]),
        stale=_views([any(of) for of in zip(*matrix.stale.tolist(), strict=True)]),
        runners=tuple(
            sorted(runners, key=lambda runner: (-runner.probability, runner.runner_no or 0, runner.horse_id))
        ),
        withdrawn=tuple(runner.horse or runner.horse_id for runner in race.withdrawn),
        notes=tuple(caveats),
        place_terms=place_terms(off, len(race.runners)),
        column_digests=column_digests(matrix),
    )


def _runners(
    model: Bundle, race: Declared, matrix: FeatureMatrix, result: Result | None, explainer: DriverExplainer | None
) -> list[ScoredRunner]:
    """The runners of a race with their probabilities, in the order of its card."""
    inputs = matrix.select(model.features)
    chances = model.probabilities(inputs)
    prices = _starting_prices(result)
    snapshot = {horse: odds for horse, odds in race.odds.prices.items() if odds > 1.0} if race.odds else {}
    market = [(snapshot if race.odds else prices).get(runner.horse_id) for runner in race.runners]
    moves = market_moves.moves_of(race) if race.odds else None
    blended = _blended(model, chances, market, inputs, moves) if race.odds else None
    mixed = [None] * len(race.runners) if blended is None else blended.tolist()
    bounds = _pairs(model.interval(chances), len(mixed))
    mixed_bounds = [None] * len(mixed) if blended is None else _pairs(model.interval(blended, BLEND), len(mixed))
    shown = chances if blended is None else blended
    drivers: Sequence[tuple[Driver, ...]] = [()] * len(race.runners)
    figures: Sequence[Figures | None] = [None] * len(race.runners)
    if explainer is not None:
        odds = None if blended is None else np.array(market, dtype=np.float64)
        drivers, figures = explainer.explain(model, matrix, shown, odds, moves), figures_of(matrix)
    terms = place_terms(race.race, len(race.runners))
    placed = _placed(model, shown, terms, OWN if blended is None else BLEND)
    each_way = _each_way(shown, placed, terms, market if race.odds else ())
    own, fair = chances.tolist(), (1.0 / chances).tolist()
    missing, stale = matrix.missing.tolist(), matrix.stale.tolist()
    moved = _moves(race, moves)
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
            drivers=drivers[at],
            missing=_views(missing[at]),
            stale=_views(stale[at]),
            jockey_id=runner.jockey_id,
            trainer_id=runner.trainer_id,
            interval=bounds[at],
            blended_interval=mixed_bounds[at],
            place=placed[at],
            each_way=each_way[at],
            figures=figures[at],
            moves=moved[at][0],
            unknown_moves=moved[at][1],
        )
        runners.append(scored)
    return runners


def _placed(model: Bundle, shown: Floats, terms: PlaceTerms, of: str) -> list[float | None]:
    """The chance of a place of each runner; None where no place bet is offered."""
    return model.places(shown, terms.places, of).tolist() if terms.places else [None] * shown.size


def _each_way(
    shown: Floats, placed: Sequence[float | None], terms: PlaceTerms, market: Sequence[float | None]
) -> list[float | None]:
    """The mean return of a unit each way on each runner; None without odds known before the off."""
    prices = market or [None] * shown.size
    return [
        None if price is None or place is None else terms.each_way(win, place, price)
        for win, place, price in zip(shown.tolist(), placed, prices, strict=True)
    ]


def fingerprint(race: Declared, matrix: FeatureMatrix) -> str:
    """A digest of 32 hex digits of the runners of a race, in order, and every bit of their features."""
    digest = blake2b("\0".join(runner.horse_id for runner in race.runners).encode(), digest_size=16)
    # all NaNs are made equal, and −0 is made 0: no model distinguishes them
    digest.update(np.where(np.isnan(matrix.matrix), np.nan, matrix.matrix + 0.0).tobytes())
    return digest.hexdigest()


def _moves(
    race: Declared, moves: Floats | None
) -> list[tuple[Mapping[str, float | None] | None, Mapping[str, str] | None]]:
    """The market's columns of each runner by name, and why some are unknown; None for both without odds."""
    if moves is None:
        return [(None, None)] * len(race.runners)
    named = (zip(market_moves.COLUMNS, row, strict=True) for row in moves.tolist())
    shown = ({name: None if value != value else value for name, value in row} for row in named)
    return list(zip(shown, market_moves.unknown_of(race, moves), strict=True))


def _blended(
    model: Bundle, chances: Floats, market: Sequence[float | None], matrix: Floats, moves: Floats | None
) -> Floats | None:
    blend: Any = getattr(model, "blend", None)
    if blend is None:
        return None
    odds = np.array([np.nan if price is None else price for price in market], dtype=np.float64)
    found: Floats | None = blend(chances, odds, matrix, moves)
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
