"""Group a going description, and name the draw-bias cell of a start (contract 4)."""

import re
from typing import Final

from velo.racing.jurisdiction import DEFAULT, UNKNOWN, Jurisdiction

_IN_PARENTHESES: Final = re.compile(r"\([^)]*\)")


def going_words(going: str) -> str:
    """An official going description without its remarks in parentheses, casefolded, white space folded."""
    return " ".join(_IN_PARENTHESES.sub(" ", going).casefold().split())


def going_group(going: str | None, jurisdiction: Jurisdiction = DEFAULT) -> str:
    """The group of a going, such as fast, good, easy or soft; unknown if it is missing or in no group."""
    return jurisdiction.group_of_going.get(going_words(going), UNKNOWN) if going else UNKNOWN


def distance_band(distance_m: float | None, jurisdiction: Jurisdiction = DEFAULT) -> str:
    """The band of a distance in metres, by default sprint, mile, middle or staying; unknown if it is missing."""
    return jurisdiction.distance_band(distance_m)


def draw_cell(
    course: str | None,
    surface: str | None,
    distance_m: float | None,
    going: str | None,
    third: int,
    jurisdiction: Jurisdiction = DEFAULT,
) -> str:
    """The cell of the draw-bias map that a start belongs to: `course|surface|distance_band|going_group|draw_third`."""
    band, group = distance_band(distance_m, jurisdiction), going_group(going, jurisdiction)
    return f"{course or UNKNOWN}|{surface or UNKNOWN}|{band}|{group}|{third}"
