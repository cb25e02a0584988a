"""Elo ratings that each result moves as it becomes known, after Elo (1978): whole numbers, so that every engine has the same bits.

A horse has a rating, in doublings of the market's expectation, and so has what helps or hinders it: its jockey, its trainer,
the third of the draw it starts from, and how it itself fares over a distance at a course. A new one's is 0. All together
foretell the market of a race; by how much it turned out otherwise, against the race's mean, is the runner's *surprise*, and each
of them earns a share of it. So a horse is told apart from who rode it and from whom it met: the odds are set by thousands, and a
horse at 3/1 among good ones earns more than one at 3/1 among poor ones.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

E9: Final = 10**9
EVEN: Final = 16
"""What a start earns is told with so much added, that no sum is ever negative; a surprise is at most as much."""


class RatedPart(NamedTuple):
    """One of those that earn: its name, the keys of a start that say whose it is, and its share of a surprise."""

    name: str
    keys: tuple[str, ...]
    permille: int

    @property
    def measure(self) -> str:
        """The measure of a start that tells what it earned."""
        return f"{self.name}_elo_e9"


HORSE: Final = RatedPart("horse", ("horse_id",), 350)
"""It earns one over its rated starts if that is more: all of the first surprise, half of the second."""
PARTS: Final = (
    HORSE,
    RatedPart("jockey", ("jockey_id",), 20),
    RatedPart("trainer", ("trainer_id",), 5),
    RatedPart("draw", ("draw_cell",), 10),
    RatedPart("suited", ("horse_id", "course", "distance_band"), 100),
)
_OTHER_SHARES: Final = tuple(one.permille for one in PARTS if one is not HORSE)
RATED: Final = "elo_rated"
"""The measure of a start that counts those rated."""

Earned = tuple[int, ...]
"""What one start earned each of `PARTS`, in billionths, with `EVEN` added."""


class Standing(NamedTuple):
    """What held before a race of one of its starters: the starts the horse was rated by, and all its ratings' sum in billionths."""

    rated: int
    foretold_e9: int


def earned(market_log_e9: Sequence[int], before: Sequence[Standing]) -> list[Earned]:
    """What the starters of a race earn, two or more: the market's view of each, and what held of each before.

    Shares and means are rounded down.
    """
    starters = len(before)
    told_mean = sum(market_log_e9) // starters
    foretold_mean = sum([one.foretold_e9 for one in before]) // starters
    even, made = EVEN * E9, []
    for told, (rated, foretold) in zip(market_log_e9, before, strict=True):
        surprise = max(-even, min(even, (told - told_mean) - (foretold - foretold_mean)))
        seen = rated + 1
        horse = surprise // seen if seen * HORSE.permille < 1000 else surprise * HORSE.permille // 1000
        made.append((even + horse, *[even + surprise * share // 1000 for share in _OTHER_SHARES]))
    return made
