"""Made-up worlds in which it is known whether there is an edge: does the gate pass the one and not the other, as often as it says?

A world is races, probabilities, prices and winners, nothing else: no features, no model, so that a hundred are made quickly. With
an edge the model is the truth and the market sees it through noise; without one the market is the truth and the model the noise.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.resampling import Days
from velo.training.backtest_metrics import BacktestPeriod
from velo.training.by_race import softmax
from velo.training.devig import proportional
from velo.training.gate import RECORDS, WINDOWS_DAYS, Verdict
from velo.training.gate_simulation import winners
from velo.training.windows import GateReport, ask

RUNNERS: Final = 8
BOOK: Final = 1.02
"""An exchange's: the gate wants a profit, and a bookmaker's margin would ask for more edge than anyone has."""
NOISE: Final = 0.5
A_DAY: Final = 130
DAYS: Final = 120
RESAMPLES: Final = 400
SIMULATIONS: Final = 100
BY_CHANCE: Final = 0.001
"""A rate that chance would bring less often than this, were the foretold one true, does not agree with it."""
FIRST_DAY: Final = np.datetime64("2025-01-01")


@dataclass(frozen=True, slots=True)
class Rate:
    """How many worlds of a kind passed the gate's window of so many days, and what the reports foretold on average.

    `foretold` is P(pass | the model is true) where there is an edge, P(pass | no edge) where there is none.
    """

    edge: bool
    days: int
    worlds: int
    passed: int
    foretold: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """The whole gate's verdicts in worlds with an edge and without, and each window's pass rate beside the one foretold."""

    verdicts: dict[bool, dict[str, int]]
    windows: tuple[Rate, ...]


def world(
    races: int, seed: int, model_noise: float, market_noise: float, a_day: int = 20
) -> tuple[BacktestPeriod, NDArray[np.datetime64]]:
    """Races of `RUNNERS` with a true quality that model and market see with noise of their own; and the date of each race."""
    rng = np.random.default_rng(seed)
    starts = (np.arange(races) * RUNNERS).astype(np.intp)
    true = rng.normal(size=races * RUNNERS)
    model = softmax(true + rng.normal(scale=model_noise, size=true.size), starts)
    market = softmax(true + rng.normal(scale=market_noise, size=true.size), starts)
    won = winners(softmax(true, starts), starts, np.ones(races, dtype=np.bool_), rng, 1)[0]
    share = np.zeros(true.size)
    share[won] = 1.0
    price = np.maximum(1.0 / (BOOK * market), 1.01)
    dates = FIRST_DAY + np.arange(races) // a_day
    days = Days.of_dates(np.repeat(dates, RUNNERS), seed, RESAMPLES)
    return BacktestPeriod(model, proportional(price, starts), price, price, share, starts, days), dates


def asked(
    seed: int,
    *,
    edge: bool,
    a_day: int = A_DAY,
    windows: Sequence[int] = WINDOWS_DAYS,
    simulations: int = SIMULATIONS,
) -> GateReport:
    """The gate on one world of `DAYS` race days."""
    season, dates = world(a_day * DAYS, seed, 0.0 if edge else NOISE, NOISE if edge else 0.0, a_day)
    until: date = dates.max().astype(date)
    return ask(season, dates, season.pi, RECORDS + 1, until=until, windows=windows, simulations=simulations)


def rates(
    worlds: int,
    seed: int = 1,
    a_day: int = A_DAY,
    windows: Sequence[int] = WINDOWS_DAYS,
    simulations: int = SIMULATIONS,
    progress: Callable[[str, int, int], None] = lambda step, done, steps: None,
) -> Rates:
    """Run the gate on `worlds` worlds with an edge and as many without; their seeds count up from `seed`."""
    verdicts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    told = []
    for edge in (True, False):
        reports = []
        for number in range(worlds):
            progress("worlds with an edge" if edge else "worlds without one", number, worlds)
            report = asked(seed + number, edge=edge, a_day=a_day, windows=windows, simulations=simulations)
            reports.append(report)
            verdicts[edge][report.verdict.value] += 1
        told += [_rate(reports, edge, at) for at in range(len(windows))]
    each = {edge: {one.value: counts[one.value] for one in Verdict} for edge, counts in verdicts.items()}
    return Rates(each, tuple(told))


def _rate(reports: Sequence[GateReport], edge: bool, at: int) -> Rate:  # noqa: FBT001 private, called once
    asked_of = [report.asked[at] for report in reports]
    passed = sum(one.window.verdict is Verdict.PASS for one in asked_of)
    foretold = float(np.mean([(one.power if edge else one.no_edge).by_interval for one in asked_of]))
    return Rate(edge, asked_of[0].window.days, len(reports), passed, foretold, agrees(passed, len(reports), foretold))


def agrees(passed: int, worlds: int, foretold: float) -> bool:
    """Whether so many of so many may well come of the foretold rate, which is itself known to about one per cent."""
    from scipy.stats import binomtest

    near = float(np.clip(passed / worlds, foretold - 0.01, foretold + 0.01))
    return bool(binomtest(passed, worlds, min(max(near, 0.0), 1.0)).pvalue >= BY_CHANCE)
