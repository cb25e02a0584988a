"""Values as British racing sites write them: odds, weights, distances, times, finishing positions.

Every reader takes one cell and gives None where the cell says nothing (blank, dashes, `nan`), the value where it can be
read, and raises ValueError where there is something that cannot be: unknown is null, unreadable is never guessed.
"""

import re
from collections.abc import Callable
from datetime import date, time
from functools import lru_cache
from typing import Final, TypeVar

from velo.racing.clock import YEARS
from velo.racing.messages import FINISHED, NON_RUNNER, STATUSES, VOID
from velo.racing.names import is_missing, tidy

METRES_A_YARD: Final = 0.9144
YARDS_A_FURLONG: Final = 220
FURLONGS_A_MILE: Final = 8
POUNDS_A_STONE: Final = 14
INTEGERS: Final = 2**31
"""Whole numbers are 32-bit in every table that holds them."""
NOTHING: Final = frozenset({"nan", "none", "null", "na", "n/a", "<na>"})
"""What spreadsheets and data frames write for a cell without a value."""

_Value = TypeVar("_Value")
_FRACTIONS: Final = {"¼": ".25", "½": ".5", "¾": ".75", "⅓": ".333", "⅔": ".667"}
_DISTANCE: Final = re.compile(r"(?:(\d+)m)?(?:(\d*\.?\d+)f)?(?:(\d+)y(?:ds?|ards?)?)?")
_WEIGHT: Final = re.compile(r"(\d{1,2})-(\d{1,2})")
_FRACTIONAL: Final = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_FAVOURITE: Final = re.compile(r"\s*(?:[FJC]{1,2}|FAV|JF|CF)\d?$", re.IGNORECASE)
_CLOCK: Final = re.compile(r"(?:(\d+):)?(\d{1,2}(?:\.\d+)?)")
_OFF: Final = re.compile(r"(\d{1,2}):(\d{2})(?::\d{2})?")
_CLASS: Final = re.compile(r"(?:class\s*)?(\d)(?:\.0)?", re.IGNORECASE)
_LETTER_CLASS: Final = re.compile(r"(?:class\s*)?[a-h]", re.IGNORECASE)
_LENGTHS_IN_WORDS: Final = {
    "dht": 0.0,
    "nse": 0.05,
    "shd": 0.1,
    "sht-hd": 0.1,
    "hd": 0.2,
    "snk": 0.2,
    "nk": 0.3,
    "dist": 30.0,
}
_STATUS_OF: Final = {status: status for status in STATUSES - {FINISHED}} | {
    "VOI": VOID,
    "DISQ": "DSQ",
    "DQ": "DSQ",
    "REFUSED": "REF",
    "NON-RUNNER": NON_RUNNER,
}


@lru_cache(maxsize=1 << 17)
def text(cell: str | None) -> str | None:
    """The cell as tidy text."""
    return None if cell is None or is_missing(cell) else tidy(cell)


def _reader(read: Callable[[str], _Value]) -> Callable[[str | None], _Value | None]:
    """A reader of cells from a reader of trimmed text; cells repeat, so what was read once is remembered.

    The text is not brought to NFKC first: that turns 1½ into 11⁄2.
    """

    @lru_cache(maxsize=65536)
    def of_cell(cell: str | None) -> _Value | None:
        given = "" if cell is None or is_missing(cell) else cell.strip()
        return None if not given or given.casefold() in NOTHING else read(given)

    of_cell.__doc__ = read.__doc__
    return of_cell


def _number(given: str) -> float:
    """A finite number."""
    value = float(given)
    if value - value != 0:
        raise ValueError(given)
    return value


def _whole(given: str) -> int:
    """A whole number, also written with a zero fraction (`6.0`)."""
    value = _number(given)
    if value != int(value) or abs(value) >= INTEGERS:
        raise ValueError(given)
    return int(value)


def _iso_date(given: str) -> date:
    """A date as 2015-04-26."""
    day = date.fromisoformat(given)
    if day.year not in YEARS:
        raise ValueError(given)
    return day


def _off(given: str) -> time:
    """The local off by the 24-hour clock from `H:MM` by the 12-hour one without am or pm.

    1 to 9 o'clock means the afternoon; 10, 11 and 12 are the day's, and 13 and later are 24-hour already: all as
    written, as is 0.
    """
    found = _OFF.fullmatch(given)
    if not found:
        raise ValueError(given)
    hour, minute = int(found[1]), int(found[2])
    return time(hour + 12 if 1 <= hour <= 9 else hour, minute)


def _odds(given: str) -> float | None:
    """Decimal odds (stake included) from `16/1`, `5/2F`, `Evens`, `EvensJ` or a decimal; `No Odds` is none."""
    price = _FAVOURITE.sub("", given)
    if price.casefold() in ("evens", "evs", "even"):
        return 2.0
    if given.casefold() in ("no odds", "&", "sp"):
        return None
    found = _FRACTIONAL.fullmatch(price)
    if not found:
        return _number(price)
    if not float(found[2]):
        raise ValueError(given)
    return float(found[1]) / float(found[2]) + 1.0


def _yards(given: str) -> float:
    written = given.casefold().replace(" ", "")
    for sign, decimals in _FRACTIONS.items():
        written = written.replace(sign, decimals)
    found = _DISTANCE.fullmatch(written)
    if not found or not any(found.groups()):
        raise ValueError(given)
    miles, furlongs, yards = found.groups()
    return (int(miles or 0) * FURLONGS_A_MILE + float(furlongs or 0)) * YARDS_A_FURLONG + int(yards or 0)


def _metres(given: str) -> float:
    """Metres from `1m1f157y`, `7f`, `2m½f`, `5f110y`, `1m3.5f`: yards × 0.9144, to the whole metre."""
    return metres_of_yards(_yards(given))


def metres_of_yards(yards: float) -> float:
    """Yards × 0.9144, rounded to the whole metre: the sources measure to the yard, and publish whole metres."""
    return float(round(yards * METRES_A_YARD))


def _pounds(given: str) -> float:
    """Pounds from stones and pounds, `8-12`."""
    found = _WEIGHT.fullmatch(given)
    if not found or int(found[2]) >= POUNDS_A_STONE:
        raise ValueError(given)
    return float(int(found[1]) * POUNDS_A_STONE + int(found[2]))


def _lengths(given: str) -> float:
    """Lengths, also in words (`nk`, `shd`, `dist` = 30)."""
    value = _LENGTHS_IN_WORDS.get(given.casefold())
    return _number(given) if value is None else value


def _seconds(given: str) -> float:
    """Seconds from `1:54.79`; the seconds are not padded (`4:1.70` is 241.7 s)."""
    found = _CLOCK.fullmatch(given)
    if not found or (found[1] and float(found[2]) >= 60):
        raise ValueError(given)
    return round(int(found[1] or 0) * 60 + float(found[2]), 3)


def _race_class(given: str) -> int | None:
    """The class number from `Class 5` or `5`; classes by letter (before 2004) have none."""
    if _LETTER_CLASS.fullmatch(given):
        return None
    found = _CLASS.fullmatch(given)
    if not found:
        raise ValueError(given)
    return int(found[1])


def finish(cell: str | None) -> tuple[str | None, int | None]:
    """Status and position from a `pos` cell: a number is FINISHED there, a code is its status.

    A code nobody knows is passed on in capitals, as the status for which the race is refused; None where blank.
    """
    given = text(cell)
    if given is None:
        return None, None
    try:
        return FINISHED, _whole(given)
    except ValueError:
        code = given.upper()
        return _STATUS_OF.get(code, code), None


number = _reader(_number)
whole = _reader(_whole)
iso_date = _reader(_iso_date)
off = _reader(_off)
odds = _reader(_odds)
metres = _reader(_metres)
pounds = _reader(_pounds)
lengths = _reader(_lengths)
seconds = _reader(_seconds)
race_class = _reader(_race_class)
