"""A model's text holds one LightGBM model per seed; it predicts their mean."""

from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from tests.support.market_worlds import SMALL, a_world
from velo.errors import UserError
from velo.training import bundle
from velo.training.model.ensemble import boosters_of, importance_of, mean_prediction
from velo.training.model.trees import ModelOptions, grow

pytestmark = pytest.mark.slow


def test_a_model_of_several_seeds_predicts_the_mean_of_its_models_and_of_their_contributions() -> None:
    matrix, races = a_world()
    names = tuple(f"f{at}" for at in range(matrix.shape[1]))
    alone = [grow((matrix, races), names, replace(SMALL, seed=seed, seeds=1), 25) for seed in (4, 5, 6)]
    assert len({model.text for model in alone}) == 3
    together = grow((matrix, races), names, replace(SMALL, seed=4, seeds=3), 25)
    assert together.text == "".join(model.text for model in alone)
    assert [booster.num_trees() for booster in boosters_of(together.text)] == [25, 25, 25]
    for options in ({"raw_score": True}, {"pred_contrib": True}):
        singles = [lightgbm.Booster(model_str=model.text).predict(matrix, num_threads=1, **options) for model in alone]
        expected = (np.asarray(singles[0]) + np.asarray(singles[1]) + np.asarray(singles[2])) / 3
        np.testing.assert_array_equal(mean_prediction(together.text, matrix, 1, **options), expected)
    gains = [importance_of(model.text) for model in alone]
    assert sum(importance_of(together.text).values()) == pytest.approx(1.0)
    assert set(importance_of(together.text)) == set().union(*gains)


def test_a_text_of_one_model_predicts_what_lightgbm_does() -> None:
    matrix, races = a_world()
    text = grow((matrix, races), tuple(f"f{at}" for at in range(matrix.shape[1])), replace(SMALL, seeds=1), 5).text
    expected = lightgbm.Booster(model_str=text).predict(matrix, raw_score=True, num_threads=1)
    np.testing.assert_array_equal(mean_prediction(text, matrix, 1, raw_score=True), np.asarray(expected))


@pytest.mark.parametrize("text", ["", "trees\n", "anything\ntree\n"])
def test_a_text_without_a_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must begin with 'tree'"):
        boosters_of(text)


@pytest.mark.parametrize(("version", "readable"), [(1, False), (2, True), (3, True), (4, True), (5, False)])
def test_a_bundle_of_the_format_before_is_read_and_of_no_other(tmp_path: Path, version: int, *, readable: bool) -> None:
    (tmp_path / "metadata.yaml").write_text(f"format: {version}\nversion: x\n")
    if readable:
        bundle._refuse_other_format(tmp_path)
    else:
        with pytest.raises(UserError, match=f"has format {version}"):
            bundle._refuse_other_format(tmp_path)


def test_a_recipe_grows_more_than_one_seed() -> None:
    assert ModelOptions().seeds > 1
