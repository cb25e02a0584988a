"""The backtest: earlier days predict later ones, placebos come out null, a leak sets off an alarm, and trials are counted."""

import json
import re
import shutil
from dataclasses import replace
from datetime import date, timedelta
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT, FIRST_DAY
from velo.errors import UserError
from velo.resampling import Figure
from velo.storage.jsonl import plain
from velo.storage.store import Home, Store
from velo.training.dataset.races import Races, races_of
from velo.training.dataset.training_set import TrainingSet
from velo.training.evaluation.backtest import backtest
from velo.training.evaluation.blend_calibrate import combine
from velo.training.evaluation.walk_forward import OutOfFold, WalkForwardPlan, cut, drifted, predict, shifted
from velo.training.gate.controls import planted_leak, shuffled_winners
from velo.training.gate.windows import gate_figures, holds
from velo.training.model.fitting import TreesAndLogit
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import Runners
from velo.training.registry.backtests import PREDICTIONS, TRIALS, earlier_backtests, read, trials
from velo.training.reports.backtest_report import BacktestReport
from velo.training.reports.html import meanings, page, write_report
from velo.training.reports.tables import (
    BY_BUCKET,
    EARLIER,
    FLOORS,
    PLACES,
    QUALITY,
    backtest_tables,
    summary_lines,
)

pytestmark = pytest.mark.slow

SMALL = ModelOptions(rounds=12, patience=4, leaves=5, learning_rate=0.1, threads=1, seeds=1)
DAYS = 370
TEST_FROM = FIRST_DAY + timedelta(days=300)
PLAN = WalkForwardPlan(TEST_FROM, FIRST_DAY + timedelta(days=DAYS), 3)


def quiet(step: str, done: int, steps: int) -> None:
    assert 0 <= done <= steps, step


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(DAYS)


@pytest.fixture(scope="module")
def rows(seasons: Seasons) -> TrainingSet:
    return seasons.rows(DAYS)


@pytest.fixture(scope="module")
def races(rows: TrainingSet) -> Races:
    return races_of(rows)


@pytest.fixture(scope="module")
def predicted(rows: TrainingSet, races: Races) -> OutOfFold:
    return messages_of_race(rows, races)


@pytest.fixture(scope="module")
def report(store: Store) -> BacktestReport:
    return backtest(store, now=BUILT_AT, since=TEST_FROM, model=SMALL, progress=quiet)


def messages_of_race(rows: TrainingSet, races: Races, plan: WalkForwardPlan = PLAN) -> OutOfFold:
    return predict(
        Runners(rows.matrix(FEATURES)[races.rows], races.starts, FEATURES), races, plan, TreesAndLogit(SMALL), quiet
    )


# Time


def test_every_fold_is_trained_on_earlier_days_alone_and_the_past_comes_before_the_period(races: Races) -> None:
    folds, past, months = cut(races, PLAN)
    assert (past, months) == (2, 3)
    for number, fold in enumerate(folds):
        assert races.days[fold.train].max() < races.days[fold.test].min()
        assert (races.days[fold.test] >= np.datetime64(TEST_FROM)).all() == (number >= past)


def test_the_refits_come_as_often_as_the_past_allows(races: Races) -> None:
    assert cut(races, replace(PLAN, refit_months=None))[2] == 3
    with pytest.raises(UserError, match="too few race days before"):
        cut(races, replace(PLAN, refit_months=12))
    with pytest.raises(UserError, match="no race from 2030-01-01"):
        cut(races, WalkForwardPlan(date(2030, 1, 1), date(2030, 2, 1)))
    assert shifted(date(2024, 3, 31), -1) == date(2024, 2, 29)


def test_the_blend_learns_from_as_many_refits_as_leave_half_of_the_past(races: Races) -> None:
    monthly = replace(PLAN, refit_months=1)
    folds, past, _ = cut(races, monthly)
    assert 2 < past < 6
    days = np.unique(races.days[races.days < np.datetime64(TEST_FROM)]).size
    assert np.unique(races.days[folds[0].train]).size >= days // 2
    assert np.unique(races.days[cut(races, replace(monthly, past=past + 1))[0][0].train]).size < days // 2
    assert cut(races, replace(monthly, past=1))[1] == 1


def test_races_of_later_days_change_no_earlier_prediction(
    rows: TrainingSet, races: Races, predicted: OutOfFold
) -> None:
    """The whole pipeline, fitted without the last month's races, and with them."""
    edge = TEST_FROM + timedelta(days=50)
    fewer = races.only(races.days <= np.datetime64(edge))
    short = messages_of_race(rows, fewer, replace(PLAN, until=edge))
    sp = rows.label("sp_decimal")
    for each in ("fundamental", "logit", "residual"):
        early = getattr(short, each)
        # A matrix product takes its last rows another way: the last bit may differ, and nothing more.
        np.testing.assert_allclose(early, getattr(predicted, each)[: early.size], rtol=1e-12)
    blends = [combine(of, sp[of.races.rows]).blend for of in (short, predicted)]
    np.testing.assert_allclose(blends[0], blends[1][: blends[0].size], rtol=1e-9)


def test_the_winners_of_the_tested_days_teach_nothing_to_what_predicts_them(
    rows: TrainingSet, races: Races, predicted: OutOfFold
) -> None:
    late = np.repeat(races.days >= np.datetime64(TEST_FROM), races.sizes)
    other = np.where(late, shuffled_winners(races.share, races.starts, 1), races.share)
    np.testing.assert_array_equal(
        messages_of_race(rows, replace(races, share=other)).fundamental, predicted.fundamental
    )


# Placebos


def test_shuffled_winners_teach_nothing(rows: TrainingSet, races: Races) -> None:
    messages = messages_of_race(rows, replace(races, share=shuffled_winners(races.share, races.starts, 3)))
    tested = messages.races.only(messages.fold >= 0)
    loss = -tested.total(tested.share * np.log(messages.fundamental))
    gained = 1.0 - loss / np.log(tested.sizes)
    assert gained.mean() < 2.0 * gained.std() / np.sqrt(gained.size)
    assert gained.mean() < 0.02


def leaking(
    store: Store, rows: TrainingSet, races: Races, report: BacktestReport, options: ModelOptions
) -> dict[str, Figure]:
    """What the gate looks at where the race's own result stood in a feature's place, under noise."""
    matrix = rows.matrix(FEATURES)[races.rows].copy()
    matrix[:, 0] = planted_leak(races.share, 1, 0.1)
    predicted = predict(Runners(matrix, races.starts, FEATURES), races, PLAN, TreesAndLogit(options), quiet)
    predictions, _ = read(store.home, report.backtest)
    tested = np.repeat(predicted.fold >= predicted.past, predicted.races.sizes)
    season = replace(predictions.season("fundamental"), p=predicted.fundamental[tested])
    return gate_figures(season, season.p > 0.2, predictions.columns["market"], 100)


def test_a_planted_leak_sets_off_the_alarms(
    store: Store, rows: TrainingSet, races: Races, report: BacktestReport
) -> None:
    """Taught by wins alone both alarms ring; the market's view, of which the recipe takes most, quietens but one."""
    wins = leaking(store, rows, races, report, replace(SMALL, rounds=60, soft_target=0.0))
    assert wins["top1"].value is not None
    assert wins["top1"].value > 0.45
    assert wins["auc"].value is not None
    assert wins["auc"].value > 0.90
    recipe = leaking(store, rows, races, report, replace(SMALL, rounds=60))
    assert recipe["top1"].value is not None
    assert recipe["top1"].value > 0.45


def test_a_column_that_no_catalogue_declares_is_refused(rows: TrainingSet) -> None:
    with pytest.raises(UserError, match="is no feature of the catalogue"):
        rows.matrix([*FEATURES, "position"])


# What is sent


def test_probabilities_of_each_race_sum_to_one(store: Store, report: BacktestReport) -> None:
    predictions, _ = read(store.home, report.backtest)
    starts = predictions.season("blend").starts
    for name in ("fundamental", "calibrated", "logit", "market", "blend_raw", "blend", "pi"):
        np.testing.assert_allclose(np.add.reduceat(predictions.columns[name], starts), 1.0, atol=1e-9)


def test_a_period_shorter_than_the_gates_is_not_judged(report: BacktestReport) -> None:
    assert report.gate == {}
    assert report.verdict == "NOT ENOUGH DATA"
    assert any("the gate was not asked" in line for line in report.caveats)


def test_the_same_backtest_again_is_the_same_to_the_last_digit_and_no_further_trial(
    store: Store, report: BacktestReport
) -> None:
    again = backtest(store, now=BUILT_AT + timedelta(days=1), since=TEST_FROM, model=SMALL)
    assert json.dumps(plain(again)) == json.dumps(plain(report))
    assert (again.trials, len(trials(store.home.models))) == (1, 1)
    assert (store.home.backtests / report.backtest / PREDICTIONS).is_file()


def test_another_recipe_on_the_same_days_is_another_trial(tmp_path: Path, store: Store, report: BacktestReport) -> None:
    found = backtest(store, now=BUILT_AT, days=60, model=replace(SMALL, seed=2))
    assert found.trials == 2
    assert any("tested by 2 different backtests" in line for line in found.caveats)
    (tmp_path / TRIALS).write_text("{\n")
    with pytest.raises(UserError, match="is damaged"):
        trials(tmp_path)


def test_the_terminal_says_the_verdict_first(report: BacktestReport) -> None:
    console = Console(width=190, record=True, file=StringIO())
    console.print(backtest_tables(report))
    shown = console.export_text()
    assert shown.startswith("gate: NOT ENOUGH DATA")
    of_segments = (
        "segments were compared",
        "16 strategies were looked at",
        "are of SP, which is not known before the off",
    )
    for word in (
        "market π^β",
        "plain logit",
        "ΔR² of blend over market π^β",
        "TOP20 by edge",
        "after 5 %",
        *of_segments,
    ):
        assert word in shown, word


def test_the_terminal_has_the_result_in_ten_lines(report: BacktestReport) -> None:
    """The verdict, two sentences, then the figures of what serves; where all of them are comes last."""
    lines = summary_lines(report, "page.html")
    assert len(lines) <= 10
    assert lines[0].startswith("gate: NOT ENOUGH DATA")
    assert re.match(r"Together with the market the model predicted .* than the market alone", lines[1])
    assert re.match(r"[\d,]+ bets of TOP20 by edge returned ", lines[2])
    assert sum(line.count(". ") for line in lines[1:3]) == 0, "two sentences"
    assert lines[-1] == "every figure: --full, or page.html"


def test_the_page_stands_by_itself_and_begins_with_the_verdict(tmp_path: Path, report: BacktestReport) -> None:
    """Nothing to fetch, no script; and what is well-formed to a parser of XML is so to a browser."""
    text = write_report(report, tmp_path / "made" / "page.html").read_text(encoding="utf-8")
    for fetched in ("http:", "https:", "//", "src=", "href=", "url(", "@import", "<script"):
        assert fetched not in text.replace("<!doctype html>", ""), fetched
    body = text.split("<body>")[1].removesuffix("</html>\n")
    root = ET.fromstring("<body>" + body)
    first = root[0][0]
    assert first.tag == "h1"
    assert (first.text or "").startswith("gate: NOT ENOUGH DATA")
    assert len(root.findall(".//svg")) == 9
    assert [each.tag for each in root[0]][:4] == ["h1", "p", "p", "div"], "two sentences and a chart come first"
    assert "Units won by fundamental" in "".join(root[0][3].itertext())
    reliability = next(each for each in root.iter("figure") if "Reliability of fundamental" in "".join(each.itertext()))
    assert len(reliability.findall(".//circle")) == len(
        next(each for each in report.told if each.name == "fundamental").diagram.said
    )
    of_segments = "Every segment that was compared", "16 strategies were looked at", "favourite&#39;s price"
    for word in ("population stability", "TOP20 by edge", "&gt; 21", "trial 1", "What the words mean", *of_segments):
        assert word in text, word


def test_the_page_lists_the_users_own_earlier_backtests_and_explains_what_it_measures(
    store: Store, tmp_path: Path, report: BacktestReport
) -> None:
    """A report that cannot be read is left out, and so is the backtest of the page."""
    for name in (report.backtest, "of another day"):
        shutil.copytree(store.home.backtests / report.backtest, tmp_path / "backtests" / name)
    (tmp_path / "backtests" / "of an older form").mkdir()
    (tmp_path / "backtests" / "of an older form" / "backtest.json").write_text('{"served": "fundamental"}')
    [earlier] = earlier_backtests(Home(tmp_path), report.backtest)
    bets = next(bets for bets in report.bets["fundamental"] if bets.strategy == earlier.strategy)
    assert (earlier.backtest, earlier.races, earlier.roi) == ("of another day", report.races, bets.roi[0.0])
    assert earlier.blend_r2 == next(row.r2 for row in report.told if row.name == "blend")
    assert "Your earlier backtests" not in page(report)
    assert "of another day" in page(report, [earlier])
    for columns in (QUALITY, FLOORS, PLACES, BY_BUCKET, EARLIER):
        explained = [word for word, _ in meanings(columns)]
        assert explained, columns
    assert {"R²", "top-1", "AUC", "calibration error", "slope"} <= {word for word, _ in meanings(QUALITY)}


def test_places_are_measured_beside_the_markets_and_their_exponents_are_shown(report: BacktestReport) -> None:
    """In the terminal and in the report; each race's chances sum to its places."""
    every = {row.subject: row for row in report.places if row.field == "all"}
    assert {"fundamental", "blend", "direct"} == set(every)
    for row in every.values():
        assert 0 < row.races <= report.races
        assert row.r2.value is not None
        assert row.market_r2.value is not None
    assert len({row.market_r2.value for row in every.values()}) == 1, "one market for all"
    assert {exponent.place for exponent in report.exponents} == {2, 3, 4}
    console = Console(width=190, record=True, file=StringIO())
    console.print(backtest_tables(report))
    shown = console.export_text()
    assert "λ of blend, 8 to 11 runners: place 2: " in shown
    assert "Kelly" in shown


def test_prices_known_before_the_off_decide_the_bets_and_are_held_against_the_last(
    store: Store, rows: TrainingSet, report: BacktestReport
) -> None:
    """Each starter's price against the race's own messages, as one race at a time is read."""
    from velo.racing.cards import declared_at
    from velo.serving.scoring.race_messages import messages_of_race

    predictions, _ = read(store.home, report.backtest)
    columns = predictions.columns
    season = predictions.season("blend")
    identity = rows.identity.to_pylist()
    decided = {each["race_id"]: (each["decision_time"], each["off_time"]) for each in identity}
    seen = 0
    for race_id in np.unique(columns["race_id"])[::25]:
        messages = messages_of_race(store.home, race_id).messages
        at, off = decided[race_id]
        then = declared_at(messages, at)
        last = declared_at(messages, off - timedelta(microseconds=1))
        assert then is not None
        assert last is not None
        for row in np.flatnonzero(columns["race_id"] == race_id):
            horse, sp = columns["horse_id"][row], columns["sp_decimal"][row]
            taken = then.odds.prices.get(horse) if then.odds else None
            assert columns["taken"][row] == taken or (taken is None and np.isnan(columns["taken"][row]))
            assert season.decided_at[row] == (sp if taken is None else taken)
            assert columns["closing"][row] == sp
            seen += taken is not None
            assert season.clv is not None
            assert taken is None or season.clv[row] == pytest.approx(taken / sp - 1.0)
    assert seen > 5
    bets = report.bets["blend"][0]
    assert 0 < bets.clv.n < bets.n
    assert bets.clv.low is not None
    assert bets.beat_close.value is not None


def test_a_bucket_holds_by_its_interval_or_by_being_near_with_many_winners(report: BacktestReport) -> None:
    assert holds(Figure(1.2, 0.9, 1.5, 10), 10.0) is True
    assert holds(Figure(1.04, 1.01, 1.07, 10), 2_499.0) is False
    assert holds(Figure(1.04, 1.01, 1.07, 10), 2_500.0) is True
    assert holds(Figure(0.94, 0.93, 0.95, 10), 9_000.0) is False
    assert holds(Figure(1.0, None, None, 10), 9_000.0) is None
    own = "own fair price"
    assert {(floor.subject, floor.by) for floor in report.floors} == {
        ("blend", "price"),
        ("fundamental", own),
        ("calibrated", own),
    }
    for subject, _ in {(floor.subject, floor.by) for floor in report.floors}:
        assert sum(floor.n for floor in report.floors if floor.subject == subject) == report.runners


def test_a_feature_that_moved_is_reported_first() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(2, 2000, len(FEATURES)))
    after[:, 7] += 2.0
    found = drifted(before, after, FEATURES)
    assert next(iter(found)) == FEATURES[7]
    assert found[FEATURES[7]] > 0.25
    assert found[FEATURES[0]] < 0.05


def test_a_period_that_cannot_be_is_refused(store: Store) -> None:
    for asked, word in (
        ({"since": TEST_FROM, "days": 5}, "both set the first day"),
        ({"days": 0}, "--days must be > 0, got 0"),
        ({"since": date(2024, 2, 1), "until": date(2024, 1, 1)}, "give the earlier day as --from"),
    ):
        with pytest.raises(UserError, match=word):
            backtest(store, now=BUILT_AT, model=SMALL, **asked)
