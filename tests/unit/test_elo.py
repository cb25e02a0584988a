"""Elo ratings against the market: what a start earns, from what it is kept, and what an amendment takes back."""

from fractions import Fraction
from math import floor
from zoneinfo import ZoneInfo

import pytest

from tests.support.builders import Record, a_log, a_result, a_runner, a_tick
from tests.support.replay import MemorySpill, Replay, changelog
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.racing.elo import E9, EVEN, PARTS, Standing, earned
from velo.racing.messages import from_record
from velo.streams.aggregation.ratings import Elo, Starter

LONDON = ZoneInfo("Europe/London")
NEW = Standing(rated=0, expected_e9=0)


def a_race(number: int, prices: dict[str, float | None], version: int = 1, **columns: object) -> Record:
    """A race on the day of its number in May, by the odds of its starters, who finish in their order."""
    day = f"2024-05-{number:02d}"
    runners = [
        a_runner(horse, position, sp_decimal=price, jockey_id=f"rider of {horse}", **columns)
        for position, (horse, price) in enumerate(prices.items(), start=1)
    ]
    return a_result(
        *runners,
        race_id=f"R{number}",
        race_date=day,
        off_time=f"{day} 14:00",
        known_at=f"2024-05-{number + 10 * (version - 1):02d} 14:15",
        result_version=version,
    )


def ratings(*said: Record) -> dict[str, list[tuple[int, float | None]]]:
    """Each horse's rows: by how many starts it is rated, and its rating."""
    family = BY_VIEW["horse_elo"]
    messages = [from_record(each) for each in a_log(*said, a_tick("2024-06-30 23:00"))]
    rows = changelog(Replay(LONDON, [family]), messages)["horse_elo"]
    return {key[0]: [(int(row[2][0] or 0), row[2][1]) for row in of_key] for key, of_key in rows.items()}


def test_a_first_start_earns_the_horse_all_it_differed_by() -> None:
    """Two runners of whom nothing is known, one at twice the expectation of a mean one: half a doubling each way."""
    favourite, outsider = earned([17 * E9, 16 * E9], [NEW, NEW])
    assert favourite[0] - EVEN * E9 == E9 // 2
    assert outsider[0] - EVEN * E9 == -E9 // 2


@pytest.mark.parametrize(
    ("rated", "share"), [(0, Fraction(1)), (1, Fraction(1, 2)), (2, Fraction(35, 100)), (40, Fraction(35, 100))]
)
def test_a_horse_earns_less_the_more_it_is_known_and_the_others_their_share(rated: int, share: Fraction) -> None:
    """All parts earn by the same surprise: what the odds said less what was predicted, each against the mean."""
    got = earned([19 * E9, 16 * E9, 16 * E9], [Standing(rated, E9), NEW, NEW])[0]
    surprise = (19 * E9 - 17 * E9) - (E9 - E9 // 3)
    shares = (share, *(Fraction(part.permille, 1000) for part in PARTS[1:]))
    assert [each - EVEN * E9 for each in got] == [floor(surprise * each) for each in shares]


def test_a_surprise_beyond_all_odds_counts_as_sixteen_doublings() -> None:
    """So no sum of what was earned is ever negative."""
    far = Standing(5, 10**6 * E9)
    for each in earned([16 * E9, 16 * E9], [far, NEW]):
        assert all(0 <= got <= 2 * EVEN * E9 for got in each)


def test_who_beats_the_market_of_a_better_field_is_rated_above_who_does_so_in_a_worse_one() -> None:
    """Three horses are distinguished from three others by one race; then each of two newcomers is priced alike among three."""
    good: dict[str, float | None] = {"good 1": 2.0, "good 2": 6.0, "poor 1": 20.0}
    poor: dict[str, float | None] = {"good 3": 2.0, "poor 2": 20.0, "poor 3": 20.0}
    after = ratings(
        a_race(1, good), a_race(2, poor),
        a_race(3, {"among good": 3.0, "good 1": 3.0, "good 3": 3.0}),
        a_race(4, {"among poor": 3.0, "poor 1": 3.0, "poor 2": 3.0}),
    )  # fmt: skip
    assert (after["among good"][-1][1] or 0) > 0 > (after["among poor"][-1][1] or 0)


def test_an_amendment_of_the_placings_alone_changes_no_rating() -> None:
    """The same starters at the same odds: what they earned stands, though a row says so as of the amendment."""
    first = a_race(1, {"a": 2.0, "b": 4.0})
    turned = a_race(1, {"b": 4.0, "a": 2.0}, version=2)
    later = a_race(2, {"a": 3.0, "b": 2.0})
    before, after = ratings(first, later), ratings(first, later, turned)
    assert after == {horse: [*rows, rows[-1]] for horse, rows in before.items()}


def test_an_amendment_of_the_odds_takes_back_what_was_earned_and_earns_again_by_what_is_known_then() -> None:
    """The wrong version leaves no trace but in what was earned meanwhile, and rows before the amendment stay."""
    wrong, right = a_race(1, {"a": 9.0, "b": 1.5}), a_race(1, {"a": 2.0, "b": 4.0}, version=2)
    later = a_race(2, {"a": 3.0, "b": 2.0})
    amended = ratings(wrong, later, right)["a"]
    assert amended[:2] == ratings(wrong, later)["a"]
    assert [count for count, _ in amended] == [1, 2, 2]
    book, other = Elo(MemorySpill()), Elo(MemorySpill())
    book.tell("R1", starters(20, 12))
    book.tell("R2", starters(16, 17))
    other.hold("R2", book.held("R2"))
    assert book.tell("R1", starters(17, 15)) == other.tell("R1", starters(17, 15))


def starters(*market: int) -> list[Starter]:
    """Starters by their names, each as the market saw it."""
    return [
        Starter(f"horse {place}", f"jockey {place}", "the yard", "cell", "course", "mile", found * E9)
        for place, found in enumerate(market)
    ]


def test_a_void_race_gives_back_all_it_earned() -> None:
    """And a rating without a start left is unknown, not nought."""
    void = a_race(1, {"a": None, "b": None}, version=2, status="VOID")
    assert ratings(a_race(1, {"a": 2.0, "b": 4.0}), void)["a"] == [(1, pytest.approx(0.5, abs=1e-4)), (0, None)]


@pytest.mark.parametrize("prices", [{"a": 2.0, "b": None}, {"a": 2.0}], ids=["a starter without odds", "a walkover"])
def test_a_race_without_a_market_earns_nothing(prices: dict[str, float | None]) -> None:
    """Its starters have a row all the same: they ran."""
    assert ratings(a_race(1, prices))["a"] == [(0, None)]
