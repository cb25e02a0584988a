"""The threads of a fit: as many as other processes leave cores free, and the same bits whatever the number."""

from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from threading import Barrier, Event, get_ident

import numpy as np
import pytest

from tests.support.market_worlds import SMALL, a_world
from velo.training.model.fitting import Rounds, TreesAndLogit
from velo.training.model.threads import (
    CpuReading,
    allowed_cores,
    fitted_together,
    fitting_threads,
    free_threads,
    reading,
)
from velo.training.model.trees import FEATURES, fit
from velo.training.race_model import Runners

START = CpuReading(1000.0, 400.0, 50.0)


@pytest.mark.parametrize(
    ("busy", "own", "allowed", "threads"),
    [
        (0.0, 0.0, 4, 4),  # idle
        (400.0, 400.0, 4, 4),  # only this process is busy
        (100.0, 0.0, 4, 3),  # others use one core of four
        (390.0, 10.0, 4, 1),  # others use nearly all: one thread all the same
        (100.0, 0.0, 2, 2),  # three cores are free, two are allowed
        (20.0, 0.0, 4, 4),  # a fifth of a core is no thread less
        (40.0, 0.0, 4, 3),  # two fifths are
    ],
)
def test_a_fit_uses_the_cores_that_others_leave_free(busy: float, own: float, allowed: int, threads: int) -> None:
    """400 ticks passed on four cores: a second of each."""
    after = CpuReading(START.total + 400.0, START.busy + busy, START.own + own)
    assert free_threads(START, after, 4, allowed) == threads


def test_without_an_interval_to_judge_by_there_is_one_thread() -> None:
    assert free_threads(START, START, 4, 4) == 1


def test_this_machine_allows_at_least_one_and_no_more_than_its_cores() -> None:
    assert 1 <= fitting_threads() <= allowed_cores()
    now = reading()
    if now is not None:
        assert 0.0 < now.own <= now.busy <= now.total


def test_a_model_has_the_same_bits_with_any_number_of_threads() -> None:
    matrix, races = a_world()
    runners = Runners(matrix, races.starts, FEATURES)
    fitted = [
        TreesAndLogit(replace(SMALL, threads=threads, seeds=2), Rounds(12, 12)).fit(runners, races)
        for threads in (1, 2, 3)
    ]
    assert len({model.trees for model in fitted}) == 1
    assert len({model.logit for model in fitted}) == 1
    scores = [model.utilities(runners) for model in fitted]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
    assert "[num_threads: 1]" in fitted[2].trees


def test_parts_are_fitted_at_the_same_time_on_the_threads_given_and_return_in_order() -> None:
    together = Barrier(2)

    def part(number: int, _: Event) -> int:
        together.wait(30)
        return number

    assert fitted_together([partial(part, number) for number in range(4)], 2) == [0, 1, 2, 3]
    assert fitted_together([lambda _: get_ident()] * 2, 1) == [get_ident()] * 2


def test_a_part_that_fails_stops_the_trees_that_grow_beside_it() -> None:
    matrix, races = a_world()
    ended: list[type[BaseException]] = []
    growing = Event()

    def trees(stopped: Event) -> None:
        growing.set()
        stopped.wait(30)
        try:
            fit((matrix, races), (matrix, races), FEATURES, SMALL, stopped=stopped)
        except CancelledError as error:
            ended.append(type(error))
            raise

    def failing(_: Event) -> None:
        growing.wait(30)
        raise ValueError("no winner")

    with pytest.raises(ValueError, match="no winner"):
        fitted_together([trees, failing], 2)
    assert ended == [CancelledError]


def test_the_races_of_a_fold_are_centred_once_with_all_others() -> None:
    matrix, races = a_world()
    matrix[::5, 3] = np.nan
    whole = Runners(matrix, races.starts, FEATURES)
    later = races.only(races.days > races.days[50])
    fold = whole.of(later)
    np.testing.assert_array_equal(fold.centred, Runners(matrix[later.rows], later.starts, FEATURES).centred)
    assert len(whole._centred) == 1
