"""Made-up races in which both the features and the market know something, and options small enough to train in a second."""

import numpy as np

from velo.training.dataset.by_race import Floats, softmax
from velo.training.dataset.races import Races
from velo.training.model.trees import FEATURES, ModelOptions

RUNNERS, RACES = 8, 600
SMALL = ModelOptions(rounds=30, patience=10, leaves=6, learning_rate=0.1, threads=1, seeds=1)


def a_world(seed: int = 1) -> tuple[Floats, Races]:
    """Races whose winners follow the first feature and a market that knows it and more; the rest is noise."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(RUNNERS * RACES, len(FEATURES)))
    starts = np.arange(0, RUNNERS * RACES, RUNNERS)
    hidden = rng.normal(size=RUNNERS * RACES)
    true = softmax(matrix[:, 0] + hidden, starts)
    winners = (true.reshape(RACES, RUNNERS).cumsum(axis=1) < rng.random((RACES, 1))).sum(axis=1)
    share = np.zeros(RUNNERS * RACES)
    share[starts + np.minimum(winners, RUNNERS - 1)] = 1.0
    days = np.repeat(np.arange("2023-01-01", RACES // 5, dtype="datetime64[D]"), 5)
    pi = softmax(0.7 * matrix[:, 0] + hidden, starts)
    return matrix, Races(np.arange(RUNNERS * RACES), starts, share, pi, days)
