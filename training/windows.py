"""The gate over a tested period: its last 90 days and last 12 months, the figures of each, and how often luck would pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Figure
from velo.training.backtest_metrics import BacktestPeriod, auc, margin, placed, top1
from velo.training.betting import DEFAULT, Strategy, Wanted, chosen, strategy
from velo.training.by_race import Floats
from velo.training.gate import WINDOWS_DAYS, Verdict, Window, gate, judge_window
from velo.training.gate_simulation import SIMULATIONS, PassChance, pass_chance
from velo.training.reliability import root_mean_gap, slope


@dataclass(frozen=True, slots=True)
class JudgedPeriod:
    """A judged window, with P(pass) by luck (`no_edge`) and by merit (`power`, if the model's p were true)."""

    window: Window
    no_edge: PassChance
    power: PassChance


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's verdict on a strategy, with its judged windows."""

    verdict: Verdict
    strategy: str
    asked: tuple[JudgedPeriod, ...]


def ask(
    season: BacktestPeriod,
    race_dates: NDArray[np.datetime64],
    market: Floats,
    records: int,
    *,
    until: date,
    of: Strategy | None = None,
    windows: Sequence[int] = WINDOWS_DAYS,
    simulations: int = SIMULATIONS,
) -> GateReport:
    """The gate over windows that end with `until`, a local race date.

    `race_dates` are local, one per race; `market` is π^β of every runner, with β fitted out of fold; `records` counts the training
    records. Percentiles are those of each window. Raises `UserError` for a window without races.
    """
    chosen_by = of or strategy(DEFAULT)
    asked = tuple(_ask(season, race_dates, market, records, chosen_by, until, days, simulations) for days in windows)
    return GateReport(gate([judged.window for judged in asked], windows), chosen_by.name, asked)


def gate_figures(season: BacktestPeriod, wanted: Wanted, market: Floats, records: int) -> dict[str, Figure]:
    """The figures of the criteria and alarms of `velo.training.gate`, by name."""
    bets = placed(season, "", wanted)
    return {
        "ae_price": bets.ae_price,
        "roi": bets.roi[0.0],
        "calibration_error": root_mean_gap(season.p, season.share, season.days),
        "slope": slope(season.p, season.share, season.days),
        "margin": margin(season.p, market, season),
        "records": Figure(float(records), None, None, records),
        "top1": top1(season),
        "auc": Figure(auc(season.p, season.share), None, None, season.p.size),
    }


def _ask(
    season: BacktestPeriod,
    race_dates: NDArray[np.datetime64],
    market: Floats,
    records: int,
    of: Strategy,
    until: date,
    days: int,
    simulations: int,
) -> JudgedPeriod:
    last = np.datetime64(until, "D")
    inside = (race_dates > last - days) & (race_dates <= last)
    if not inside.any():
        since = until - timedelta(days=days - 1)
        raise UserError(f"no race from {since} to {until}: choose another end, or load results of those days")
    part = season.only(inside)
    benchmark = market[inside[season.race]]
    wanted = chosen(of, part.p, part.decided_at)
    figures = gate_figures(part, wanted, benchmark, records)
    window = judge_window(figures, days, str(race_dates[inside].min()), str(race_dates[inside].max()))
    no_edge, power = (
        pass_chance(part, wanted, benchmark, truth, part.days.seed, simulations) for truth in (part.pi, part.p)
    )
    return JudgedPeriod(window, no_edge, power)
