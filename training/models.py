"""The models kept: listed, and two of them beside one another."""

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from rich.table import Table

from velo.errors import UserError
from velo.storage.store import Home
from velo.training import bundle
from velo.training.model import ModelOptions


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model that is kept: what the gate said, what it may be used for, and how it did on its test days."""

    version: str
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
    """All models, oldest first; raises `UserError` where there is none, or a file of one was changed."""
    versions = bundle.versions(home)
    if not versions:
        raise UserError(f"there is no model at {home.models}: run `velo train` first")
    serving = bundle.current(home)
    return tuple(_kept(version, bundle.described(home, version), serves=version == serving) for version in versions)


def compared(home: Home, one: str, other: str) -> tuple[KeptModel, KeptModel]:
    """Two models by their versions; raises `UserError` where one of them is not kept."""
    told = {kept.version: kept for kept in kept_models(home)}
    for version in (one, other):
        if version not in told:
            raise UserError(f"{version!r} is no model of {home.models}: choose of {', '.join(told)}")
    return told[one], told[other]


def recipe_kept(home: Home, version: str) -> tuple[ModelOptions, timedelta]:
    """The options a kept model was made with, and its lead: a backtest of these speaks for it.

    Raises `UserError` for a version that is not kept, and for options of another version of this program.
    """
    kept_models(home)
    told = bundle.described(home, version)
    names = {field.name for field in fields(ModelOptions)}
    settings = told["model"]
    if not names <= settings.keys():
        raise UserError(
            f"the model {version} was made without {', '.join(sorted(names - settings.keys()))}: train anew, for its "
            "recipe can no longer be repeated"
        )
    return ModelOptions(**{name: settings[name] for name in names}), timedelta(seconds=told["lead_s"])


def models_table(models: tuple[KeptModel, ...]) -> Table:
    """Models as rows; the one that serves has an arrow."""
    table = Table(title="models, each measured on its own test days", title_justify="left")
    for name in ("", "version", "gate", "mode", "records", "test days", "races", "R²", "log loss", "R² of the market"):
        table.add_column(name, justify="right" if name in {"records", "races"} or "R²" in name else "left")
    for one in models:
        table.add_row(
            "▶" if one.serves else "",
            one.version,
            one.gate,
            one.mode,
            f"{one.records:,}",
            f"{one.test_first_day} to {one.test_last_day}",
            f"{one.test_races:,}",
            f"{one.r2:.4f}",
            f"{one.log_loss:.4f}",
            "–" if one.market_r2 is None else f"{one.market_r2:.4f}",
        )
    return table


def _kept(version: str, told: dict[str, Any], *, serves: bool) -> KeptModel:
    test = told["metrics"]["test"]
    market = test["market"]
    return KeptModel(
        version=version,
        serves=serves,
        gate=told["gate"],
        mode=told["mode"],
        records=told["records"],
        train_last_day=told["periods"]["train"]["last_day"],
        test_first_day=test["first_day"],
        test_last_day=test["last_day"],
        test_races=test["races"],
        r2=test["model"]["r2"]["value"],
        log_loss=test["model"]["log_loss"],
        market_r2=None if market is None else market["r2"]["value"],
    )
