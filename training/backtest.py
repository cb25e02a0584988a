"""`velo backtest`: what the recipe of a model would have said of days it had not seen, and what betting by it would have done.

The recipe is refitted as time goes on (`training.refits`), blended and calibrated on the past alone (`training.combine`), and
told by `training.backtest_metrics` with the gate's verdict on the period's last 90 days and 12 months.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np

from training.backtest_kept import SERVED, Predictions, keep
from training.backtest_metrics import Band, Bets, Season, above_and_below, all_strategies, delta_r2, margin, r2, top1
from training.backtest_metrics import auc as auc_of
from training.betting import DEFAULT, chosen, strategy
from training.blocks import Floats
from training.combine import Choice, combine
from training.dataset import LEAD, training_set
from training.declared import Period
from training.final_window import fingerprint, look, looks
from training.gate import WINDOWS_DAYS
from training.model import FEATURES, Options
from training.races import races_of
from training.refits import OutOfFold, Plan, Refit, predict
from training.reliability import Bins, equal_mass, equal_width, mean_gap, plain_error, reliability, root_mean_gap, slope
from training.resampling import Figure
from training.trials import Trial, tried
from training.windows import GateReport, ask
from velo.errors import UserError
from velo.store import Store

Progress = Callable[[str, int, int], None]
DAYS: Final = 365
BET: Final = (SERVED, "blend")
"""Probabilities that all strategies are told of."""


@dataclass(frozen=True, slots=True)
class Told:
    """How good some probabilities were: `mean_gap` and `root_mean_gap` have chance taken off, `plain_error` has it in."""

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
class Beside:
    """One set of probabilities beside another: ΔR² and the margin in nats a race, above 0 where the first is better."""

    name: str
    than: str
    delta_r2: Figure
    margin: Figure


@dataclass(frozen=True, slots=True)
class Equity:
    """Units won by the end of each race day with level stakes, and the 95 % band of seasons made of the same days drawn anew."""

    strategy: str
    days: tuple[str, ...]
    units: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """A backtest. All figures are of the `races` that have a market; `left_out` have none. Days are local race dates.

    `bets`, `bands`, `equity` and `gate` are by what they are told of; `gate` is empty where the period is shorter than a window
    of the gate. `trials` counts the different backtests that have tested any of these days, `look` the looks at a locked
    window among them. `drift` is the population stability index of the features, training days against tested days.
    """

    backtest: str
    recipe: str
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
    choices: tuple[Choice, ...]
    told: tuple[Told, ...]
    beside: tuple[Beside, ...]
    bets: dict[str, tuple[Bets, ...]]
    bands: dict[str, tuple[Band, ...]]
    equity: dict[str, Equity]
    gate: dict[str, GateReport]
    importance: dict[str, float]
    drift: dict[str, float]
    caveats: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The gate's word on what a bundle would serve."""
        return self.gate[self.served].verdict.value if self.served in self.gate else "NOT ENOUGH DATA"


def recipe_of(settings: Mapping[str, Any], features: Sequence[str], catalogue: str, lead_s: float) -> str:
    """SHA-256 of how a model is made: what a backtest says, it says of models of this recipe."""
    left_out = {"best_round", "threads"}
    options = {name: value for name, value in settings.items() if name not in left_out}
    told = {"options": options, "features": list(features), "catalogue": catalogue, "lead_s": lead_s}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def backtest(
    store: Store,
    *,
    now: datetime,
    since: date | None = None,
    until: date | None = None,
    days: int | None = None,
    refit_months: int | None = None,
    past: int | None = None,
    lead: timedelta = LEAD,
    options: Options | None = None,
    again: bool = False,
    progress: Progress = lambda step, done, steps: None,
) -> BacktestReport:
    """Test the recipe over local race dates `since` to `until` (both included), or the last `days` up to `until`.

    Without them, the last `DAYS` days with results. The trial goes on record before anything is told of it. Raises
    `UserError` for a period without races or past, results without prices, and days of a locked window unless `again`.
    """
    chosen_options = options or Options()
    rows = training_set(store, lead=lead, period=Period(until=until or date.max), progress=progress)
    races = races_of(rows)
    if not races.count:
        raise UserError(f"{store.home.offline} holds no race with a winner: load results and run `velo build`")
    plan = _plan(races.days.max().astype(date), since, until, days, refit_months, past)
    number = _looked_at(store, plan, again=again)
    matrix = rows.matrix(FEATURES)[races.rows]
    told = predict(matrix, races, plan, chosen_options, progress)
    sp = rows.label("sp_decimal")[told.races.rows]
    names = {
        name: rows.identity.column(name).to_numpy(zero_copy_only=False)[told.races.rows]
        for name in ("race_id", "horse_id")
    }
    progress("blend and calibrate", 0, 1)
    predictions, choices = _predictions(told, sp, names, chosen_options.seed)
    recipe = recipe_of(asdict(chosen_options), FEATURES, rows.provenance.catalogue, lead.total_seconds())
    data = fingerprint({name: predictions.columns[name] for name in ("race_id", "horse_id", "share", "sp_decimal")})
    shape = f"{plan}{recipe}{data}{told.refits[0].records}"
    name = f"{plan.since:%Y%m%d}-{plan.until:%Y%m%d}-{hashlib.sha256(shape.encode()).hexdigest()[:8]}"
    trial = Trial(name, plan.since.isoformat(), plan.until.isoformat(), recipe, data, now.isoformat())
    count = tried(store.home.models, trial, now)
    if number is not None:
        taken = look(store.home.models, plan.since, plan.until, predictions.fingerprint(), name, now, again=True)
        number = taken.number
    progress("measure", 0, 1)
    report = _report(name, recipe, plan, told, predictions, choices, count, number)
    keep(store.home, name, predictions, report)
    progress("measure", 1, 1)
    return report


def _plan(
    last: date, since: date | None, until: date | None, days: int | None, refit_months: int | None, past: int | None
) -> Plan:
    if since is not None and days is not None:
        raise UserError(f"--from {since} and --days {days} both say where to begin: give one of them")
    if days is not None and days < 1:
        raise UserError(f"a period of {days} days has no day: give 1 or more")
    end = until or last
    begin = since or end - timedelta(days=(days or DAYS) - 1)
    if begin > end:
        raise UserError(f"a period from {begin} to {end} has no day: give the earlier day first")
    return Plan(begin, end, refit_months) if past is None else Plan(begin, end, refit_months, past)


def _looked_at(store: Store, plan: Plan, *, again: bool) -> int | None:
    """How many looks at a locked window these days have had, None for none; raises `UserError` unless `again`."""
    before = [one for one in looks(store.home.models) if one.overlaps(plan.since, plan.until)]
    if before and not again:
        one = before[-1]
        raise UserError(
            f"{plan.since} to {plan.until} has days of the final window {one.since} to {one.until}, looked at on "
            f"{one.at[:10]}: test other days, or give --again to have another look counted"
        )
    return max((one.number for one in before), default=None)


def _predictions(
    told: OutOfFold, sp: Floats, names: Mapping[str, Any], seed: int
) -> tuple[Predictions, tuple[Choice, ...]]:
    """The tested races that have a market, as they are kept."""
    combined = combine(told, sp)
    tested = told.races.only(combined.races)
    priced = ~np.isnan(tested.total(tested.pi))
    if not priced.any():
        raise UserError(
            "no tested race has a starting price for every starter: there is no market to beat in these days"
        )
    rows = np.repeat(priced, tested.sizes)
    columns: dict[str, Any] = {
        **{name: values[combined.rows] for name, values in names.items()},
        "race": np.repeat(np.arange(tested.count), tested.sizes),
        "race_date": np.repeat(tested.days, tested.sizes),
        "fold": np.repeat(told.fold[combined.races], tested.sizes),
        "share": tested.share,
        "sp_decimal": sp[combined.rows],
        "pi": tested.pi,
        "market": combined.market,
        "fundamental": told.fundamental[combined.rows],
        "calibrated": combined.calibrated,
        "logit": told.logit[combined.rows],
        "blend_raw": combined.blend_raw,
        "blend": combined.blend,
    }
    records = min(one.records for one in told.refits if one.tested)
    kept = {name: np.asarray(values)[rows] for name, values in columns.items()}
    return Predictions(kept, tested.days[priced], seed, records), combined.choices


def _report(
    name: str,
    recipe: str,
    plan: Plan,
    told: OutOfFold,
    predictions: Predictions,
    choices: tuple[Choice, ...],
    trials: int,
    number: int | None,
) -> BacktestReport:
    seasons = {one: predictions.season(one) for one in BET}
    season = seasons[SERVED]
    columns = predictions.columns
    chances = {
        one: columns[one] for one in ("pi", "market", "logit", "fundamental", "calibrated", "blend_raw", "blend")
    }
    tested = int((told.fold >= told.past).sum())
    return BacktestReport(
        backtest=name,
        recipe=recipe,
        served=SERVED,
        since=plan.since.isoformat(),
        until=plan.until.isoformat(),
        races=int(season.starts.size),
        runners=int(season.p.size),
        race_days=season.days.count,
        left_out=tested - int(season.starts.size),
        records=predictions.records,
        months=told.months,
        rounds=told.rounds,
        residual_rounds=told.residual_rounds,
        trials=trials,
        look=number,
        refits=told.refits,
        choices=choices,
        told=tuple(_told(one, said, season) for one, said in chances.items()),
        beside=tuple(
            Beside(
                one, than, delta_r2(chances[one], chances[than], season), margin(chances[one], chances[than], season)
            )
            for one, than in (
                ("blend", "market"),
                ("fundamental", "market"),
                ("fundamental", "logit"),
                ("market", "pi"),
            )
        ),
        bets={one: all_strategies(of) for one, of in seasons.items()},
        bands={one: above_and_below(of) for one, of in seasons.items()},
        equity={one: equity_of(of, predictions.columns["race_date"], DEFAULT) for one, of in seasons.items()},
        gate=gates(predictions, plan.until, (plan.until - plan.since).days + 1),
        importance=told.importance,
        drift=told.drift,
        caveats=_caveats(plan, predictions, told, trials),
    )


def gates(predictions: Predictions, until: date, days: int) -> dict[str, GateReport]:
    """The gate on what is bet by; nothing where the days do not fill its longest window."""
    if days < max(WINDOWS_DAYS):
        return {}
    return {
        one: ask(
            predictions.season(one),
            predictions.race_dates,
            predictions.columns["market"],
            predictions.records,
            until=until,
        )
        for one in BET
    }


def equity_of(season: Season, dates: np.ndarray[Any, np.dtype[Any]], name: str) -> Equity:
    """The running total of a strategy's level stakes by race day, and its band."""
    wanted = chosen(strategy(name), season.p, season.decided_at)
    profit = np.where(wanted, season.share * season.settled_at - 1.0, 0.0)
    by_day = np.bincount(season.days.of, np.nan_to_num(profit), minlength=season.days.count)
    rng = np.random.default_rng(season.days.seed)
    drawn = by_day[rng.integers(0, by_day.size, (500, by_day.size))].cumsum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    days = tuple(str(day) for day in np.unique(dates.astype("datetime64[D]")))
    return Equity(name, days, *(tuple(path.tolist()) for path in (by_day.cumsum(), low, high)))


def _told(name: str, p: Floats, season: Season) -> Told:
    days, share = season.days, season.share
    of = Season(p, season.pi, season.decided_at, season.settled_at, share, season.starts, days)
    return Told(
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


def _caveats(plan: Plan, predictions: Predictions, told: OutOfFold, trials: int) -> tuple[str, ...]:
    said = ["bets are decided and settled at SP, which nobody knows before the off: these returns flatter whoever bets"]
    if trials > 1:
        said.append(
            f"these days have been tested by {trials} different backtests: the best of them looks better than it is"
        )
    if (plan.until - plan.since).days + 1 < max(WINDOWS_DAYS):
        said.append(f"shorter than {max(WINDOWS_DAYS)} days: the gate was not asked")
    if np.isnan(predictions.columns["sp_decimal"]).any():
        said.append("some starters have no price: bets on them count as unsettled")
    if told.past == 1:
        said.append("one refit before the period: the first tested fold could not compare the blends and took Benter's")
    return tuple(said)
