"""Chances of places and of exotic bets, against the enumeration of every order of finish."""

from itertools import permutations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.shared import shared_file
from velo.racing.messages import FINISHED, STARTED, Race
from velo.racing.place_bets import NO_PLACES, PlaceTerms, place_terms
from velo.resampling import Days
from velo.training.dataset.by_race import normalised
from velo.training.evaluation.place_quality import chances_of, fit_correction, measure_places, placed_of
from velo.training.evaluation.reliability import mean_gap
from velo.training.market.market import fit_market_exponent
from velo.training.market.places import (
    HARVILLE,
    HENERY,
    STERN,
    Exponents,
    FinishOrder,
    exactas,
    fit_finish_order,
    likeliest,
    place_chances,
    trifectas,
)

WIN = np.array([0.41, 0.27, 0.16, 0.09, 0.05, 0.02])
MODELS = pytest.mark.parametrize("exponents", [HARVILLE, HENERY, STERN, (0.9, 0.7, 0.3)])


def orders(win: np.ndarray, exponents: Exponents, depth: int = 4) -> dict[tuple[int, ...], float]:
    """Every order of the first `depth` with its chance, one place after another."""
    found = {}
    for order in permutations(range(win.size), depth):
        chance = 1.0
        for place, runner in enumerate(order):
            power = 1.0 if place == 0 else exponents[place - 1]
            left = [number for number in range(win.size) if number not in order[:place]]
            chance *= win[runner] ** power / sum(win[each] ** power for each in left)
        found[order] = chance
    return found


@MODELS
@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_place_chances_are_those_of_every_order_of_finish_and_sum_to_the_places(
    exponents: Exponents, places: int
) -> None:
    every = orders(WIN, exponents)
    expected = [
        sum(chance for order, chance in every.items() if runner in order[:places]) for runner in range(WIN.size)
    ]
    found = place_chances(WIN, places, exponents)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found.sum() == pytest.approx(places, abs=1e-12)


def test_harvilles_second_place_is_worked_out_by_hand() -> None:
    """Of .5, .3 and .2 the first is second where another won: .3 × .5/.7 + .2 × .5/.8."""
    second = place_chances(np.array([0.5, 0.3, 0.2]), 2, HARVILLE) - [0.5, 0.3, 0.2]
    assert second[0] == pytest.approx(0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8, abs=1e-15)


@MODELS
def test_exactas_and_trifectas_are_those_of_every_order(exponents: Exponents) -> None:
    every = orders(WIN, exponents, 3)
    triples = trifectas(WIN, exponents)
    assert all(triples[order] == pytest.approx(chance, abs=1e-14) for order, chance in every.items())
    assert triples.sum() == pytest.approx(1.0, abs=1e-12)
    assert exactas(WIN, exponents) == pytest.approx(triples.sum(axis=2), abs=1e-14)


def test_the_likeliest_of_a_pool_are_in_order_and_of_quinella_and_trio_all_orders_count() -> None:
    every = orders(WIN, HENERY, 3)
    [first, _] = likeliest(WIN, HENERY, "trifecta", 2)
    assert first[0] == (0, 1, 2)
    assert first[1] == pytest.approx(every[0, 1, 2])
    trio = sum(every[order] for order in permutations((0, 1, 2)))
    [(runners, chance)] = likeliest(WIN, HENERY, "trio", 1)
    assert runners == (0, 1, 2)
    assert chance == pytest.approx(trio)
    pairs = likeliest(WIN, HENERY, "quinella", 100)
    assert len(pairs) == 15
    assert sum(chance for _, chance in pairs) == pytest.approx(1.0)
    assert [chance for _, chance in pairs] == sorted((chance for _, chance in pairs), reverse=True)
    assert {len(set(runners)) for runners, _ in pairs} == {2}


def test_races_of_one_size_are_computed_together_as_each_alone() -> None:
    races = np.random.default_rng(1).dirichlet(np.ones(9), size=20)
    for places in (2, 3, 4):
        together = place_chances(races, places, HENERY)
        assert together == pytest.approx(np.array([place_chances(race, places, HENERY) for race in races]), abs=1e-13)


def test_a_field_no_larger_than_the_places_is_placed_for_certain_and_a_near_certainty_breaks_nothing() -> None:
    assert place_chances(np.array([0.7, 0.3]), 2, HENERY).tolist() == [1.0, 1.0]
    sure = np.array([1.0 - 3e-13, 1e-13, 1e-13, 1e-13])
    for places in (2, 3):
        found = place_chances(sure, places, HENERY)
        assert found[1:] == pytest.approx([(places - 1) / 3] * 3, abs=1e-3)
    with pytest.raises(ValueError, match="places must be 0 to 4, got 5"):
        place_chances(WIN, 5, HENERY)


def drawn(exponents: Exponents, races: int, runners: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Races of a finish order: chances, the first row of each race, positions (NaN from the fifth on)."""
    rng = np.random.default_rng(seed)
    win = rng.dirichlet(np.full(runners, 1.5), size=races)
    position = np.full(win.shape, np.nan)
    left = np.ones(win.shape)
    for place, power in enumerate((1.0, *exponents), start=1):
        shares = left * win**power
        cut = rng.random((races, 1)) * shares.sum(axis=1, keepdims=True)
        chosen = (np.cumsum(shares, axis=1) < cut).sum(axis=1)
        position[np.arange(races), chosen] = place
        left[np.arange(races), chosen] = 0.0
    return win.ravel(), np.arange(races) * runners, position.ravel()


def test_the_exponents_that_made_the_orders_are_found_again_within_three_standard_errors() -> None:
    true = (0.8, 0.65, 0.5)
    fitted = fit_finish_order(*drawn(true, 4000, 9, 3))
    for found, error, races, wanted in zip(fitted.of(9), fitted.errors[1], fitted.races[1], true, strict=True):
        assert error is not None
        assert 0.01 < error < 0.04
        assert abs(found - wanted) < 3 * error
        assert races == 4000
    assert fitted.of(20) == fitted.of(9), "a group of field sizes without races takes the exponents of all"
    assert FinishOrder.from_json(fitted.to_json()) == fitted


def test_too_few_races_and_races_with_dead_heats_fit_nothing() -> None:
    win, starts, position = drawn(HENERY, 200, 8, 5)
    assert fit_finish_order(win, starts, position).of(8) == HENERY
    win, starts, position = drawn(HENERY, 400, 8, 5)
    position[position == 3] = 2.0
    fitted = fit_finish_order(win, starts, position)
    assert fitted.of(8) == HENERY
    assert fitted.races[1] == (0, 0, 0)


@pytest.mark.parametrize(("shape", "exponents"), [(None, HENERY), (4.0, STERN)])
def test_henery_and_stern_are_what_normal_and_gamma_running_times_give(
    shape: float | None, exponents: Exponents
) -> None:
    """Fields of ten, their times drawn at random; the chances of winning are counted over the same draws."""
    rng = np.random.default_rng(7)
    chances, places = [], []
    for _ in range(120):
        strength = rng.normal(0.0, 0.55, 10)
        times = (
            rng.normal(-strength, 1.0, (4000, 10))
            if shape is None
            else rng.gamma(shape, np.exp(-0.7 * strength), (4000, 10))
        )
        order = np.argsort(times, axis=1)
        win = np.bincount(order[:, 0], minlength=10) / 4000
        if win.min() == 0.0:
            continue
        for row in order[:400]:
            position = np.full(10, np.nan)
            position[row[:4]] = [1, 2, 3, 4]
            chances.append(win)
            places.append(position)
    found = fit_finish_order(np.concatenate(chances), np.arange(len(chances)) * 10, np.concatenate(places))
    assert found.of(10) == pytest.approx(exponents, abs=0.04)


def test_place_terms_follow_the_field_and_the_country() -> None:
    """British: 5 to 7 a quarter for two, 8 or more a fifth for three; handicaps of 12 a quarter for three, of 16 for four."""
    from datetime import UTC, date, datetime

    def of(runners: int, country: str | None = None, *, handicap: bool = False) -> PlaceTerms:
        off = datetime(2025, 6, 1, 14, tzinfo=UTC)
        return place_terms(Race("r", date(2025, 6, 1), off, "Ascot", country=country, handicap=handicap), runners)

    assert of(4) == NO_PLACES
    assert of(5) == of(7) == PlaceTerms(2, 0.25)
    assert of(8) == of(20) == of(11, handicap=True) == PlaceTerms(3, 0.2)
    assert of(12, handicap=True) == of(15, handicap=True) == PlaceTerms(3, 0.25)
    assert of(16, handicap=True) == PlaceTerms(4, 0.25)
    assert of(4, "HK") == of(6, "HK") == PlaceTerms(2, None)
    assert of(7, "HK") == of(14, "HK", handicap=True) == PlaceTerms(3, None)


def test_a_unit_each_way_is_half_to_win_and_half_for_a_place() -> None:
    """Chance .1 at 12.0 and of a place .3 at 1 + 11/5: half of .2, and half of .3 × 3.2 − 1 = −.04."""
    assert PlaceTerms(3, 0.2).each_way(0.1, 0.3, 12.0) == pytest.approx(0.5 * 0.2 + 0.5 * -0.04)
    assert PlaceTerms(3, None).each_way(0.1, 0.3, 12.0) is None
    assert NO_PLACES.each_way(0.1, 0.3, 12.0) is None


def test_place_chances_of_many_races_are_those_of_each_by_its_field_and_places() -> None:
    rng = np.random.default_rng(2)
    sizes, places = np.array([6, 9, 4, 9, 12]), np.array([2, 3, 0, 2, 3])
    starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.intp)
    win = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes])
    order = fit_finish_order(*drawn((0.8, 0.65, 0.5), 400, 9, 3))
    found = chances_of(win, starts, places, order)
    for begin, size, count in zip(starts, sizes, places, strict=True):
        rows = slice(begin, begin + size)
        if count == 0:
            assert np.isnan(found[rows]).all(), "no place bet on four runners"
        else:
            assert found[rows] == pytest.approx(place_chances(win[rows], int(count), order.of(int(size))))


def test_a_race_counts_only_where_all_its_placed_are_known() -> None:
    """Two races of two places: in the second one placing is unknown. A third has no place bet."""
    position = np.array([1.0, 2.0, 3.0, 1.0, np.nan, 3.0, 1.0, 2.0])
    placed = placed_of(position, np.array([0, 3, 6]), np.array([2, 2, 0]))
    assert placed[:3].tolist() == [1.0, 1.0, 0.0]
    assert np.isnan(placed[3:]).all()


def test_a_direct_model_corrects_places_that_the_formula_gets_wrong_and_keeps_their_sum() -> None:
    """The orders are made with other exponents than the formula has; an unbiased formula is left nearly alone."""
    win, starts, position = drawn((0.6, 0.5, 0.4), 3000, 9, 11)
    places = np.full(starts.size, 3)
    placed = placed_of(position, starts, places)
    harville = FinishOrder((HARVILLE,) * 3, ((None,) * 3,) * 3, ((0,) * 3,) * 3)
    true = FinishOrder(((0.6, 0.5, 0.4),) * 3, ((None,) * 3,) * 3, ((0,) * 3,) * 3)
    days = Days.of_dates(np.repeat(np.arange(starts.size), 9) // 8, 1, 20)
    error: dict[str, float] = {}
    for name, order in (("wrong", harville), ("right", true)):
        chance = chances_of(win, starts, places, order)
        direct = fit_correction(chance, placed, win, starts).apply(chance, win, starts, places)
        assert direct.reshape(-1, 9).sum(axis=1) == pytest.approx(3.0, abs=1e-6)
        for what, p in ((name, chance), (f"{name}, corrected", direct)):
            error[what] = mean_gap(p, placed, days).value or 0.0
        if name == "right":
            assert np.abs(direct - chance).mean() < 0.01
    assert error["wrong"] > 0.02
    assert error["wrong, corrected"] < 0.4 * error["wrong"]
    assert error["right"] < 0.005


def test_the_figures_of_places_against_a_plain_loop() -> None:
    win, starts, position = drawn((0.8, 0.65, 0.5), 300, 8, 4)
    places = np.full(starts.size, 3)
    placed = placed_of(position, starts, places)
    order = FinishOrder((HENERY,) * 3, ((None,) * 3,) * 3, ((0,) * 3,) * 3)
    model = chances_of(win, starts, places, order)
    market = chances_of(np.full(win.size, 1 / 8), starts, places, order)
    columns = {
        "placed": placed, "place_market": market, "place_fundamental": model, "place_blend": model, "place_direct": model,
    }  # fmt: skip
    days = Days.of_dates(np.repeat(np.arange(300) // 6, 8), 1, 50)
    rows = measure_places(columns, starts, days)
    assert [row.field for row in rows if row.subject == "blend"] == ["all", "8 to 11"]
    row = next(row for row in rows if (row.subject, row.field) == ("blend", "8 to 11"))
    uniform = loss = expected = by_market = got = 0.0
    for p, m, y in zip(model, market, placed, strict=True):
        uniform -= np.log(3 / 8) if y else np.log(5 / 8)
        loss -= np.log(p) if y else np.log(1 - p)
        if p > m:
            got, expected, by_market = got + y, expected + p, by_market + m
    assert row.races == 300
    assert row.r2.value == pytest.approx(1 - loss / uniform)
    assert row.market_r2.value == pytest.approx(0.0, abs=1e-12)
    assert row.ae.value == pytest.approx(got / expected)
    assert row.ae_market.value == pytest.approx(got / by_market)
    assert measure_places({}, starts, days) == ()


def test_the_likeliest_first_fours_and_quartets_are_those_of_every_order() -> None:
    every = orders(WIN, HENERY, 4)
    [(first, chance)] = likeliest(WIN, HENERY, "quartet", 1)
    assert first == (0, 1, 2, 3)
    assert chance == pytest.approx(every[0, 1, 2, 3])
    fours = likeliest(WIN, HENERY, "first four", 100)
    assert len(fours) == 15
    assert sum(chance for _, chance in fours) == pytest.approx(1.0)
    assert fours[0][0] == (0, 1, 2, 3)
    assert fours[0][1] == pytest.approx(sum(every[order] for order in permutations(range(4))))
    assert likeliest(WIN[:3] / WIN[:3].sum(), HENERY, "first four", 5) == []


@pytest.mark.slow
def test_hong_kongs_places_of_2023_to_2025_follow_the_markets_chances_by_exponents_of_the_ten_years_before() -> None:
    """With λ fitted until 2022 places are predicted better than by Harville, and the tenths of the chances come closer to the truth."""
    rows = pq.read_table(
        shared_file("data/hk/runners.parquet"), columns=["race_id", "race_date", "status", "position", "sp_decimal"]
    ).sort_by([("race_date", "ascending"), ("race_id", "ascending")])
    rows = rows.filter(
        pc.and_(pc.is_in(rows["status"], pa.array(sorted(STARTED))), pc.greater_equal(pc.year(rows["race_date"]), 2013))
    )
    _, starts, sizes = np.unique(rows["race_id"].to_numpy(), return_index=True, return_counts=True)
    sizes, starts = sizes[np.argsort(starts)], np.sort(starts)
    odds = rows["sp_decimal"].to_numpy(zero_copy_only=False).astype(np.float64)
    finished = rows["status"].to_numpy() == FINISHED
    position = np.where(finished, rows["position"].to_numpy(zero_copy_only=False).astype(np.float64), np.nan)
    year = pc.year(rows["race_date"]).to_numpy()
    whole = (np.minimum.reduceat(np.nan_to_num(odds), starts) > 1.0) & (sizes >= 7)
    keep = np.repeat(whole, sizes)
    odds, position, year, sizes = odds[keep], position[keep], year[keep], sizes[whole]
    starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.intp)
    pi = normalised(1.0 / odds, starts)
    earlier = np.repeat(year[starts] < 2023, sizes)
    before = np.r_[0, np.cumsum(sizes[year[starts] < 2023])[:-1]].astype(np.intp)
    share = normalised((position[earlier] == 1).astype(np.float64), before)
    market = fit_market_exponent(pi[earlier], before, np.nan_to_num(share))
    win = market.probabilities(None, pi, starts)
    fitted = fit_finish_order(win[earlier], before, position[earlier])
    second, third, fourth = fitted.of(14)
    assert 0.78 < second < 0.87
    assert 0.65 < third < 0.74
    assert 0.55 < fourth < 0.65
    placed = (position <= 3).astype(np.float64)
    losses, gaps = dict[str, float](), dict[str, float]()
    for name, of in (("fitted", fitted.of), ("Harville", lambda _: HARVILLE)):
        chances = np.full(win.size, np.nan)
        for size in np.unique(sizes):
            inside = starts[sizes == size][:, None] + np.arange(size)
            chances[inside] = place_chances(win[inside], 3, of(int(size)))
        p, y = chances[~earlier], placed[~earlier]
        losses[name] = -float(np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
        tenths = np.array_split(np.argsort(p), 10)
        gaps[name] = float(np.mean([abs(y[tenth].mean() - p[tenth].mean()) for tenth in tenths]))
    assert losses["fitted"] < losses["Harville"] - 0.002
    assert gaps["fitted"] < 0.012
    assert gaps["fitted"] < 0.7 * gaps["Harville"]
