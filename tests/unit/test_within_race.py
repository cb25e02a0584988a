"""A runner's rank and z-score depend on its race alone: one race or many, in whatever order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velo.feature_repo.catalogue.within_race import centred, names_of, stacked, within_race

NAN = float("nan")
VALUES = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.1, 0.3, -1.0, 7.0]), st.floats(-1e6, 1e6))


def obvious(values: list[float]) -> tuple[list[float], list[float]]:
    """The plain twin: one race, one column, no numpy tricks."""
    known = [value for value in values if value == value]
    ranks = [
        NAN
        if value != value
        else sum(other > value for other in known) + (sum(other == value for other in known) + 1) / 2
        for value in values
    ]
    if not known:
        return ranks, ranks
    mean = sum(known) / len(known)
    spread = (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5
    scores = [
        NAN if value != value else 0.0 if len(set(known)) == 1 or spread == 0 else (value - mean) / spread
        for value in values
    ]
    return ranks, scores


def same(left: NDArray[np.float64], right: NDArray[np.float64]) -> bool:
    return left.tobytes() == right.tobytes()


@given(st.lists(VALUES, min_size=1, max_size=24))
def test_one_race_agrees_with_the_obvious_way(values: list[float]) -> None:
    made = within_race(values, [3] * len(values))
    ranks, scores = obvious(values)
    np.testing.assert_array_equal(made.rank, ranks)
    np.testing.assert_allclose(made.zscore, scores, rtol=1e-6, atol=1e-6)


def test_the_highest_is_first_ties_share_and_nulls_stay_out() -> None:
    made = within_race([5.0, 9.0, NAN, 5.0, 1.0], [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(made.rank, [2.5, 1.0, NAN, 2.5, 4.0])


def test_runners_all_alike_score_nothing_even_where_their_mean_rounds() -> None:
    made = within_race([0.1, 0.1, 0.1], [1, 1, 1])
    np.testing.assert_array_equal(made.zscore, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(made.rank, [2.0, 2.0, 2.0])


def test_a_runner_known_alone_is_first_and_scores_nothing() -> None:
    made = within_race([NAN, 4.0], [1, 1])
    np.testing.assert_array_equal(made.rank, [NAN, 1.0])
    np.testing.assert_array_equal(made.zscore, [NAN, 0.0])


def test_a_race_among_thousands_gives_the_very_floats_it_gives_alone() -> None:
    chance = np.random.default_rng(5)
    race = chance.integers(0, 400, 5000)
    values = chance.normal(size=(5000, 3))
    values[chance.random(values.shape) < 0.2] = NAN
    together = stacked(within_race(values, race))
    for number in range(0, 400, 7):
        alone = stacked(within_race(values[race == number], race[race == number]))
        assert same(together[race == number], alone)


def test_the_order_of_runners_changes_no_bit() -> None:
    chance = np.random.default_rng(6)
    values, race = chance.normal(size=(300, 2)), chance.integers(0, 30, 300)
    order = chance.permutation(300)
    assert same(stacked(within_race(values, race))[order], stacked(within_race(values[order], race[order])))


def test_no_runner_at_all_is_no_error_and_names_follow_the_columns() -> None:
    made = within_race(np.empty((0, 2)), np.empty(0, dtype=np.int64))
    assert stacked(made).shape == (0, 4)
    assert names_of(["sr", "ae"]) == ("sr_rank", "ae_rank", "sr_z", "ae_z")


@given(st.lists(VALUES, min_size=1, max_size=24), st.integers(0, 2**32))
def test_centred_values_are_what_sets_a_runner_apart_in_whatever_order_its_race_stands(
    values: list[float], seed: int
) -> None:
    """Against the obvious way; and shuffled among another race's runners, to the last bit."""
    made = centred(values_column := np.array(values)[:, None], [3] * len(values))[:, 0]
    known = [value for value in values if value == value]
    mean = sum(known) / len(known) if known else NAN
    np.testing.assert_allclose(made, values_column[:, 0] - mean, atol=1e-9 * (1.0 + max(map(abs, known), default=0.0)))
    order = np.random.default_rng(seed).permutation(2 * len(values))
    both = np.concatenate([values_column, values_column + 5.0])
    race = np.repeat([3, 9], len(values))
    mixed = centred(both[order], race[order])[:, 0]
    assert same(mixed[np.argsort(order)][: len(values)], made)
