"""Readers of a cell by the unit that a mapping names: what a number or a text measures, and how it is written.

Each reader takes a cell's text and returns the value in the runner table's own unit, None for a blank, dashes or `nan`. It raises
ValueError for a text that it cannot read.
"""

import re
from collections.abc import Callable
from datetime import date, datetime
from functools import cache, lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from velo.racing.clock import YEARS
from velo.streams.importers import parsers
from velo.streams.importers.columns import COLUMNS, value_of

Reader = Callable[[str | None], Any]
KILOGRAMS_A_POUND: Final = 0.45359237
_METRES_A_MILE: Final = 1609.344
_AMERICAN: Final = re.compile(r"([+-]?)(\d+(?:\.\d+)?)")
_CLOCK_WITH_POINTS: Final = re.compile(r"(\d+)\.(\d{1,2})\.(\d{1,2})")


def _scaled(factor: float, digits: int = 0) -> Reader:
    """Return a reader of a number times a factor, rounded."""

    def read(cell: str | None) -> float | None:
        number = parsers.number(cell)
        return None if number is None else round(number * factor, digits)

    return read


def _american(cell: str | None) -> float | None:
    """Read decimal odds from `+150` (wins 150 on 100) or `-200` (wins 100 on 200)."""
    number = parsers.number(cell)
    found = None if number is None or cell is None else _AMERICAN.fullmatch(cell.strip())
    if number is None:
        return None
    if not found or abs(number) < 100:
        raise ValueError(cell)
    return round(1 + (number / 100 if number > 0 else 100 / -number), 4)


def _probability(cell: str | None) -> float | None:
    """Read decimal odds from 1 ÷ the odds; a zero is not a price."""
    number = parsers.number(cell)
    if not number:
        return None
    if not 0 < number <= 1:
        raise ValueError(cell)
    return round(1 / number, 4)


def _to_one(cell: str | None) -> float | None:
    """Read decimal odds from the money won on one, as American charts print them: `3.4` is 4.4."""
    number = parsers.number(cell)
    if number is not None and number < 0:
        raise ValueError(cell)
    return None if number is None else round(number + 1, 4)


def _tote(cell: str | None) -> float | None:
    return parsers.number(cell)


def _seconds_with_points(cell: str | None) -> float | None:
    """Read seconds from `1.24.45`: minutes, seconds, hundredths."""
    found = _CLOCK_WITH_POINTS.fullmatch(cell.strip()) if cell else None
    if not found:
        return parsers.seconds(cell)
    if int(found[2]) >= 60:
        raise ValueError(cell)
    return round(int(found[1]) * 60 + int(found[2]) + int(found[3].ljust(2, "0")) / 100, 2)


_WEIGHTS: Final[dict[str, Reader]] = {
    "lb": parsers.number,
    "kg": _scaled(1 / KILOGRAMS_A_POUND, 2),
    "st-lb": parsers.pounds,
}
UNITS: Final[dict[str, dict[str, Reader]]] = {
    "distance_m": {
        "m": parsers.number,
        "km": _scaled(1000),
        "feet": _scaled(parsers.METRES_A_YARD / 3),
        "yards": _scaled(parsers.METRES_A_YARD),
        "furlongs": _scaled(parsers.METRES_A_YARD * parsers.YARDS_A_FURLONG),
        "miles": _scaled(_METRES_A_MILE),
        "miles-furlongs": parsers.metres,
    },
    "weight_lbs": _WEIGHTS,
    "body_weight_lbs": _WEIGHTS,
    "beaten_lengths": {"lengths": parsers.lengths},
    "finish_time_s": {"s": parsers.number, "m:ss": parsers.seconds, "m.ss.hh": _seconds_with_points},
    "sp_decimal": {
        "decimal": parsers.number,
        "fractional": parsers.odds,
        "american": _american,
        "to-one": _to_one,
        "probability": _probability,
        "tote": _tote,
    },
    "race_class": {"class": parsers.race_class},
}
"""Units by column of the runner table. The first is taken where a mapping names none."""


def reader_of(target: str, unit: str | None) -> Reader:
    """Return the reader of a column of the runner table; raises KeyError for a unit that it does not have."""
    if target in UNITS:
        return UNITS[target][unit or next(iter(UNITS[target]))]
    if unit is not None:
        raise KeyError(unit)
    kind = COLUMNS[target]
    if kind == "text":
        return parsers.text
    return lambda cell: None if cell is None else value_of(cell, kind)


def divided(reader: Reader, stake: float) -> Reader:
    """Return a reader of a dividend for a stake: the decimal odds are the dividend of one unit."""

    def read(cell: str | None) -> float | None:
        dividend = reader(cell)
        return None if dividend is None else round(dividend / stake, 4)

    return read


def with_decimal_comma(reader: Reader) -> Reader:
    """Return a reader of numbers such as `1.250,5`; a number without a comma is read as it is."""

    def read(cell: str | None) -> Any:
        return reader(cell.replace(".", "").replace(",", ".") if cell and "," in cell else cell)

    return read


def date_reader(formats: tuple[str, ...]) -> Reader:
    """Return a reader of dates in the first of some formats (of `strptime`) that fits; without any, of ISO dates and of words."""
    if not formats:
        return parsers.day

    @lru_cache(maxsize=1 << 15)
    def read(cell: str | None) -> date | None:
        given = parsers.text(cell)
        if given is None:
            return None
        for form in formats:
            try:
                day = datetime.strptime(given, form).date()  # noqa: DTZ007 only the day is kept
            except ValueError:
                continue
            if day.year in YEARS:
                return day
        raise ValueError(given)

    return read


@cache
def instant_reader(zone: ZoneInfo | None) -> Reader:
    """Return a reader of ISO instants; one without an offset is in `zone`, and cannot be read where there is none."""

    @lru_cache(maxsize=1 << 15)
    def read(cell: str | None) -> datetime | None:
        given = parsers.text(cell)
        if given is None:
            return None
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            if zone is None:
                raise ValueError(given)
            moment = moment.replace(tzinfo=zone)
        at: datetime = value_of(moment, "instant")
        return at

    return read
