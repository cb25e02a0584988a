"""Sums, maxima and ranks within each race, for runners in one flat array ordered by race."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Segments:
    """The races of runners: `race` (runner → race, ascending, without gaps) and `first` (race → its first runner)."""

    race: Ints
    first: Ints

    @classmethod
    def of(cls, labels: Ints) -> "Segments":
        """Make segments of ascending labels; races are numbered from 0 in that order."""
        starts = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1)) if len(labels) else np.zeros(0, np.int64)
        sizes = np.diff(starts, append=len(labels))
        return cls(np.repeat(np.arange(len(starts), dtype=np.int64), sizes), starts.astype(np.int64))

    @property
    def sizes(self) -> Ints:
        """The number of runners of each race."""
        return np.diff(self.first, append=len(self.race)).astype(np.int64)

    def sums(self, values: Floats) -> Floats:
        """Each runner's race total."""
        totals: Floats = np.add.reduceat(values, self.first)[self.race]
        return totals

    def means(self, values: Floats) -> Floats:
        """Each runner's race mean."""
        return self.sums(values) / self.sizes[self.race]

    def maxima(self, values: Floats) -> Floats:
        """Each runner's race maximum."""
        highest: Floats = np.maximum.reduceat(values, self.first)[self.race]
        return highest

    def softmax(self, strengths: Floats) -> Floats:
        """Win probabilities under Plackett-Luce; each race sums to 1."""
        raised = np.exp(strengths - self.maxima(strengths))
        return raised / self.sums(raised)

    def ranks(self, values: Floats) -> Ints:
        """Rank of each runner in its race, 0 for the lowest value; ties in array order."""
        order = np.lexsort((values, self.race))
        ranks = np.empty(len(values), np.int64)
        ranks[order] = np.arange(len(values)) - self.first[self.race]
        return ranks
