"""Pool bets by dividends: the combinations that win, worked out by hand, and Hong Kong's own of a year."""

from datetime import UTC, date, datetime

import pyarrow.parquet as pq
import pytest

from tests.support.shared import shared_file
from velo.errors import UserError
from velo.racing.messages import FINISHED, NON_RUNNER, VOID, Race, Result, Runner
from velo.racing.pools import POOLS, dividends_of, settle_pool, winning_combinations
from velo.racing.settlement import Outcome

PAID = "place 4 1.5; place 2 2.1; place 7 3.4; quinella 2,4 6.3; exacta 4,2 10.5; trifecta 4,2,7 61.2; trio 2,4,7 12.4; FIRST_4 1,2,4,7 30; quartet 4,2,7,1 544.3; double 3/7 9.9; win 4 2.1"


def a_result(places: dict[int, int | None], dividends: str | None = PAID, country: str = "HK", **status: str) -> Result:
    """A result of runners by number with their positions; those without one fell, and `status` overrides by number (`n5`)."""
    race = Race(
        "r", date(2025, 1, 1), datetime(2025, 1, 1, 5, tzinfo=UTC), "Sha Tin", country=country, dividends=dividends
    )
    runners = []
    for number, position in places.items():
        ran = status.get(f"n{number}", FINISHED if position else "F")
        runners.append(Runner(f"h{number}", runner_no=number, status=ran, position=position))
    return Result(race, tuple(runners))


EIGHT = {4: 1, 2: 2, 7: 3, 1: 4, 3: 5, 5: 6, 6: 7, 8: None}
"""4 beat 2, 7 and 1; 8 fell."""


def settled(pool: str, *numbers: int, of: Result | None = None) -> tuple[Outcome, float | None]:
    payout = settle_pool(pool, [f"h{number}" for number in numbers], of or a_result(EIGHT))
    return payout.outcome, payout.returned


@pytest.mark.parametrize(
    ("pool", "numbers", "returned"),
    [
        ("place", (4,), 1.5), ("place", (2,), 2.1), ("place", (7,), 3.4), ("place", (1,), 0.0), ("place", (8,), 0.0),
        ("quinella", (4, 2), 6.3), ("quinella", (2, 4), 6.3), ("quinella", (4, 7), 0.0),
        ("exacta", (4, 2), 10.5), ("exacta", (2, 4), 0.0),
        ("trifecta", (4, 2, 7), 61.2), ("trifecta", (4, 7, 2), 0.0),
        ("trio", (7, 4, 2), 12.4), ("trio", (7, 4, 1), 0.0),
        ("first four", (1, 2, 7, 4), 30.0), ("first four", (3, 2, 7, 4), 0.0),
        ("quartet", (4, 2, 7, 1), 544.3), ("quartet", (4, 2, 1, 7), 0.0),
    ],
)  # fmt: skip
def test_a_unit_on_each_pool(pool: str, numbers: tuple[int, ...], returned: float) -> None:
    assert settled(pool, *numbers) == (Outcome.WON if returned else Outcome.LOST, returned)


def test_a_dead_heat_pays_every_combination_that_wins_at_its_own_dividend() -> None:
    """4 and 2 dead-heat for first, 7 is third: both exactas win, and both trifectas; the quinella is one."""
    paid = "quinella 2,4 5; exacta 4,2 6; exacta 2,4 7; trifecta 4,2,7 20; trifecta 2,4,7 30"
    heat = a_result({4: 1, 2: 1, 7: 3, 1: 4, 3: 5}, paid)
    assert settled("quinella", 2, 4, of=heat) == (Outcome.WON, 5.0)
    assert [settled("exacta", *pair, of=heat)[1] for pair in ((4, 2), (2, 4), (4, 7))] == [6.0, 7.0, 0.0]
    assert [settled("trifecta", *order, of=heat)[1] for order in ((4, 2, 7), (2, 4, 7), (4, 7, 2))] == [20.0, 30.0, 0.0]
    # for second: 4 with either, and each trifecta of the three; of a heat of three for second, any two of them
    second = a_result({4: 1, 2: 2, 7: 2, 1: 4, 3: 5})
    assert winning_combinations(POOLS["quinella"], second) == [(2, 4), (4, 7)]
    assert winning_combinations(POOLS["trifecta"], second) == [(4, 2, 7), (4, 7, 2)]
    three = a_result({4: 1, 2: 2, 7: 2, 1: 2, 3: 5})
    assert winning_combinations(POOLS["trio"], three) == [(1, 2, 4), (1, 4, 7), (2, 4, 7)]
    assert len(winning_combinations(POOLS["trifecta"], three)) == 6


def test_a_heat_for_the_last_place_pays_a_place_to_both() -> None:
    heat = a_result({4: 1, 2: 2, 7: 3, 1: 3, 3: 5, 5: 6, 6: 7}, "place 4 1.1; place 2 1.2; place 7 1.3; place 1 1.4")
    assert [settled("place", number, of=heat)[1] for number in (4, 2, 7, 1, 3)] == [1.1, 1.2, 1.3, 1.4, 0.0]


def test_places_follow_the_field_that_started() -> None:
    """Six started: two places in Hong Kong."""
    six = a_result({4: 1, 2: 2, 7: 3, 1: 4, 3: 5, 5: 6, 6: None}, "place 4 1.5; place 2 2.1", n6=NON_RUNNER)
    assert [settled("place", number, of=six)[1] for number in (4, 2, 7)] == [1.5, 2.1, 0.0]
    assert settled("place", 6, of=six) == (Outcome.VOID, 1.0)


def test_where_a_dividend_of_a_winner_is_not_known_nobody_settles() -> None:
    """With the winner's place alone, losers would be settled and most of the placed not."""
    alone = a_result(EIGHT, "place 4 1.5")
    for number in (4, 2, 8):
        assert settled("place", number, of=alone) == (Outcome.UNSETTLED, None)
    assert settle_pool("place", ["h4"], alone).reason == "the dividend of place 2 is not known"
    assert settled("trio", 2, 4, 7, of=a_result(EIGHT, None)) == (Outcome.UNSETTLED, None)
    few = a_result({4: 1, 2: 2, 7: None, 1: None, 3: None}, "trio 2,4,7 12")
    assert settle_pool("trio", ["h2", "h4", "h7"], few).reason == "too few runners finished for a trio"


def test_a_non_runner_is_refunded_and_so_is_a_void_race() -> None:
    scratched = a_result({**EIGHT, 9: None}, n9=NON_RUNNER)
    assert settled("quinella", 4, 9, of=scratched) == (Outcome.VOID, 1.0)
    assert settled("quinella", 4, 2, of=scratched) == (Outcome.WON, 6.3)
    void = a_result({4: None, 2: None}, None, n4=VOID, n2=VOID)
    assert settled("place", 4, of=void) == (Outcome.VOID, 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [("quinella 2/4 1.2", "is not a dividend"), ("quinella 2,4", "is not a dividend"), ("quinella 2,4 x", "is not a dividend"), ("quinella 4 1.2", "names 1 runners, but a quinella has 2"), ("trio 4,4,2 9", "3 different")],
)  # fmt: skip
def test_a_dividend_that_cannot_be_read_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dividends_of(text)


def test_a_bet_on_an_unknown_pool_or_on_too_few_horses_is_refused() -> None:
    with pytest.raises(UserError, match="'double' is not a pool: choose from place, quinella"):
        settle_pool("double", ["h4"], a_result(EIGHT))
    with pytest.raises(UserError, match="a trio has 3 different horses, got h4, h2"):
        settle_pool("trio", ["h4", "h2"], a_result(EIGHT))


def test_hong_kongs_dividends_of_2016_are_of_combinations_that_win() -> None:
    """Each first dividend settles a unit on its combination; only where a dead heat has a second one it stays open."""
    columns = ["race_id", "race_date", "runner_no", "status", "position"]
    year = [("race_date", ">=", date(2016, 1, 1)), ("race_date", "<", date(2017, 1, 1))]
    ran: dict[str, list[Runner]] = {}
    for row in pq.read_table(shared_file("data/hk/runners.parquet"), columns=columns, filters=year).to_pylist():
        number = row["runner_no"]
        runner = Runner(f"h{number}", runner_no=number, status=row["status"], position=row["position"])
        ran.setdefault(row["race_id"], []).append(runner)
    names = {
        "QUINELLA": "quinella",
        "TIERCE": "trifecta",
        "TRIO": "trio",
        "FIRST_4": "first four",
        "QUARTET": "quartet",
    }
    outcomes = dict.fromkeys(Outcome, 0)
    for row in pq.read_table(shared_file("data/hk/dividends.parquet"), filters=year).to_pylist():
        if row["pool"] not in names:
            continue
        paid = row["dividend_hkd"] / 10
        race = Race(
            row["race_id"], row["race_date"], datetime(2016, 1, 1, tzinfo=UTC), "Sha Tin", country="HK",
            dividends=f"{row['pool']} {row['combination']} {paid}",
        )  # fmt: skip
        horses = [f"h{number}" for number in row["combination"].split(",")]
        payout = settle_pool(names[row["pool"]], horses, Result(race, tuple(ran[row["race_id"]])))
        outcomes[payout.outcome] += 1
        assert payout.outcome is not Outcome.WON or payout.returned == pytest.approx(paid)
    assert outcomes[Outcome.WON] > 3_000
    assert outcomes[Outcome.LOST] == outcomes[Outcome.VOID] == 0
    assert outcomes[Outcome.UNSETTLED] < 0.02 * outcomes[Outcome.WON]
