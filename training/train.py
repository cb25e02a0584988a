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
from velo.training import bundle, bundle_writing
from velo.training.blend_calibrate import blending_of
from velo.training.blending import BENTER, Blending
from velo.training.dataset import LEAD, TrainingSet
from velo.training.dataset_cache import kept_training_set
from velo.training.ensemble import Inputs, inputs
from velo.training.entity_rows import Period
from velo.training.fitting import fit_fundamental, fit_on_market
from velo.training.folds import EMBARGO_DAYS, Fold
from velo.training.metrics import ModelQuality, measure
from velo.training.model import FEATURES, Fitted, ModelOptions
from velo.training.races import Races, Split, races_of, split
from velo.training.search import Tried, search
from velo.training.train_measures import PartMeasured, bands_of, measured_parts
from velo.training.walk_forward import OutOfFold, forward

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


def train(
    store: Store,
    *,
    now: datetime,
    lead: timedelta = LEAD,
    seed: int = 1,
    period: Period = Period(),  # noqa: B008 frozen
    validate_from: date | None = None,
    test_from: date | None = None,
    options: ModelOptions | None = None,
    choose: bool = False,
    progress: Progress = lambda step, done, steps: None,
) -> TrainReport:
    """Join, predict forward, measure, fit on all days, and store the model as the current one.

    `choose` first searches for better options by cross-validation over the days before the test days, which only the final
    recipe predicts. Raises `UserError` for a store without results and for too few races.
    """
    rows = kept_training_set(store, lead=lead, period=period, progress=progress)
    races = races_of(rows)
    parts = split(races, validate_from, test_from)
    progress("compare within races", 0, 1)
    given = inputs(rows.matrix(FEATURES)[races.rows], races.starts)
    chosen = options or ModelOptions(seed=seed)
    searched: tuple[Tried, ...] = ()
    if choose:
        chosen, searched = search(given, races, races.days < parts.test.days.min(), chosen, progress)
    folds = _folds(races, parts)
    told = forward(given, races, folds, len(folds) - 1, 0, chosen, progress, further=4)
    sp = rows.label("sp_decimal")[told.races.rows]
    blending = _blending(told, sp)

    def report(what: str) -> None:
        progress(f"{what} on all days", len(folds) * 4 + 1, len(folds) * 4 + 5)

    model, grown = _fit_on_all(given, races, chosen, told, blending, report)
    progress("measure", 0, 1)
    did = _Results(
        _measured(told, told.fold < told.past),
        _measured(told, told.fold >= told.past),
        measured_parts(told, sp, chosen.seed),
        searched,
    )
    metadata = _metadata(store, rows, races, parts, grown.settings() | {"best_round": told.rounds})
    metadata["blend"] = None if blending is None else _blend_told(blending, told)
    metrics = asdict(did) | {"importance": grown.importance()}
    model = replace(model, bands=bands_of(told, sp, chosen.seed))
    version = bundle_writing.write(store.home, model, metadata, metrics, now)
    progress("measure", 1, 1)
    return _report(version, rows, races, told.rounds, blending, did)


@dataclass(frozen=True, slots=True)
class _Results:
    """The quality of the recipe, under the field names of the stored metrics; see `TrainReport`."""

    validation: ModelQuality
    test: ModelQuality
    parts: tuple[PartMeasured, ...]
    search: tuple[Tried, ...]


def _fit_on_all(
    given: Inputs,
    races: Races,
    options: ModelOptions,
    told: OutOfFold,
    blending: Blending | None,
    report: Callable[[str], None],
) -> tuple[bundle.Model, Fitted]:
    """Fit the stored model, without calibration intervals, and its trees; adds the residual model if the blend needs one."""
    every = replace(races, rows=np.arange(races.share.size, dtype=np.intp))
    model, grown = fit_fundamental(given, every, options, told.rounds, report)
    fitted = None
    if blending is not None and blending.kind != BENTER:
        fitted = fit_on_market(given, every, options, told.residual_rounds, report)
    return bundle.Model(model, blending, None if fitted is None else (fitted.beta, fitted.model)), grown


def _report(
    version: str, rows: TrainingSet, races: Races, rounds: int, blending: Blending | None, did: _Results
) -> TrainReport:
    cards = rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"
    distinct = int(np.unique(rows.races).size)
    return TrainReport(
        version=version,
        rows=rows.rows,
        races=distinct,
        from_cards=int(np.unique(rows.races[cards]).size),
        left_out=distinct - races.count,
        records=races.rows.size,
        features=len(FEATURES),
        rounds=rounds,
        train_first_day=str(races.days.min()),
        train_last_day=str(races.days.max()),
        validation=did.validation,
        test=did.test,
        parts=did.parts,
        blend=None if blending is None else blending.kind,
        searched=did.search,
        gate=bundle.NO_GATE,
        mode=bundle.PAPER,
        caveats=_caveats(rows, races.rows.size, did.test, blending, did.parts),
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


def _blending(told: OutOfFold, sp: np.ndarray[Any, np.dtype[np.float64]]) -> Blending | None:
    try:
        return blending_of(told, sp)
    except UserError:
        # too few races with a market: the model is stored without a blend, and the report says so
        return None


def _measured(told: OutOfFold, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> ModelQuality:
    return measure(told.fundamental[np.repeat(wanted, told.races.sizes)], told.races.only(wanted), 1)


def _blend_told(blending: Blending, told: OutOfFold) -> dict[str, Any]:
    losses: Mapping[str, float] | None = blending.losses
    return {
        "kind": blending.kind,
        "losses": None if losses is None else dict(losses),
        "races_compared": blending.compared,
        "alpha": blending.benter.alpha,
        "alpha_se": blending.benter.alpha_se,
        "beta": blending.benter.beta,
        "market_beta": blending.market.beta,
        "residual_rounds": told.residual_rounds,
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
    elif test.margin.high <= 0:
        caveats.append("worse than the starting prices: no edge over the market")
    elif test.margin.low <= 0:
        caveats.append("not significantly better than the starting prices: no edge is shown")
    else:
        caveats.append("better than the starting prices: look for a leak before believing it")
    r2 = {part.name: part.r2.value for part in parts}
    baseline, own = r2.get("logit"), r2.get("fundamental")
    if baseline is not None and own is not None and own <= baseline:
        caveats.append("no better than the baseline, a plain conditional logit: the trees add nothing here")
    carded = int(np.sum(rows.identity.column("source").to_numpy(zero_copy_only=False) == "racecard"))
    if carded < rows.rows:
        caveats.append(f"{rows.rows - carded:,} rows take runners and keys from the result: no racecard")
    return tuple(caveats)
