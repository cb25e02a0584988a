"""Models grown from several seeds are served as one text, whose score is the mean of theirs."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.test_blending import SMALL, a_world
from velo.training.average_trees import joined
from velo.training.ensemble import booster_of
from velo.training.model import ModelOptions, grow


def test_one_text_says_the_mean_of_the_models_and_of_what_drives_them() -> None:
    matrix, races = a_world()
    names = tuple(f"f{at}" for at in range(matrix.shape[1]))
    alone = [grow((matrix, races), names, replace(SMALL, seed=seed, seeds=1), 25).text for seed in (4, 5, 6)]
    assert len(set(alone)) == 3
    together = grow((matrix, races), names, replace(SMALL, seed=4, seeds=3), 25).text
    assert together == joined(alone)
    for how in ({"raw_score": True}, {"pred_contrib": True}):
        mean = np.mean([booster_of(text).predict(matrix, num_threads=1, **how) for text in alone], axis=0)
        np.testing.assert_allclose(booster_of(together).predict(matrix, num_threads=1, **how), mean, rtol=0, atol=1e-12)
    assert booster_of(together).num_trees() == 75


def test_one_model_alone_is_left_as_it_is_and_no_model_is_refused() -> None:
    assert joined(["anything"]) == "anything"
    with pytest.raises(ValueError, match="no end of trees"):
        joined(["tree\n", "tree\n"])


def test_a_recipe_grows_more_than_one_seed() -> None:
    assert ModelOptions().seeds > 1
