"""Bets over a period: what is chosen, how it is staked, and every figure of it against a plain loop."""

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from velo.errors import UserError
from velo.racing.staking import Staking, kelly
from velo.resampling import Days
from velo.training.dataset.by_race import softmax
from velo.training.evaluation.betting import (
    BUCKETS,
    STRATEGIES,
    StakedBets,
    bucket_of,
    chosen,
    compounded,
    drawdown,
    edges,
    kelly_stakes,
    strategy,
)
from velo.training.evaluation.metrics import (
    BacktestPeriod,
    above_and_below,
    all_strategies,
    auc,
    bets,
    delta_r2,
    margin,
    placed,
    r2,
    top1,
    winner_loss,
)
from velo.training.market.market import proportional

Floats = NDArray[np.float64]


def a_season(races: int = 240, seed: int = 1, edge: float = 0.0, unpriced: int = 0) -> BacktestPeriod:
    """Races whose winners are drawn from π bent towards the model by `edge` (1: the model is true), 6 a day, at SP."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 11, races)
    starts = np.cumsum(np.r_[0, sizes[:-1]]).astype(np.intp)
    quality = rng.normal(size=int(sizes.sum()))
    market = softmax(quality, starts)
    model = softmax(quality + rng.normal(scale=0.4, size=quality.size), starts)
    price = np.maximum(0.87 / market, 1.01).round(2)
    true = softmax(edge * np.log(model) + (1 - edge) * np.log(market), starts)
    share = np.concatenate([rng.multinomial(1, p / p.sum()) for p in np.split(true, starts[1:])]).astype(float)
    for race in range(unpriced):
        price[starts[race] + 1] = np.nan
    days = Days.of_dates(np.repeat(np.arange(races) // 6, sizes), 5, 200)
    return BacktestPeriod(model, proportional(price, starts), price, price, share, starts, days)


def test_a_season_is_in_order_of_its_days_or_none() -> None:
    season = a_season(races=12)
    assert season.race.tolist() == np.repeat(np.arange(12), np.diff(np.r_[season.starts, season.p.size])).tolist()
    backwards = Days.of_dates(-season.days.of, 5, 200)
    with pytest.raises(ValueError, match="not in order of their days"):
        replace(season, days=backwards)


# What is bet on


def test_a_strategy_takes_its_share_of_the_period_by_p_or_by_edge() -> None:
    p, price = np.arange(1, 101) / 200, np.linspace(30, 2, 100)
    top = chosen(strategy("TOP10 by p"), p, price)
    assert np.flatnonzero(top).tolist() == list(range(90, 100))
    by_edge = chosen(strategy("TOP20 by edge"), p, price)
    assert by_edge.sum() == 20
    assert edges(p, price)[by_edge].min() >= edges(p, price)[~by_edge].max()
    assert chosen(strategy("ALL by p"), p, price).all()
    assert {each.name.split()[0] for each in STRATEGIES} == {"TOP10", "TOP20", "TOP30", "ALL"}
    with pytest.raises(UserError, match="'TOP5' is not a strategy: choose one of TOP10 by p,"):
        strategy("TOP5")


def test_who_has_no_price_has_no_edge_and_is_not_ranked_by_it() -> None:
    p, price = np.full(10, 0.5), np.r_[np.full(5, np.nan), 1.0, 3.0, 2.5, 2.2, 2.1]
    assert np.isnan(edges(p, price)[:6]).all()
    assert np.flatnonzero(chosen(strategy("ALL by edge"), p, price)).tolist() == [6, 7, 8, 9]
    assert np.flatnonzero(chosen(strategy("TOP30 by edge"), p, price)).tolist() == [6]
    assert not chosen(strategy("ALL by edge"), p, np.full(10, np.nan)).any()


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_chooses_nothing(p: list[float], random: Random) -> None:
    """Ties at the cut go in together, so that any shuffle of the rows bets on the same runners."""
    order = list(range(len(p)))
    random.shuffle(order)
    values = np.array(p)
    price = np.full(values.size, 3.0)
    for of in STRATEGIES:
        assert chosen(of, values, price)[order].tolist() == chosen(of, values[order], price).tolist()


def test_price_buckets_include_their_upper_end() -> None:
    named = [BUCKETS[at] for at in bucket_of(np.array([1.5, 5.0, 5.5, 8.0, 15.0, 21.0, 22.0]))]
    assert named == ["1–5", "1–5", "5–8", "5–8", "8–15", "15–21", "> 21"]


# Stakes


def test_kelly_in_hand_worked_numbers() -> None:
    """p 0.5 at 3.0: edge 0.5, full Kelly 0.25, a quarter 0.0625, capped at 0.02. p 0.35: edge 0.05, a quarter 0.00625."""
    p, price, races = np.array([0.5, 0.35, 0.3, 0.5]), np.array([3.0, 3.0, 3.0, np.nan]), np.arange(4)
    assert kelly_stakes(p, price, races).tolist() == pytest.approx([0.02, 0.00625, 0.0, 0.0])
    assert kelly_stakes(p, price, races, Staking(cap=1.0))[0] == pytest.approx(0.0625)
    assert kelly_stakes(p, price, races, Staking(fraction=1.0, cap=1.0))[0] == pytest.approx(0.25)


def test_runners_of_a_race_are_staked_together_and_a_rival_may_be_a_hedge() -> None:
    """.5 at 2.5 and .3 at 3: alone the second loses, but after a bet on the first the bank keeps .5/.6 where the first loses.

    .3 × 3 is more than that, so the rate is .2 ÷ (1 − .4 − 1/3) = .75: .5 − .75/2.5 = .2 and .3 − .75/3 = .05.
    """
    assert kelly([0.5, 0.3, 0.2], [2.5, 3.0, 2.0]) == pytest.approx([0.2, 0.05, 0.0])
    both = kelly_stakes(np.array([0.5, 0.3]), np.array([2.5, 3.0]), np.array([4, 4]), Staking(1.0, 1.0))
    assert both == pytest.approx([0.2, 0.05])
    apart = kelly_stakes(np.array([0.5, 0.3]), np.array([2.5, 3.0]), np.array([4, 5]), Staking(1.0, 1.0))
    assert apart == pytest.approx([1 / 6, 0.0])
    # a book below 1 is staked whole: every runner at its probability
    assert kelly([0.5, 0.5], [2.1, 2.1]) == pytest.approx([0.5, 0.5])
    assert kelly([0.2, 0.5], [None, 2.0]) == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(12))
def test_the_closed_form_is_what_an_optimiser_finds(seed: int) -> None:
    """The greatest mean log of the bank over the race's outcomes, by SLSQP from no bet."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3 + seed % 5, 1.5))
    believed = rng.dirichlet(30.0 * p + 1.0)  # the market errs, and keeps a tenth
    odds = np.maximum(1.02, 1.0 / (1.1 * believed))

    def loss(shares: Floats) -> float:
        return -float(p @ np.log(np.maximum(1.0 - shares.sum() + shares * odds, 1e-12)))

    found = minimize(
        loss, np.full(p.size, 0.01), method="SLSQP", bounds=[(0.0, 1.0)] * p.size,
        constraints={"type": "ineq", "fun": lambda shares: 0.999 - shares.sum()}, options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    closed = np.array(kelly(p.tolist(), odds.tolist()))
    assert closed.sum() < 0.999
    assert loss(closed) <= found.fun + 1e-12
    assert closed == pytest.approx(found.x, abs=2e-4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cap": 2}, "the Kelly cap must be above 0 and at most 1, got 2"),
        ({"commission": 1}, "commission must be a share from 0 to below 1"),
        ({"pool": 0}, "pool must be above 0"),
        ({"minimum": -1}, "minimum must be a share of the first bank"),
        ({"stake": 1}, "staking has no 'stake': choose from fraction, cap, at_risk"),
        ({"cap": "all"}, "staking cap is 'all', but must be a number"),
    ],
)
def test_a_wrong_staking_is_refused_in_one_line(given: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Staking.of(given)


def staked(stakes: list[float], price: list[float], share: list[float], race: list[int], day: list[int]) -> StakedBets:
    payout = np.full(len(stakes), 0.8)
    return StakedBets(np.array(stakes), np.array(price), np.array(share), payout, np.array(race), np.array(day))


def test_a_bank_stakes_what_it_held_in_the_morning() -> None:
    """Day 0: 10 % at 4.0 won and 10 % lost: 1.2. Day 1: 50 % lost: 0.6. Day 2: nothing. Day 3: 80 % + 80 % cut to 1: gone."""
    bets_made = staked(
        [0.1, 0.1, 0.2, 0.5, 0.8, 0.8], [4.0, 4.0, math.nan, 4.0, 4.0, 4.0], [1, 0, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5],
        [0, 0, 0, 1, 3, 3],
    )  # fmt: skip
    bank = compounded(bets_made, 4)
    assert bank.after_day.tolist() == pytest.approx([1.2, 0.6, 0.6, 0.0])
    assert bank.drawdown == 1.0
    assert compounded(staked([], [], [], [], []), 0).final == 1.0


def test_a_bank_pays_commission_on_a_races_net_winnings_and_places_no_stake_below_the_minimum() -> None:
    """Two bets on a race: .1 wins .3, .1 loses: net .2, less 5 % .19. Then .01 of 1.19 is below .02: not placed."""
    bets_made = staked([0.1, 0.1, 0.01], [4.0, 4.0, 9.0], [1, 0, 1], [7, 7, 9], [0, 0, 1])
    bank = compounded(bets_made, 2, Staking(commission=0.05, minimum=0.02))
    assert bank.after_day.tolist() == pytest.approx([1.19, 1.19])


def test_a_stake_in_a_pool_lowers_its_own_price() -> None:
    """A pool of 10 that pays 8: at 4.0 its backers hold 2. A stake of 1 makes that 8.8 for 3 units: 2.93, a profit of 1.93."""
    won = compounded(staked([1.0], [4.0], [1], [0], [0]), 1, Staking(cap=1.0, pool=10.0))
    assert won.final == pytest.approx(1.0 + 8.8 / 3.0 - 1.0)
    assert compounded(staked([1.0], [4.0], [1], [0], [0]), 1).final == pytest.approx(4.0)


@given(st.lists(st.floats(-5, 5), max_size=30))
def test_drawdown_is_the_deepest_fall_from_a_peak(profits: list[float]) -> None:
    path = [0.0]
    for profit in profits:
        path.append(path[-1] + profit)
    plain = max(peak - later for at, peak in enumerate(path) for later in path[at:])
    assert drawdown(np.array(profits)) == pytest.approx(plain, abs=1e-9)


# Figures


def test_every_figure_of_a_strategy_against_a_plain_loop() -> None:
    season = a_season(unpriced=9)
    of = strategy("TOP30 by p")
    found = bets(season, of)
    on = chosen(of, season.p, season.decided_at)
    n = unsettled = 0
    won = said = market = inverse = profit = 0.0
    by_race: dict[int, list[float]] = {}
    for at in np.flatnonzero(on):
        price = season.settled_at[at]
        if math.isnan(price):
            unsettled += 1
            continue
        n, won, said, inverse = n + 1, won + season.share[at], said + season.p[at], inverse + 1 / price
        made = season.share[at] * price - 1
        profit += made
        by_race.setdefault(int(season.race[at]), []).append(made)
    priced = [
        at for at in np.flatnonzero(on) if not math.isnan(season.settled_at[at]) and not math.isnan(season.pi[at])
    ]
    market = sum(season.pi[at] for at in priced)
    assert (found.n, found.unsettled, found.wins) == (n, unsettled, won)
    assert unsettled > 0
    assert found.ae_model.value == pytest.approx(won / said)
    assert found.ae_price.value == pytest.approx(won / inverse)
    assert found.ae_market.value == pytest.approx(sum(season.share[at] for at in priced) / market)
    assert found.ae_market.n == len(priced) < n
    assert found.profit == pytest.approx(profit)
    assert found.roi[0.0].value == pytest.approx(profit / n)
    charged = sum(0.05 * max(sum(made), 0.0) for made in by_race.values())
    assert found.roi[0.05].value == pytest.approx((profit - charged) / n)
    assert sum(bucket.n for bucket in found.buckets.values()) == n


def test_intervals_hold_their_values_and_every_figure_has_its_n() -> None:
    for found in all_strategies(a_season()):
        for figure in (found.ae_model, found.ae_market, found.ae_price, *found.roi.values()):
            assert figure.low is not None
            assert figure.value is not None
            assert figure.high is not None
            assert figure.low <= figure.value <= figure.high
            # A bet on every runner expects one winner a race and gets it: that A/E has no luck left in it.
            assert figure.low < figure.high or found.strategy.startswith("ALL")
            assert figure.n == found.n > 0
        assert found.roi[0.0].value is not None
        assert found.roi[0.05].value is not None
        assert found.roi[0.05].value < found.roi[0.0].value


def test_the_interval_of_ae_covers_as_often_as_it_says() -> None:
    """The model is true in 60 made seasons: A/E against p is 1, and its 95 % interval holds that in most."""
    held = 0
    for seed in range(60):
        figure = bets(a_season(races=180, seed=seed, edge=1.0), strategy("TOP20 by p")).ae_model
        assert figure.low is not None
        assert figure.high is not None
        held += figure.low <= 1.0 <= figure.high
    assert 51 <= held <= 60


def test_no_bets_give_no_figures_instead_of_an_error() -> None:
    season = a_season(races=60)
    found = placed(season, "none", np.zeros(season.p.size, dtype=np.bool_))
    assert (found.n, found.profit, found.drawdown, found.kelly.final) == (0, 0.0, 0.0, 1.0)
    assert found.roi[0.0].value is None
    assert found.ae_model.value is None


def test_the_same_season_gives_the_same_to_the_last_digit() -> None:
    first, again = (bets(a_season(), strategy("TOP20 by edge")) for _ in range(2))
    assert (first.roi, first.ae_price, first.buckets) == (again.roi, again.ae_price, again.buckets)


def test_above_and_below_the_market_the_bands_part_the_runners() -> None:
    """The market is true: where the model says more than it, less is won than said."""
    season = a_season(races=1500, seed=3)
    bands = above_and_below(season)
    assert sum(band.said.n for band in bands) == season.p.size
    liked = [band for band in bands if band.above and band.said.n > 200]
    assert liked
    for band in liked:
        assert band.won.value is not None
        assert band.said.value is not None
        assert band.low < band.said.value <= band.high
        assert band.won.value < band.said.value


# Whether p is any good


def test_log_loss_r2_and_margin_by_hand() -> None:
    """Two races of two: ln 2 each for 1/N. Said of the winners: 0.8 and a dead heat of 0.5 and 0.5."""
    share = np.array([1.0, 0.0, 0.5, 0.5])
    p, pi = np.array([0.8, 0.2, 0.5, 0.5]), np.array([0.5, 0.5, np.nan, np.nan])
    odds = np.array([2.0, 2.0, np.nan, 2.0])
    season = BacktestPeriod(p, pi, odds, odds, share, np.array([0, 2]), Days.of_dates(np.array([0, 0, 1, 1]), 1))
    assert winner_loss(p, share, season.starts) == pytest.approx([-math.log(0.8), math.log(2)])
    assert r2(p, season).value == pytest.approx((math.log(2) + math.log(0.8)) / (2 * math.log(2)))
    gained = margin(p, pi, season)
    assert gained.value == pytest.approx(math.log(0.8 / 0.5))
    assert gained.n == 1
    assert delta_r2(p, pi, season).value == pytest.approx(math.log(0.8 / 0.5) / math.log(2))
    assert top1(season).value == 1.0


def test_delta_r2_is_the_difference_of_the_two_r2() -> None:
    season = a_season()
    whole = [r2(chances, season).value for chances in (season.p, season.pi)]
    assert whole[0] is not None
    assert whole[1] is not None
    assert delta_r2(season.p, season.pi, season).value == pytest.approx(whole[0] - whole[1])


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_textbook_one(rows: list[tuple[float, bool]]) -> None:
    p, won = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if 0 < won.sum() < won.size:
        assert auc(p, won) == pytest.approx(roc_auc_score(won, p))
    else:
        assert auc(p, won) is None
