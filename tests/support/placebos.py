"""Checks that must come out null, and one that must not: shuffled winners, and a planted leak (contract 9's alarms).

What a pipeline says of noise is what it adds by itself.
"""

import numpy as np

from velo.training.by_race import Floats, Indices, sizes_of


def shuffled_winners(share: Floats, starts: Indices, seed: int) -> Floats:
    """Each race's shares of the win given to its runners at random: a model trained on them must say nothing, R² ≤ 0."""
    order = np.random.default_rng(seed).random(share.size)
    race = np.repeat(np.arange(starts.size), sizes_of(starts, share.size))
    return np.asarray(share[np.lexsort((order, race))], dtype=np.float64)


def planted_leak(share: Floats, seed: int, noise: float = 0.3) -> Floats:
    """A feature that knows the race's own result but for some noise: a gate that sees it raises its alarms, or is blind."""
    return np.asarray(share + np.random.default_rng(seed).normal(scale=noise, size=share.size), dtype=np.float64)
