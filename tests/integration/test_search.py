"""The search: declared candidates, compared over later days than they were fitted on, the test days out of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.market_worlds import RACES, SMALL, a_world
from velo.training.model.fitting import GRID, search
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.race_model import Runners

pytestmark = pytest.mark.slow

FEW: Mapping[str, Mapping[str, Any]] = {
    "as chosen": {},
    "logit alone": {"logit_share": 1.0},
    "four leaves": {"leaves": 4},
}


def quiet(step: str, done: int, steps: int) -> None:
    assert 0 <= done <= steps, step


def test_every_declared_candidate_is_an_option_and_the_first_changes_nothing() -> None:
    assert next(iter(GRID.values())) == {}
    for changed in GRID.values():
        assert isinstance(replace(ModelOptions(), **changed), ModelOptions)


def test_the_candidate_of_least_loss_is_taken_and_days_kept_out_change_nothing() -> None:
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    wanted = np.arange(RACES) < RACES - 150
    chosen, table = search(given, races, wanted, SMALL, quiet, FEW)
    assert [row.name for row in table] == list(FEW)
    best = max(table, key=lambda row: row.r2)
    assert [row.taken for row in table] == [row is best for row in table]
    assert chosen == replace(SMALL, **FEW[best.name])
    assert table[0].gain == table[0].gain_se == 0.0
    races.share[-150 * 8 :] = np.roll(races.share[-150 * 8 :], 8)
    assert search(given, races, wanted, SMALL, quiet, FEW)[1] == table
