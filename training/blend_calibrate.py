"""The model put together with the market and calibrated, each fold's by what was predicted before it and nothing later."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.backtest_metrics import winner_loss
from training.blending import BENTER, KINDS, Blending, OutOfFoldPredictions, chances, learn
from training.by_race import Floats
from training.fitting import has_market
from training.market import LEAST_RACES, fit_blend, fit_market_exponent
from training.walk_forward import OutOfFold


@dataclass(frozen=True, slots=True)
class BlendChoice:
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
    choices: tuple[BlendChoice, ...]


def combine(told: OutOfFold, sp_decimal: Floats) -> Combined:
    """Blend and calibrate every tested fold on the folds before it; `sp_decimal` is of the predicted starters.

    Raises `UserError` where the past has too few races with a market.
    """
    market, calibrated, raw, blended = (np.full(told.fundamental.size, np.nan) for _ in range(4))
    choices = []
    for number in range(told.past, len(told.refits)):
        rows = _rows(told, told.fold == number)
        now = _seen(told, sp_decimal, told.fold == number)
        found = blending_of(told, sp_decimal, number)
        benter = found.benter
        said = chances(found.kind, now, benter)
        market[rows] = found.market.probabilities(None, now.pi, now.starts)
        calibrated[rows] = found.own.probabilities(now.f, 1.0 / now.f, now.starts)
        raw[rows] = said
        blended[rows] = found.curves[found.kind].probabilities(said, now.price, now.starts)
        choices.append(
            BlendChoice(
                fold=told.refits[number].name,
                kind=found.kind,
                losses=None if found.losses is None else dict(found.losses),
                races=found.compared,
                alpha=benter.alpha,
                alpha_se=benter.alpha_se,
                beta=benter.beta,
                market_beta=found.market.beta,
            )
        )
    races_tested = told.fold >= told.past
    rows = np.repeat(races_tested, told.races.sizes)
    return Combined(races_tested, rows, market[rows], calibrated[rows], raw[rows], blended[rows], tuple(choices))


def blending_of(told: OutOfFold, sp_decimal: Floats, number: int | None = None) -> Blending:
    """What the folds before one teach; all of them, where no number is given: what a bundle keeps.

    Raises `UserError` where they have too few races with a market.
    """
    at = len(told.refits) if number is None else number
    kind, losses, races = _compared(told, sp_decimal, at)
    wanted = told.fold < at
    return learn(
        _seen(told, sp_decimal, wanted),
        _seen(told, sp_decimal, wanted & has_market(told.races)),
        kind,
        losses,
        races,
    )


def _compared(told: OutOfFold, sp_decimal: Floats, number: int) -> tuple[str, dict[str, float] | None, int]:
    """The blend that gained most surely over the folds before, each with what lay before that; mean losses; of how many races."""
    losses: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    gains: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    whole = has_market(told.races)
    for at in range(1, number):
        learned, tried = (_seen(told, sp_decimal, wanted & whole) for wanted in (told.fold < at, told.fold == at))
        if tried.starts.size == 0 or learned.starts.size < LEAST_RACES or np.isnan(tried.residual).any():
            continue
        alone = fit_market_exponent(learned.pi, learned.starts, learned.share)
        market = winner_loss(alone.probabilities(None, tried.pi, tried.starts), tried.share, tried.starts)
        benter = fit_blend(learned.f, learned.pi, learned.starts, learned.share)
        for kind in KINDS:
            losses[kind].append(winner_loss(chances(kind, tried, benter), tried.share, tried.starts))
            gains[kind].append(market - losses[kind][-1])
    if not losses[BENTER]:
        return BENTER, None, 0
    kind = surest({kind: np.concatenate(each) for kind, each in gains.items()})
    told_losses = {kind: float(np.concatenate(each).mean()) for kind, each in losses.items()}
    return kind, told_losses, sum(each.size for each in losses[BENTER])


def surest(gains: Mapping[str, Floats]) -> str:
    """The kind of the greatest mean gain a race less its standard error; of equals, the first.

    What gains a little in most races is worth more on days to come than what gained as much by a few: the plain mean would
    choose by luck among blends that differ by less than it can tell.
    """
    return max(gains, key=lambda kind: float(gains[kind].mean() - gains[kind].std() / np.sqrt(gains[kind].size)))


def _rows(told: OutOfFold, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(np.repeat(wanted, told.races.sizes), dtype=np.bool_)


def _seen(told: OutOfFold, sp_decimal: Floats, wanted: NDArray[np.bool_]) -> OutOfFoldPredictions:
    rows = _rows(told, wanted)
    some = told.races.only(wanted)
    columns = (told.fundamental, told.races.pi, told.residual, told.races.share, sp_decimal)
    return OutOfFoldPredictions(some.starts, *(column[rows] for column in columns))
