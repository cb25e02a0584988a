"""The model put together with the market and calibrated, each fold's by what was predicted before it and nothing later."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.backtest_metrics import winner_loss
from training.blocks import Floats, Indices
from training.calibration import fit_calibration
from training.market import fit_blend, fit_market_exponent
from training.refits import OutOfFold

BENTER: Final = "Benter"
RESIDUAL: Final = "residual"


@dataclass(frozen=True, slots=True)
class Choice:
    """The blend of a tested fold. `losses` are of each candidate over the past folds after the first, nats a race.

    None of them where the past has one fold alone: then it is Benter's. `alpha` and `beta` are Benter's, `market_beta` the
    market's own.
    """

    fold: str
    kind: str
    losses: dict[str, float] | None
    races: int
    alpha: float
    alpha_se: float | None
    beta: float
    market_beta: float


@dataclass(frozen=True)
class Combined:
    """Of every starter of the tested folds (`rows` of the predictions), NaN where a race has no market; and how."""

    races: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    market: Floats
    calibrated: Floats
    blend_raw: Floats
    blend: Floats
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class _Part:
    """Some races of the predictions."""

    rows: NDArray[np.bool_]
    starts: Indices
    f: Floats
    pi: Floats
    residual: Floats
    share: Floats
    price: Floats


def combine(told: OutOfFold, sp_decimal: Floats) -> Combined:
    """Blend and calibrate every tested fold on the folds before it; `sp_decimal` is of the predicted starters.

    Raises `UserError` where the past has too few races with a market.
    """
    market, calibrated, raw, blended = (np.full(told.fundamental.size, np.nan) for _ in range(4))
    choices = []
    for number in range(told.past, len(told.refits)):
        before, now = _part(told, sp_decimal, told.fold < number), _part(told, sp_decimal, told.fold == number)
        learned = _part(told, sp_decimal, (told.fold < number) & _has_market(told))
        alone = fit_market_exponent(learned.pi, learned.starts, learned.share)
        benter = fit_blend(learned.f, learned.pi, learned.starts, learned.share)
        losses, races = _compared(told, sp_decimal, number)
        kind = BENTER if losses is None or losses[BENTER] <= losses[RESIDUAL] else RESIDUAL
        past_chances, chances = (
            benter.probabilities(part.f, part.pi, part.starts) if kind == BENTER else part.residual
            for part in (learned, now)
        )
        market[now.rows] = alone.probabilities(None, now.pi, now.starts)
        own = fit_calibration(before.f, before.share, 1.0 / before.f)
        calibrated[now.rows] = own.probabilities(now.f, 1.0 / now.f, now.starts)
        raw[now.rows] = chances
        curves = fit_calibration(past_chances, learned.share, learned.price)
        blended[now.rows] = curves.probabilities(chances, now.price, now.starts)
        choices.append(
            Choice(
                told.refits[number].name, kind, losses, races, benter.alpha, benter.alpha_se, benter.beta, alone.beta
            )
        )
    races_tested = told.fold >= told.past
    rows = np.repeat(races_tested, told.races.sizes)
    return Combined(races_tested, rows, market[rows], calibrated[rows], raw[rows], blended[rows], tuple(choices))


def _compared(told: OutOfFold, sp_decimal: Floats, number: int) -> tuple[dict[str, float] | None, int]:
    """Mean winner log loss of both blends over the folds before, each with what lay before that; and of how many races."""
    losses: dict[str, list[Floats]] = {BENTER: [], RESIDUAL: []}
    whole = _has_market(told)
    for at in range(1, number):
        learned, tried = (_part(told, sp_decimal, wanted & whole) for wanted in (told.fold < at, told.fold == at))
        if not tried.starts.size:
            continue
        blend = fit_blend(learned.f, learned.pi, learned.starts, learned.share)
        chances = {BENTER: blend.probabilities(tried.f, tried.pi, tried.starts), RESIDUAL: tried.residual}
        for kind, said in chances.items():
            losses[kind].append(winner_loss(said, tried.share, tried.starts))
    if not losses[BENTER]:
        return None, 0
    joined = {kind: np.concatenate(each) for kind, each in losses.items()}
    return {kind: float(each.mean()) for kind, each in joined.items()}, int(joined[BENTER].size)


def _has_market(told: OutOfFold) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(told.races.total(told.races.pi)), dtype=np.bool_)


def _part(told: OutOfFold, sp_decimal: Floats, wanted: NDArray[np.bool_]) -> _Part:
    rows = np.repeat(wanted, told.races.sizes)
    some = told.races.only(wanted)
    columns = (told.fundamental, told.races.pi, told.residual, told.races.share, sp_decimal)
    return _Part(rows, some.starts, *(column[rows] for column in columns))
