"""List stored models, compare two, and find the model to train or test."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.table import Table

from velo.errors import UserError
from velo.resampling import Figure
from velo.storage.store import Home
from velo.text_tables import table_of
from velo.training import bundle
from velo.training.dataset.training_set import LEAD
from velo.training.model.own_models import velo_options
from velo.training.model.trees import ModelOptions
from velo.training.race_model import VELO
from velo.training.registry.backtests import StoredBacktest


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A stored model: its factory, the gate's verdict, what it may be used for, and how it did on its test days."""

    version: str
    model: str
    serves: bool
    gate: str
    mode: str
    records: int
    train_last_day: str
    test_first_day: str
    test_last_day: str
    test_races: int
    r2: float
    log_loss: float
    market_r2: float | None


def kept_models(home: Home) -> tuple[KeptModel, ...]:
    """All stored models, oldest first; raises `UserError` if there is none or a file of one was changed."""
    versions = bundle.versions(home)
    if not versions:
        raise UserError(f"there is no model at {home.models}: run `velo train` first")
    serving = bundle.current(home)
    return tuple(_kept(version, bundle.described(home, version), serves=version == serving) for version in versions)


def compared(home: Home, first: str, second: str) -> tuple[KeptModel, KeptModel]:
    """Two models by their versions; raises `UserError` if one does not exist."""
    stored = {kept.version: kept for kept in kept_models(home)}
    for version in (first, second):
        if version not in stored:
            raise UserError(f"{version!r} is not a model at {home.models}: choose of {', '.join(stored)}")
    return stored[first], stored[second]


def recipe_kept(home: Home, version: str) -> tuple[Any, dict[str, Any], timedelta]:
    """The model of a stored version as `recipe_for` takes it, its parameters, and its lead: a backtest of these judges it.

    Raises `UserError` for a version that does not exist, for options of another version of this program, and for a model that
    was trained from an object: it has no factory.
    """
    kept_models(home)
    described = bundle.described(home, version)
    lead = timedelta(seconds=described["lead_s"])
    if described.get("kind", VELO) != VELO:
        return described["factory"], described["parameters"], lead
    options = velo_options(described["model"])
    if options is None:
        raise UserError(f"model {version} was trained with other options than this version has: run `velo train` again")
    return options, {}, lead


def own_model(model: object, parameters: Mapping[str, Any] | None, seed: int | None) -> object:
    """The model to train or test: VÉLØ's own with a seed if none is given.

    Raises `UserError` for a seed of a user's model, and for parameters without a factory.
    """
    if model is None:
        if parameters:
            raise UserError("--param is an argument of --model module:factory: name the factory too")
        return ModelOptions(seed=1 if seed is None else seed)
    if seed is not None:
        raise UserError("--seed is of VÉLØ's own model: pass the seed of yours as --param, such as random_state=1")
    return model


def model_to_test(
    home: Home,
    model: object,
    parameters: Mapping[str, Any] | None,
    lead: timedelta | None,
    seed: int | None,
) -> tuple[object, Mapping[str, Any], timedelta]:
    """The model of a backtest, its parameters and its lead; `model` may also be the version of a stored model."""
    if not isinstance(model, str) or ":" in model:
        return own_model(model, parameters, seed), dict(parameters or {}), LEAD if lead is None else lead
    if lead is not None or seed is not None or parameters:
        raise UserError(
            f"--model {model} sets the lead, the seed and the parameters: leave out --lead, --seed and --param"
        )
    return recipe_kept(home, model)


def models_table(models: tuple[KeptModel, ...]) -> Table:
    """Models as rows; the one that serves has an arrow."""
    columns = (
        "", "version", "model", "gate", "mode", "records", "test days", "races", "R²", "log loss", "R² of the market",
    )  # fmt: skip
    rows = (
        ("▶" * kept.serves, kept.version, kept.model, kept.gate, kept.mode, kept.records,
         f"{kept.test_first_day} to {kept.test_last_day}", kept.test_races, f"{kept.r2:.4f}", f"{kept.log_loss:.4f}",
         "–" if kept.market_r2 is None else f"{kept.market_r2:.4f}")
        for kept in models
    )  # fmt: skip
    return table_of("models, each measured on its own test days", columns, rows, left=(*columns[:5], "test days"))


def _kept(version: str, described: dict[str, Any], *, serves: bool) -> KeptModel:
    test = described["metrics"]["test"]
    market = test["market"]
    return KeptModel(
        version=version,
        model=described.get("factory", VELO),
        serves=serves,
        gate=described["gate"],
        mode=described["mode"],
        records=described["records"],
        train_last_day=described["periods"]["train"]["last_day"],
        test_first_day=test["first_day"],
        test_last_day=test["last_day"],
        test_races=test["races"],
        r2=test["model"]["r2"]["value"],
        log_loss=test["model"]["log_loss"],
        market_r2=None if market is None else market["r2"]["value"],
    )


def backtests_table(rows: tuple[StoredBacktest, ...]) -> Table:
    """Backtests as rows; compare those of one period."""
    columns = (
        "model", "days", "races", "R²", "R² of the logit", "R² of the market", "ΔR² of the blend over π^β", "calibration error",
        "gate", "alarms", "backtest",
    )  # fmt: skip
    cells = (
        (row.model, f"{row.since} to {row.until}", row.races, row.r2.shown(4),
         *(Figure(r2, None, None, row.races).shown(4) for r2 in (row.logit_r2, row.market_r2)), row.blend_delta_r2.shown(4),
         "–" if row.calibration_error is None else f"{row.calibration_error:.2%}", row.verdict, row.alarms, row.backtest)
        for row in rows
    )  # fmt: skip
    title = "backtests, each model on days it was not trained on"
    return table_of(title, columns, cells, left=("model", "days", "gate", "alarms", "backtest"))
