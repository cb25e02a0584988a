"""`velo train`: test the recipe forward in time on what was known before each race, then fit and store a model on all days.

Models of earlier days predict later ones. The blend and the calibration are fitted on those out-of-fold predictions, which
also measure the recipe on the last days. The stored model is then fitted on every day with the same recipe.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from importlib.metadata import version as installed
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.storage.store import Store
from velo.training import bundle
from velo.training.dataset.entity_rows import Period, prices
from velo.training.dataset.races import EMBARGO_DAYS, Fold, PriceUsed, Races, Split, at_decision, races_of, split
from velo.training.dataset.training_set import LEAD, TrainingSet, kept_training_set
from velo.training.evaluation.blend_calibrate import blending_of
from velo.training.evaluation.quality import ModelQuality, PartMeasured, bands_of, measure, measured_parts, orders_of
from velo.training.evaluation.walk_forward import OutOfFold, forward
from velo.training.market.blending import MEAN, RESIDUAL, Blending
from velo.training.model.fitting import TreesAndLogit, Tried, fit_on_market, search
from velo.training.model.own_models import Recipe, recipe_for
from velo.training.model.threads import numeric_threads
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import VELO, HasImportance, Runners
from velo.training.registry import bundle_writing, stored_models

Progress = Callable[[str, int, int], None]
GATE_RECORDS: Final = 50_000
"""The gate passes no model with this many training records or fewer (contract 9)."""
VALIDATION_FOLDS: Final = 3
"""Refits over the validation days, on which the blend and the calibration are fitted."""
_LIBRARIES: Final = ("lightgbm", "numpy", "scipy", "feast", "duckdb")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The trained model and the measured quality of its recipe.

    `records` counts the starters the stored model was fitted on, `rows` all joined rows. `validation` and `test` measure
    predictions of those days by models of earlier days. `parts` compares the plain logit, the trees, their average, its
    calibration and the blend with the market, over the test races that have one. `from_cards` counts races whose runners
    come from a racecard; the others use the runners of the first result.
    """

    version: str
    model: str
    rows: int
    races: int
    from_cards: int
    left_out: int
    records: int
    features: int
    rounds: int
    train_first_day: str
    train_last_day: str
    validation: ModelQuality
    test: ModelQuality
    parts: tuple[PartMeasured, ...]
    blend: str | None
    searched: tuple[Tried, ...]
    gate: str
    mode: str
    caveats: tuple[str, ...]


@numeric_threads()
def train(
    store: Store,
    *,
    now: datetime,
    lead: timedelta = LEAD,
    seed: int = 1,
    period: Period = Period(),  # noqa: B008 frozen
    validate_from: date | None = None,
    test_from: date | None = None,
    model: object = None,
    parameters: Mapping[str, Any] | None = None,
    choose: bool = False,
    progress: Progress = lambda step, done, steps: None,
) -> TrainReport:
    """Join, predict forward, measure, fit on all days, and store the model as the current one.

    `model` is whatever `velo.training.model.own_models.recipe_for` takes; None is VÉLØ's own with `seed`. `choose` first searches for
    better options of VÉLØ's own by cross-validation over the days before the test days, which only the final recipe predicts.
    Raises `UserError` for a store without results, for too few races, and for a model that fails or has no safe stored form.
    """
    recipe = recipe_for(ModelOptions(seed=seed) if model is None else model, parameters)
    kind = stored_models.stored_kind(recipe)
    if choose and recipe.kind != VELO:
        raise UserError(f"--search tries options of VÉLØ's own model, not of {recipe.name}: leave one of them out")
    rows = kept_training_set(store, lead=lead, period=period, progress=progress)
    races = races_of(rows)
    parts = split(races, validate_from, test_from)
    runners = Runners(rows.matrix(FEATURES)[races.rows], races.starts, FEATURES)
    searched: tuple[Tried, ...] = ()
    if choose and isinstance(recipe.model, TreesAndLogit):
        options, searched = search(runners, races, races.days < parts.test.days.min(), recipe.model.options, progress)
        recipe = recipe_for(options)
    folds = _folds(races, parts)
    shown = prices(store.home, rows.identity, lead, rows.label("sp_decimal"), rows.started())
    races, price, used = at_decision(
        races, shown, rows.label("sp_decimal"), parts.validation.days.min(), lead / timedelta(minutes=1)
    )
    predicted = forward(runners, races, folds, len(folds) - 1, 0, recipe.model, progress, further=2)
    sp = price[predicted.races.rows]
    blending = _blending(predicted, sp)

    def report(what: str, after: int) -> None:
        progress(f"{what} on all days", len(folds) * 3 + after, len(folds) * 3 + 3)

    stored = _fit_on_all(runners, races, kind, predicted, blending, report)
    progress("measure", 0, 1)
    results = _Results(
        _measured(predicted, predicted.fold < predicted.past),
        _measured(predicted, predicted.fold >= predicted.past),
        measured_parts(predicted, sp, recipe.seed),
        searched,
    )
    settings = predicted.settings or dict(recipe.settings)
    metadata = _metadata(store, rows, races, parts, settings) | _origin(recipe, kind)
    metadata["reads"] = bundle.reads_of(metadata["features"], rows.provenance.formulas)
    metadata["blend"] = None if blending is None else _blend_described(blending, settings) | {"price": used.blend}
    fundamental = stored.fundamental
    metrics = asdict(results) | {
        "importance": fundamental.importance() if isinstance(fundamental, HasImportance) else {}
    }
    orders = orders_of(predicted, sp, rows.label("position")[predicted.races.rows])
    stored = replace(stored, bands=bands_of(predicted, sp, recipe.seed), orders=orders)
    profile = rows.profile(metadata["features"])
    version = bundle_writing.write(store.home, stored, metadata, metrics, now, profile)
    progress("measure", 1, 1)
    return _report(version, rows, races, recipe, settings.get("best_round", 0), blending, results, used)


@dataclass(frozen=True, slots=True)
class _Results:
    """The quality of the recipe, under the field names of the stored metrics; see `TrainReport`."""

    validation: ModelQuality
    test: ModelQuality
    parts: tuple[PartMeasured, ...]
    search: tuple[Tried, ...]


def _fit_on_all(
    runners: Runners,
    races: Races,
    kind: str,
    predicted: OutOfFold,
    blending: Blending | None,
    report: Callable[[str, int], None],
) -> bundle.Model:
    """Fit the stored model, without calibration intervals; adds the residual model if the blend needs one."""
    every = replace(races, rows=np.arange(races.share.size, dtype=np.intp))
    report("fit the model", 1)
    fundamental = predicted.model.fit(runners, every)
    on_market = None
    report("fit on the market", 2)
    if blending is not None and blending.kind in (RESIDUAL, MEAN):
        fitted = fit_on_market(predicted.model, runners, every)
        on_market = None if fitted is None else (fitted.beta, fitted.model)
    return bundle.Model(fundamental, blending, on_market, kind=kind)


def _origin(recipe: Recipe, kind: str) -> dict[str, Any]:
    """The factory and the environment of a user's model, as a bundle records them; empty for VÉLØ's own."""
    if kind == VELO:
        return {}
    return {
        "kind": kind,
        "factory": recipe.factory or recipe.name,
        "parameters": dict(recipe.parameters),
        "environment": stored_models.environment(recipe, kind),
        "features": list(recipe.features),
    }


def _report(
    version: str,
    rows: TrainingSet,
    races: Races,
    recipe: Recipe,
    rounds: int,
    blending: Blending | None,
    results: _Results,
    used: PriceUsed,
) -> TrainReport:
    cards = rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"
    distinct = int(np.unique(rows.races).size)
    return TrainReport(
        version=version,
        model=recipe.name,
        rows=rows.rows,
        races=distinct,
        from_cards=int(np.unique(rows.races[cards]).size),
        left_out=distinct - races.count,
        records=races.rows.size,
        features=len(recipe.features),
        rounds=rounds,
        train_first_day=str(races.days.min()),
        train_last_day=str(races.days.max()),
        validation=results.validation,
        test=results.test,
        parts=results.parts,
        blend=None if blending is None else blending.kind,
        searched=results.search,
        gate=bundle.NO_GATE,
        mode=bundle.PAPER,
        caveats=(*_caveats(rows, races.rows.size, results.test, blending, results.parts), used.words),
    )


def _folds(races: Races, parts: Split) -> tuple[Fold, ...]:
    """Refits over the validation days, then one over the test days; each trains on all days before its embargo."""
    days = np.unique(parts.validation.days)
    cuts = np.array_split(days, min(VALIDATION_FOLDS, days.size))
    spans = [(cut[0], cut[-1]) for cut in cuts] + [(parts.test.days.min(), parts.test.days.max())]
    folds = []
    for first, last in spans:
        train = races.days < first - np.timedelta64(EMBARGO_DAYS, "D")
        if not train.any():
            raise UserError(
                f"no race day is {EMBARGO_DAYS} or more days before {first}: load older results, or choose later days "
                "for validation and test"
            )
        folds.append(Fold(f"{first} to {last}", train, (races.days >= first) & (races.days <= last)))
    return tuple(folds)


def _blending(predicted: OutOfFold, sp: np.ndarray[Any, np.dtype[np.float64]]) -> Blending | None:
    try:
        return blending_of(predicted, sp)
    except UserError:
        # too few races with a market: the model is stored without a blend, and the report says so
        return None


def _measured(predicted: OutOfFold, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> ModelQuality:
    races = predicted.races
    return measure(predicted.fundamental[np.repeat(wanted, races.sizes)], races.only(wanted), 1)


def _blend_described(blending: Blending, settings: Mapping[str, Any]) -> dict[str, Any]:
    losses: Mapping[str, float] | None = blending.losses
    return {
        "kind": blending.kind,
        "losses": None if losses is None else dict(losses),
        "races_compared": blending.compared,
        "alpha": blending.benter.alpha,
        "alpha_se": blending.benter.alpha_se,
        "beta": blending.benter.beta,
        "market_beta": blending.market.beta,
        "residual_rounds": settings.get("residual_rounds", 0),
    }


def _metadata(store: Store, rows: TrainingSet, races: Races, parts: Split, model: dict[str, Any]) -> dict[str, Any]:
    made_from = rows.provenance
    return {
        "gate": bundle.NO_GATE,
        "mode": bundle.PAPER,
        "catalogue": made_from.catalogue,
        "lead_s": made_from.lead.total_seconds(),
        "timezone": made_from.timezone,
        "keys": store.keys,
        "log": {"next_seq": made_from.next_seq, "known_at": made_from.known_at.isoformat()},
        "periods": {
            name: {"first_day": str(part.days.min()), "last_day": str(part.days.max()), "races": part.count}
            for name, part in (("train", races), ("validation", parts.validation), ("test", parts.test))
        },
        "records": int(races.rows.size),
        "model": model,
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in _LIBRARIES},
        "features": list(FEATURES),
    }


def _caveats(
    rows: TrainingSet, records: int, test: ModelQuality, blending: Blending | None, parts: tuple[PartMeasured, ...]
) -> tuple[str, ...]:
    caveats = [
        "the gate has not run: paper bets only, whatever the figures",
        "the figures measure models of earlier days; the stored model is fitted on all days with the same recipe",
    ]
    if records <= GATE_RECORDS:
        caveats.append(f"{records:,} training records: the gate needs more than {GATE_RECORDS:,}")
    if blending is None:
        caveats.append(
            "too few races have a starting price for every starter: no blend with the market, no calibration"
        )
    if test.margin is None:
        caveats.append("no test race has a starting price for every starter: there is no market to compare with")
    elif test.margin.low is None or test.margin.high is None:
        caveats.append("too few test days for an interval: no edge is shown")
    elif test.margin.high <= 0:
        caveats.append("worse than the starting prices: no edge over the market")
    elif test.margin.low <= 0:
        caveats.append("not significantly better than the starting prices: no edge is shown")
    else:
        caveats.append("better than the starting prices: look for a leak before believing it")
    r2 = {part.name: part.r2.value for part in parts}
    baseline, own = r2.get("logit"), r2.get("fundamental")
    if baseline is not None and own is not None and own <= baseline:
        caveats.append("no better than the baseline, a plain conditional logit: the model adds nothing here")
    carded = int(np.sum(rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"))
    if carded < rows.rows:
        caveats.append(f"{rows.rows - carded:,} rows take runners and keys from the result: no racecard")
    return tuple(caveats)
