"""`velo backtest`: test a model's recipe, and the bets it would have made, on days it was not trained on.

`velo.training.evaluation.walk_forward` refits the recipe over time, `velo.training.evaluation.blend_calibrate` blends and calibrates on earlier days only, and
`velo.training.evaluation.metrics` measures the result. The gate judges the last 90 days and 12 months of the period.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, TypedDict, Unpack

import numpy as np

from velo.errors import UserError
from velo.racing.staking import Staking
from velo.storage.store import Store
from velo.training.dataset.by_race import Floats, Indices
from velo.training.dataset.entity_rows import Period, place_counts, prices
from velo.training.dataset.races import Races, Wanted, at_decision, races_of
from velo.training.dataset.training_set import LEAD, TrainingSet, kept_training_set
from velo.training.evaluation.blend_calibrate import Combined, combine
from velo.training.evaluation.place_quality import Exponent, place_columns
from velo.training.evaluation.segments import SegmentReport, labels_of, segments_of
from velo.training.evaluation.walk_forward import OutOfFold, WalkForwardPlan, cut, predict
from velo.training.model.own_models import Recipe, recipe_for
from velo.training.model.threads import numeric_threads
from velo.training.model.trees import FEATURES
from velo.training.race_model import Runners
from velo.training.registry.backtests import (
    BLENDED,
    Predictions,
    Trial,
    fingerprint,
    keep,
    look,
    looks,
    recipe_of,
    tried,
)
from velo.training.reports.backtest_report import BacktestReport, Facts, report_of

Progress = Callable[[str, int, int], None]
DAYS: Final = 365


_DATA: Final = ("race_id", "horse_id", "share", "sp_decimal", "taken", "closing")
_STARTS: Final = "horse_form__starts"


@dataclass(frozen=True)
class Prepared:
    """The inputs of a backtest: the model, the training set, its races and their starters, and the plan of refits."""

    recipe: Recipe
    rows: TrainingSet
    races: Races
    runners: Runners
    plan: WalkForwardPlan


class BacktestOptions(TypedDict, total=False):
    """The options of a backtest. It covers local race dates `since` to `until` (both included), or the last `days` up to `until`.

    The default is the `DAYS` days up to the last result. `refit_months` and `past` are those of `WalkForwardPlan`, `lead` the time
    before the off. `model` is whatever `velo.training.model.own_models.recipe_for` takes: None or `ModelOptions` for VÉLØ's own,
    `module:factory` with its `parameters`, or an object. `staking` are the values of `velo.racing.staking.Staking` that differ from its own.
    """

    since: date | None
    until: date | None
    days: int | None
    refit_months: int | None
    past: int | None
    lead: timedelta
    model: object
    parameters: Mapping[str, Any] | None
    staking: Mapping[str, object] | None


def prepare(store: Store, progress: Progress, options: BacktestOptions) -> Prepared:
    """Read the inputs of a backtest; raises `UserError` as `backtest` does."""
    recipe = recipe_for(options.get("model"), options.get("parameters"))
    period = Period(until=options.get("until") or date.max)
    rows = kept_training_set(store, lead=options.get("lead", LEAD), period=period, progress=progress)
    races = races_of(rows)
    if not races.count:
        raise UserError(f"{store.home.offline} holds no race with a winner: load results and run `velo build`")
    plan = _plan(races.days.max().astype(date), options)
    return Prepared(recipe, rows, races, Runners(rows.matrix(FEATURES)[races.rows], races.starts, FEATURES), plan)


@numeric_threads()
def backtest(
    store: Store,
    *,
    now: datetime,
    again: bool = False,
    progress: Progress = lambda step, done, steps: None,
    **options: Unpack[BacktestOptions],
) -> BacktestReport:
    """Test a model, and record the trial before any figure is returned.

    Raises `UserError` for a period without races or history, for results without prices, for days of a locked window unless
    `again`, and for a model that fails.
    """
    staking = Staking.of(options.get("staking") or {})
    made = prepare(store, progress, options)
    recipe, rows, plan, lead = made.recipe, made.rows, made.plan, made.rows.provenance.lead
    number = _looked_at(store, plan, again=again)
    folds, _, _ = cut(made.races, plan)
    shown = prices(store.home, rows.identity, lead, rows.label("sp_decimal"), rows.started())
    races, price, used = at_decision(
        made.races,
        shown,
        rows.label("sp_decimal"),
        made.races.days[folds[0].test].min(),
        lead / timedelta(minutes=1),
    )
    predicted = predict(made.runners, races, plan, recipe.model, progress)
    tested = predicted.races.rows
    sp = rows.label("sp_decimal")[tested]
    beside = {
        "taken": shown.taken[tested],
        "closing": shown.closing[tested],
        "settled": shown.settled[tested],
    } | {name: rows.identity.column(name).to_numpy(zero_copy_only=False)[tested] for name in ("race_id", "horse_id")}
    progress("blend and calibrate", 0, 1)
    ids = rows.identity.column("race_id").to_numpy(zero_copy_only=False)
    places = place_counts(store.home, ids[tested][predicted.races.starts].tolist(), predicted.races.sizes)
    predicted_columns = _predictions(predicted, sp, price[tested], places, beside, recipe.seed)
    predictions, combined, exponents, inside = predicted_columns
    digest = recipe_of(recipe.settings, recipe.features, rows.provenance.catalogue, lead.total_seconds())
    data = fingerprint({name: predictions.columns[name] for name in _DATA})
    shape = f"{plan}{digest}{data}{predicted.refits[0].records}"
    name = f"{plan.since:%Y%m%d}-{plan.until:%Y%m%d}-{hashlib.sha256(shape.encode()).hexdigest()[:8]}"
    trial = Trial(name, plan.since.isoformat(), plan.until.isoformat(), digest, data, now.isoformat())
    count = tried(store.home.models, trial, now)
    if number is not None:
        taken = look(store.home.models, plan.since, plan.until, predictions.fingerprint(), name, now, again=True)
        number = taken.number
    progress("measure", 0, 1)
    facts = Facts(name, digest, plan, recipe.name, count, number, used, staking)
    segments = _segments(rows, tested[inside], predictions)
    report = report_of(facts, predicted, predictions, combined.choices, segments, exponents)
    keep(store.home, name, predictions, report)
    progress("measure", 1, 1)
    return report


def _plan(last: date, options: BacktestOptions) -> WalkForwardPlan:
    since, days = options.get("since"), options.get("days")
    if since is not None and days is not None:
        raise UserError(f"--from {since} and --days {days} both set the first day: give one of them")
    if days is not None and days < 1:
        raise UserError(f"--days must be > 0, got {days}")
    end = options.get("until") or last
    begin = since or end - timedelta(days=(days or DAYS) - 1)
    if begin > end:
        raise UserError(f"--from {begin} is after --to {end}: give the earlier day as --from")
    return WalkForwardPlan(begin, end, options.get("refit_months"), options.get("past"))


def _looked_at(store: Store, plan: WalkForwardPlan, *, again: bool) -> int | None:
    """The number of looks at a locked window of these days, or None; raises `UserError` if there is one, unless `again`."""
    before = [look for look in looks(store.home.models) if look.overlaps(plan.since, plan.until)]
    if before and not again:
        latest = before[-1]
        raise UserError(
            f"{plan.since} to {plan.until} overlaps the final window {latest.since} to {latest.until}, looked at on "
            f"{latest.at[:10]}: test other days, or add --again to count another look"
        )
    return max((look.number for look in before), default=None)


def _segments(rows: TrainingSet, starters: Indices, predictions: Predictions) -> SegmentReport:
    """The blend beside the market by segment; `starters` are the rows of the training set that the predictions are of."""
    season, columns = predictions.season(BLENDED), predictions.columns
    given = {
        name: rows.identity.column(name).to_numpy(zero_copy_only=False)[starters]
        for name in ("distance_band", "draw_cell", "going_group")
    }
    given |= {"race_class": rows.matrix(["race_class"])[starters, 0], "starts": rows.matrix([_STARTS])[starters, 0]}
    labels = labels_of(season.starts, season.decided_at, columns["race_date"], given)
    return segments_of(season, columns["market"], labels)


def _predictions(
    predicted: OutOfFold, sp: Floats, price: Floats, places: Indices, beside: Mapping[str, Any], seed: int
) -> tuple[Predictions, Combined, tuple[Exponent, ...], Wanted]:
    """The predictions of the tested races that have a market, as stored, the blends, λ of the last fold, and their starters.

    `price` are the odds that the blend is of, `places` the number of places of each predicted race. The stored `pi` is of the
    closing prices.
    """
    combined = combine(predicted, price)
    chances, exponents = place_columns(predicted, combined, price, places)
    tested = predicted.races.only(combined.races)
    pi = tested.pi if tested.closing is None else tested.closing
    priced = ~np.isnan(tested.total(tested.pi + pi))
    if not priced.any():
        raise UserError(
            "no tested race has a starting price for every starter: a backtest needs a market; load results with prices"
        )
    rows = np.repeat(priced, tested.sizes)
    columns: dict[str, Any] = {
        **{name: values[combined.rows] for name, values in beside.items()},
        "race": np.repeat(np.arange(tested.count), tested.sizes),
        "race_date": np.repeat(tested.days, tested.sizes),
        "fold": np.repeat(predicted.fold[combined.races], tested.sizes),
        "share": tested.share,
        "sp_decimal": sp[combined.rows],
        "pi": pi,
        "market": combined.market,
        "fundamental": predicted.fundamental[combined.rows],
        "calibrated": combined.calibrated,
        "logit": predicted.logit[combined.rows],
        "blend_raw": combined.blend_raw,
        "blend": combined.blend,
    } | chances
    records = min(refit.records for refit in predicted.refits if refit.tested)
    stored = {name: np.asarray(values)[rows] for name, values in columns.items()}
    inside = combined.rows.copy()
    inside[combined.rows] = rows
    return Predictions(stored, tested.days[priced], seed, records), combined, exponents, inside
