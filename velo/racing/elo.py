"""Elo ratings that each result moves as it becomes known, after Elo (1978): whole numbers, so that every engine has the same bits.

A horse, its jockey and its trainer have a rating each, in doublings of the market's expectation; a new one's is 0. The
three together foretell the market of a race; by how much it turned out otherwise, against the race's mean, is the
runner's *surprise*, and each of the three earns a share of it. So a horse is told apart from who rode it, and from whom it
met: the odds are set by thousands, and a horse at 3/1 among good ones earns more than one at 3/1 among poor ones.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

E9: Final = 10**9
EVEN: Final = 16
"""What a start earns is told with so much added, that no sum is ever negative; a surprise is at most as much."""
HORSE_PERCENT: Final = 35
"""The share of a surprise that a horse earns, or one over its rated starts if that is more: all of the first, half of the second."""
JOCKEY_PERCENT: Final = 2
TRAINER_PERMILLE: Final = 5


class Standing(NamedTuple):
    """What held before a race of one of its starters: the ratings in billionths, and the starts the horse was rated by."""

    horse_e9: int
    rated: int
    jockey_e9: int
    trainer_e9: int


class Earned(NamedTuple):
    """What one start earned its horse, its jockey and its trainer, in billionths, with `EVEN` added."""

    horse_e9: int
    jockey_e9: int
    trainer_e9: int


def earned(market_log_e9: Sequence[int], before: Sequence[Standing]) -> list[Earned]:
    """What the starters of a race earn, two or more: the market's view of each, and what held of each before.

    Shares and means are rounded down.
    """
    starters = len(before)
    foretold = [one.horse_e9 + one.jockey_e9 + one.trainer_e9 for one in before]
    told_mean, foretold_mean = sum(market_log_e9) // starters, sum(foretold) // starters
    even, made = EVEN * E9, []
    for told, expected, one in zip(market_log_e9, foretold, before, strict=True):
        surprise = max(-even, min(even, (told - told_mean) - (expected - foretold_mean)))
        seen = one.rated + 1
        share = surprise // seen if seen * HORSE_PERCENT < 100 else surprise * HORSE_PERCENT // 100
        made.append(
            Earned(even + share, even + surprise * JOCKEY_PERCENT // 100, even + surprise * TRAINER_PERMILLE // 1000)
        )
    return made
