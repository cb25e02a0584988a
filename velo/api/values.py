"""Arguments as people write them: instants and dates as text, and sources as a frame, a file or a list of files."""

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, get_args

from velo.errors import UserError

Library = Literal["pandas", "polars", "pyarrow"]
LIBRARIES: Final[tuple[Library, ...]] = get_args(Library)
"""The libraries whose frames a store can return."""


def refuse_library(library: str) -> None:
    """Raise `UserError` for a library that is not one of `LIBRARIES` or not installed."""
    if library not in LIBRARIES:
        raise UserError(f"frames is {library!r}, but frames are of {', '.join(LIBRARIES)}: name one of these")
    if find_spec(library) is None:
        raise UserError(f"frames is {library!r}, but {library} is not installed: install it, or use 'pandas'")


def instant(given: str | datetime | None) -> datetime | None:
    """Return an instant in UTC from an aware datetime or ISO 8601 text with a UTC offset or `Z`; None for None.

    Raises `UserError` for anything else.
    """
    if given is None:
        return None
    try:
        parsed = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        parsed = None
    if not isinstance(parsed, datetime) or parsed.tzinfo is None:
        shown = given if isinstance(given, str) else str(given)
        raise UserError(
            f"{shown!r} is not a timestamp with a UTC offset: write it like 2025-06-21T13:55:00Z or …+01:00"
        )
    return parsed.astimezone(UTC)


def day(given: str | date | None) -> date | None:
    """Return a local date from a date or text such as 2025-06-21; None for None. Raises `UserError` for anything else."""
    if given is None or (isinstance(given, date) and not isinstance(given, datetime)):
        return given
    try:
        if isinstance(given, str):
            return date.fromisoformat(given)
    except ValueError:
        pass
    raise UserError(f"{str(given)!r} is not a date: write it like 2025-06-21")


def files(source: Any) -> list[Path]:
    """Return the files of a source; raises `UserError` for anything else."""
    if isinstance(source, str | os.PathLike):
        return [Path(source)]
    if isinstance(source, Sequence) and all(isinstance(file, str | os.PathLike) for file in source):
        return [Path(file) for file in source]
    raise UserError(f"a {type(source).__name__} is not a file: name one or more files")
