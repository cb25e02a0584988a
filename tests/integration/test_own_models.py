"""A user's own model: adapted, checked, tested like ours, stored without pickle, loaded where it fits, and refused in one line."""

import sys
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.support import user_models
from tests.support.cli import velo
from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT, FIRST_DAY
from tests.support.stores import formulas_of
from tests.support.user_models import FORM, Answers, FormModel, Leaking
from velo.errors import UserError
from velo.storage.store import Store
from velo.training import bundle
from velo.training.dataset.by_race import softmax
from velo.training.dataset.races import Races, races_of
from velo.training.dataset.training_set import TrainingSet
from velo.training.evaluation.backtest import backtest
from velo.training.gate.controls import LEAK, SHUFFLED, placebos
from velo.training.model.own_models import FittedUserModel, recipe_for
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import Runners
from velo.training.registry.backtests import read, recipe_of, stored_backtests, trials
from velo.training.registry.models import recipe_kept
from velo.training.reports.backtest_report import BacktestReport
from velo.training.train import train

pytestmark = pytest.mark.slow

PIPELINE = "tests.support.user_models:pipeline"
FUNCTION = "tests.support.user_models:by_form"
PROTOCOL = "tests.support.user_models:FormModel"
SMALL = ModelOptions(rounds=12, patience=4, leaves=5, learning_rate=0.1, threads=1, seeds=1)
PERIOD: dict[str, Any] = {"since": FIRST_DAY + timedelta(days=250), "refit_months": 1, "past": 2}


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(330)


@pytest.fixture(scope="module")
def rows(seasons: Seasons) -> TrainingSet:
    return seasons.rows(330)


@pytest.fixture(scope="module")
def races(rows: TrainingSet) -> Races:
    return races_of(rows)


@pytest.fixture(scope="module")
def runners(rows: TrainingSet, races: Races) -> Runners:
    return Runners(rows.matrix(FEATURES)[races.rows], races.starts, FEATURES)


@pytest.fixture(scope="module")
def by_pipeline(store: Store) -> BacktestReport:
    return backtest(store, now=BUILT_AT, model=PIPELINE, **PERIOD)


@pytest.fixture(scope="module")
def ours(store: Store) -> BacktestReport:
    return backtest(store, now=BUILT_AT, model=SMALL, **PERIOD)


def all_of(races: Races) -> Races:
    return replace(races, rows=np.arange(races.share.size, dtype=np.intp))


# The same path as ours


def test_a_pipeline_is_tested_by_the_same_refits_and_beside_the_same_baseline_as_ours(
    store: Store, ours: BacktestReport, by_pipeline: BacktestReport
) -> None:
    days = [
        [(refit.name, refit.train_last_day, refit.records) for refit in report.refits] for report in (ours, by_pipeline)
    ]
    assert days[0] == days[1]
    logits = [read(store.home, report.backtest)[0].columns["logit"] for report in (ours, by_pipeline)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert by_pipeline.model == PIPELINE
    assert {choice.kind for choice in by_pipeline.choices} == {"Benter"}
    # one trial of each recipe, whoever made the model
    assert {ours.backtest, by_pipeline.backtest} <= {trial.backtest for trial in trials(store.home.models)}


def test_all_backtests_stand_in_one_table(store: Store, ours: BacktestReport, by_pipeline: BacktestReport) -> None:
    stored = {row.backtest: row for row in stored_backtests(store.home)}
    assert {stored[ours.backtest].model, stored[by_pipeline.backtest].model} == {"velo", PIPELINE}
    assert stored[ours.backtest].logit_r2 == stored[by_pipeline.backtest].logit_r2
    measured = {row.name: row for row in by_pipeline.told}
    assert stored[by_pipeline.backtest].r2 == measured["fundamental"].r2
    shown = velo("models", "backtests", home=store.home.root).out
    assert PIPELINE in shown


def test_each_prediction_is_that_of_the_classifier_fitted_by_hand_on_earlier_days(
    store: Store, races: Races, runners: Runners, by_pipeline: BacktestReport
) -> None:
    import pandas as pd

    predictions, _ = read(store.home, by_pipeline.backtest)
    first = predictions.columns["fold"] == predictions.columns["fold"].min()
    days = predictions.columns["race_date"][first]
    train = races.days < days.min()
    known, later = (
        runners.of(all_of(races).only(wanted))
        for wanted in (train, (races.days >= days.min()) & (races.days <= days.max()))
    )
    frame = [pd.DataFrame(some.matrix, columns=list(FEATURES)) for some in (known, later)]
    empty = frame[0].isna().all()
    frame = [some.mask(empty & some.isna(), 0.0) for some in frame]
    won = all_of(races).only(train).share > 0
    fitted = user_models.pipeline().fit(frame[0], won.astype(int))
    expected = softmax(np.log(fitted.predict_proba(frame[1])[:, 1]), later.starts)
    np.testing.assert_allclose(predictions.columns["fundamental"][first], expected, rtol=1e-9)


def test_other_parameters_are_another_trial_and_the_same_are_not(store: Store, by_pipeline: BacktestReport) -> None:
    again = backtest(store, now=BUILT_AT + timedelta(days=1), model=PIPELINE, **PERIOD)
    assert (again.backtest, again.recipe) == (by_pipeline.backtest, by_pipeline.recipe)
    other = backtest(store, now=BUILT_AT, model=PIPELINE, parameters={"c": 0.02}, **PERIOD)
    assert other.recipe != by_pipeline.recipe
    assert other.trials > again.trials


def test_the_parameters_of_an_object_are_its_recipe() -> None:
    recipes = [recipe_for(user_models.pipeline(c)) for c in (0.01, 0.01, 0.5)]
    hashes = [recipe_of(recipe.settings, recipe.features, "f" * 32, 300.0) for recipe in recipes]
    assert hashes[0] == hashes[1] != hashes[2]


# Stored and loaded


@pytest.mark.parametrize(
    ("factory", "parameters", "package"),
    [
        (PIPELINE, {}, "skops"),
        ("sklearn.ensemble:HistGradientBoostingClassifier", {"max_iter": 10, "random_state": 1}, "skops"),
        ("xgboost:XGBClassifier", {"n_estimators": 10, "max_depth": 3, "n_jobs": 1}, "xgboost"),
        ("catboost:CatBoostClassifier", {"iterations": 10, "verbose": False, "thread_count": 1}, "catboost"),
        (FUNCTION, {}, "numpy"),
        (PROTOCOL, {"scale": 2.0}, "numpy"),
    ],
)
def test_a_stored_model_scores_a_race_as_it_did_when_it_was_fitted(
    store: Store, races: Races, runners: Runners, factory: str, parameters: dict[str, Any], package: str
) -> None:
    pytest.importorskip(package)
    report = train(store, now=BUILT_AT, model=factory, parameters=parameters)
    loaded = bundle.load(store.home, formulas_of(store.home))
    assert loaded.version == report.version
    assert (loaded.metadata["factory"], loaded.metadata["parameters"]) == (factory, parameters)
    assert loaded.metadata["environment"]["python"] == sys.version.split()[0]
    assert loaded.metadata["log"]["next_seq"] > 0
    assert loaded.differences == ()
    fitted = recipe_for(factory, parameters).model.fit(runners, all_of(races))
    matrix = runners.select(loaded.features).matrix
    for number in (0, 7, races.count - 1):
        begin = int(races.starts[number])
        own = slice(begin, begin + int(races.sizes[number]))
        expected = softmax(fitted.utilities(runners.race(number)), np.zeros(1, dtype=np.intp))
        np.testing.assert_allclose(loaded.probabilities(matrix[own]), expected, rtol=1e-9)
        assert loaded.contributions(matrix[own]).shape == matrix[own].shape
    stored = {path.name for path in (store.home.models / report.version).iterdir()}
    assert not {name for name in stored if name.endswith((".pkl", ".pickle", ".joblib"))}


def test_a_backtest_judges_the_stored_model_of_the_same_factory_and_no_other(
    store: Store, by_pipeline: BacktestReport
) -> None:
    """The gate's verdict goes to a bundle whose recipe is that of the backtest."""
    pytest.importorskip("skops")
    recipes = []
    for parameters in ({}, {"c": 0.5}):
        version = train(store, now=BUILT_AT, model=PIPELINE, parameters=parameters).version
        stored = bundle.described(store.home, version)
        recipes.append(recipe_of(stored["model"], stored["features"], stored["catalogue"], stored["lead_s"]))
        assert recipe_kept(store.home, version) == (PIPELINE, parameters, timedelta(minutes=5))
    assert recipes[0] == by_pipeline.recipe
    assert recipes[1] != by_pipeline.recipe


def test_a_changed_source_or_file_of_a_stored_model_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "edited_model.py"
    module.write_text("def score(runners):\n    return runners.matrix[:, 0] * 0.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = train(store, now=BUILT_AT, model="edited_model:score")
    assert bundle.load(store.home, formulas_of(store.home)).version == report.version
    module.write_text("def score(runners):\n    return runners.matrix[:, 0] * 0.0 + 1.0\n")
    with pytest.raises(UserError, match=r"edited_model:score: the source of the model changed since it was stored"):
        bundle.load(store.home, formulas_of(store.home))
    monkeypatch.delitem(sys.modules, "edited_model")
    module.unlink()
    with pytest.raises(UserError, match="edited_model:score: the import of edited_model raised ModuleNotFoundError"):
        bundle.load(store.home, formulas_of(store.home))


def test_another_environment_is_named_and_another_scikit_learn_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skops")
    version = train(store, now=BUILT_AT, model=PIPELINE).version
    real = metadata.version

    def other(name: str) -> str:
        return "0.0.1" if name in changed else real(name)

    monkeypatch.setattr(metadata, "version", other)
    changed = {"numpy"}
    differing = bundle.load(store.home, formulas_of(store.home)).differences
    assert differing == (f"model {version} was trained with numpy {real('numpy')}, this environment has 0.0.1",)
    changed = {"scikit-learn"}
    with pytest.raises(UserError, match=r"install scikit-learn==.*, or run `velo train` again"):
        bundle.load(store.home, formulas_of(store.home))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FormModel(), "cannot be stored safely .a bundle records module:factory.: name it by module:factory"),
        ("tests.support.user_models:Untold", "it has no text form"),
        ("tests.support.user_models:foreign_step", "skops does not trust tests.support.user_models.Foreign"),
    ],
)
def test_what_cannot_be_stored_safely_is_refused_before_it_is_fitted_and_can_be_tested(
    store: Store, model: object, said: str
) -> None:
    pytest.importorskip("skops")
    before = sorted(path.name for path in store.home.models.iterdir())
    with pytest.raises(UserError, match=said):
        train(store, now=BUILT_AT, model=model)
    assert sorted(path.name for path in store.home.models.iterdir()) == before
    report = backtest(store, now=BUILT_AT, model=model, **PERIOD)
    assert report.races > 0
    assert report.model == (model if isinstance(model, str) else PROTOCOL)


# Mistakes


def nan_in_one(runners: Runners) -> Any:
    values = np.zeros(runners.count)
    values[0] = np.nan
    return values


def raises(runners: Runners) -> Any:
    raise KeyError("speed")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (nan_in_one, r"utilities returned 1 values of .* that are NaN or infinite: return a finite number"),
        (lambda runners: np.zeros(runners.count - 1), r"utilities returned shape \(.*,\) for .* runners: return \("),
        (lambda runners: 0.5, r"utilities returned shape \(\) for .* runners"),
        (lambda runners: np.zeros((runners.count, 2)), r"utilities returned shape \(.*, 2\)"),
        (lambda runners: "fast", "utilities returned str: return one number per runner"),
        (lambda runners: None, "utilities returned 1 values|utilities returned shape"),
        (raises, "utilities raised KeyError: 'speed': call it by hand"),
        (lambda runners: np.arange(runners.count)[::-1] ** 2.0, "other utilities by itself than among"),
    ],
)
def test_a_wrong_answer_is_one_line_that_names_the_model(runners: Runners, answer: Any, said: str) -> None:
    fitted = FittedUserModel("mine:Model", Answers(answer), FEATURES)
    with pytest.raises(UserError, match=f"mine:Model: (a race has )?{said}") as mistake:
        fitted.utilities(runners)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nowhere", "'nowhere' is not module:factory"),
        ("no_such_module:make", "the import of no_such_module raised ModuleNotFoundError"),
        ("tests.support.user_models:nothing", "has no 'nothing'"),
        ("tests.support.user_models:FORM", "is a str: name a function or class"),
        ("tests.support.user_models:FittedForm", "the factory raised TypeError"),
        (object(), "builtins:object is not a model: give it fit"),
        (Answers, "Answers is a class: pass an object of it"),
    ],
)
def test_what_is_no_model_is_one_line(model: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe_for(model)


def test_a_column_that_no_model_may_use_is_refused() -> None:
    model = FormModel()
    model.features = ("horse_form__last_race_day",)
    with pytest.raises(UserError, match="horse_form__last_race_day, which grow with the calendar"):
        recipe_for(model)
    model.features = ("sp_decimal",)
    with pytest.raises(UserError, match="sp_decimal is no feature of the catalogue"):
        recipe_for(model)


def test_a_classifier_that_cannot_take_missing_values_says_so_and_changes_nothing(store: Store) -> None:
    before = trials(store.home.models)
    with pytest.raises(
        UserError, match=r"sklearn\..*LogisticRegression: fit on .* races raised ValueError: Input X contains NaN"
    ):
        backtest(store, now=BUILT_AT, model=LogisticRegression(), **PERIOD)
    assert trials(store.home.models) == before


def test_the_command_line_says_a_mistake_in_one_line(store: Store) -> None:
    home = store.home.root
    velo("backtest", "--model", "tests.support.user_models:nothing", home=home).told("has no 'nothing'")
    velo("backtest", "--model", PIPELINE, "--param", "c", home=home).told("--param 'c' must be name=value")
    velo("backtest", "--model", PIPELINE, "--param", "d=1", home=home).told("the factory raised TypeError")
    velo("backtest", "--param", "c=1", home=home).told("name the factory too")
    velo("train", "--model", PIPELINE, "--search", home=home).told("--search tries options of VÉLØ's own model")
    velo("train", "--model", PIPELINE, "--seed", "3", home=home).told("--seed is of VÉLØ's own model")


@pytest.mark.parametrize("name", ["not_a_number", "one_short"])
@pytest.mark.parametrize("command", [("train",), ("backtest", "--days", "80", "--refit-months", "1", "--past", "2")])
def test_a_wrong_answer_stops_a_command_in_one_line_and_changes_nothing(
    store: Store, name: str, command: tuple[str, ...]
) -> None:
    def state() -> list[Path]:
        return sorted(path for folder in (store.home.models, store.home.reports) for path in folder.rglob("*"))

    before, tested = state(), trials(store.home.models)
    done = velo(*command, "--model", f"tests.support.user_models:{name}", home=store.home.root)
    done.told(f"velo: tests.support.user_models:{name}: utilities returned ")
    assert (state(), trials(store.home.models)) == (before, tested)


# Leaks


def test_a_model_that_knows_the_results_sets_off_the_alarms(
    store: Store, races: Races, runners: Runners, by_pipeline: BacktestReport
) -> None:
    leaking = Leaking(runners.matrix, races.share)
    report = backtest(store, now=BUILT_AT, model=leaking, **PERIOD)
    off = {(alarm.subject, alarm.says.split()[0]) for alarm in report.alarms}
    assert {("fundamental", "the"), ("fundamental", "AUC")} <= off
    assert not [alarm for alarm in by_pipeline.alarms if alarm.subject == "fundamental"]


def test_placebos_pass_a_sound_model_and_fail_one_that_cannot_see_a_leak(store: Store) -> None:
    sound = placebos(store, model=PIPELINE, **PERIOD)
    assert [(check.name, check.passed, bool(check.alarms)) for check in sound.checks] == [
        (SHUFFLED, True, False),
        (LEAK, True, True),
    ]
    blind = placebos(store, model=Answers(flat), **PERIOD)
    assert [check.passed for check in blind.checks] == [True, False]
    assert not blind.passed
    assert [check.name for check in placebos(store, model=FUNCTION, **PERIOD).checks] == [SHUFFLED]


def flat(runners: Runners) -> Any:
    return np.zeros(runners.count)


def test_placebos_fail_a_model_that_reads_the_answer_of_the_days_it_predicts(store: Store) -> None:
    """It looks up the shuffled result itself, as a model would that kept the table it is tested with."""
    made = placebos(store, model=Peeking(), **PERIOD)
    shuffled = made.checks[0]
    assert not shuffled.passed
    assert shuffled.alarms


class Peeking:
    """A model whose fit finds the caller's races and with them the results to predict."""

    def fit(self, runners: Runners, races: Races) -> Answers:
        frame = sys._getframe()
        while frame.f_back is not None and frame.f_code.co_name != "forward":
            frame = frame.f_back
        every, matrix = frame.f_locals["races"], frame.f_locals["runners"].matrix
        return Answers(Leaking(matrix, every.share).utilities)


def test_our_own_model_passes_its_placebos(store: Store) -> None:
    ours = placebos(store, model=replace(SMALL, soft_target=0.0, rounds=30), **PERIOD)
    assert ours.passed, ours


def test_a_function_of_form_uses_the_form_alone(runners: Runners, races: Races) -> None:
    fitted = recipe_for(FUNCTION).model.fit(runners, all_of(races))
    form = np.nan_to_num(runners.matrix[:, FEATURES.index(FORM)])
    np.testing.assert_array_equal(fitted.utilities(runners), 4.0 * form)
