"""Controls with a known answer: placebos of a model's pipeline, and synthetic markets for the gate.

`velo backtest --placebo` refits on data whose right answer is known. Shuffled winners: within each race the result and the starting
prices are dealt to the runners at random, so a sound pipeline and model show nothing on later days. Planted leak: every column is
replaced by a noisy copy of the race's own result, so a model that learns must set off the alarms.

Where in-running data are known, two more have the columns of `horse_running` alone. Shuffled sections: these are dealt to the runners
of each race at random, and must show nothing. The race's own sections: they are read a day late, as the horse's next race would
read them, so they hold the race to be predicted and must set off the alarms. No placebo shows a figure of the real days, so none is a trial.

A synthetic market is races, probabilities, prices and winners, without features and without a model, so a hundred are made quickly.
With an edge the model's probabilities are the true ones and the market sees them through noise; without an edge it is the reverse.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.table import Table

from velo.errors import UserError
from velo.feature_repo.catalogue.columns import STORED
from velo.feature_repo.point_in_time import numbers
from velo.resampling import Days, Figure
from velo.storage.store import Store
from velo.training.dataset.by_race import Floats, Indices, sizes_of, softmax
from velo.training.dataset.races import Races
from velo.training.evaluation.backtest import BacktestOptions, Prepared, Progress, prepare
from velo.training.evaluation.metrics import BacktestPeriod, auc, r2, top1
from velo.training.evaluation.walk_forward import predict
from velo.training.gate.criteria import ALARMS, RECORDS, WINDOWS_DAYS, Verdict
from velo.training.gate.simulation import winners
from velo.training.gate.windows import GateReport, ask
from velo.training.market.market import proportional
from velo.training.model.fitting import has_market
from velo.training.model.threads import numeric_threads
from velo.training.model.trees import FEATURES
from velo.training.race_model import CLASSIFIER, FUNCTION, VELO, Runners

SHUFFLED: Final = "shuffled winners"
LEAK: Final = "planted leak"
SHUFFLED_SECTIONS: Final = "shuffled sections"
OWN_SECTIONS: Final = "the race's own sections"
RUNNING_COLUMNS: Final = tuple(name for name in STORED if name.startswith("horse_running__"))
FIRST_CALL: Final = "horse_running__early_last"
MOSTLY: Final = 0.8
"""The share of the runners that need a first call in the race itself for the placebos of sections."""
LATE: Final = timedelta(days=1)
ROUNDING: Final = 1e-9
"""R² up to which a model found nothing: one that gives every runner the same chance differs from 1/N by rounding alone."""
NOISE: Final = 0.1
"""Standard deviation of the noise on a planted share of the win, which is 0 or 1 but for dead heats."""


@dataclass(frozen=True, slots=True)
class PlaceboCheck:
    """One placebo on the tested days: R² against 1/N, top-1 and AUC with the alarms they set off; `passed` if as `expected`."""

    name: str
    expected: str
    races: int
    r2: Figure
    top1: Figure
    auc: float | None
    alarms: tuple[str, ...]
    passed: bool


@dataclass(frozen=True, slots=True)
class PlaceboReport:
    """The placebos of a model over local race dates, both included; `passed` if every check is."""

    model: str
    since: str
    until: str
    checks: tuple[PlaceboCheck, ...]
    passed: bool


def shuffled_winners(values: Floats, starts: Indices, seed: int) -> Floats:
    """Values shuffled among the runners of their race, (runners,); the same seed shuffles every column alike."""
    order = np.random.default_rng(seed).random(values.size)
    race = np.repeat(np.arange(starts.size), sizes_of(starts, values.size))
    return np.asarray(values[np.lexsort((order, race))], dtype=np.float64)


def planted_leak(share: Floats, seed: int, noise: float = 0.3) -> Floats:
    """The race's own result with noise, as a column, (runners,)."""
    return np.asarray(share + np.random.default_rng(seed).normal(scale=noise, size=share.size), dtype=np.float64)


@numeric_threads()
def placebos(
    store: Store, *, progress: Progress = lambda step, done, steps: None, **options: Unpack[BacktestOptions]
) -> PlaceboReport:
    """Run the placebos of a model; the options and errors are those of `velo.training.evaluation.backtest.backtest`.

    A function that only scores learns nothing, so it has no planted leak to find.
    """
    made = prepare(store, progress, options)
    races, seed = made.races, made.recipe.seed
    share, pi = (shuffled_winners(values, races.starts, seed) for values in (races.share, races.pi))
    place = None if races.place is None else shuffled_winners(races.place, races.starts, seed)
    checks = [_check(SHUFFLED, made, made.runners, replace(races, share=share, pi=pi, place=place), progress)]
    if made.recipe.kind != FUNCTION:
        leak = planted_leak(races.share, seed, NOISE)
        matrix = np.repeat(leak[:, None], made.runners.matrix.shape[1], axis=1)
        leaking = Runners(matrix, races.starts, made.runners.features)
        checks.append(_check(LEAK, made, leaking, races, progress))
    if made.recipe.kind in (VELO, CLASSIFIER) and set(RUNNING_COLUMNS) <= set(made.recipe.features):
        checks += section_placebos(store, made, progress)
    passed = all(check.passed for check in checks)
    return PlaceboReport(made.recipe.name, str(made.plan.since), str(made.plan.until), tuple(checks), passed)


def section_placebos(store: Store, made: Prepared, progress: Progress) -> list[PlaceboCheck]:
    """The two placebos of in-running data; empty if fewer than `MOSTLY` of the runners have data of the race itself."""
    own = _read_late(store, made)
    if np.isnan(own[:, RUNNING_COLUMNS.index(FIRST_CALL)]).mean() > 1.0 - MOSTLY:
        return []
    places = [FEATURES.index(name) for name in RUNNING_COLUMNS]
    starts, seed = made.races.starts, made.recipe.seed
    dealt = [shuffled_winners(made.runners.matrix[:, place], starts, seed) for place in places]
    checks = []
    for name, values in ((SHUFFLED_SECTIONS, np.column_stack(dealt)), (OWN_SECTIONS, own)):
        runners = Runners(values, starts, RUNNING_COLUMNS)
        if made.recipe.kind != VELO:
            # a classifier may name any column: the others are there and unknown
            matrix = np.full_like(made.runners.matrix, np.nan)
            matrix[:, places] = values
            runners = Runners(matrix, starts, FEATURES)
        checks.append(_check(name, made, runners, made.races, progress))
    return checks


def _read_late(store: Store, made: Prepared) -> Floats:
    """The columns `RUNNING_COLUMNS` as known `LATE` after each decision time, (runners, columns)."""
    from velo.feature_repo.feast_store import apply

    identity = made.rows.identity
    instants = pc.add(identity.column("decision_time"), pa.scalar(LATE))
    asked_for = pa.table({"horse_id": identity.column("horse_id"), "event_timestamp": instants})
    job = apply(store).get_historical_features(
        entity_df=asked_for, features=[name.replace("__", ":") for name in RUNNING_COLUMNS], full_feature_names=True
    )
    joined = job.to_arrow()
    return np.column_stack([numbers(joined.column(name)) for name in RUNNING_COLUMNS])[made.races.rows]


def _check(name: str, made: Prepared, runners: Runners, races: Races, progress: Progress) -> PlaceboCheck:
    def report(step: str, done: int, steps: int) -> None:
        progress(f"{name}: {step}", done, steps)

    predicted = predict(runners, races, made.plan, made.recipe.model, report)
    wanted = (predicted.fold >= predicted.past) & has_market(predicted.races)
    if not wanted.any():
        raise UserError("no tested race has a starting price for every starter: load results with prices")
    tested = predicted.races.only(wanted)
    p = predicted.fundamental[np.repeat(wanted, predicted.races.sizes)]
    # no bets are placed, so the level of the prices does not matter
    prices = 1.0 / tested.pi
    days = Days.of_dates(np.repeat(tested.days, tested.sizes), made.recipe.seed)
    season = BacktestPeriod(p, tested.pi, prices, prices, tested.share, tested.starts, days)
    figures = {"top1": top1(season), "auc": Figure(auc(p, tested.share), None, None, int(p.size))}
    alarms = tuple(alarm.says for alarm in ALARMS if alarm.name in figures and alarm.goes_off(figures[alarm.name]))
    gained = r2(p, season)
    if name in (LEAK, OWN_SECTIONS):
        expected, passed = "an alarm", bool(alarms)
    else:
        expected = "R² not above 0, no alarm"
        passed = not alarms and gained.low is not None and gained.low <= ROUNDING
    return PlaceboCheck(name, expected, tested.count, gained, figures["top1"], figures["auc"].value, alarms, passed)


def placebo_table(report: PlaceboReport) -> Table:
    """The checks as a table, one a row."""
    verdict = "PASS" if report.passed else "FAIL: do not trust a backtest of this model"
    table = Table(
        title=f"placebos of {report.model}, {report.since} to {report.until}: {verdict}", title_justify="left"
    )
    for name in ("placebo", "expected", "races", "R²", "top-1", "AUC", "alarms", "result"):
        table.add_column(name, justify="right" if name in ("races", "R²", "top-1", "AUC") else "left")
    for check in report.checks:
        table.add_row(
            check.name,
            check.expected,
            f"{check.races:,}",
            check.r2.shown(4),
            check.top1.shown(4),
            "–" if check.auc is None else f"{check.auc:.3f}",
            "; ".join(check.alarms) or "none",
            "PASS" if check.passed else "FAIL",
        )
    return table


RUNNERS: Final = 8
BOOK: Final = 1.02
"""An exchange's book: the gate requires a profit, and a bookmaker's margin would require an unrealistic edge."""
MARKET_NOISE: Final = 0.5
A_DAY: Final = 130
DAYS: Final = 120
RESAMPLES: Final = 400
SIMULATIONS: Final = 100
BY_CHANCE: Final = 0.001
"""A pass rate disagrees with its forecast if chance gives it with a lower probability than this."""
FIRST_DAY: Final = np.datetime64("2025-01-01")


@dataclass(frozen=True, slots=True)
class Rate:
    """The number of synthetic markets of a kind that passed the gate's window of `days`, and the mean forecast of their reports.

    `foretold` is P(pass | the model is true) with an edge, P(pass | no edge) without.
    """

    edge: bool
    days: int
    worlds: int
    passed: int
    foretold: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """The gate's verdicts in markets with an edge and without, and each window's pass rate beside its forecast."""

    verdicts: dict[bool, dict[str, int]]
    windows: tuple[Rate, ...]


def world(
    races: int, seed: int, model_noise: float, market_noise: float, a_day: int = 20
) -> tuple[BacktestPeriod, NDArray[np.datetime64]]:
    """Races of `RUNNERS` whose true quality model and market see with their own noise; and the date of each race."""
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
    """The gate's report on one synthetic market of `DAYS` race days."""
    season, dates = world(a_day * DAYS, seed, 0.0 if edge else MARKET_NOISE, MARKET_NOISE if edge else 0.0, a_day)
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
    """Run the gate on `worlds` markets with an edge and as many without; their seeds count up from `seed`."""
    verdicts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    windowed = []
    for edge in (True, False):
        reports = []
        for number in range(worlds):
            progress("worlds with an edge" if edge else "worlds without one", number, worlds)
            report = asked(seed + number, edge=edge, a_day=a_day, windows=windows, simulations=simulations)
            reports.append(report)
            verdicts[edge][report.verdict.value] += 1
        windowed += [_rate(reports, edge, at) for at in range(len(windows))]
    each = {edge: {verdict.value: counts[verdict.value] for verdict in Verdict} for edge, counts in verdicts.items()}
    return Rates(each, tuple(windowed))


def _rate(reports: Sequence[GateReport], edge: bool, at: int) -> Rate:  # noqa: FBT001 private, called once
    asked_of = [report.asked[at] for report in reports]
    passed = sum(judged.window.verdict is Verdict.PASS for judged in asked_of)
    foretold = float(np.mean([(judged.power if edge else judged.no_edge).by_interval for judged in asked_of]))
    return Rate(edge, asked_of[0].window.days, len(reports), passed, foretold, agrees(passed, len(reports), foretold))


def agrees(passed: int, worlds: int, foretold: float) -> bool:
    """Whether `passed` of `worlds` is plausible at the forecast rate, itself known to about one percentage point."""
    from scipy.stats import binomtest

    near = float(np.clip(passed / worlds, foretold - 0.01, foretold + 0.01))
    return bool(binomtest(passed, worlds, min(max(near, 0.0), 1.0)).pvalue >= BY_CHANCE)
