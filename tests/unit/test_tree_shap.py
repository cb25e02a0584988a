"""Tables of Shapley values give what LightGBM's own computation gives, and what the definition gives."""

from itertools import combinations
from math import factorial
from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from velo.training.model.ensemble import mean_contributions, mean_prediction, shap_tables
from velo.training.model.tree_shap import BITS, NotTabulated, ShapTables

Floats = NDArray[np.float64]
FEATURES = 12
EDGES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-36, -1e-36, float(np.float32(1e-35)), -1.1e-35)


def grown(seed: int, *, known: bool = False, categories: tuple[int, ...] = (), **options: Any) -> str:
    """A LightGBM text of trees on features with ties, zeros and, unless `known`, missing values; many splits repeat a feature."""
    chance = np.random.default_rng(seed)
    matrix = chance.normal(size=(3000, FEATURES)).round(1)
    target = (
        matrix[:, 0] * matrix[:, 1] + np.abs(matrix[:, 2]) + matrix[:, 3:].sum(axis=1) / 3 + chance.normal(size=3000)
    )
    if not known:
        matrix[chance.random(matrix.shape) < 0.2] = np.nan
    chosen = {"num_leaves": 24, "min_data_in_leaf": 5, "verbosity": -1, "seed": seed, "num_threads": 1} | options
    matrix[:, list(categories)] = np.abs(matrix[:, list(categories)].round())
    data = lightgbm.Dataset(matrix, target, categorical_feature=list(categories))
    booster = lightgbm.train(chosen, data, num_boost_round=8)
    return str(booster.model_to_string())


def rows(text: str, count: int = 60) -> Floats:
    """Rows whose values are thresholds of the model, values beside them, and what LightGBM treats in its own way."""
    chance = np.random.default_rng(9)
    tables = ShapTables.of([text])
    thresholds = tables.high[np.isfinite(tables.high)]
    matrix = chance.choice(thresholds, (count, FEATURES)) + chance.choice([0.0, 1e-12, -1e-12, 0.5], (count, FEATURES))
    odd = chance.random(matrix.shape) < 0.3
    matrix[odd] = chance.choice(EDGES, int(odd.sum()))
    return np.asarray(matrix, dtype=np.float64)


def lightgbms(text: str, matrix: Floats) -> Floats:
    return np.asarray(mean_prediction(text, matrix, 1, pred_contrib=True)[:, :-1], dtype=np.float64)


@pytest.mark.parametrize("bits", [(0,), (3,), BITS])
@pytest.mark.parametrize("known", [False, True])
def test_tables_of_any_size_give_what_lightgbm_does(bits: tuple[int, ...], known: bool) -> None:
    texts = [grown(seed, known=known) for seed in (1, 2)]
    matrix = rows(texts[0])
    expected = (lightgbms(texts[0], matrix) + lightgbms(texts[1], matrix)) / 2
    found = ShapTables.of(texts, bits).contributions(matrix)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean_contributions("".join(texts), matrix, 1), expected, rtol=0, atol=1e-12)


def test_the_values_are_shapleys_of_a_game_in_which_an_unknown_feature_follows_the_training_rows() -> None:
    """One tree of 6 leaves, by the definition: the mean over all orders of what a feature adds when it becomes known."""
    text = grown(5, num_leaves=6)
    tree = lightgbm.Booster(model_str=text).dump_model(num_iteration=1)["tree_info"][0]["tree_structure"]
    text = str(lightgbm.Booster(model_str=text).model_to_string(num_iteration=1))

    def worth(node: dict[str, Any], row: Floats, known: frozenset[int]) -> float:
        if "leaf_value" in node:
            return float(node["leaf_value"])
        sides = [worth(node[side], row, known) for side in ("left_child", "right_child")]
        if (feature := node["split_feature"]) in known:
            value = row[feature]
            left = node["default_left"] if np.isnan(value) else value <= node["threshold"]
            return sides[0] if left else sides[1]
        counts = [
            node[side].get("leaf_count", node[side].get("internal_count")) for side in ("left_child", "right_child")
        ]
        return float(np.dot(counts, sides) / sum(counts))

    def used(node: dict[str, Any]) -> set[int]:
        below = [node[side] for side in ("left_child", "right_child") if side in node]
        return {node["split_feature"]}.union(*map(used, below)) if below else set()

    matrix = np.random.default_rng(3).normal(size=(5, FEATURES))
    matrix[0, :6] = np.nan
    features = used(tree)
    expected = np.zeros(matrix.shape)
    for row, feature in ((row, feature) for row in range(len(matrix)) for feature in features):
        others = features - {feature}
        for size in range(len(others) + 1):
            weight = factorial(size) * factorial(len(others) - size) / factorial(len(features))
            for some in map(frozenset, combinations(others, size)):
                gain = worth(tree, matrix[row], some | {feature}) - worth(tree, matrix[row], some)
                expected[row, feature] += weight * gain
    assert len(features) > 2
    np.testing.assert_allclose(ShapTables.of([text]).contributions(matrix), expected, rtol=0, atol=1e-12)


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    text = grown(4)
    matrix = rows(text)
    tables = ShapTables.of([text])
    alone = np.concatenate([tables.contributions(matrix[at : at + 1]) for at in range(len(matrix))])
    np.testing.assert_array_equal(tables.contributions(matrix), alone)


@pytest.mark.parametrize("options", [{"categories": (2,)}, {"zero_as_missing": True}, {"linear_tree": True}])
def test_a_model_with_other_splits_is_explained_by_lightgbm_itself(options: dict[str, Any]) -> None:
    text = grown(3, **options)
    with pytest.raises(NotTabulated):
        ShapTables.of([text])
    assert shap_tables(text) is None
    if "linear_tree" not in options:
        matrix = rows(grown(3))
        np.testing.assert_array_equal(mean_contributions(text, matrix, 1), lightgbms(text, matrix))


def test_tables_beyond_the_bound_are_made_smaller_and_then_not_at_all() -> None:
    text = grown(6)
    sizes = [ShapTables.of([text], (bits,)).table.nbytes for bits in BITS]
    assert sizes == sorted(sizes, reverse=True)
    assert ShapTables.of([text], most_bytes=sizes[-1]).table.nbytes == sizes[-1]
    with pytest.raises(NotTabulated, match=f"would take {sizes[-1]:,} bytes"):
        ShapTables.of([text], most_bytes=sizes[-1] - 1)
