"""The report of a backtest: each set of probabilities measured, compared and bet on, and judged by the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np

from velo.racing.staking import DEFAULT as STAKING
from velo.racing.staking import Staking
from velo.resampling import Figure
from velo.training.dataset.by_race import Floats
from velo.training.dataset.races import PriceUsed
from velo.training.evaluation.betting import DEFAULT, STRATEGIES, chosen, strategy
from velo.training.evaluation.blend_calibrate import BlendChoice
from velo.training.evaluation.metrics import (
    BacktestPeriod,
    Bets,
    ProbabilityBand,
    above_and_below,
    all_strategies,
    delta_r2,
    margin,
    r2,
    top1,
)
from velo.training.evaluation.metrics import auc as auc_of
from velo.training.evaluation.place_quality import Exponent, PlacesMeasured, measure_places
from velo.training.evaluation.reliability import (
    Bins,
    equal_mass,
    equal_width,
    mean_gap,
    plain_error,
    reliability,
    root_mean_gap,
    slope,
)
from velo.training.evaluation.segments import SegmentReport
from velo.training.evaluation.walk_forward import OutOfFold, Refit, WalkForwardPlan
from velo.training.gate.criteria import ALARMS, WINDOWS_DAYS
from velo.training.gate.simulation import luck
from velo.training.gate.windows import BET, BY_P, BY_PRICE, Floor, GateReport, ask, floors
from velo.training.registry.backtests import SERVED, Predictions

MARKETS: Final = ("pi", "market")
BESIDE: Final = (("blend", "market"), ("fundamental", "market"), ("fundamental", "logit"), ("market", "pi"))
FLOORS: Final = (("blend", BY_PRICE), ("fundamental", BY_P), ("calibrated", BY_P))
"""The last one shows the effect of the model's own calibration curves; the model is served without them (docs/modeller.md)."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """The quality of a set of probabilities; `mean_gap` and `root_mean_gap` are debiased, `plain_error` is not."""

    name: str
    r2: Figure
    top1: Figure
    auc: float | None
    mean_gap: Figure
    root_mean_gap: Figure
    plain_error: float
    slope: Figure
    diagram: Bins


@dataclass(frozen=True, slots=True)
class Comparison:
    """One set of probabilities compared with another: ΔR² and the margin in nats per race, above 0 if the first is better."""

    name: str
    than: str
    delta_r2: Figure
    margin: Figure


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm that went off over the whole period: a figure of `subject` too good to be true, over `n` races, runners or bets.

    `strategy` is the best of the betting strategies that set it off; None if the figure is not of bets.
    """

    subject: str
    says: str
    value: float
    n: int
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Equity:
    """Units won by the end of each race day at level stakes, and the 95 % band of resampled race days."""

    strategy: str
    days: tuple[str, ...]
    units: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """A backtest. All figures are of the `races` that have a market; `left_out` races have none. Days are local race dates.

    `bets`, `bands`, `equity` and `gate` are by the name of the probabilities; `gate` is empty if the period is shorter than a window
    of the gate. `trials` counts the different backtests that have tested any of these days, `look` the looks at a locked
    window among them. `drift` is the population stability index of each feature, training days against tested days.
    `alarms` cover the whole period, whatever its length. `luck` is P(a gain this large | no edge) by probabilities and
    strategy, for the strategies that gained. `prices` says which price the blend uses, `segments` where blend and market differ.
    `staking` is how the bank of each strategy stakes.
    `places` are the place chances by field size, `exponents` λ of the last tested fold.
    """

    alarms: tuple[Raised, ...]
    backtest: str
    recipe: str
    model: str
    served: str
    since: str
    until: str
    races: int
    runners: int
    race_days: int
    left_out: int
    records: int
    months: int
    rounds: int
    residual_rounds: int
    trials: int
    look: int | None
    refits: tuple[Refit, ...]
    choices: tuple[BlendChoice, ...]
    told: tuple[Measurements, ...]
    beside: tuple[Comparison, ...]
    bets: dict[str, tuple[Bets, ...]]
    bands: dict[str, tuple[ProbabilityBand, ...]]
    equity: dict[str, Equity]
    floors: tuple[Floor, ...]
    luck: dict[str, dict[str, float]]
    gate: dict[str, GateReport]
    staking: Staking
    places: tuple[PlacesMeasured, ...]
    exponents: tuple[Exponent, ...]
    importance: dict[str, float]
    drift: dict[str, float]
    caveats: tuple[str, ...]
    prices: PriceUsed
    segments: SegmentReport

    @property
    def verdict(self) -> str:
        """The gate's verdict on the probabilities that a bundle serves."""
        return self.gate[self.served].verdict.value if self.served in self.gate else "NOT ENOUGH DATA"


@dataclass(frozen=True, slots=True)
class Facts:
    """The identity of a backtest: its id, recipe and plan, the model's name, the number of the trial and of the look, the price used, and
    how the bank stakes.
    """

    backtest: str
    recipe: str
    plan: WalkForwardPlan
    model: str
    trials: int
    look: int | None
    prices: PriceUsed
    staking: Staking = STAKING


def report_of(
    facts: Facts,
    predicted: OutOfFold,
    predictions: Predictions,
    choices: tuple[BlendChoice, ...],
    segments: SegmentReport,
    exponents: tuple[Exponent, ...],
) -> BacktestReport:
    """The report of a backtest's predictions."""
    plan = facts.plan
    seasons = {subject: predictions.season(subject) for subject in BET}
    season = seasons[SERVED]
    columns = predictions.columns
    chances = {
        name: columns[name] for name in ("pi", "market", "logit", "fundamental", "calibrated", "blend_raw", "blend")
    }
    tested = int((predicted.fold >= predicted.past).sum())
    figures = tuple(_measured(name, p, season) for name, p in chances.items())
    bets = {subject: all_strategies(of, facts.staking) for subject, of in seasons.items()}
    return BacktestReport(
        alarms=alarms_of(figures, bets, runners=int(season.p.size)),
        backtest=facts.backtest,
        recipe=facts.recipe,
        model=facts.model,
        served=SERVED,
        since=plan.since.isoformat(),
        until=plan.until.isoformat(),
        races=int(season.starts.size),
        runners=int(season.p.size),
        race_days=season.days.count,
        left_out=tested - int(season.starts.size),
        records=predictions.records,
        months=predicted.months,
        rounds=predicted.settings.get("best_round", 0),
        residual_rounds=predicted.settings.get("residual_rounds", 0),
        trials=facts.trials,
        look=facts.look,
        refits=predicted.refits,
        choices=choices,
        told=figures,
        beside=tuple(
            Comparison(
                name, than, delta_r2(chances[name], chances[than], season), margin(chances[name], chances[than], season)
            )
            for name, than in BESIDE
        ),
        bets=bets,
        bands={subject: above_and_below(of) for subject, of in seasons.items()},
        equity={subject: equity_of(of, predictions.columns["race_date"], DEFAULT) for subject, of in seasons.items()},
        floors=tuple(floor for subject, by in FLOORS for floor in floors(predictions.season(subject), subject, by)),
        luck={subject: luck_of(of) for subject, of in seasons.items()},
        gate=gates(predictions, plan.until, (plan.until - plan.since).days + 1),
        staking=facts.staking,
        places=measure_places(columns, season.starts, season.days),
        exponents=exponents,
        importance=predicted.importance,
        drift=predicted.drift,
        caveats=_caveats(plan, predictions, predicted, facts.trials),
        prices=facts.prices,
        segments=segments,
    )


def alarms_of(figures: Sequence[Measurements], bets: Mapping[str, Sequence[Bets]], runners: int) -> tuple[Raised, ...]:
    """The alarms of `velo.training.gate.criteria` over a whole period: of all probabilities but the market's, and of all bets."""
    raised = []
    named = {alarm.name: alarm for alarm in ALARMS}
    for measured in figures:
        if measured.name not in MARKETS:
            of = {"top1": measured.top1, "auc": Figure(measured.auc, None, None, runners)}
            raised += [
                Raised(measured.name, named[name].says, figure.value, figure.n)
                for name, figure in of.items()
                if figure.value is not None and named[name].goes_off(figure)
            ]
    for subject, every in bets.items():
        off = [(outcome.roi[0.0], outcome.strategy) for outcome in every if named["roi"].goes_off(outcome.roi[0.0])]
        for figure, name in sorted(off, key=lambda item: -(item[0].value or 0.0))[:1]:
            raised.append(Raised(subject, named["roi"].says, figure.value or 0.0, figure.n, name))
    return tuple(raised)


def luck_of(season: BacktestPeriod) -> dict[str, float]:
    """P(a gain this large | no edge) of each strategy that gained."""
    wanted = [chosen(strategy, season.p, season.decided_at) for strategy in STRATEGIES]
    shares = luck(season, wanted, season.days.seed)
    return {strategy.name: share for strategy, share in zip(STRATEGIES, shares, strict=True) if share is not None}


def gates(predictions: Predictions, until: date, days: int) -> dict[str, GateReport]:
    """The gate's reports by probabilities; empty if the days do not fill its longest window."""
    if days < max(WINDOWS_DAYS):
        return {}
    return {
        subject: ask(
            predictions.season(subject),
            predictions.race_dates,
            predictions.columns["market"],
            predictions.records,
            until=until,
        )
        for subject in BET
    }


def equity_of(season: BacktestPeriod, dates: np.ndarray[Any, np.dtype[Any]], name: str) -> Equity:
    """The cumulative profit of a strategy's level stakes by race day, and its band."""
    wanted = chosen(strategy(name), season.p, season.decided_at)
    profit = np.where(wanted, season.share * season.settled_at - 1.0, 0.0)
    by_day = np.bincount(season.days.of, np.nan_to_num(profit), minlength=season.days.count)
    rng = np.random.default_rng(season.days.seed)
    drawn = by_day[rng.integers(0, by_day.size, (500, by_day.size))].cumsum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    days = tuple(str(day) for day in np.unique(dates.astype("datetime64[D]")))
    return Equity(name, days, *(tuple(path.tolist()) for path in (by_day.cumsum(), low, high)))


def _measured(name: str, p: Floats, season: BacktestPeriod) -> Measurements:
    days, share = season.days, season.share
    of = BacktestPeriod(p, season.pi, season.decided_at, season.settled_at, share, season.starts, days)
    return Measurements(
        name=name,
        r2=r2(p, season),
        top1=top1(of),
        auc=auc_of(p, share),
        mean_gap=mean_gap(p, share, days),
        root_mean_gap=root_mean_gap(p, share, days),
        plain_error=plain_error(p, share, equal_width(p)),
        slope=slope(p, share, days),
        diagram=reliability(p, share, equal_mass(p)),
    )


def _caveats(plan: WalkForwardPlan, predictions: Predictions, predicted: OutOfFold, trials: int) -> tuple[str, ...]:
    missing = float(np.isnan(predictions.columns["taken"]).mean())
    caveats = []
    if missing > 0.0:
        share = "all bets" if missing == 1.0 else f"bets on {missing:.0%} of the starters"
        caveats.append(
            f"{share} are decided at SP, without a price before the off: SP is unknown then, and such returns flatter"
        )
    if trials > 1:
        caveats.append(
            f"these days have been tested by {trials} different backtests: the best of them looks better than it is"
        )
    if (plan.until - plan.since).days + 1 < max(WINDOWS_DAYS):
        caveats.append(f"shorter than {max(WINDOWS_DAYS)} days: the gate was not asked")
    if np.isnan(predictions.columns["sp_decimal"]).any():
        caveats.append("some starters have no price: bets on them count as unsettled")
    if predicted.past == 1:
        caveats.append(
            "one refit before the period: the first tested fold could not compare the blends and took Benter's"
        )
    return tuple(caveats)
