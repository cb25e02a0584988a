"""British and Irish racecourses under the short names the exchange gives its meetings."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

SHORT_NAMES: Final[dict[str, str]] = {
    "aint": "aintree",
    "asc": "ascot",
    "ballin": "ballinrobe",
    "bang": "bangorondee",
    "belle": "bellewstown",
    "bev": "beverley",
    "brig": "brighton",
    "carl": "carlisle",
    "cart": "cartmel",
    "catt": "catterick",
    "chelm": "chelmsford",
    "chelmc": "chelmsford",
    "chmfd": "chelmsford",
    "chelt": "cheltenham",
    "chep": "chepstow",
    "chest": "chester",
    "clon": "clonmel",
    "curr": "curragh",
    "donc": "doncaster",
    "downp": "downpatrick",
    "downr": "downroyal",
    "dund": "dundalk",
    "epsm": "epsom",
    "extr": "exeter",
    "fairy": "fairyhouse",
    "fake": "fakenham",
    "ffosl": "ffoslas",
    "font": "fontwell",
    "gal": "galway",
    "good": "goodwood",
    "gowp": "gowranpark",
    "gowran": "gowranpark",
    "ham": "hamilton",
    "hayd": "haydock",
    "hex": "hexham",
    "hunt": "huntingdon",
    "kemp": "kempton",
    "kilb": "kilbeggan",
    "killar": "killarney",
    "layt": "laytown",
    "leic": "leicester",
    "leop": "leopardstown",
    "lim": "limerick",
    "ling": "lingfield",
    "list": "listowel",
    "ludl": "ludlow",
    "mrktr": "marketrasen",
    "muss": "musselburgh",
    "newb": "newbury",
    "newc": "newcastle",
    "newm": "newmarket",
    "newt": "newtonabbot",
    "nott": "nottingham",
    "plump": "plumpton",
    "ponte": "pontefract",
    "punch": "punchestown",
    "redc": "redcar",
    "rosc": "roscommon",
    "royalascot": "ascot",
    "salis": "salisbury",
    "sand": "sandown",
    "sedge": "sedgefield",
    "sthl": "southwell",
    "strat": "stratford",
    "taun": "taunton",
    "thecurragh": "curragh",
    "thurl": "thurles",
    "tipp": "tipperary",
    "towc": "towcester",
    "tram": "tramore",
    "uttox": "uttoxeter",
    "warw": "warwick",
    "weth": "wetherby",
    "wex": "wexford",
    "winc": "wincanton",
    "wind": "windsor",
    "wolv": "wolverhampton",
    "worc": "worcester",
    "yarm": "yarmouth",
}
"""Course by short name, both as letters only; a short name that is not listed is tried as the beginning of a course."""

COUNTRIES: Final[dict[str, str]] = {"UK": "GB", "GBR": "GB", "IE": "IRE", "IRL": "IRE", "US": "USA", "FRA": "FR"}
"""Codes of the exchange that differ from the results'."""

_SHORTEST: Final = 3
_HINT: Final = re.compile(
    r"(?:([A-Z]{2,3})\s*/\s*)?(.+?)(?:\s+\d{1,2}(?:st|nd|rd|th)(?:\s+[A-Za-z]{3,9})?)?", re.DOTALL
)
_PARENTHESES: Final = re.compile(r"\(([^)]*)\)")
_COUNTRY: Final = re.compile(r"[A-Z]{2,3}")


@lru_cache(maxsize=4096)
def letters(course: str) -> str:
    """Return a course's letters, without remarks in parentheses: `Bangor-on-Dee` is bangorondee."""
    return "".join(filter(str.isalpha, _PARENTHESES.sub(" ", course).casefold()))


@lru_cache(maxsize=4096)
def read_hint(menu_hint: str) -> tuple[str, str | None]:
    """Return course and country code (None if absent) of `GB / Wolv 26th Apr`, `Hexham 11th Oct`, `Ascot (AUS)`."""
    found = _HINT.fullmatch(menu_hint.strip())
    if not found:
        return "", None
    remarks = [text for text in _PARENTHESES.findall(found[2]) if _COUNTRY.fullmatch(text) and text != "AW"]
    code = found[1] or (remarks[-1] if remarks else None)
    return _PARENTHESES.sub(" ", found[2]).strip(), code and COUNTRIES.get(code, code)


def courses_meant(named: str, courses: Iterable[str]) -> set[str]:
    """Return the courses (as `letters`) that a meeting's name can mean; only a single one is an answer.

    The same name wins over a known short name, and a short name over a name that begins with the other.
    """
    known = set(courses)
    name = letters(named)
    if name in known:
        return {name}
    full = SHORT_NAMES.get(name)
    if full is not None:
        return {course for course in known if course.startswith(full)}
    if len(name) < _SHORTEST:
        return set()
    return {
        course for course in known if course.startswith(name) or (len(course) >= _SHORTEST and name.startswith(course))
    }
