"""The gate over a tested period, and `velo gate`: judge the last backtest and store the verdict with its model.

The gate judges the last 90 days and the last 12 months: the figures of each, and how often luck would pass. Beside it stand the
floors of contract 9: A/E of all starters by price bucket. A bucket holds where its 95 % interval contains 1, or where it expects
`MANY_EXPECTED` winners and A/E is within `NEAR` of 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Figure
from velo.storage.store import Home
from velo.training import bundle
from velo.training.dataset.by_race import Floats
from velo.training.dataset.races import PriceUsed
from velo.training.evaluation.betting import (
    BUCKETS,
    DEFAULT,
    STRATEGIES,
    Strategy,
    Wanted,
    bucket_of,
    chosen,
    cut_of,
    strategy,
)
from velo.training.evaluation.metrics import BacktestPeriod, auc, margin, placed, top1
from velo.training.evaluation.place_quality import DIRECT, PlacesMeasured, measure_places
from velo.training.evaluation.reliability import root_mean_gap, slope
from velo.training.gate.criteria import WINDOWS_DAYS, Verdict, Window, criteria_for, gate, judge_window
from velo.training.gate.simulation import SIMULATIONS, PassChance, pass_chance
from velo.training.registry import bundle_writing
from velo.training.registry.backtests import BLENDED, SERVED, last, look, looks, read, recipe_of


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
    """The figures of the criteria and alarms of `velo.training.gate.criteria`, by name."""
    bets = placed(season, "", wanted)
    return {
        "ae_price": bets.ae_price,
        "roi": bets.roi[0.0],
        "clv": bets.fair_clv,
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
    criteria = criteria_for(figures)
    window = judge_window(figures, days, str(race_dates[inside].min()), str(race_dates[inside].max()), criteria)
    # without an edge the closing line is 0 on average; a true model has the one that was seen
    no_edge, power = (
        pass_chance(part, wanted, benchmark, truth, part.days.seed, simulations, criteria, closing)
        for truth, closing in ((part.pi, 0.0), (part.p, figures["clv"].value or 0.0))
    )
    return JudgedPeriod(window, no_edge, power)


BET: Final = (SERVED, BLENDED)
"""The probabilities that every strategy bets on."""
NEAR: Final = 0.05
MANY_EXPECTED: Final = 2_500.0
BY_PRICE: Final = "price"
BY_P: Final = "own fair price"


@dataclass(frozen=True, slots=True)
class Floor:
    """All starters of one bucket of SP or of the model's own fair price 1/p: their number, the wins that p expects, and A/E.

    `holds` is None without an interval.
    """

    subject: str
    by: str
    bucket: str
    n: int
    expected: float
    ae: Figure
    holds: bool | None


def floors(season: BacktestPeriod, subject: str, by: str) -> tuple[Floor, ...]:
    """A/E of all starters by bucket, with the model's p as the expectation; `by` is `BY_PRICE` or `BY_P`."""
    bucket = bucket_of(season.settled_at if by == BY_PRICE else 1.0 / season.p)
    kept = []
    for at, name in enumerate(BUCKETS):
        inside = bucket == at
        p = season.p[inside]
        ae = season.days.where(inside).ratio(season.share[inside], p)
        kept.append(Floor(subject, by, name, int(inside.sum()), float(p.sum()), ae, holds(ae, float(p.sum()))))
    return tuple(kept)


def holds(ae: Figure, expected: float) -> bool | None:
    """Whether a bucket keeps its floor; None without an interval."""
    if ae.value is None or ae.low is None or ae.high is None:
        return None
    return ae.low <= 1.0 <= ae.high or (expected >= MANY_EXPECTED and abs(ae.value - 1.0) <= NEAR)


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """The gate's verdict on `subject` of a backtest. `model` is the version it was stored with, None without one.

    `look` is the number of this look at a locked window, None if the window is not locked. `places` are the place chances of
    the last 12 months; they are no criterion, and empty for a backtest of an earlier version.
    """

    backtest: str
    subject: str
    gate: GateReport
    model: str | None
    mode: str
    look: int | None
    notes: tuple[str, ...]
    places: tuple[PlacesMeasured, ...] = ()

    @property
    def verdict(self) -> str:
        """PASS, FAIL or NOT ENOUGH DATA."""
        return self.gate.verdict.value


def judge_last(
    home: Home, *, now: datetime, subject: str = SERVED, by: str = DEFAULT, final: bool = False, again: bool = False
) -> JudgeReport:
    """Judge the last backtest over its last 90 days and 12 months; `final` locks those 12 months.

    A look at locked days is recorded before anything is shown. Raises `UserError` for a period shorter than the longest
    window, an unknown strategy or subject, and a second look unless `again`.
    """
    name = last(home)
    predictions, report = read(home, name)
    since, until = date.fromisoformat(report["since"]), date.fromisoformat(report["until"])
    longest = max(WINDOWS_DAYS)
    if (until - since).days + 1 < longest:
        raise UserError(
            f"backtest {name} is of {(until - since).days + 1} days, the gate asks for {longest}: "
            f"run `velo backtest --days {longest}` first"
        )
    of = strategy(by)
    season = predictions.season(subject)
    first = until - timedelta(days=longest - 1)
    number = None
    if final or any(earlier.overlaps(first, until) for earlier in looks(home.models)):
        number = look(home.models, first, until, predictions.fingerprint(), name, now, again=again).number
    gate = ask(season, predictions.race_dates, predictions.columns["market"], predictions.records, until=until, of=of)
    model, notes = _whose(home, report, subject, by)
    notes = (*notes, price_words(report), looked_at_words(report.get("trials", 1)))
    mode = bundle.PAPER
    inside = predictions.race_dates >= np.datetime64(first, "D")
    year = season.only(inside)
    if model is not None:
        # a percentile needs the whole period: to bet on the next race one needs the lowest value that was bet on
        cut = cut_of(of, year.p, year.decided_at)
        evidence = {
            "backtest": name,
            "subject": subject,
            "strategy": by,
            "cut": cut,
            "look": number,
            "at": now.isoformat(),
        }
        mode = bundle_writing.judged(home, model, gate.verdict.value, evidence)
    columns = {column: values[inside[season.race]] for column, values in predictions.columns.items()}
    places = tuple(row for row in measure_places(columns, year.starts, year.days) if row.subject in (subject, DIRECT))
    return JudgeReport(name, subject, gate, model, mode, number, notes, places)


def price_words(report: Mapping[str, Any]) -> str:
    """Which price a stored backtest used, in plain words; one of an earlier version knew SP alone."""
    prices = report.get("prices")
    return PriceUsed(**prices).words if prices else "The blend, and the market it is compared with, are of SP."


def looked_at_words(trials: int) -> str:
    """How many strategies were looked at on the tested days, in plain words."""
    tried = len(STRATEGIES) * len(BET)
    backtests = "1 backtest" if trials == 1 else f"{trials} backtests"
    return (
        f"{tried * trials:,} strategies were looked at on these days: {len(STRATEGIES)} of each of {len(BET)} sets of probabilities "
        f"in {backtests}. The best of them looks better than it is; the gate judges the one that it named before."
    )


def _whose(home: Home, report: Mapping[str, Any], subject: str, by: str) -> tuple[str | None, tuple[str, ...]]:
    """The version that the verdict is about, and notes that say why if there is none."""
    if subject not in (SERVED, BLENDED) or by != DEFAULT:
        return None, (f"no model is served by {subject} and bet by {by}: the verdict is kept with none",)
    try:
        version = bundle.current(home)
    except UserError:
        return None, ("there is no model yet: the verdict is of the recipe; run `velo train`, then `velo gate`",)
    stored = bundle.described(home, version)
    if recipe_of(stored["model"], stored["features"], stored["catalogue"], stored["lead_s"]) != report["recipe"]:
        return None, (f"model {version} is of another recipe than the backtest: run `velo backtest` again to judge it",)
    return version, ("the verdict is of the recipe, refitted as time went on: the model itself was fitted once",)
