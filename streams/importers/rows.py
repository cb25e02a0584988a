"""Rows on their way in: the runner table's columns by name, reserved keys beside them, and how refused rows are kept."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from velo.errors import Refused
from velo.racing.clock import to_text
from velo.streams.importers.dead_letters import DeadLetter

Row = Mapping[str, Any]
PART: Final = "\0part"
"""Reserved key of a row: its file within the load, if known."""
BAD: Final = "\0bad"
"""Reserved key of a row: its values of the wrong kind, by column; a value is a `Refused` if it has its own reason."""
RAW: Final = "\0raw"
"""Reserved key of a row: the row as read, if the typed row lacks some of it."""
RESERVED: Final = frozenset({PART, BAD, RAW})
LETTER_CHARACTERS: Final = 2**22
"""The most characters in the rows of a dead letter: a thousand times what a race needs."""


def letter(source: str, race_id: str | None, version: int | None, why: Refused, rows: Sequence[Row]) -> DeadLetter:
    """Return the dead letter of refused rows, with the rows as read; race and version are None if unknown.

    Rows beyond `LETTER_CHARACTERS` stay in their file, and the letter says so: all letters are read into memory.
    """
    read = tuple(_as_read(row) for row in rows)
    size = sum(len(str(row)) for row in read)
    detail = why.detail
    if size > LETTER_CHARACTERS:
        read, detail = (), f"{detail} (its {len(rows):,} rows of {size:,} characters are left in their file)"
    return DeadLetter(source, race_id, version, why.reason, detail, read)


def _as_read(row: Row) -> dict[str, Any]:
    read = row.get(RAW) or {name: value for name, value in row.items() if name not in RESERVED} | row.get(BAD, {})
    return {name: plain(value) for name, value in read.items() if value is not None and not isinstance(value, Refused)}


def plain(value: Any) -> Any:
    """Convert a value to JSON's types: instants and dates as text, NaN as null, any other type as its text."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo is None else to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)
