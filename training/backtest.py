"""`velo backtest`: what the recipe of a model would have said of days it had not seen, and what betting by it would have done.

The recipe is refitted as time goes on (`training.walk_forward`), blended and calibrated on the past alone (`training.blend_calibrate`), and
told by `training.backtest_metrics` with the gate's verdict on the period's last 90 days and 12 months.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np

from training.backtest_kept import Predictions, keep
from training.backtest_report import BacktestReport, Facts, report_of
from training.blend_calibrate import BlendChoice, combine
from training.blending import FORMAT as BLENDING
from training.by_race import Floats
from training.calibration import FORMAT as CALIBRATION
from training.dataset import LEAD
from training.dataset_cache import kept_training_set
from training.entity_rows import Period
from training.final_window import fingerprint, look, looks
from training.model import FEATURES, ModelOptions
from training.prices import prices
from training.races import races_of
from training.trials import Trial, tried
from training.walk_forward import OutOfFold, WalkForwardPlan, predict
from velo.errors import UserError
from velo.storage.store import Store

Progress = Callable[[str, int, int], None]
DAYS: Final = 365


_DATA: Final = ("race_id", "horse_id", "share", "sp_decimal", "taken", "closing")


def recipe_of(settings: Mapping[str, Any], features: Sequence[str], catalogue: str, lead_s: float) -> str:
    """SHA-256 of how a model is made: what a backtest says, it says of models of this recipe."""
    left_out = {"best_round", "threads"}
    options = {name: value for name, value in settings.items() if name not in left_out}
    told = {
        "options": options,
        "features": list(features),
        "catalogue": catalogue,
        "lead_s": lead_s,
        "put_together": [BLENDING, CALIBRATION],
    }
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
    options: ModelOptions | None = None,
    again: bool = False,
    progress: Progress = lambda step, done, steps: None,
) -> BacktestReport:
    """Test the recipe over local race dates `since` to `until` (both included), or the last `days` up to `until`.

    Without them, the last `DAYS` days with results. The trial goes on record before anything is told of it. Raises
    `UserError` for a period without races or past, results without prices, and days of a locked window unless `again`.
    """
    chosen_options = options or ModelOptions()
    rows = kept_training_set(store, lead=lead, period=Period(until=until or date.max), progress=progress)
    races = races_of(rows)
    if not races.count:
        raise UserError(f"{store.home.offline} holds no race with a winner: load results and run `velo build`")
    plan = _plan(races.days.max().astype(date), since, until, days, refit_months, past)
    number = _looked_at(store, plan, again=again)
    matrix = rows.matrix(FEATURES)[races.rows]
    told = predict(matrix, races, plan, chosen_options, progress)
    tested = told.races.rows
    shown = prices(store.home, rows)
    sp = rows.label("sp_decimal")[tested]
    beside = {
        "taken": shown.taken[tested],
        "closing": shown.closing[tested],
    } | {name: rows.identity.column(name).to_numpy(zero_copy_only=False)[tested] for name in ("race_id", "horse_id")}
    progress("blend and calibrate", 0, 1)
    predictions, choices = _predictions(told, sp, beside, chosen_options.seed)
    recipe = recipe_of(asdict(chosen_options), FEATURES, rows.provenance.catalogue, lead.total_seconds())
    data = fingerprint({name: predictions.columns[name] for name in _DATA})
    shape = f"{plan}{recipe}{data}{told.refits[0].records}"
    name = f"{plan.since:%Y%m%d}-{plan.until:%Y%m%d}-{hashlib.sha256(shape.encode()).hexdigest()[:8]}"
    trial = Trial(name, plan.since.isoformat(), plan.until.isoformat(), recipe, data, now.isoformat())
    count = tried(store.home.models, trial, now)
    if number is not None:
        taken = look(store.home.models, plan.since, plan.until, predictions.fingerprint(), name, now, again=True)
        number = taken.number
    progress("measure", 0, 1)
    report = report_of(Facts(name, recipe, plan, count, number), told, predictions, choices)
    keep(store.home, name, predictions, report)
    progress("measure", 1, 1)
    return report


def _plan(
    last: date, since: date | None, until: date | None, days: int | None, refit_months: int | None, past: int | None
) -> WalkForwardPlan:
    if since is not None and days is not None:
        raise UserError(f"--from {since} and --days {days} both say where to begin: give one of them")
    if days is not None and days < 1:
        raise UserError(f"a period of {days} days has no day: give 1 or more")
    end = until or last
    begin = since or end - timedelta(days=(days or DAYS) - 1)
    if begin > end:
        raise UserError(f"a period from {begin} to {end} has no day: give the earlier day first")
    return WalkForwardPlan(begin, end, refit_months, past)


def _looked_at(store: Store, plan: WalkForwardPlan, *, again: bool) -> int | None:
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
    told: OutOfFold, sp: Floats, beside: Mapping[str, Any], seed: int
) -> tuple[Predictions, tuple[BlendChoice, ...]]:
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
        **{name: values[combined.rows] for name, values in beside.items()},
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
