"""Placebos: noise teaches nothing, the market has no edge on itself, a leak is seen, the future is not.

Two seasons of the Hong Kong file, one to learn from and one to predict, through the store and Feast; sections in a simulated
season.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tests.support.logs import a_store, logged
from tests.support.made_once import made_once
from tests.support.stores import NOW, Conformance, a_season
from velo.errors import UserError
from velo.resampling import Days
from velo.streams.batch.build import build
from velo.training.dataset.by_race import Floats
from velo.training.dataset.entity_rows import Period
from velo.training.dataset.races import Races, races_of, refits_between
from velo.training.dataset.training_set import TrainingSet, training_set
from velo.training.evaluation.backtest import BacktestOptions, prepare
from velo.training.evaluation.metrics import BacktestPeriod
from velo.training.evaluation.walk_forward import OutOfFold, forward
from velo.training.gate.controls import OWN_SECTIONS, SHUFFLED_SECTIONS, section_placebos, shuffled_winners
from velo.training.gate.criteria import Verdict
from velo.training.gate.windows import ask, gate_figures
from velo.training.market.market import fit_market_exponent
from velo.training.model.fitting import TreesAndLogit
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import Runners

pytestmark = pytest.mark.slow

SMALL = ModelOptions(rounds=60, patience=20, leaves=8, learning_rate=0.1, feature_fraction=0.5, threads=1, seeds=1)
PERIOD = Period(date(2017, 1, 1), date(2018, 12, 31))


def quiet(step: str, done: int, steps: int) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def rows(conformance: Conformance, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    def joined(_: Path) -> TrainingSet:
        return training_set(conformance("hk").store, period=PERIOD)

    return made_once(tmp_path_factory, "hk-rows", joined)[1]


@pytest.fixture(scope="module")
def races(rows: TrainingSet) -> Races:
    return races_of(rows)


@pytest.fixture(scope="module")
def matrix(rows: TrainingSet, races: Races) -> Floats:
    return rows.matrix(FEATURES)[races.rows]


def predicted_of(matrix: Floats, races: Races) -> OutOfFold:
    """2018 by a model of the year before."""
    return forward(
        Runners(matrix, races.starts, FEATURES),
        races,
        refits_between(races.days, [np.datetime64("2018-01-01"), np.datetime64("2019-01-01")]),
        0,
        12,
        TreesAndLogit(SMALL),
        quiet,
    )


def season_of(predicted: OutOfFold, rows: TrainingSet, p: Floats) -> BacktestPeriod:
    races = predicted.races
    prices = rows.label("sp_decimal")[races.rows]
    days = Days.of_dates(np.repeat(races.days, races.sizes), 1)
    return BacktestPeriod(p, races.pi, prices, prices, races.share, races.starts, days)


def test_shuffled_winners_teach_nothing(races: Races, matrix: Floats) -> None:
    """Winners and market are dealt again within each race, the same way: R² of later days is 0 or below, within noise."""
    share, pi = (shuffled_winners(each, races.starts, 3) for each in (races.share, races.pi))
    found = predicted_of(matrix, replace(races, share=share, pi=pi))
    loss = -found.races.total(found.races.share * np.log(found.fundamental))
    gained = np.log(found.races.sizes) - loss
    assert gained.mean() < 2.0 * gained.std() / np.sqrt(gained.size)
    assert gained.mean() / np.log(found.races.sizes).mean() < 0.01


def test_a_model_that_says_what_the_market_says_has_no_margin_and_does_not_pass(
    rows: TrainingSet, races: Races
) -> None:
    """π itself, held against π^β, whose exponent is fitted on the year before."""
    before, year = races.only(races.days < np.datetime64("2018-01-01")), races.between(date(2018, 1, 1), PERIOD.until)
    priced = ~np.isnan(year.total(year.pi))
    year = year.only(priced)
    beta = fit_market_exponent(before.pi, before.starts, before.share)
    market = beta.probabilities(None, year.pi, year.starts)
    prices = rows.label("sp_decimal")[year.rows]
    days = Days.of_dates(np.repeat(year.days, year.sizes), 1)
    season = BacktestPeriod(year.pi, year.pi, prices, prices, year.share, year.starts, days)
    figures = gate_figures(season, np.ones(market.size, dtype=np.bool_), market, 100_000)
    low, high = figures["margin"].low, figures["margin"].high
    assert low is not None
    assert high is not None
    assert low < 0.0 < high
    report = ask(season, year.days, market, 100_000, until=PERIOD.until, simulations=20)
    assert report.verdict is not Verdict.PASS


def test_what_a_race_showed_is_refused_as_a_column(rows: TrainingSet) -> None:
    for known_after in ("label__position", "sp_decimal", "beaten_lengths"):
        with pytest.raises(UserError, match=f"{known_after} is no feature of the catalogue"):
            rows.matrix([*FEATURES, known_after])


def test_a_feature_taken_from_the_next_race_sets_off_the_alarms(
    rows: TrainingSet, races: Races, matrix: Floats
) -> None:
    """The classic slip, a shift by one: each form value is that of the horse's next start, which knows how this one went."""
    horses = rows.identity.column("horse_id").to_numpy(zero_copy_only=False)[races.rows]
    order = np.lexsort((races.rows, horses))
    following = np.where(horses[order][1:] == horses[order][:-1], order[1:], -1)
    late = matrix.copy()
    for name in ("horse_form__prb_last", "horse_form__position_last", "horse_form__wins", "horse_form__sr"):
        at = FEATURES.index(name)
        shifted = np.full(order.size, np.nan)
        shifted[order[:-1]] = np.where(following >= 0, matrix[following, at], np.nan)
        late[:, at] = shifted
    found = predicted_of(late, races)
    figures = gate_figures(season_of(found, rows, found.fundamental), found.fundamental > 0.2, found.races.pi, 100_000)
    sound = predicted_of(matrix, races)
    assert figures["top1"].value is not None
    assert figures["top1"].value > 0.45
    without = gate_figures(season_of(sound, rows, sound.fundamental), sound.fundamental > 0.2, sound.races.pi, 100_000)
    assert without["top1"].value is not None
    assert without["top1"].value < 0.35


def test_races_of_later_days_change_no_earlier_row(conformance: Conformance, matrix: Floats) -> None:
    """What is joined for 2017 is the same, to the bit, with 2018 there and without.

    `test_backtest` shows that what is predicted is the same too.
    """
    edge = date(2017, 12, 31)
    fewer = training_set(conformance("hk").store, period=Period(PERIOD.since, edge))
    own = races_of(fewer)
    early = fewer.matrix(FEATURES)[own.rows]
    assert early.tobytes() == matrix[: early.shape[0]].tobytes()


def test_shuffled_sections_teach_nothing_and_the_sections_of_the_race_itself_set_off_an_alarm(tmp_path: Path) -> None:
    """A simulated season through the log, the build and Feast; without in-running data neither is tried."""
    store = a_store(tmp_path)
    logged(store, *a_season(days=150, races_per_year=1000, horses=1000))
    build(store, NOW)
    options = replace(SMALL, rounds=30, soft_target=0.0)
    period: BacktestOptions = {"days": 45, "refit_months": 1, "past": 1, "model": options}
    made = prepare(store, quiet, period)
    shuffled, own = section_placebos(store, made, quiet)
    assert (shuffled.name, shuffled.passed, shuffled.alarms) == (SHUFFLED_SECTIONS, True, ())
    assert (own.name, own.passed) == (OWN_SECTIONS, True)
    assert own.alarms
