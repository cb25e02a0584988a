"""Going and distance, folded to the few groups in which horses are known to differ (contract 4)."""

import re
from typing import Final

GOING_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "fast": ("hard", "firm", "good to firm", "fast", "wet fast", "standard to fast"),
    "good": ("good", "standard"),
    "easy": ("good to soft", "good to yielding", "yielding", "standard to slow", "wet slow", "sealed"),
    "soft": ("soft", "yielding to soft", "soft to heavy", "very soft", "heavy", "slow", "muddy"),
}
UNKNOWN: Final = "unknown"
GROUP_OF_GOING: Final[dict[str, str]] = {going: group for group, all_of in GOING_GROUPS.items() for going in all_of}
DISTANCE_BANDS: Final[tuple[tuple[str, int], ...]] = (("sprint", 1300), ("mile", 1900), ("middle", 2700))
"""Each band with the distance in metres it ends before; everything longer is `LONGEST_BAND`."""
LONGEST_BAND: Final = "staying"

_IN_PARENTHESES = re.compile(r"\([^)]*\)")


def going_words(going: str) -> str:
    """An official going description without its remarks in parentheses, casefolded, white space folded."""
    return " ".join(_IN_PARENTHESES.sub(" ", going).casefold().split())


def going_group(going: str | None) -> str:
    """fast, good, easy or soft; anything else is unknown."""
    return GROUP_OF_GOING.get(going_words(going), UNKNOWN) if going else UNKNOWN


def distance_band(distance_m: float | None) -> str:
    """sprint < 1300 m ≤ mile < 1900 m ≤ middle < 2700 m ≤ staying; unknown where the distance is missing."""
    if distance_m is None:
        return UNKNOWN
    return next((band for band, end_m in DISTANCE_BANDS if distance_m < end_m), LONGEST_BAND)


def draw_cell(course: str | None, surface: str | None, distance_m: float | None, going: str | None, third: int) -> str:
    """The cell of the draw-bias map that a start belongs to: `course|surface|distance_band|going_group|draw_third`."""
    return f"{course or UNKNOWN}|{surface or UNKNOWN}|{distance_band(distance_m)}|{going_group(going)}|{third}"
