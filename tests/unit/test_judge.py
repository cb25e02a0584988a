"""The gate on a backtest and the models kept: what passed, what stays paper, a window looked at once, and the way back."""

from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli import velo
from velo.errors import UserError
from velo.storage.store import Home
from velo.training import bundle
from velo.training.dataset.by_race import softmax
from velo.training.gate.windows import judge_last
from velo.training.market.market import proportional
from velo.training.model.ensemble import Ensemble, Logit
from velo.training.model.trees import ModelOptions
from velo.training.registry import bundle_writing
from velo.training.registry.backtests import Predictions, keep, looks, read, recipe_of
from velo.training.registry.models import recipe_kept

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
FEATURES = ("weight_lbs",)
CATALOGUE = "f" * 32
RECIPE = recipe_of(asdict(ModelOptions()), FEATURES, CATALOGUE, 300.0)
SINCE, UNTIL = date(2025, 1, 1), date(2025, 12, 31)


def predictions(edge: bool, races_a_day: int = 4) -> Predictions:
    """A year of races of eight; the model knows the truth and the market half of it, or the model is the market itself."""
    rng = np.random.default_rng(8)
    races = 365 * races_a_day
    starts = (np.arange(races) * 8).astype(np.intp)
    true = rng.normal(size=races * 8)
    market = softmax(true + rng.normal(scale=0.9 if edge else 0.0, size=true.size), starts)
    truth = softmax(true, starts)
    won = starts + np.array([rng.choice(8, p=truth[at : at + 8]) for at in starts])
    share = np.zeros(true.size)
    share[won] = 1.0
    sp = np.maximum(1 / (1.02 * market), 1.01)
    pi = proportional(sp, starts)
    model = truth if edge else pi
    dates = np.datetime64(SINCE) + np.arange(races) // races_a_day
    columns: dict[str, Any] = {
        "race_id": np.repeat(np.arange(races), 8).astype(str).astype(object),
        "race": np.repeat(np.arange(races), 8),
        "race_date": np.repeat(dates, 8),
        "share": share,
        "sp_decimal": sp,
        "taken": np.full(sp.size, np.nan),
        "closing": sp,
        "pi": pi,
        "market": pi,
    } | dict.fromkeys(("fundamental", "calibrated", "logit", "blend"), model)
    return Predictions(columns, dates, 1, 60_000)


def a_backtest(home: Home, edge: bool = False, since: date = SINCE, recipe: str = RECIPE) -> str:
    name = "a-backtest"
    found = {"backtest": name, "recipe": recipe, "since": since.isoformat(), "until": UNTIL.isoformat()}
    keep(home, name, predictions(edge), found)
    return name


def a_model(home: Home, text: str = "tree\n", at: datetime = NOW, options: ModelOptions = ModelOptions()) -> str:  # noqa: B008 frozen
    quality = {"log_loss": 2.0, "r2": {"value": 0.1, "low": 0.0, "high": 0.2}}
    test = {"first_day": "2025-01-01", "last_day": "2025-12-31", "races": 837, "model": quality, "market": None}
    metadata = {
        "features": list(FEATURES), "catalogue": CATALOGUE, "lead_s": 300.0, "gate": "not run", "mode": "paper only",
        "model": asdict(options) | {"best_round": 7}, "records": 60_000,
        "periods": {"train": {"last_day": "2024-12-31"}},
    }  # fmt: skip
    linear = Logit(FEATURES, (0.0,), (1.0,), (0.0,), 1.0, 1, 0.0)
    return bundle_writing.write(home, bundle.Model(Ensemble(text, linear, 0.5)), metadata, {"test": test}, at)


def test_what_is_kept_is_what_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    report, _ = read(home, a_backtest(home))
    assert report.fingerprint() == predictions(edge=False).fingerprint()
    assert (report.records, report.race_dates.size) == (60_000, 365 * 4)


def test_a_market_only_model_does_not_pass_and_stays_paper(tmp_path: Path) -> None:
    """Its margin is 0, and its bets lose the book."""
    home = Home(tmp_path)
    a_backtest(home)
    version = a_model(home)
    report = judge_last(home, now=NOW)
    assert report.verdict != "PASS"
    margin = next(each for each in report.gate.asked[1].window.judged if each.criterion.name == "margin")
    assert margin.figure.value == pytest.approx(0.0, abs=1e-9)
    assert (report.model, report.mode) == (version, "paper only")
    assert report.notes[-2] == "The blend, and the market it is compared with, are of SP."
    assert report.notes[-1].startswith(
        "16 strategies were looked at on these days: 8 of each of 2 sets of probabilities"
    )
    assert bundle.described(home, version)["gate"] == report.verdict


def test_the_verdict_is_kept_with_a_model_of_the_same_recipe_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    a_backtest(home, recipe="another")
    version = a_model(home)
    report = judge_last(home, now=NOW)
    assert report.model is None
    assert any("is of another recipe" in note for note in report.notes)
    assert bundle.described(home, version)["gate"] == "not run"


def test_only_a_pass_leaves_paper_and_a_verdict_on_other_files_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, second = a_model(home), a_model(home, "other\n", NOW + timedelta(days=1))
    assert bundle_writing.judged(home, first, "FAIL", {}) == "paper only"
    assert bundle_writing.judged(home, first, "PASS", {}) == "passed the gate"
    assert bundle.described(home, first)["mode"] == "passed the gate"
    (home.models / second / bundle.GATE).write_bytes((home.models / first / bundle.GATE).read_bytes())
    assert bundle.described(home, second)["gate"] == "not run"


def test_a_verdict_of_the_blend_says_so_beside_the_model(tmp_path: Path) -> None:
    home = Home(tmp_path)
    version = a_model(home)
    a_backtest(home, edge=True)
    verdict = judge_last(home, now=NOW, subject="blend").verdict
    assert bundle.described(home, version)["gate"] == f"{verdict} (of the blend)"
    assert judge_last(home, now=NOW).verdict == bundle.described(home, version)["gate"]


def test_a_locked_window_is_looked_at_once_or_counted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    a_backtest(home, edge=True)
    assert judge_last(home, now=NOW).look is None
    assert judge_last(home, now=NOW, final=True).look == 1
    with pytest.raises(UserError, match="was looked at on 2026-01-05 with a-backtest"):
        judge_last(home, now=NOW)
    assert judge_last(home, now=NOW, again=True).look == 2
    assert len(looks(home.models)) == 2


def test_a_short_backtest_is_not_judged(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(UserError, match=r"there is no backtest at .*: run `velo backtest` first"):
        judge_last(home, now=NOW)
    a_backtest(home, since=date(2025, 12, 1))
    with pytest.raises(UserError, match="is of 31 days, the gate asks for 365"):
        judge_last(home, now=NOW)


def test_models_are_listed_compared_promoted_and_rolled_back(tmp_path: Path) -> None:
    home = Home(tmp_path)
    velo("models", "list", home=tmp_path).told("there is no model at", "run `velo train` first")
    first, second = a_model(home), a_model(home, "other\n", NOW + timedelta(days=1))
    listed = velo("models", "list", "--json", home=tmp_path).document
    assert velo("models", "--json", home=tmp_path).document == listed
    assert [(each["version"], each["serves"]) for each in listed] == [(first, False), (second, True)]
    assert velo("models", "rollback", "--json", home=tmp_path).document["serves"] == first
    velo("models", "rollback", home=tmp_path).told("no other model served before")
    assert velo("models", "promote", second, "--json", home=tmp_path).document == {
        "serves": second,
        "mode": "paper only",
    }
    shown = velo("models", "compare", first, second, home=tmp_path, COLUMNS="160")
    assert first in shown.out
    velo("models", "compare", first, "none", home=tmp_path).told("'none' is not a model at")


def test_the_gate_says_its_verdict_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    velo("gate", home=tmp_path).told("there is no backtest at")
    a_backtest(home)
    shown = velo("gate", home=tmp_path, COLUMNS="160")
    assert shown.code == 0
    assert shown.out.startswith("gate: ")
    assert "P(pass | no edge)" in shown.out
    assert velo("gate", "--json", home=tmp_path).document["verdict"] in {"FAIL", "NOT ENOUGH DATA"}
    velo("gate", "--of", "tips", home=tmp_path).told("'tips' was not tested")


def test_a_backtest_takes_the_options_of_a_model_that_a_search_chose(tmp_path: Path) -> None:
    home = Home(tmp_path)
    version = a_model(home, options=replace(ModelOptions(), leaves=48, seed=7))
    options, _, lead = recipe_kept(home, version)
    assert options == replace(ModelOptions(), leaves=48, seed=7)
    assert lead == timedelta(minutes=5)
    kept = bundle.described(home, version)
    assert recipe_of(asdict(options), FEATURES, CATALOGUE, lead.total_seconds()) == recipe_of(
        kept["model"], kept["features"], kept["catalogue"], kept["lead_s"]
    )
    with pytest.raises(UserError, match="'other' is not a model at"):
        recipe_kept(home, "other")
