"""Measures of a start: integers, so that any order of summing gives the same bits (contract 5).

The batch computes the same measures in SQL (`streams/batch/sql/`); tests hold the two against each other.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from math import floor
from typing import Final

from velo.racing.clock import EPOCH
from velo.racing.messages import Race, Runner

E9: Final = 10**9
LENGTHS_CAP: Final = 30
LENGTHS_FLOOR: Final = -1000
"""Less than any winner was ahead by: the weighted means of billionths hold no more in 64 bits."""
LONGEST_ODDS: Final = 1e12
"""A trillion over any odds from a billion on is 0; beyond these a fraction would not fit."""
PACE_CAP: Final = 2
"""A time below half the race's mean is a slip of the pen: it counts as twice the mean's speed."""
LONGEST_RACE_S: Final = 86_400
"""A finishing time of a day or more, or of nothing, is no time."""
FIGURE_LENGTHS_CAP: Final = 15
"""Further back, a horse was eased: it counts as beaten so many lengths in its figure."""
LENGTH_LBS_METRES: Final = 3000
"""A length is worth so many pounds over the metres run: 2.5 lb over 1200 m, 1.25 lb over 2400 m."""
HEAVIEST_LBS: Final = 1000
SHORTEST_RACE_M: Final = 100
"""A distance below is in miles or furlongs: a length would be worth more pounds than the means of figures hold."""
LONGEST_RACE_M: Final = 100_000
LONGEST_RATING: Final = 3
"""Digits of a rating; what is longer is another number, such as a year."""
MARKET_LOG_EVEN: Final = 16
"""`market_log` of an average runner: each 1 above it doubles the market's expectation, down to 0."""


def days_since_1970(day: date) -> int:
    """Whole days from 1970-01-01 to a date."""
    return (day - EPOCH.date()).days


def prb_e9(position: int | None, sharing: int, starters: int) -> int | None:
    """Share of rivals beaten in billionths, halves for a dead heat of `sharing`; 0 unplaced, None for a walkover.

    Never negative: a results file can hold 12th of 11.
    """
    if starters == 1:
        return None
    if position is None:
        return 0
    return max(0, E9 * (2 * starters - 2 * position - sharing + 1) // (2 * (starters - 1)))


def inverse_odds(sp_decimal: float | None) -> int | None:
    """A trillion over the odds in thousandths; None where there are no odds (odds of 1 or less are none)."""
    if sp_decimal is None or not sp_decimal > 1.0:
        return None
    return 10**12 // floor(1000 * min(sp_decimal, LONGEST_ODDS) + 0.5)


def log2_e9(count: int) -> int:
    """Logarithm to base 2 in billionths of a whole number from 1 to 2^33, on straight lines between the powers of two.

    Mitchell's approximation: whole numbers throughout, so that every engine has the same bits; at most 0.086 low.
    """
    whole = count.bit_length() - 1
    return whole * E9 + ((count - (1 << whole)) * E9 >> whole)


def market_log_e9(market_e9: int) -> int:
    """Logarithm to base 2 of the market's expectation, `MARKET_LOG_EVEN` for an average runner, never below 0."""
    return log2_e9(max(1, market_e9 * (1 << MARKET_LOG_EVEN) // E9))


def expected_prb_e9(inverse: int, inverses: Sequence[int]) -> int:
    """Share of rivals the odds expect a runner to beat, in billionths, by its price against each rival's in turn.

    `inverses` are those of all starters, two or more, itself among them: against itself it would be a half.
    """
    beaten = sum(inverse * E9 // (inverse + other or 1) for other in inverses)
    return max(0, beaten - E9 // 2) // (len(inverses) - 1)


def time_ms(finish_time_s: float | None) -> int | None:
    """A finishing time in whole milliseconds; None where there is none."""
    if finish_time_s is None or not 0.001 <= finish_time_s < LONGEST_RACE_S:
        return None
    return floor(1000 * finish_time_s + 0.5)


def run_metres(distance_m: float | None) -> int | None:
    """A distance in whole metres; None where it is none that horses race over."""
    return (
        floor(distance_m + 0.5) if distance_m is not None and SHORTEST_RACE_M <= distance_m < LONGEST_RACE_M else None
    )


def band_top(rating_band: str | None) -> int | None:
    """The highest rating that a race's band names, such as 80 of `80-60` or 75 of `0-75`; None where it names none."""
    ratings = [int(digits) for digits in re.findall("[0-9]+", rating_band or "") if len(digits) <= LONGEST_RATING]
    return max(ratings, default=None)


def figures_e9(race: Race, starters: Sequence[Runner]) -> list[int | None]:
    """What each ran to, in billionths of a pound, on the scale on which the top weight stands at the top of the band.

    Its weight, plus what its lengths were worth against the mean of those whose lengths are known. None where the
    race's band or distance, a starter's weight or its own lengths are unknown.
    """
    top, run_m = band_top(race.rating_band), run_metres(race.distance_m)
    weights = [_billionths(runner.weight_lbs, HEAVIEST_LBS) for runner in starters]
    known_weights = [weight for weight in weights if weight is not None]
    lengths = [_billionths(runner.beaten_lengths, FIGURE_LENGTHS_CAP, capped=True) for runner in starters]
    known = [one for one in lengths if one is not None]
    if top is None or run_m is None or len(known_weights) < len(starters):
        return [None] * len(starters)
    scale = top * E9 - max(known_weights, default=0)
    mean = sum(known) // len(known) * LENGTH_LBS_METRES // run_m if known else 0
    return [
        None if one is None else scale + weight + mean - one * LENGTH_LBS_METRES // run_m
        for weight, one in zip(known_weights, lengths, strict=True)
    ]


def _billionths(value: float | None, most: int, *, capped: bool = False) -> int | None:
    """A value in billionths; None where it is unknown or negative, or beyond `most` and not capped there."""
    if value is None or not value >= 0 or (value >= most and not capped):
        return None
    return floor(min(value, most) * E9 + 0.5)


def draw_thirds(draws: Sequence[int | None]) -> list[int]:
    """Third of the draw (1 low to 3 high) of each of a race's starters; all 0 unless every one of them has a draw."""
    known = [draw for draw in draws if draw]
    if len(known) < len(draws):
        return [0] * len(draws)
    runners = len(known)
    ordered = sorted(known)
    return [-(-3 * (1 + bisect_left(ordered, draw)) // runners) for draw in known]
