"""The alarms of a backtest's own period, whatever the gate's windows are, and how often luck alone would gain as much."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tests.support.made_once import made_once
from tests.support.short_backtest import short_backtest
from velo.resampling import Days
from velo.storage.jsonl import plain
from velo.training.dataset.by_race import sizes_of
from velo.training.evaluation.metrics import BacktestPeriod, all_strategies
from velo.training.gate.controls import shuffled_winners
from velo.training.gate.simulation import luck
from velo.training.registry.backtests import Predictions
from velo.training.reports.backtest_report import BacktestReport, alarms_of, luck_of
from velo.training.reports.html import page
from velo.training.reports.tables import backtest_tables, by_luck, first_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[BacktestReport, Predictions]:
    _, made = made_once(tmp_path_factory, "short-backtest", short_backtest)
    return made


def longer(predictions: Predictions, times: int) -> Predictions:
    """The same days again and again, as later ones: so many bets that an alarm may speak."""
    columns = {name: np.tile(values, times) for name, values in predictions.columns.items()}
    rows, races = predictions.columns["race"].size, predictions.race_dates.size
    copy = np.repeat(np.arange(times), rows)
    columns["race"] = columns["race"] + copy * races
    columns["race_date"] = columns["race_date"] + copy * np.timedelta64(100, "D")
    dates = np.tile(predictions.race_dates, times) + np.repeat(np.arange(times), races) * np.timedelta64(100, "D")
    return Predictions(columns, dates, predictions.seed, predictions.records)


def placebo(predictions: Predictions) -> Predictions:
    """The order of each race shuffled: prices say nothing, so long ones return far more than was staked."""
    season = predictions.season("fundamental")
    shuffled = shuffled_winners(season.share, season.starts, 7)
    return replace(predictions, columns=predictions.columns | {"share": shuffled})


def report_of(report: BacktestReport, predictions: Predictions) -> BacktestReport:
    """The report with the bets, the alarms and the luck of other outcomes."""
    seasons = {bet: predictions.season(bet) for bet in report.bets}
    bets = {each: all_strategies(season) for each, season in seasons.items()}
    raised = alarms_of(report.told, bets, next(iter(seasons.values())).p.size)
    return replace(report, alarms=raised, bets=bets, luck={each: luck_of(season) for each, season in seasons.items()})


def test_a_placebo_that_returns_a_fortune_says_so_first_everywhere(
    tested: tuple[BacktestReport, Predictions],
) -> None:
    report, predictions = tested
    found = report_of(report, placebo(longer(predictions, 6)))
    assert found.gate == {}
    assert {alarm.subject for alarm in found.alarms} == set(found.bets)
    assert all(alarm.value > 0.25 and alarm.n > 500 and alarm.strategy for alarm in found.alarms)
    first = first_lines(found)[0]
    assert first.startswith("ALARM: ")
    assert "look for a leak, or for prices no one could take" in first
    out = StringIO()
    Console(file=out, width=400).print(backtest_tables(found))
    assert out.getvalue().startswith(first)
    html = page(found)
    assert html.index("<h1>ALARM: ") < html.index("gate: NOT ENOUGH DATA")
    assert "<title>ALARM: " in html
    assert next(iter(json.loads(json.dumps(plain(found))))) == "alarms"
    assert plain(found)["alarms"][0]["strategy"]
    # the words of who reads no table do not praise it without saying so, nor hide that no luck explains it
    assert "An alarm went off" in html
    assert "P(a gain this large | no edge) is below 0.1 %" in html


def test_outcomes_drawn_from_the_market_set_off_no_alarm_of_bets(tested: tuple[BacktestReport, Predictions]) -> None:
    """Where no price is an edge, of ten seasons not one rings, and luck's share of a gain is no less than one in a thousand."""
    report, predictions = tested
    many = longer(predictions, 6)
    season = many.season("fundamental")
    rng = np.random.default_rng(3)
    for _ in range(10):
        drawn = np.zeros(season.p.size)
        for start, size in zip(season.starts, sizes_of(season.starts, season.p.size), strict=True):
            drawn[start + rng.choice(size, p=season.pi[start : start + size])] = 1.0
        found = report_of(report, replace(many, columns=many.columns | {"share": drawn}))
        assert [alarm for alarm in found.alarms if alarm.strategy == "ALL by p"] == []
        assert all(share > 0.001 for share in found.luck["fundamental"].values())


def test_an_ordinary_backtest_has_its_verdict_first_and_the_luck_of_its_gains(
    tested: tuple[BacktestReport, Predictions],
) -> None:
    report, _ = tested
    assert report.alarms == ()
    assert first_lines(report)[0].startswith("gate: ")
    for subject, bets in report.bets.items():
        gained = {bet.strategy for bet in bets if bet.profit > 0.0}
        assert set(report.luck[subject]) == gained
        assert all(0.0 < share <= 1.0 for share in report.luck[subject].values())


def season_of(prices: list[list[float]], winners: list[int]) -> BacktestPeriod:
    """Races with these prices, π in proportion, the winner of each by its place."""
    sizes = [len(price) for price in prices]
    starts = np.cumsum([0, *sizes])[:-1].astype(np.intp)
    odds = np.concatenate([np.asarray(price) for price in prices])
    pi = np.concatenate([(1.0 / np.asarray(price)) / (1.0 / np.asarray(price)).sum() for price in prices])
    share = np.zeros(odds.size)
    share[starts + winners] = 1.0
    days = Days.of_dates(np.repeat(np.arange(len(prices)), sizes), 1)
    return BacktestPeriod(pi, pi, odds, odds, share, starts, days)


def test_luck_is_how_often_the_markets_own_chances_gain_as_much() -> None:
    """By hand: one bet at evens in a race of two gains in half of all seasons; both of two such in a quarter."""
    each = season_of([[2.0, 2.0]], [0])
    first = np.array([True, False])
    assert luck(each, [first, ~first], 1, 20_000)[0] == pytest.approx(0.5, abs=0.02)
    assert luck(each, [first, ~first], 1, 100)[1] is None
    two = season_of([[2.0, 2.0], [2.0, 2.0]], [0, 0])
    both, either = np.array([True, False, True, False]), np.array([True, False, False, False])
    assert luck(two, [both, either], 1, 20_000) == [pytest.approx(0.25, abs=0.02), pytest.approx(0.5, abs=0.02)]
    # a bet at 4 in a race of four as likely ones: a quarter
    four = season_of([[4.0] * 4], [2])
    assert luck(four, [np.arange(4) == 2], 1, 20_000) == [pytest.approx(0.25, abs=0.02)]


def test_luck_is_never_nought_and_is_reported_in_words() -> None:
    sure = season_of([[1000.0] + [1.001] * 1] * 20, [0] * 20)
    (share,) = luck(sure, [np.tile([True, False], 20)], 1, 999)
    assert share == 1 / 1000
    assert by_luck(1 / 2001) == "below 0.1 %"
    assert (by_luck(None), by_luck(0.25)) == ("–", "25.0 %")


def test_the_report_is_kept_with_its_alarms(tested: tuple[BacktestReport, Predictions]) -> None:
    report, _ = tested
    kept = json.dumps(plain(report))
    assert kept.startswith('{"alarms": []')
