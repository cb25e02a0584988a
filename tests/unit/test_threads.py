"""The threads of a fit: as many as other processes leave cores free, and the same bits whatever the number."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.market_worlds import SMALL, a_world
from velo.training.model.fitting import Rounds, TreesAndLogit
from velo.training.model.threads import CpuReading, allowed_cores, fitting_threads, free_threads, reading
from velo.training.model.trees import FEATURES
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
