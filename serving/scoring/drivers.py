"""Explain a probability in words: related features are added up as one driver, described by the runner's own values."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.columns import COLUMNS
from velo.serving.scoring.driver_words import HIGHER_IS_BETTER, story_of, words_of_effect
from velo.serving.scoring.feature_matrix import FeatureMatrix

if TYPE_CHECKING:
    from velo.training.bundle import Bundle

Floats = NDArray[np.float64]

SHOWN: Final = 3
"""Drivers of a runner."""
RACES_HELD: Final = 500
"""Races whose drivers are cached."""
NEGLIGIBLE: Final = 0.01
"""Drivers that move a score by less are left out: e^0.01 is one per cent of the odds."""
ALL_ELSE: Final = "all else"
"""Everything that the named drivers of a probability leave over: weaker stories, those without words, the calibration."""
_SMALLEST: Final = 1e-15


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver of a probability: `effect` adds to its log relative to the race's mean; e^effect scales the odds.

    Drivers explain `blended` where it is not null, else `probability`; with `all else` they sum to it.
    """

    words: str
    effect: float


def drivers(
    matrix: FeatureMatrix, features: tuple[str, ...], contributions: Floats, shown: int = SHOWN
) -> list[tuple[Driver, ...]]:
    """The strongest stories of each runner, strongest first; `contributions` is (runners, features).

    A story whose value points the other way than its effect is left out: its words would mean the opposite.
    """
    stories, members = _stories(features)
    means = {column: _mean(matrix.of(column)) for column, _ in HIGHER_IS_BETTER.values()}
    effects = contributions @ members
    found = []
    for runner in range(effects.shape[0]):
        values = dict(zip(COLUMNS, matrix.matrix[runner].tolist(), strict=True))
        by_words: dict[str, float] = {}
        for story, effect in zip(stories, effects[runner].tolist(), strict=True):
            if abs(effect) >= NEGLIGIBLE:
                # two drivers without values read the same
                text = words_of_effect(story, values, means, effect)
                if text is not None:
                    by_words[text] = by_words.get(text, 0.0) + effect
        strongest = sorted(by_words.items(), key=lambda item: -abs(item[1]))[:shown]
        found.append(tuple(Driver(text, effect) for text, effect in strongest if abs(effect) >= NEGLIGIBLE))
    return found


@lru_cache(maxsize=8)
def _stories(features: tuple[str, ...]) -> tuple[tuple[str, ...], Floats]:
    """The stories of some features, and which feature belongs to which: (features, stories) of 0 and 1."""
    story_by_feature = [story_of(name) for name in features]
    stories = tuple(dict.fromkeys(story_by_feature))
    return stories, np.array([[own == story for story in stories] for own in story_by_feature], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class DriverExplainer:
    """Explains a race and caches the answer. Safe for threads.

    Explaining takes many times as long as scoring, and does not depend on the odds.
    """

    _held: "OrderedDict[tuple[str, bool, bytes], list[tuple[Driver, ...]]]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def explain(
        self, model: "Bundle", matrix: FeatureMatrix, shown: Floats, market: Floats | None, moves: Floats | None = None
    ) -> list[tuple[Driver, ...]]:
        """The drivers of each runner's `shown` probability: the market, the strongest stories, and all else.

        `market` has the decimal odds where the probabilities are the blend's, else None, `moves` how they moved. The effects of a runner sum to the log of
        its probability less the mean log of the race, but for what is negligible. Empty where the model cannot say.
        """
        stories = self.stories(model, matrix, blended=market is not None)
        if market is None and not any(stories):
            return stories
        effects = np.zeros(shown.size) if market is None else model.market_effect(market, moves)
        logs = np.log(np.maximum(shown, _SMALLEST))
        rest = logs - logs.mean() - effects
        found = []
        for runner, strongest in enumerate(stories):
            priced = [] if market is None else [Driver(_price(market, runner), float(effects[runner]))]
            left = float(rest[runner]) - sum(driver.effect for driver in strongest)
            parts = (*priced, *strongest, Driver(ALL_ELSE, left))
            found.append(tuple(part for part in parts if abs(part.effect) >= NEGLIGIBLE or part in priced))
        return found

    def stories(self, model: "Bundle", matrix: FeatureMatrix, *, blended: bool) -> list[tuple[Driver, ...]]:
        """The strongest stories of each runner by a model, in the order of the runners; `blended` scales them to the blend."""
        content = np.ascontiguousarray(matrix.matrix)
        key = (model.version, blended, blake2b(content.data, digest_size=16).digest())
        with self._lock:
            if (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                return held
        effects = model.contributions(matrix.select(model.features), blended=blended)
        found = drivers(matrix, model.features, effects)
        with self._lock:
            self._held[key] = found
            while len(self._held) > RACES_HELD:
                self._held.popitem(last=False)
        return found


def _price(market: Floats, runner: int) -> str:
    inverse = 1.0 / market
    return f"price {market[runner]:.2f}, {100 * inverse[runner] / inverse.sum():.0f} % of the market"


def _mean(values: Floats) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
