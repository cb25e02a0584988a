"""Values of a start that need its whole race, or more than the expression language has: in integers (contract 5).

The batch computes the same values in SQL (`streams/batch/sql/starts.sql`); tests compare the two. The measures made of them
are declared once, in `velo.racing.measures`.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from math import floor
from typing import Final

from velo.racing.clock import EPOCH
from velo.racing.messages import Race

E9: Final = 10**9
LENGTHS_CAP: Final = 30
LENGTHS_FLOOR: Final = -1000
"""Below the margin of any winner; the weighted means of billionths fit in 64 bits down to here."""
LONGEST_ODDS: Final = 1e12
"""Longer odds count as these: 1e12 // (1000 × odds) is 0 from 1e9 on, and 1000 × odds must fit in 64 bits."""
PACE_CAP: Final = 2
"""The limit of a relative speed: a time below half the race's mean is a clerical error."""
LONGEST_SECTION_MS: Final = 86_399_999
LONGEST_RACE_S: Final = 86_400
"""A finishing time of a day or more, or of 0, is unknown."""
FIGURE_LENGTHS_CAP: Final = 15
"""The most lengths beaten that a figure counts: further back, a horse was eased."""
LENGTH_LBS_METRES: Final = 3000
"""Pounds per length = this / metres run: 2.5 lb over 1200 m, 1.25 lb over 2400 m."""
HEAVIEST_LBS: Final = 1000
SHORTEST_RACE_M: Final = 100
"""A shorter distance is in miles or furlongs; its pounds per length would overflow the means of figures."""
LONGEST_RACE_M: Final = 100_000
LONGEST_RATING: Final = 3
"""The most digits of a rating; a longer number is something else, such as a year."""
MARKET_LOG_EVEN: Final = 16
"""`market_log` of an average runner: each 1 above it doubles the market's expectation, down to 0."""


def days_since_1970(day: date) -> int:
    """Return the whole days from 1970-01-01 to a date."""
    return (day - EPOCH.date()).days


def inverse_odds(sp_decimal: float | None) -> int | None:
    """Return 1e12 // (1000 × odds, rounded); None for missing odds or odds of 1 or less."""
    if sp_decimal is None or not sp_decimal > 1.0:
        return None
    return 10**12 // floor(1000 * min(sp_decimal, LONGEST_ODDS) + 0.5)


def chance_e9(inverse: int, inverses: Sequence[int]) -> int:
    """Return Σ of a starter's chances against each starter by the odds, in billionths; against itself it is a half.

    `inverses` are those of all starters.
    """
    return sum(inverse * E9 // (inverse + other or 1) for other in inverses)


def time_ms(finish_time_s: float | None) -> int | None:
    """Return a finishing time in whole milliseconds; None if it is unknown."""
    if finish_time_s is None or not 0.001 <= finish_time_s < LONGEST_RACE_S:
        return None
    return floor(1000 * finish_time_s + 0.5)


def whole_number(value: object, least: int, most: int) -> int | None:
    """Return a value that is a whole number from `least` to `most`; None for anything else."""
    return value if type(value) is int and least <= value <= most else None


def truth(value: object) -> bool | None:
    """Return a value that is true or false; None for anything else."""
    return value if isinstance(value, bool) else None


def section_ms(value: object) -> int | None:
    """Return the time of a section in whole milliseconds; None if it is unknown."""
    return whole_number(value, 1, LONGEST_SECTION_MS)


def run_metres(distance_m: float | None) -> int | None:
    """Return a distance in whole metres; None if no horse race has that distance."""
    return (
        floor(distance_m + 0.5) if distance_m is not None and SHORTEST_RACE_M <= distance_m < LONGEST_RACE_M else None
    )


def band_top(rating_band: str | None) -> int | None:
    """Return the highest rating in a race's band, such as 80 in `80-60` or 75 in `0-75`; None if it has none."""
    ratings = [int(digits) for digits in re.findall("[0-9]+", rating_band or "") if len(digits) <= LONGEST_RATING]
    return max(ratings, default=None)


def figure_scale_e9(race: Race, weights: Sequence[int | None]) -> int | None:
    """Return the top of the race's rating band less the top weight, in billionths; None if any of them is unknown.

    `weights` are those of all starters. The figure of a start is this, plus its weight and the pounds that its lengths are
    worth relative to the mean of the known lengths: the top weight is the top of the band.
    """
    top = band_top(race.rating_band)
    known = [weight for weight in weights if weight is not None]
    if top is None or len(known) < len(weights):
        return None
    return top * E9 - max(known, default=0)


def figure_weight_e9(weight_lbs: float | None) -> int | None:
    """Return a weight in billionths of a pound; None if it is unknown or no weight that a horse carries."""
    return _billionths(weight_lbs, HEAVIEST_LBS)


def figure_lengths_e9(beaten_lengths: float | None) -> int | None:
    """Return lengths behind in billionths, at most `FIGURE_LENGTHS_CAP`; None if unknown or negative."""
    return _billionths(beaten_lengths, FIGURE_LENGTHS_CAP, capped=True)


def _billionths(value: float | None, most: int, *, capped: bool = False) -> int | None:
    """Return a value in billionths; None if it is unknown or negative, or at least `most` and not `capped`."""
    if value is None or not value >= 0 or (value >= most and not capped):
        return None
    return floor(min(value, most) * E9 + 0.5)


def draw_thirds(draws: Sequence[int | None]) -> list[int]:
    """Return each starter's third of the draw (1 low to 3 high); all 0 unless every starter has a draw."""
    known = [draw for draw in draws if draw]
    if len(known) < len(draws):
        return [0] * len(draws)
    runners = len(known)
    ordered = sorted(known)
    return [-(-3 * (1 + bisect_left(ordered, draw)) // runners) for draw in known]
