"""The gate: verdicts by whole intervals, luck counted beforehand, and a final window that is looked at once."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Figure
from velo.training.dataset.by_race import total
from velo.training.evaluation.betting import chosen, strategy
from velo.training.evaluation.metrics import margin, placed
from velo.training.evaluation.reliability import root_mean_gap, slope
from velo.training.gate.controls import agrees, rates, world
from velo.training.gate.criteria import (
    ALARMS,
    CLOSING,
    CRITERIA,
    Criterion,
    Verdict,
    Window,
    criteria_for,
    gate,
    judge,
    judge_window,
    together,
)
from velo.training.gate.simulation import pass_chance, winners
from velo.training.gate.windows import ask, gate_figures
from velo.training.registry.backtests import FINAL_WINDOWS, fingerprint, look, looks

Floats = NDArray[np.float64]
PASS, FAIL, MORE = Verdict.PASS, Verdict.FAIL, Verdict.NOT_ENOUGH_DATA
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def figure(low: float | None, high: float | None, value: float | None = None) -> Figure:
    middle = (low + high) / 2 if value is None and low is not None and high is not None else value
    return Figure(middle, low, high, 1000)


# Verdicts


@pytest.mark.parametrize(
    ("name", "low", "high", "verdict"),
    [
        ("ae_price", 1.03, 1.20, PASS), ("ae_price", 1.02, 1.20, MORE), ("ae_price", 0.8, 1.02, FAIL),
        ("roi", 0.0, 0.2, PASS), ("roi", -0.01, 0.4, MORE), ("roi", -0.3, -0.01, FAIL), ("roi", -0.3, 0.0, MORE),
        ("calibration_error", 0.0, 0.023, PASS), ("calibration_error", 0.01, 0.03, MORE),
        ("calibration_error", 0.024, 0.03, FAIL),
        ("slope", 0.95, 1.05, PASS), ("slope", 0.94, 1.0, MORE), ("slope", 0.9, 1.1, MORE),
        ("slope", 0.7, 0.94, FAIL), ("slope", 1.06, 1.2, FAIL),
        ("margin", 1e-6, 0.01, PASS), ("margin", 0.0, 0.01, MORE), ("margin", -0.01, 0.0, FAIL),
        ("margin", -0.01, 0.01, MORE),
    ],
)  # fmt: skip
def test_a_criterion_is_judged_by_its_whole_interval(name: str, low: float, high: float, verdict: Verdict) -> None:
    criterion = next(each for each in CRITERIA if each.name == name)
    assert judge(criterion, figure(low, high)).verdict is verdict


def test_a_count_is_judged_by_itself_and_must_be_above_its_bound() -> None:
    records = next(each for each in CRITERIA if each.name == "records")
    found = [judge(records, Figure(n, None, None, int(n))).verdict for n in (50_001.0, 50_000.0, 10.0)]
    assert found == [PASS, FAIL, FAIL]
    assert [each.bound for each in CRITERIA] == ["≥ 1.03", "≥ 0", "≤ 0.023", "0.95 to 1.05", "> 0", "> 50,000"]


@pytest.mark.parametrize("none", [figure(None, None), figure(None, None, 2.0), figure(float("nan"), 2.0)])
def test_what_cannot_be_judged_is_not_enough_data(none: Figure) -> None:
    for criterion in CRITERIA[:-1]:
        assert judge(criterion, none).verdict is MORE


bounds = st.floats(-2, 2)


@given(bounds, bounds, bounds, bounds, st.booleans())
def test_a_wider_interval_never_turns_doubt_into_a_verdict(
    low: float, high: float, more: float, bound: float, strictly: bool
) -> None:
    low, high = min(low, high), max(low, high)
    criterion = Criterion("any", "any", low=bound, strictly=strictly)
    narrow = judge(criterion, figure(low, high)).verdict
    wide = judge(criterion, figure(low - abs(more), high + abs(more))).verdict
    assert wide is narrow or wide is MORE


def test_any_fail_fails_and_all_must_pass() -> None:
    assert together([PASS, PASS]) is PASS
    assert together([PASS, MORE]) is MORE
    assert together([PASS, MORE, FAIL]) is FAIL
    assert together([]) is MORE


def test_the_gate_is_asked_over_both_windows() -> None:
    short, long = (Window(days, "", "", (), (), PASS) for days in (90, 365))
    assert gate([short, long]) is PASS
    assert gate([short, replace(long, verdict=MORE)]) is MORE
    assert gate([replace(short, verdict=FAIL), long]) is FAIL
    with pytest.raises(ValueError, match="the gate judges windows of 90, 365 days, got 90"):
        gate([short])


def good() -> dict[str, Figure]:
    return {
        "ae_price": figure(1.05, 1.1), "roi": figure(0.01, 0.1), "calibration_error": figure(0.0, 0.01),
        "slope": figure(0.98, 1.02), "margin": figure(0.001, 0.002), "records": Figure(60_000.0, None, None, 60_000),
        "top1": figure(0.3, 0.32), "auc": Figure(0.75, None, None, 1000),
    }  # fmt: skip


def test_a_gate_that_forgets_a_criterion_does_not_pass() -> None:
    assert judge_window(good(), 90, "", "").verdict is PASS
    for criterion in CRITERIA:
        less = good()
        del less[criterion.name]
        with pytest.raises(KeyError):
            judge_window(less, 90, "", "")


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("top1", Figure(0.45, 0.4, 0.5, 1000), Figure(0.46, 0.4, 0.5, 1000)),
        ("auc", Figure(0.90, None, None, 1000), Figure(0.91, None, None, 1000)),
        ("roi", Figure(3.0, 0.1, 4.0, 107), Figure(0.26, 0.1, 0.4, 501)),
    ],
)
def test_the_too_good_to_be_true_sets_off_its_alarm(name: str, off: Figure, on: Figure) -> None:
    assert judge_window(good() | {name: off}, 90, "", "").alarms == ()
    found = judge_window(good() | {name: on}, 90, "", "").alarms
    assert found == (next(alarm.says for alarm in ALARMS if alarm.name == name),)


# Luck


def test_winners_are_drawn_by_the_truth_and_never_outside_their_race() -> None:
    truth = np.array([0.5, 0.3, 0.2, 0.0, 1.0, np.nan, 0.5, 0.25, 0.75])
    starts = np.array([0, 3, 5, 7])
    known = np.array([True, True, False, True])
    drawn = winners(truth, starts, known, np.random.default_rng(1), 20_000)
    assert drawn.shape == (20_000, 3)
    share = np.bincount(drawn.ravel(), minlength=9) / 20_000
    assert share == pytest.approx([0.5, 0.3, 0.2, 0.0, 1.0, 0, 0, 0.25, 0.75], abs=0.015)


def test_each_simulated_season_is_what_the_gate_itself_would_have_measured() -> None:
    """The vectorised values and half-widths against the season put together by hand with the drawn winners."""
    from velo.training.gate.simulation import _Fixed

    season, _ = world(300, 2, 0.2, 0.4)
    known = np.ones(300, dtype=np.bool_)
    known[[3, 77]] = False
    wanted = chosen(strategy("TOP20 by edge"), season.p, season.decided_at)
    drawn = winners(season.pi, season.starts, known, np.random.default_rng(5), 3)
    fast = _Fixed(season, wanted, season.pi, season.pi, known).criteria(drawn)
    for at in range(3):
        share = np.zeros(season.p.size)
        share[drawn[at]] = 1.0
        whole = replace(season, share=share).only(known)
        some = wanted[np.repeat(known, 8)]
        bets = placed(whole, "", some)
        for name, found, close in (
            ("ae_price", bets.ae_price, 1e-9),
            ("roi", bets.roi[0.0], 1e-9),
            ("margin", margin(whole.p, whole.pi, whole), 1e-9),
            ("calibration_error", root_mean_gap(whole.p, whole.share, whole.days), 1e-9),
            ("slope", slope(whole.p, whole.share, whole.days), 0.01),
        ):
            assert found.value is not None
            assert fast[name].value[at] == pytest.approx(found.value, abs=close), name
            if name != "calibration_error":
                assert found.low is not None
                assert found.high is not None
                assert 2 * fast[name].half[at] == pytest.approx(found.high - found.low, rel=0.45), name


def test_without_an_edge_an_interval_seldom_passes_where_a_bare_value_often_does() -> None:
    """A/E ≥ 1.03 alone at fair prices: the value passes by luck in a good share of seasons, the interval in few."""
    season, _ = world(1000, 3, 0.3, 0.3)
    fair = replace(season, settled_at=1 / season.pi, decided_at=1 / season.pi)
    wanted = chosen(strategy("TOP20 by p"), fair.p, fair.decided_at)
    criteria = [each for each in CRITERIA if each.name == "ae_price"]
    luck = pass_chance(fair, wanted, fair.pi, fair.pi, 1, 1000, criteria)
    assert 0.1 < luck.by_value < 0.4
    assert luck.by_interval < 0.02
    assert luck.each == {"ae_price": luck.by_interval}
    assert luck.seasons == 1000
    assert luck.races == 1000


def test_the_closing_line_is_judged_where_most_bets_have_one_and_passes_without_an_edge_as_seldom_as_it_should() -> (
    None
):
    """By its interval, at a mean of 0: one season in forty; with the line that was seen, nearly always."""
    season, _ = world(1000, 3, 0.3, 0.3)
    wanted = chosen(strategy("TOP20 by edge"), season.p, season.decided_at)
    clv = np.random.default_rng(4).normal(0.02, 0.1, season.p.size)
    priced = replace(season, fair_clv=clv)
    figures = gate_figures(priced, wanted, season.pi, 60_000)
    assert figures["clv"].value == pytest.approx(clv[wanted].mean())
    assert criteria_for(figures) == (*CRITERIA, CLOSING)
    few = replace(season, fair_clv=np.where(np.arange(clv.size) % 3 == 0, clv, np.nan))
    assert criteria_for(gate_figures(few, wanted, season.pi, 60_000)) == CRITERIA
    assert criteria_for(gate_figures(season, wanted, season.pi, 60_000)) == CRITERIA
    by_luck, by_merit = (
        pass_chance(priced, wanted, season.pi, season.pi, 1, 2000, [CLOSING], closing).by_interval
        for closing in (0.0, 0.02)
    )
    assert by_luck == pytest.approx(0.025, abs=0.015)
    assert by_merit > 0.9


def test_the_simulation_is_the_same_for_the_same_seed_and_whole_or_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    season, _ = world(120, 4, 0.2, 0.5)
    wanted = chosen(strategy("TOP30 by p"), season.p, season.decided_at)
    whole = pass_chance(season, wanted, season.pi, season.p, 9, 200)
    assert pass_chance(season, wanted, season.pi, season.p, 9, 200) == whole
    monkeypatch.setattr("velo.training.gate.simulation._AT_ONCE", 120 * 30)
    assert pass_chance(season, wanted, season.pi, season.p, 9, 200) == whole


def test_a_season_without_a_market_has_no_chance_to_report() -> None:
    season, _ = world(20, 5, 0.2, 0.5)
    none = np.full(season.p.size, np.nan)
    found = pass_chance(season, season.p > 0, none, none, 1, 10)
    assert found.races == 0
    assert np.isnan(found.by_interval)


# The whole gate


@pytest.mark.slow
def test_a_known_edge_passes_and_none_does_not_at_the_rates_that_are_reported() -> None:
    """A few worlds of `velo bench gate`, which makes a hundred of each."""
    found = rates(6, seed=50, windows=(90,), simulations=40)
    passed, none = found.windows
    assert found.verdicts[False]["PASS"] == 0
    assert found.verdicts[False]["FAIL"] > 3
    assert found.verdicts[True]["FAIL"] == 0
    assert none.foretold <= 0.02
    assert passed.foretold > 0.3
    assert passed.agrees
    assert none.agrees


def test_rates_that_chance_would_not_bring_do_not_agree() -> None:
    assert agrees(70, 100, 0.7)
    assert agrees(60, 100, 0.7)
    assert not agrees(50, 100, 0.7)
    assert agrees(0, 100, 0.0)
    assert agrees(1, 100, 0.0)
    assert not agrees(8, 100, 0.0)


def test_a_thin_season_with_an_edge_is_not_enough_data() -> None:
    season, dates = world(400, 7, 0.0, 0.6, a_day=5)
    found = ask(season, dates, season.pi, 60_000, until=dates.max().astype(date), windows=(90,), simulations=50)
    assert found.verdict is MORE
    assert found.strategy == "TOP20 by edge"


def test_a_window_ends_where_it_is_asked_to_and_holds_its_days_alone() -> None:
    season, dates = world(800, 8, 0.1, 0.4, a_day=4)
    found = ask(season, dates, season.pi, 60_000, until=date(2025, 6, 1), windows=(10, 30), simulations=10)
    spans = [(request.window.days, request.window.first_day, request.window.last_day) for request in found.asked]
    assert spans == [(10, "2025-05-23", "2025-06-01"), (30, "2025-05-03", "2025-06-01")]
    assert found.asked[0].window.judged[0].figure.n == 10 * 4 * 8 // 5
    with pytest.raises(UserError, match="no race from 2024-01-22 to 2024-01-31"):
        ask(season, dates, season.pi, 60_000, until=date(2024, 1, 31), windows=(10,), simulations=10)


def test_part_of_a_season_is_its_races_alone() -> None:
    season, _ = world(50, 9, 0.1, 0.4, a_day=2)
    kept = np.arange(50) % 3 == 0
    part = season.only(kept)
    assert part.p.tolist() == season.p[np.repeat(kept, 8)].tolist()
    assert total(part.p, part.starts) == pytest.approx(np.ones(17))
    assert part.days.count == np.unique(np.arange(50)[kept] // 2).size


def test_every_criterion_and_alarm_has_its_figure() -> None:
    season, _ = world(60, 10, 0.1, 0.4, a_day=4)
    figures = gate_figures(season, season.p > 0.2, season.pi, 1234)
    assert {each.name for each in CRITERIA} | {alarm.name for alarm in ALARMS} <= set(figures)
    assert figures["records"].value == 1234.0


# The final window


def test_a_final_window_is_looked_at_once(tmp_path: Path) -> None:
    first = look(tmp_path / "models", date(2025, 1, 1), date(2025, 12, 31), "f1", "m1", NOW)
    assert first.number == 1
    with pytest.raises(UserError) as refused:
        look(tmp_path / "models", date(2025, 1, 1), date(2025, 12, 31), "f1", "m2", NOW)
    assert "was looked at on 2026-01-05 with m1 (2025-01-01 to 2025-12-31): choose days" in str(refused.value)
    assert looks(tmp_path / "models") == (first,), "a refused look leaves no trace and shows nothing"


def test_a_day_in_common_is_a_second_look_whatever_the_data(tmp_path: Path) -> None:
    look(tmp_path, date(2025, 1, 1), date(2025, 3, 31), "f1", "m1", NOW)
    with pytest.raises(UserError, match="its data changed since"):
        look(tmp_path, date(2025, 3, 31), date(2025, 6, 30), "f2", "m1", NOW)
    assert look(tmp_path, date(2025, 4, 1), date(2025, 6, 30), "f2", "m1", NOW).number == 1


def test_another_look_that_is_asked_for_is_counted(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        taken = look(tmp_path, date(2025, 1, 1), date(2025, 3, 31), "f1", f"m{number}", NOW, again=True)
        assert taken.number == number
    assert [each.model for each in looks(tmp_path)] == ["m1", "m2", "m3"]


def test_a_damaged_record_is_no_licence_to_look(tmp_path: Path) -> None:
    (tmp_path / FINAL_WINDOWS).write_text('{"since": "2025-01-01"}\n')
    with pytest.raises(UserError, match=r"final_windows\.jsonl is damaged"):
        look(tmp_path, date(2025, 1, 1), date(2025, 3, 31), "f1", "m1", NOW)
    with pytest.raises(UserError, match="has no day: give the earlier day first"):
        look(tmp_path / "other", date(2025, 2, 1), date(2025, 1, 1), "f1", "m1", NOW)


def test_a_fingerprint_changes_with_any_value_and_with_nothing_else() -> None:
    columns: dict[str, Any] = {"race_id": ["a", "b"], "sp": np.array([2.0, np.nan]), "won": np.array([1, 0])}
    same: dict[str, Any] = {
        "won": np.array([1, 0]),
        "sp": np.array([2.0, -np.nan]),
        "race_id": np.array(["a", "b"], dtype=object),
    }
    assert fingerprint(columns) == fingerprint(same | {"race_id": ["a", "b"]})
    for name, other in (("race_id", ["a", "c"]), ("sp", np.array([2.0, 3.0])), ("won", np.array([0, 1]))):
        assert fingerprint(columns | {name: other}) != fingerprint(columns)
    assert fingerprint({"a": [1.0, 2.0], "b": [3.0]}) != fingerprint({"a": [1.0], "b": [2.0, 3.0]})
