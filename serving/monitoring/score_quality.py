"""Served scores against their results: log loss beside the market's, calibration, closing-line value, and a test that never ends.

The test of calibration is a CUSUM of the log likelihood ratio of the winners under p^β and under the nearest p^β that is allowed.
Its exponential is an e-detector: where the probabilities are as sharp as they say, its mean time to a false alarm is at least
e^threshold race days, whatever the races.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.change_detection import SEASON_DAYS
from velo.resampling import Days, Figure
from velo.serving.monitoring.served_races import ServedRace

Floats = NDArray[np.float64]

FUNDAMENTAL: Final = "fundamental"
BLEND: Final = "blend"
SHARPNESS: Final = ((0.9, 0.6), (1.1, 1.5))
"""The exponents that a calibrated score has at least and at most, each with the one that the test looks for beyond it."""
FALSE_ALARMS: Final = 0.25
"""The expected number of false alarms of the tests of both scores in a season."""
THRESHOLD: Final = log(2 * len(SHARPNESS) * SEASON_DAYS / FALSE_ALARMS)
SMALLEST: Final = 1e-9
SEED: Final = 1
STEPS: Final = 30


@dataclass(frozen=True, slots=True)
class ScoreQuality:
    """The settled scores of one kind, with 95 % intervals over race days.

    `log_loss` and `market_log_loss` are winner log losses in nats a race, over the races that have both; `margin` is the market's
    less the score's. `exponent` is the β for which p^β fits best: 1 if calibrated, below 1 if overconfident. `clv` is the mean of
    the price shown ÷ SP − 1 over the runners that the score found worth more than their price. `unsure_since` is the race day on
    which the test of calibration found against the score, None if it did not; `overconfident` says in which direction.
    """

    of: str
    races: int
    log_loss: Figure
    market_log_loss: Figure
    margin: Figure
    exponent: Figure
    clv: Figure
    unsure_since: date | None
    overconfident: bool


@dataclass(frozen=True, slots=True)
class _Settled:
    """One race with a result: p, market π and share of the win of its starters, and the closing-line values of its bets."""

    day: date
    p: Floats
    pi: Floats | None
    share: Floats
    clv: tuple[float, ...]


def score_quality(races: Sequence[ServedRace]) -> tuple[ScoreQuality, ...]:
    """The quality of both kinds of scores over the races with a winner; a kind without a settled race is left out."""
    found = []
    for kind in (FUNDAMENTAL, BLEND):
        settled = [each for each in (_settled(race, kind) for race in races) if each is not None]
        if settled:
            found.append(_quality(kind, settled))
    return tuple(found)


def _settled(race: ServedRace, kind: str) -> _Settled | None:
    if race.result is None:
        return None
    chances = {horse: own if kind == FUNDAMENTAL else mixed for horse, (own, mixed) in race.score.chances.items()}
    runners = [runner for runner in race.result.runners if runner.started and chances.get(runner.horse_id) is not None]
    started = sum(runner.started for runner in race.result.runners)
    won = np.array([runner.won for runner in runners], dtype=np.float64)
    # a starter that was not scored, or a winner that was not, leaves nothing to compare
    if len(runners) < max(2, started) or not won.any():
        return None
    p = np.maximum(np.array([chances[runner.horse_id] for runner in runners], dtype=np.float64), SMALLEST)
    prices = np.array([runner.sp_decimal or np.nan for runner in runners], dtype=np.float64)
    pi = 1.0 / prices if np.all(prices > 1.0) else None
    taken = np.array([race.score.market.get(runner.horse_id, np.nan) for runner in runners], dtype=np.float64)
    # odds shown after the result are the starting prices themselves
    value = (p * taken > 1.0) & (prices > 1.0) if race.score.odds_known_at is not None else np.zeros(p.size, np.bool_)
    return _Settled(
        race.day,
        p / p.sum(),
        None if pi is None else pi / pi.sum(),
        won / won.sum(),
        tuple((taken[value] / prices[value] - 1.0).tolist()),
    )


def _quality(kind: str, settled: Sequence[_Settled]) -> ScoreQuality:
    priced = [race for race in settled if race.pi is not None]
    days = Days.of_dates(np.array([race.day for race in priced], dtype="datetime64[D]"), SEED)
    own = np.array([_loss(race.p, race.share) for race in priced])
    market = np.array([_loss(race.pi, race.share) for race in priced if race.pi is not None])
    values = np.array([value for race in settled for value in race.clv])
    of_bets = np.array([race.day for race in settled for _ in race.clv], dtype="datetime64[D]")
    since, overconfident = _tested(settled)
    return ScoreQuality(
        kind,
        len(settled),
        days.mean(own),
        days.mean(market),
        days.mean(market - own),
        _exponent(settled),
        Days.of_dates(of_bets, SEED).mean(values),
        since,
        overconfident,
    )


def _loss(p: Floats, share: Floats) -> float:
    return -float(share @ np.log(np.maximum(p, SMALLEST)))


def _exponent(settled: Sequence[_Settled]) -> Figure:
    """The β of p^β with the highest likelihood; its interval takes one Newton step from it in each resample."""
    days = Days.of_dates(np.array([race.day for race in settled], dtype="datetime64[D]"), SEED)
    beta = 1.0
    for _ in range(STEPS):
        gradient, curvature = _slopes(settled, beta)
        if curvature.sum() <= 0.0:
            return Figure(None, None, None, len(settled))
        step = float(gradient.sum() / curvature.sum())
        beta = min(max(beta + min(max(step, -0.5), 0.5), 0.0), 10.0)
        if abs(step) < 1e-9:
            break
    drawn = days.resampled(days.sums(np.stack(_slopes(settled, beta), axis=1)))
    return days.figure(beta, beta + drawn[:, 0] / np.maximum(drawn[:, 1], SMALLEST), len(settled))


def _slopes(settled: Sequence[_Settled], beta: float) -> tuple[Floats, Floats]:
    """The derivative of each race's log likelihood by β, and minus its second derivative."""
    gradient, curvature = np.empty(len(settled)), np.empty(len(settled))
    for at, race in enumerate(settled):
        logs = np.log(race.p)
        chance = _sharpened(race.p, beta)
        mean = float(chance @ logs)
        gradient[at] = float(race.share @ logs) - mean
        curvature[at] = float(chance @ np.square(logs - mean))
    return gradient, curvature


def _sharpened(p: Floats, beta: float) -> Floats:
    raised = np.exp(beta * (np.log(p) - np.log(p).max()))
    return np.asarray(raised / raised.sum(), dtype=np.float64)


def _tested(settled: Sequence[_Settled]) -> tuple[date | None, bool]:
    """The race day on which the calibration was found wrong, and whether it is overconfident; races are in order of time."""
    totals = np.zeros(len(SHARPNESS))
    by_day: dict[date, list[_Settled]] = {}
    for race in settled:
        by_day.setdefault(race.day, []).append(race)
    found: tuple[date | None, bool] = (None, False)
    for day, races in sorted(by_day.items()):
        for at, (allowed, wrong) in enumerate(SHARPNESS):
            added = sum(
                float(race.share @ np.log(_sharpened(race.p, wrong) / _sharpened(race.p, allowed))) for race in races
            )
            totals[at] = min(max(0.0, totals[at] + added), 2.0 * THRESHOLD)
        if found[0] is None and totals.max() >= THRESHOLD:
            found = day, bool(totals.argmax() == 0)
        elif totals.max() == 0.0:
            found = (None, False)
    return found
