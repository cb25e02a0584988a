"""Read surface and going from a row's words; what the words do not say is unknown."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from velo.racing.courses import ALL_WEATHER
from velo.racing.going import going_words
from velo.racing.jurisdiction import DEFAULT
from velo.streams.importers import parsers

_SURFACES: Final = {
    **dict.fromkeys(("turf", "grass"), "Turf"),
    **dict.fromkeys(("dirt", "sand"), "Dirt"),
    **dict.fromkeys(("aw", "all weather", "all-weather", "synthetic", "polytrack", "tapeta", "fibresand"), "AW"),
}
_TURF_GOINGS: Final = frozenset(
    """firm|good to firm|good|good to soft|good to yielding|hard|heavy|holding|soft|soft to heavy|very soft|yielding|
    yielding to soft""".replace("\n    ", "").split("|")
)
_ALL_WEATHER_GOINGS: Final = frozenset({"standard", "standard to fast", "standard to slow"})
_DIRT_GOINGS: Final = frozenset({"fast", "muddy", "sloppy"})
_OF_ANY_SURFACE: Final = frozenset({"good", "soft", "heavy"})
_TURF_AND_SAND: Final = frozenset({"GB", "IRE", "FR"})
"""Countries whose artificial tracks alone are `Standard`; elsewhere it is a word of dirt too."""
_DIRT: Final = frozenset("ARG BRZ CAN CHI COL DOM ECU JPN KOR KSA MEX PAN PER PR UAE URU USA VEN".split())
"""Countries whose dirt tracks are `Fast`, and `Good` or `Heavy` as their turf is."""
_TURF_ALONE: Final = frozenset("AUS AUT BEL CZE FR GB GER IND IRE ITY MAU NZ POL SAF SPA SWI".split())
_LIKE: Final = {"holding": "Soft (Holding)", "sloppy": "Muddy (Sloppy)"}
"""Goings in no group (contract 4), put in parentheses behind the nearest one: shown, but not used."""
_NUMBER: Final = re.compile(r"[\s-]*\(?\d{1,2}(?:\.\d+)?\)?$")
_FIRST_OF_SEVERAL: Final = re.compile(r"\s*[,;]|\s[-–]\s")
_IN_PLACES: Final = re.compile(r"\bin (?:places|parts)$")


def surface_of(course: str, named: str | None, going: str | None, country: str | None) -> str | None:
    """Return AW if the course says (AW), else the surface named, else that implied by the going; None if unknown.

    Raises ValueError for an unknown surface name.
    """
    if ALL_WEATHER.search(course):
        return "AW"
    given = parsers.text(named)
    if given is None:
        return _surface_of_going(going_words(going), country) if going else None
    try:
        return _SURFACES[given.casefold()]
    except KeyError:
        raise ValueError(given) from None


def _surface_of_going(going: str, country: str | None) -> str | None:
    if going in _TURF_GOINGS:
        return "Turf" if going not in _OF_ANY_SURFACE or country in _TURF_ALONE else None
    if going in _ALL_WEATHER_GOINGS:
        return "AW" if country in _TURF_AND_SAND else None
    return "Dirt" if going in _DIRT_GOINGS and country in _DIRT else None


@lru_cache(maxsize=4096)
def main_going(description: str | None) -> str | None:
    """Return the first going of a description: `Soft` of `Soft 5`, `Good` of `Good4` or `Good, Good to Firm in places`.

    `Sloppy` becomes muddy and `Holding` soft. A description without a known going is returned unchanged.
    """
    if description is None or _is_known(description):
        return description and _LIKE.get(going_words(description), description)
    first = _NUMBER.sub("", _FIRST_OF_SEVERAL.split(description)[0]).strip()
    if _is_known(first):
        return _LIKE.get(going_words(first), first)
    words = _IN_PLACES.sub("", description.casefold()).split()
    if len(words) < len(description.split()):
        splits = range(len(words) - 1, 0, -1)
        splits_known = (at for at in splits if _is_known(" ".join(words[:at])) and _is_known(" ".join(words[at:])))
        return " ".join(description.split()[: next(splits_known, None)])
    return description


def _is_known(going: str) -> bool:
    words = going_words(going)
    return words in DEFAULT.group_of_going or words in _LIKE


_HORSE_NAMED: Final = ("horse_name", "name")
_RENAMED: Final = {
    "fin_time": "time",
    "race": "race_name",
    "distance": "dist",
    "dist(f)": "dist_f",
    "weight": "wgt",
    "gear": "hg",
    "prize(£)": "prize",
}


def todays_names(header: Sequence[str]) -> list[str]:
    """Column names (casefolded) as today's release has them; a name that today's column has already is left alone."""
    names = [part for name in header for part in (name.split('"') if '"' in name else [name])]
    old: dict[str, str] = {}
    if "off" not in names and "time" in names:
        old["time"] = "off"
    horse = next((name for name in _HORSE_NAMED if name in names), None)
    if horse is not None and "horse" not in names:
        old[horse] = "horse"
    elif "name" in names and "race_name" not in names:
        old["name"] = "race_name"
    left = {name for name in names if name not in old}
    old |= {name: today for name, today in _RENAMED.items() if name in left and today not in left | set(old.values())}
    return [old.get(name, name) for name in names]


def release(header: Sequence[str]) -> str | None:
    """Return the years of the release of rpscrape that wrote these (casefolded) column names; None for today's or another exporter's."""
    if "off" in header:
        return "2019–21" if "name" in header and "race_name" not in header else None
    return "2019" if "horse_name" in header else "2018" if "name" in header else None
