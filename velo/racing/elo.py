"""Elo ratings (Elo 1978), updated by each result as it becomes known. Integers, so that every engine has the same bits.

A rating counts doublings of the market's expectation. The horse has one, and so have its jockey, its trainer, its third of
the draw, and the horse at this course and distance band. A new rating is 0. The sum of a runner's ratings predicts its
market. The *surprise* is the market minus the prediction, both relative to the race's mean, and each rating earns a share
of it. This separates a horse from its jockey and its rivals: 3/1 among good horses earns more than 3/1 among poor ones.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

E9: Final = 10**9
EVEN: Final = 16
"""Added to every earning so that no sum is negative; also the limit of a surprise."""


class RatedPart(NamedTuple):
    """One kind of rating: its name, the fields of a start that identify its owner, and its share of a surprise (‰)."""

    name: str
    keys: tuple[str, ...]
    permille: int

    @property
    def measure(self) -> str:
        """The measure of a start that holds what it earned."""
        return f"{self.name}_elo_e9"


HORSE: Final = RatedPart("horse", ("horse_id",), 350)
"""The horse earns 1/n of the surprise of its nth rated start where that exceeds its share."""
PARTS: Final = (
    HORSE,
    RatedPart("jockey", ("jockey_id",), 20),
    RatedPart("trainer", ("trainer_id",), 5),
    RatedPart("draw", ("draw_cell",), 10),
    RatedPart("suited", ("horse_id", "course", "distance_band"), 100),
)
_OTHER_SHARES: Final = tuple(part.permille for part in PARTS if part is not HORSE)
RATED: Final = "elo_rated"
"""The measure of a start that is 1 if the start was rated."""

Earned = tuple[int, ...]
"""The earnings of one start for each of `PARTS`, in billionths, with `EVEN` added."""


class Standing(NamedTuple):
    """A starter before its race: the horse's number of rated starts, and the sum of its ratings in billionths."""

    rated: int
    expected_e9: int


def earned(market_log_e9: Sequence[int], before: Sequence[Standing]) -> list[Earned]:
    """Return the earnings of the starters of a race, two or more.

    `market_log_e9` is the market's expectation of each and `before` its state before the race. Shares and means are
    rounded down.
    """
    starters = len(before)
    market_mean = sum(market_log_e9) // starters
    expected_mean = sum([standing.expected_e9 for standing in before]) // starters
    even, made = EVEN * E9, []
    for market, (rated, expected) in zip(market_log_e9, before, strict=True):
        surprise = max(-even, min(even, (market - market_mean) - (expected - expected_mean)))
        seen = rated + 1
        horse = surprise // seen if seen * HORSE.permille < 1000 else surprise * HORSE.permille // 1000
        made.append((even + horse, *[even + surprise * share // 1000 for share in _OTHER_SHARES]))
    return made
