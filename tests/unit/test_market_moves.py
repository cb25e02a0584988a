"""The market at decision time: which snapshots count, and the price, rank, drift and stakes that they give, by hand."""

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velo.feature_repo.catalogue import market_moves
from velo.feature_repo.catalogue.market_moves import COLUMNS, market_columns, moves_of, unknown_of
from velo.racing.cards import DRIFT_MINUTES, Declared, declared_at, odds_at
from velo.racing.messages import Market, Message, NonRunner, Race, Racecard, Runner, instant_of

OFF = datetime(2024, 5, 1, 13, 0, tzinfo=UTC)
AT = OFF - timedelta(minutes=5)
CARD = Racecard(
    Race("R1", date(2024, 5, 1), OFF, "Ayr"), tuple(Runner(name) for name in "abc"), OFF - timedelta(hours=9)
)


def shown(
    minutes_before_off: float, source: str = "tote", volumes: dict[str, float] | None = None, **prices: float
) -> Market:
    return Market("R1", prices, source, OFF - timedelta(minutes=minutes_before_off), volumes)


def at(*messages: Message, instant: datetime = AT) -> tuple[Declared, dict[str, dict[str, float]]]:
    race = declared_at([CARD, *messages], instant)
    assert race is not None
    rows = moves_of(race)
    return race, {
        runner.horse_id: dict(zip(COLUMNS, row, strict=True))
        for runner, row in zip(race.runners, rows.tolist(), strict=True)
    }


def test_a_price_is_the_last_one_known_and_nothing_later_is_read() -> None:
    """A snapshot at the instant counts, one a microsecond later does not."""
    late = Market("R1", {"a": 1.1, "b": 9.0, "c": 9.0}, "tote", AT + timedelta(microseconds=1))
    _, columns = at(shown(30, a=4.0, b=2.0, c=4.0), shown(5, a=3.0, b=3.0, c=3.0), late)
    assert [columns[name]["price"] for name in "abc"] == [3.0, 3.0, 3.0]
    assert [columns[name]["rank"] for name in "abc"] == [1.0, 1.0, 1.0]


def test_drift_is_of_probabilities_without_the_margin_and_above_0_where_odds_lengthened() -> None:
    """Then 1/2, 1/4, 1/4 of a book of 1; now 1/4, 1/4, 1/4 of a book of .75, so a third each."""
    _, columns = at(shown(35, a=2.0, b=4.0, c=4.0), shown(6, a=4.0, b=4.0, c=4.0))
    assert columns["a"]["drift_30m"] == pytest.approx(math.log(0.5 / (1 / 3)))
    assert columns["b"]["drift_30m"] == pytest.approx(math.log(0.25 / (1 / 3)))
    assert math.isnan(columns["a"]["drift_60m"]), "35 minutes before the off is 30 minutes before the decision"
    assert columns["a"]["drift_5m"] == columns["a"]["drift_10m"] == columns["a"]["drift_30m"], "the last one by then"


def test_a_market_that_was_not_shown_again_has_no_drift() -> None:
    race, columns = at(shown(70, a=2.0, b=4.0, c=4.0))
    assert all(math.isnan(columns["a"][name]) for name in market_moves.DRIFTS)
    assert columns["a"]["price"] == 2.0
    assert unknown_of(race, moves_of(race))[0]["drift_5m"] == market_moves.NO_EARLIER


def test_odds_of_another_source_are_no_drift() -> None:
    _, columns = at(shown(50, "exchange", a=2.0, b=4.0, c=4.0), shown(6, "tote", a=4.0, b=4.0, c=4.0))
    assert all(math.isnan(columns["a"][name]) for name in market_moves.DRIFTS)


def test_a_withdrawn_runner_moves_no_other() -> None:
    """With c out the shares of a and b are as before, though the odds of both are shorter now."""
    out = NonRunner("R1", "c", None, OFF - timedelta(minutes=20))
    race, columns = at(shown(40, a=4.0, b=4.0, c=2.0), out, shown(10, a=2.0, b=2.0))
    assert [runner.horse_id for runner in race.runners] == ["a", "b"]
    assert columns["a"]["drift_30m"] == columns["b"]["drift_30m"] == 0.0


def test_what_is_unknown_is_null_and_says_why() -> None:
    race, columns = at(shown(40, a=4.0, b=4.0), shown(6, a=4.0, c=2.0))
    why = dict(zip("abc", unknown_of(race, moves_of(race)), strict=True))
    assert why["b"]["price"] == why["b"]["drift_30m"] == market_moves.NOT_PRICED
    assert why["c"]["drift_30m"] == market_moves.NOT_PRICED_THEN
    assert why["a"]["volume"] == market_moves.NO_VOLUME
    assert "price" not in why["a"]
    assert math.isnan(columns["b"]["rank"])
    empty, _ = at()
    assert set(unknown_of(empty, moves_of(empty))[0].values()) == {market_moves.NO_SNAPSHOT}


def test_stakes_are_those_of_the_last_snapshot_and_their_share_of_the_declared_runners() -> None:
    _, columns = at(shown(6, volumes={"a": 300.0, "b": 100.0, "x": 1000.0}, a=2.0, b=3.0, c=9.0))
    assert (columns["a"]["volume"], columns["a"]["volume_share"]) == (300.0, 0.75)
    assert math.isnan(columns["c"]["volume"])
    _, none = at(shown(8, volumes={"a": 300.0}, a=2.0, b=3.0, c=9.0), shown(6, a=2.0, b=3.0, c=9.0))
    assert math.isnan(none["a"]["volume"]), "an earlier snapshot's stakes are not the last one's"


@given(
    st.lists(st.tuples(st.integers(0, 100 * 60), st.sampled_from(["tote", "exchange"])), max_size=30),
    st.integers(0, 3600),
)
def test_the_earlier_snapshots_are_those_of_a_plain_search(given_at: list[tuple[int, str]], seconds: int) -> None:
    """For each span the last of the same source known by the whole minute that long ago, if it is not the last of all."""
    markets = [
        Market("R1", {"a": 2.0 + number}, source, OFF - timedelta(seconds=ago, microseconds=number))
        for number, (ago, source) in enumerate(given_at)
    ]
    instant = OFF - timedelta(seconds=seconds)
    last, earlier = odds_at(markets, instant)
    known = sorted((market for market in markets if instant_of(market) <= instant), key=instant_of)
    assert last is (known[-1] if known else None)
    for minutes, found in zip(DRIFT_MINUTES, earlier, strict=True):
        minute = datetime.fromtimestamp(instant.timestamp() // 60 * 60 - 60 * minutes, UTC)
        fit = [m for m in known if last and m.source == last.source and instant_of(m) <= minute]
        assert found is (fit[-1] if fit and fit[-1] is not last else None)


@given(st.permutations(range(6)), st.integers(0, 2**31))
def test_any_order_of_the_runners_gives_the_same_bits(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds, then = 1.01 + 30 * rng.random(6), 1.01 + 30 * rng.random((6, 4))
    then[rng.random((6, 4)) < 0.2] = np.nan
    volume, starts = 1e5 * rng.random(6), np.zeros(1, dtype=np.intp)
    each = market_columns(odds, then, volume, starts)
    other = market_columns(odds[order], then[order], volume[order], starts)
    np.testing.assert_array_equal(other, each[order])


def test_races_do_not_mix() -> None:
    odds, then = np.array([2.0, 4.0, 3.0, 1.5]), np.full((4, 4), 2.0)
    volume = np.array([1.0, 3.0, np.nan, 5.0])
    together = market_columns(odds, then, volume, np.array([0, 2]))
    apart = [
        market_columns(odds[part], then[part], volume[part], np.zeros(1, dtype=np.intp))
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    assert together[:, 1].tolist() == [1.0, 2.0, 2.0, 1.0]
