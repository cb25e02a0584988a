"""Settlement in numbers worked out by hand, and the whole period at once as one bet after another."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velo.errors import UserError
from velo.racing.cards import first_result
from velo.racing.deductions import SCALE, Withdrawal, reduced_price, rule_4_pence
from velo.racing.messages import Race, Result, Runner
from velo.racing.settlement import Bet, Outcome, Payout, Venue, settle
from velo.training.evaluation.betting import after_commission, unit_profits

OFF = datetime(2025, 6, 1, 14, tzinfo=UTC)
PLACED = OFF - timedelta(minutes=5)
RACE = Race("r1", date(2025, 6, 1), OFF, "Ascot")


def ran(horse: str, position: int | None = None, sp: float | None = 4.0, status: str = "FINISHED") -> Runner:
    return Runner(horse, position=position, sp_decimal=sp, status=status)


def result(*runners: Runner, version: int = 1) -> Result:
    return Result(RACE, runners, version)


def bet(horse: str = "a", stake: float = 10.0, price: float | None = None, venue: Venue = Venue.BOOKMAKER) -> Bet:
    return Bet("r1", horse, stake, PLACED, price, venue)


def gone(minutes: float, price: float | None = None, factor: float | None = None, horse: str = "x") -> Withdrawal:
    return Withdrawal(horse, PLACED + timedelta(minutes=minutes), price, factor)


FIELD = result(ran("a", 1, 5.0), ran("b", 2, 2.5), ran("f", None, 9.0, "F"), ran("n", None, None, "NR"))


def shown(settled: Payout) -> tuple[str, float | None]:
    return settled.outcome.value, settled.profit


def test_a_winner_is_paid_at_sp_a_loser_and_a_faller_lose_the_stake_a_non_runner_gets_it_back() -> None:
    assert shown(settle(bet("a"), FIELD)) == ("won", 40.0)
    assert shown(settle(bet("b"), FIELD)) == ("lost", -10.0)
    assert shown(settle(bet("f"), FIELD)) == ("lost", -10.0)
    assert shown(settle(bet("n"), FIELD)) == ("void", 0.0)
    assert settle(bet("a", price=6.0), FIELD).profit == 50.0, "a price taken is a price kept"


def test_a_withdrawn_horse_that_started_after_all_takes_nothing_from_any_bet() -> None:
    """At 2.0, evens against it, Rule 4 would take 45p in the pound, the factor 30 per cent of the price."""
    back = [gone(1, 2.0, 30.0, horse="b")]
    for venue in Venue:
        assert settle(bet("a", price=6.0, venue=venue), FIELD, back).profit == 50.0
        assert settle(bet("b", price=2.0, venue=venue), FIELD, back).outcome is Outcome.LOST
    assert settle(bet("a", price=6.0), FIELD, [gone(1, 2.0, horse="x")]).profit == pytest.approx(27.5)


@pytest.mark.parametrize("status", ["PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"])
def test_whoever_started_and_did_not_finish_first_loses(status: str) -> None:
    assert settle(bet("z"), result(ran("a", 1), ran("z", None, 3.0, status))).outcome is Outcome.LOST


def test_of_those_whose_place_is_unknown_position_1_won_and_all_others_lost() -> None:
    """Two at position 1 are a dead heat, whatever else is known of either."""
    field = result(ran("a", 1, 5.0, "RAN"), ran("b", None, 2.5, "RAN"), ran("c", 2, 3.0, "RAN"))
    assert [shown(settle(bet(horse), field)) for horse in "abc"] == [("won", 40.0), ("lost", -10.0), ("lost", -10.0)]
    heat = result(ran("a", 1, 5.0, "RAN"), ran("b", 1, 2.5), ran("c", None, 3.0, "RAN"))
    assert shown(settle(bet("a"), heat)) == ("won", 15.0)
    assert settle(bet("z"), result(ran("a", 1), ran("z", 1, 3.0, "DSQ"))).outcome is Outcome.LOST


def test_a_dead_heat_pays_the_share_of_the_stake_at_full_odds() -> None:
    """£10 at 5.0, two share: £5 × 5.0 = £25 back, £15 won. At 1.5: £7.50 back, £2.50 lost. Three share 2.4: £8 back."""
    two = result(ran("a", 1, 5.0), ran("b", 1, 1.5), ran("c", 3))
    assert shown(settle(bet("a"), two)) == ("won", 15.0)
    assert shown(settle(bet("b"), two)) == ("won", -2.5)
    three = result(ran("a", 1, 2.4), ran("b", 1), ran("c", 1))
    settled = settle(bet("a"), three)
    assert settled.profit == pytest.approx(-2.0)
    assert settled.reason == "dead heat of 3: 1/3 of the stake at full odds"


def test_a_void_race_returns_every_stake() -> None:
    void = result(ran("a", None, 3.0, "VOID"), ran("b", None, None, "VOID"), ran("n", None, None, "NR"))
    for horse in ("a", "b", "n", "never declared"):
        assert shown(settle(bet(horse, price=4.0), void)) == ("void", 0.0)


def test_an_amended_result_changes_no_bet() -> None:
    """The horse first past the post is later disqualified: it has won its bets, and the promoted one has lost its own."""
    amended = result(ran("a", None, 5.0, "DSQ"), ran("b", 1, 2.5), version=2)
    first = first_result([amended, FIELD])
    assert first is FIELD
    assert settle(bet("a"), first).profit == 40.0
    assert settle(bet("b"), first).profit == -10.0
    with pytest.raises(UserError, match="given in version 2: bets settle on version 1"):
        settle(bet("a"), amended)
    assert first_result([amended]) is None


@pytest.mark.parametrize("sp", [None, 1.0, 0.0])
def test_without_an_sp_neither_a_win_nor_a_loss_settles_and_it_says_so(sp: float | None) -> None:
    unpriced = result(ran("a", 1, sp), ran("b", 2, sp))
    for horse in ("a", "b"):
        settled = settle(bet(horse), unpriced)
        assert shown(settled) == ("unsettled", None)
        assert settled.reason == "it has no starting price"
    assert settle(bet("a", price=3.0), unpriced).profit == 20.0, "a price taken needs no SP"


def test_a_horse_that_no_one_known_of_stays_unsettled_and_a_withdrawn_one_is_void() -> None:
    assert settle(bet("ghost"), FIELD).outcome is Outcome.UNSETTLED
    assert shown(settle(bet("x"), FIELD, [gone(1, 3.0)])) == ("void", 0.0)


# Rule 4


@pytest.mark.parametrize(
    ("fraction", "pence"),
    [
        ("1/10", 90), ("1/9", 90), ("1/8", 85), ("2/17", 85), ("2/11", 85), ("1/5", 80), ("1/4", 80), ("2/7", 75),
        ("3/10", 75), ("1/3", 70), ("2/5", 70), ("4/9", 65), ("8/15", 65), ("4/7", 60), ("8/13", 60), ("4/6", 55),
        ("4/5", 55), ("5/6", 50), ("20/21", 50), ("1/1", 45), ("6/5", 45), ("5/4", 40), ("6/4", 40), ("8/5", 35),
        ("13/8", 35), ("7/4", 35), ("9/5", 30), ("15/8", 30), ("9/4", 30), ("12/5", 25), ("5/2", 25), ("3/1", 25),
        ("16/5", 20), ("10/3", 20), ("4/1", 20), ("9/2", 15), ("11/2", 15), ("6/1", 10), ("9/1", 10), ("10/1", 5),
        ("14/1", 5), ("16/1", 0), ("100/1", 0),
    ],
)  # fmt: skip
def test_the_scale_as_published_for_exact_prices_and_for_prices_in_hundredths(fraction: str, pence: int) -> None:
    over, under = map(int, fraction.split("/"))
    assert SCALE.pence(1 + over / under) == pence
    assert SCALE.pence(round(1 + over / under, 2)) == pence


def test_rule_4_takes_from_the_winnings_of_a_price_taken_before_the_withdrawal() -> None:
    """£10 at 8/1, a 3/1 chance withdrawn: 25p in the pound of £80 leaves £60 (the published example, £70 back)."""
    won = result(ran("a", 1, 7.0), ran("b", 2))
    settled = settle(bet("a", price=9.0), won, [gone(1, 4.0)])
    assert settled.profit == pytest.approx(60.0)
    assert settled.reason == "Rule 4: 25p in the pound"
    assert settle(bet("a", price=9.0), won, [gone(-1, 4.0)]).profit == 80.0, "withdrawn before the bet"
    assert settle(bet("a"), won, [gone(1, 4.0)]).profit == 60.0, "a bet at SP, 7.0, is not reduced"
    assert settle(bet("b", price=9.0), won, [gone(1, 4.0)]).profit == -10.0
    heat = result(ran("a", 1, 7.0), ran("b", 1))
    assert settle(bet("a", price=9.0), heat, [gone(1, 4.0)]).profit == pytest.approx(5 * 7.0 - 10)


def test_deductions_of_several_withdrawals_add_up_to_ninety_pence_at_most() -> None:
    assert rule_4_pence([4.0, 3.0]) == 55
    assert rule_4_pence([1.5, 1.5]) == 90
    assert rule_4_pence([]) == 0
    assert rule_4_pence([12.0], replace(SCALE, name="5p let go", waived=5)) == 0
    assert rule_4_pence([12.0, 12.0], replace(SCALE, name="5p let go", waived=5)) == 10


def test_a_deduction_that_is_not_known_settles_neither_a_win_nor_a_loss() -> None:
    for horse in ("a", "b"):
        settled = settle(bet(horse, price=5.0), FIELD, [gone(1)])
        assert settled.outcome is Outcome.UNSETTLED
        assert "price of x when withdrawn is not known" in settled.reason


# Reduction factors


def test_an_exchange_reduces_the_whole_price() -> None:
    """£10 at 8.6, a factor of 16.2 %: the price becomes 7.2068, £62.07 won. Another 25 % of 8.0: 6.0."""
    won = result(ran("a", 1, 7.0), ran("b", 2))
    at = replace(bet("a", price=8.6), venue=Venue.EXCHANGE)
    assert settle(at, won, [gone(1, factor=16.2)]).profit == pytest.approx(62.068)
    assert reduced_price(8.0, [25.0]) == 6.0
    assert reduced_price(8.0, [25.0, 50.0]) == 3.0
    assert reduced_price(8.0, [2.4]) == 8.0, "too small to be made"
    assert reduced_price(8.0, [2.5]) == pytest.approx(7.8)
    assert reduced_price(1.05, [60.0]) == 1.0
    assert settle(at, won, [gone(1, price=4.0)]).reason == "the reduction factor of x is not known"
    assert settle(at, won, [gone(-1)]).profit == 76.0


# Mistakes


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (bet(stake=0.0), "stake must be > 0, got 0.0"),
        (bet(stake=float("nan")), "stake must be > 0, got nan"),
        (bet(price=1.0), "price must be decimal and > 1, got 1.0"),
        (replace(bet(), race_id="r2"), "a bet on race 'r2' does not settle on race 'r1'"),
    ],
)
def test_a_bet_that_is_none_is_refused(wrong: Bet, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settle(wrong, FIELD)
    with pytest.raises(UserError, match=r"a reduction factor is a percentage from 0 to below 100, got 120.0"):
        reduced_price(4.0, [120.0])


# All at once


@given(
    st.lists(
        st.tuples(st.sampled_from(["FINISHED", "F", "NR", "PU"]), st.one_of(st.none(), st.floats(1.01, 200.0))),
        min_size=1,
        max_size=10,
    ),
    st.integers(1, 3),
)
def test_a_whole_period_at_once_is_one_bet_after_another(field: list[tuple[str, float | None]], heat: int) -> None:
    finishers = [at for at, (status, _) in enumerate(field) if status == "FINISHED"]
    positions = {at: 1 if place < heat else place + 1 for place, at in enumerate(finishers)}
    runners = [ran(str(at), positions.get(at), sp, status) for at, (status, sp) in enumerate(field)]
    winners = sum(position == 1 for position in positions.values())
    one_by_one = [settle(bet(runner.horse_id, 1.0), result(*runners)).profit for runner in runners]
    share = np.array([1 / winners if positions.get(at) == 1 else 0.0 for at in range(len(field))])
    sp = np.array([np.nan if runner.sp_decimal is None else runner.sp_decimal for runner in runners])
    at_once = unit_profits(sp, share, np.array([runner.started for runner in runners]))
    assert at_once == pytest.approx([np.nan if value is None else value for value in one_by_one], nan_ok=True)


def test_commission_is_taken_of_what_a_market_nets_and_never_of_a_loss() -> None:
    """Race 0 wins 40 and loses 10: 5 % of 30 is 1.5. Race 1 wins 5 and loses 10: none. Race 2: 2 of 40, by what each won."""
    profits = np.array([40.0, -10.0, 5.0, -10.0, 30.0, 10.0])
    market = np.array([0, 0, 1, 1, 2, 2])
    assert after_commission(profits, market, 0.05).tolist() == pytest.approx([38.5, -10, 5, -10, 28.5, 9.5])
    assert after_commission(profits, market, 0.0).tolist() == profits.tolist()
    assert after_commission(profits, market, 0.02).sum() == pytest.approx(65 - 0.02 * 70)
    with pytest.raises(UserError, match=r"a commission of 2.0 must be a share"):
        after_commission(profits, market, 2.0)
