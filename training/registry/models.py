"""List stored models, compare two, and find the model to train or test."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.table import Table

from velo.errors import UserError
from velo.resampling import Figure
from velo.storage.store import Home
from velo.training import bundle
from velo.training.dataset.training_set import LEAD
from velo.training.model.own_models import velo_options
from velo.training.model.trees import ModelOptions
from velo.training.race_model import VELO
from velo.training.registry.backtests import read


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
    table = Table(title="models, each measured on its own test days", title_justify="left")
    for name in (
        "",
        "version",
        "model",
        "gate",
        "mode",
        "records",
        "test days",
        "races",
        "R²",
        "log loss",
        "R² of the market",
    ):
        table.add_column(name, justify="right" if name in {"records", "races"} or "R²" in name else "left")
    for kept in models:
        table.add_row(
            "▶" if kept.serves else "",
            kept.version,
            kept.model,
            kept.gate,
            kept.mode,
            f"{kept.records:,}",
            f"{kept.test_first_day} to {kept.test_last_day}",
            f"{kept.test_races:,}",
            f"{kept.r2:.4f}",
            f"{kept.log_loss:.4f}",
            "–" if kept.market_r2 is None else f"{kept.market_r2:.4f}",
        )
    return table


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


@dataclass(frozen=True, slots=True)
class StoredBacktest:
    """A stored backtest over local race dates, both included: the model's R² against 1/N, beside the market's and the plain logit's.

    `blend_delta_r2` is the gain of the blend over π^β with its 95 % interval; `alarms` counts the alarms that went off.
    """

    backtest: str
    model: str
    since: str
    until: str
    races: int
    r2: Figure
    logit_r2: float | None
    market_r2: float | None
    blend_delta_r2: Figure
    calibration_error: float | None
    verdict: str
    alarms: int


def stored_backtests(home: Home) -> tuple[StoredBacktest, ...]:
    """All stored backtests by period and model; raises `UserError` if there is none, or one is damaged."""
    folders = sorted(path for path in home.backtests.glob("*/") if not path.name.startswith("."))
    if not folders:
        raise UserError(f"there is no backtest at {home.backtests}: run `velo backtest` first")
    found = [_backtest(folder.name, read(home, folder.name)[1]) for folder in folders]
    return tuple(sorted(found, key=lambda row: (row.since, row.until, row.model, row.backtest)))


def _backtest(name: str, report: Mapping[str, Any]) -> StoredBacktest:
    measured = {row["name"]: row for row in report["told"]}
    blend = next(row for row in report["beside"] if (row["name"], row["than"]) == ("blend", "market"))
    gate = report["gate"].get(report["served"])
    return StoredBacktest(
        backtest=name,
        model=report.get("model", VELO),
        since=report["since"],
        until=report["until"],
        races=report["races"],
        r2=Figure(**measured["fundamental"]["r2"]),
        logit_r2=measured["logit"]["r2"]["value"],
        market_r2=measured["pi"]["r2"]["value"],
        blend_delta_r2=Figure(**blend["delta_r2"]),
        calibration_error=measured["fundamental"]["root_mean_gap"]["value"],
        verdict=gate["verdict"] if gate else "NOT ENOUGH DATA",
        alarms=len(report["alarms"]),
    )


def backtests_table(rows: tuple[StoredBacktest, ...]) -> Table:
    """Backtests as rows; compare those of one period."""
    table = Table(title="backtests, each model on days it was not trained on", title_justify="left")
    for name in ("model", "days", "races", "R²", "R² of the logit", "R² of the market", "ΔR² of the blend over π^β"):
        table.add_column(name, justify="left" if name in ("model", "days") else "right")
    for name in ("calibration error", "gate", "alarms", "backtest"):
        table.add_column(name, justify="right" if name == "calibration error" else "left")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.since} to {row.until}",
            f"{row.races:,}",
            row.r2.shown(4),
            Figure(row.logit_r2, None, None, row.races).shown(4),
            Figure(row.market_r2, None, None, row.races).shown(4),
            row.blend_delta_r2.shown(4),
            "–" if row.calibration_error is None else f"{row.calibration_error:.2%}",
            row.verdict,
            str(row.alarms),
            row.backtest,
        )
    return table
