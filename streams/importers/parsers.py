"""Readers of values as British racing sites write them: odds, weights, distances, times, finishing positions.

A reader takes one cell. It returns None for a cell without a value (blank, dashes, `nan`), and raises ValueError for a text
that it cannot read: unknown is null, and nothing is guessed.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import date
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
_DISTANCE: Final = re.compile(r"(?:(\d*\.?\d+)m)?(?:(\d*\.?\d+)f)?(?:(\d+)y(?:ds?|ards?)?)?")
_METRES: Final = re.compile(r"(\d{3,4})m(?:etres?)?")
_WEIGHT: Final = re.compile(r"(\d{1,2})-(\d{1,2})")
_FRACTIONAL: Final = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_FAVOURITE: Final = re.compile(r"\s*(?:[FJC]{1,2}|FAV|JF|CF)\d?$", re.IGNORECASE)
_CLOCK: Final = re.compile(r"(?:(\d+):)?(\d{1,2}(?:\.\d+)?)")
_DAY_IN_NUMBERS: Final = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ]00:00(?::00)?)?")
_DAY_IN_WORDS: Final = re.compile(
    r"(?:[a-z]+,?\s+)?(\d{1,2})(?:st|nd|rd|th)?[\s-]+([a-z]{3})[a-z]*\.?,?[\s-]+(\d{4})", re.IGNORECASE
)
_MONTHS: Final = {name: at for at, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_CLASS: Final = re.compile(r"(?:class\s*)?(\d)(?:\.0)?", re.IGNORECASE)
_LETTER_CLASS: Final = re.compile(r"(?:class\s*)?[a-h]", re.IGNORECASE)
_LENGTHS: Final = re.compile(r"(?:(\d+)[\s.+-]+)?(\d{1,2})/(\d{1,2})")
_SPACED_FRACTION: Final = re.compile(r"(?<=\d)\s+(?=\.\d)")
_BETWEEN_WORDS: Final = re.compile(r"[\s.-]+")
_LENGTH_UNIT: Final = re.compile(r"\s*(?:lengths?|lens?|l)\.?$")
_MARGINS: Final = {
    0.0: ("dht", "dh", "deadheat"),
    0.05: ("nse", "ns", "no", "nose", "n"),
    0.1: ("shd", "sh", "shthd", "shhd", "shorthead"),
    0.2: ("hd", "head", "snk", "sn", "shnk", "shtnk", "shortneck"),
    0.25: ("lhd", "lghd", "longhead"),
    0.3: ("nk", "neck"),
    0.4: ("lnk", "lgnk", "longneck"),
    30.0: ("dist", "dst", "dis", "distance"),
}
"""Lengths by the words for a margin: as in the paper's own decimals; a long neck is a little more than a neck."""
_LENGTHS_IN_WORDS: Final = {word: lengths for lengths, words in _MARGINS.items() for word in words}
_REWRITTEN: Final = {
    "lg0.3": 0.4,
    "lg0.2": 0.25,
    "l0.3": 0.4,
    "sht-0.3": 0.2,
    "sh0.3": 0.2,
    "sh0.2": 0.1,
    "sh-0.2": 0.1,
}
"""Margins that rpscrape wrote wrongly until 2026-02-04, with only their end right: `lg0.3` for `lgnk`."""
_STATUS_OF: Final = {status: status for status in STATUSES - {FINISHED}} | {
    "VOI": VOID,
    "DISQ": "DSQ",
    "DQ": "DSQ",
    "REFUSED": "REF",
    "NON-RUNNER": NON_RUNNER,
}


@lru_cache(maxsize=1 << 17)
def text(cell: str | None) -> str | None:
    """Return the cell as tidy text; None if it is missing."""
    return None if cell is None or is_missing(cell) else tidy(cell)


def _reader(read: Callable[[str], _Value]) -> Callable[[str | None], _Value | None]:
    """Make a reader of cells from a reader of trimmed text. Cells repeat, so results are cached.

    The text is not normalised to NFKC, which would turn 1½ into 11⁄2.
    """

    @lru_cache(maxsize=65536)
    def of_cell(cell: str | None) -> _Value | None:
        given = "" if cell is None or is_missing(cell) else cell.strip()
        return None if not given or given.casefold() in NOTHING else read(given)

    of_cell.__doc__ = read.__doc__
    return of_cell


def _number(given: str) -> float:
    """Read a finite number."""
    value = float(given)
    if value - value != 0:
        raise ValueError(given)
    return value


def _whole(given: str) -> int:
    """Read a whole number, also one with a zero fraction (`6.0`)."""
    value = _number(given)
    if value != int(value) or abs(value) >= INTEGERS:
        raise ValueError(given)
    return int(value)


def _day(given: str) -> date:
    """Read `2015-04-26`, or `26 Apr 2015` with or without a weekday. `04/05/2015` is ambiguous and refused."""
    numbers, words = _DAY_IN_NUMBERS.fullmatch(given), _DAY_IN_WORDS.fullmatch(given)
    if numbers:
        year, month, number = int(numbers[1]), int(numbers[2]), int(numbers[3])
    elif words and words[2].casefold() in _MONTHS:
        year, month, number = int(words[3]), _MONTHS[words[2].casefold()], int(words[1])
    else:
        raise ValueError(given)
    if year not in YEARS:
        raise ValueError(given)
    return date(year, month, number)


def _odds(given: str) -> float | None:
    """Read decimal odds (stake included) from `16/1`, `5/2F`, `Evens`, `EvensJ` or a decimal; None for `No Odds`."""
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


def _with_decimals(given: str) -> str:
    """Return the text casefolded, with each sign for a fraction (½, ¾, ⅓) as decimals."""
    if given.isascii():
        return given.casefold()
    folded = (repr(unicodedata.numeric(sign))[1:] if _is_fraction(sign) else sign for sign in given.casefold())
    return "".join(folded)


def _is_fraction(sign: str) -> bool:
    return 0 < unicodedata.numeric(sign, 0.0) < 1


def _yards(given: str) -> float:
    found = _DISTANCE.fullmatch(_with_decimals(given).replace(" ", ""))
    if not found or not any(found.groups()):
        raise ValueError(given)
    miles, furlongs, yards = found.groups()
    return (float(miles or 0) * FURLONGS_A_MILE + float(furlongs or 0)) * YARDS_A_FURLONG + int(yards or 0)


def _metres(given: str) -> float:
    """Read metres from `1m1f157y`, `7f`, `2m½f`, `5f110y`, `1m3.5f` (yards × 0.9144, to the whole metre) or `1200m`.

    `m` after three or four digits means metres, after fewer miles.
    """
    metric = _METRES.fullmatch(given.casefold().replace(" ", ""))
    return float(metric[1]) if metric else metres_of_yards(_yards(given))


def metres_of_yards(yards: float) -> float:
    """Return yards × 0.9144, rounded to the whole metre: the sources measure to the yard, and publish whole metres."""
    return float(round(yards * METRES_A_YARD))


def _pounds(given: str) -> float:
    """Read pounds from stones and pounds, `8-12`."""
    found = _WEIGHT.fullmatch(given)
    if not found or int(found[2]) >= POUNDS_A_STONE:
        raise ValueError(given)
    return float(int(found[1]) * POUNDS_A_STONE + int(found[2]))


def _lengths(given: str) -> float:
    """Read lengths as decimals or as printed: `1¼`, `1 1/4`, `½`, `nk`, `shd`, `dist` (30), with or without brackets."""
    written = _SPACED_FRACTION.sub("", _with_decimals(given).strip("[]() "))
    if written in _REWRITTEN:
        return _REWRITTEN[written]
    word = _BETWEEN_WORDS.sub("", written)
    if word in _LENGTHS_IN_WORDS:
        return _LENGTHS_IN_WORDS[word]
    number = _LENGTH_UNIT.sub("", written)
    found = _LENGTHS.fullmatch(number)
    if not found or not found[3]:
        return _number(number)
    if int(found[2]) >= int(found[3]):
        raise ValueError(given)
    return float(found[1] or 0) + int(found[2]) / int(found[3])


def _seconds(given: str) -> float:
    """Read seconds from `1:54.79`. The seconds may be unpadded: `4:1.70` is 241.7 s."""
    found = _CLOCK.fullmatch(given)
    if not found or (found[1] and float(found[2]) >= 60):
        raise ValueError(given)
    return round(int(found[1] or 0) * 60 + float(found[2]), 3)


def _race_class(given: str) -> int | None:
    """Read the class number from `Class 5` or `5`; None for a letter, as before 2004."""
    if _LETTER_CLASS.fullmatch(given):
        return None
    found = _CLASS.fullmatch(given)
    if not found:
        raise ValueError(given)
    return int(found[1])


def finish(cell: str | None) -> tuple[str | None, int | None]:
    """Read status and position from a `pos` cell: a number is FINISHED at that position, a code is its status.

    An unknown code becomes a status in capitals, for which the race is refused. A blank gives None and None.
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
day = _reader(_day)
odds = _reader(_odds)
metres = _reader(_metres)
pounds = _reader(_pounds)
lengths = _reader(_lengths)
seconds = _reader(_seconds)
race_class = _reader(_race_class)
