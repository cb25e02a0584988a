"""The measures of a start that features are made of: what each says, and the least and most it can be.

`velo.racing.starts` measures a start in Python, `streams/batch/sql/starts.sql` in SQL. A name that ends in `_e9` counts
in billionths. The bounds say where 64-bit arithmetic stays exact: a family that would leave it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

E9: Final = 10**9
INT32: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of a start; `whole` says that it is an integer."""

    words: str
    least: int
    most: int
    whole: bool = True

    @property
    def size(self) -> int:
        """The most it can differ from 0."""
        return max(-self.least, self.most)


def unit(measure: str) -> int:
    """What one natural unit of a measure counts in it."""
    return E9 if measure.endswith("_e9") else 1


def _count(words: str) -> Measure:
    return Measure(words, 0, 1)


def _billionths(words: str, most: int, least: int = 0) -> Measure:
    return Measure(words, least * E9, most * E9)


def _whole(words: str) -> Measure:
    return Measure(words, -INT32, INT32)


def _real(words: str) -> Measure:
    return Measure(words, -INT32, INT32, whole=False)


MEASURES: Final[Mapping[str, Measure]] = {
    "one": _count("starts"),
    "win": _count("wins"),
    "place": _count("places"),
    "place_known": _count("starts with a known place"),
    "prb_e9": _billionths("share of rivals beaten", 1),
    "prb_known": _count("starts against rivals"),
    "exp_e9": _billionths("wins the market expected", 1),
    "win_priced": _count("wins where every starter had odds"),
    "uni_e9": _billionths("wins by chance alone (1 ÷ starters)", 1),
    "market_e9": _billionths("market's expectation (1 = an average runner)", 500),
    "market_log_e9": _billionths("log2 of the market's expectation (16 = an average runner)", 33),
    "priced": _count("starts where every starter had odds"),
    "over_e9": _billionths("share of rivals beaten above what the odds expected (1 = as expected)", 2),
    "over_known": _count("starts against rivals where every starter had odds"),
    "pace_e9": _billionths("speed against the race's mean", 2),
    "pace_known": _count("starts timed with a rival"),
    "speed_e9": _billionths("speed against par for the distance", 2),
    "speed_known": _count("timed starts"),
    "figure_e9": _billionths("figure in pounds", 1500, -1500),
    "lengths_e9": _billionths("lengths behind the winner (30 at most)", 30, -1000),
    "position": _whole("position"),
    "field": _whole("number of starters"),
    "race_day": _whole("race day (days since 1970-01-01)"),
    "day_e9": _billionths("day of the race (the first of the year 1 is 1)", 3_700_000),
    "race_class": _whole("class of the race"),
    "distance_m": _real("distance in metres"),
    "weight_lbs": _real("weight carried in pounds"),
    "official_rating": _whole("official rating"),
    "body_weight_lbs": _real("body weight in pounds"),
    "elo_rated": _count("starts rated"),
    "horse_elo_e9": _billionths("Elo points the horse earned", 32),
    "jockey_elo_e9": _billionths("Elo points the jockey earned", 32),
    "trainer_elo_e9": _billionths("Elo points the trainer earned", 32),
    "draw_elo_e9": _billionths("Elo points the third of the draw earned", 32),
    "suited_elo_e9": _billionths("Elo points the horse earned by course and distance", 32),
}
"""Each measure by its name: the field of `velo.racing.starts.Start` and the column of the measured starts."""
