"""The columns of the runner table (contract 3) and their types; a whole column at a time, or one value."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from velo.racing.clock import EPOCH
from velo.racing.messages import Race, Runner, column_types
from velo.racing.names import is_missing
from velo.streams.importers.parsers import INTEGERS, NOTHING

_KINDS: Final = {
    str: "text", int: "whole number", float: "number", bool: "truth", date: "date", datetime: "instant",
}  # fmt: skip
RUNNER_COLUMNS: Final = {name: _KINDS[of] for name, of in column_types(Runner).items()}
RACE_COLUMNS: Final = {name: _KINDS[of] for name, of in column_types(Race).items() if name != "race_id"} | {
    "known_at": "instant"
}
"""Columns with the same value in all rows of a race, and their kinds."""
COLUMNS: Final = {"race_id": "text", "result_version": "whole number"} | RACE_COLUMNS | RUNNER_COLUMNS
REQUIRED: Final = ("race_id", "race_date", "course", "horse", "status")
WANTED: Final = {
    "text": "text",
    "whole number": "a whole number of 32 bits",
    "number": "a number",
    "date": "a date such as 2024-05-31",
    "instant": "a UTC instant such as 2024-05-31T14:30:00Z",
    "truth": "true or false",
}
_TRUTHS: Final = dict.fromkeys(("true", "1", "1.0", "yes", "y", "t"), True) | dict.fromkeys(
    ("false", "0", "0.0", "no", "n", "f"), False
)

Bad = dict[int, object]
"""Values of the wrong kind, by row."""


def typed(column: pa.ChunkedArray, kind: str) -> tuple[list[Any], Bad]:
    """Return a column as Python values of a kind, None where blank or bad, and the bad values as read.

    One conversion of the whole column is tried first; only a column with a bad value is converted value by value.
    """
    if column.null_count == len(column):
        return [None] * len(column), {}
    try:
        return _FAST[kind](column), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError, ValueError):
        return one_by_one(_listed_slowly(column), kind)


def one_by_one(given: Sequence[object], kind: str) -> tuple[list[Any], Bad]:
    """Return values of a kind, as `typed` does, from Python values."""
    values: list[Any] = []
    bad: Bad = {}
    for row, value in enumerate(given):
        try:
            values.append(value_of(value, kind))
        except (ValueError, TypeError, OverflowError):
            values.append(None)
            bad[row] = value
    return values, bad


def value_of(given: object, kind: str) -> Any:
    """Return one value of a kind, None for a blank. Raises ValueError, TypeError or OverflowError for another kind.

    In columns other than text, dashes and the words of data frames for a missing value are blank too.
    """
    if isinstance(given, str):
        given = given.strip()
        if kind != "text" and (is_missing(given) or given.casefold() in NOTHING):
            return None
    nan = given != given
    if given is None or given == "" or nan:
        return None
    return _SLOW[kind](given)


def _text(given: object) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, bytes):
        return given.decode().strip()
    if isinstance(given, float | Decimal) and given == int(given):
        return str(int(given))
    if isinstance(given, int | float) and not isinstance(given, bool):
        return str(given)
    raise TypeError(given)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not math.isfinite(value := float(given)):
        raise ValueError(given)
    return value


def _whole(given: Any) -> int:
    if isinstance(given, str):
        try:
            given = int(given)
        except ValueError:
            given = float(given)
    if isinstance(given, bool) or int(given) != given or abs(given) >= INTEGERS:
        raise ValueError(given)
    return int(given)


def _date(given: Any) -> date:
    if isinstance(given, datetime):
        if given.time() != datetime.min.time():
            raise ValueError(given)
        return given.date()
    if isinstance(given, date):
        return given
    try:
        return date.fromisoformat(given)
    except ValueError:
        return _date(datetime.fromisoformat(given))


def _instant(given: Any) -> datetime:
    if isinstance(given, str):
        given = datetime.fromisoformat(given.removesuffix(" UTC"))
    if not isinstance(given, datetime):
        raise TypeError(given)
    return (given.replace(tzinfo=UTC) if given.tzinfo is None else given).astimezone(UTC)


def _truth(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    try:
        return _TRUTHS[str(given).casefold()]
    except KeyError:
        raise ValueError(given) from None


_SLOW: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text,
    "whole number": _whole,
    "number": _number,
    "date": _date,
    "instant": _instant,
    "truth": _truth,
}


def _fast_text(column: pa.ChunkedArray) -> list[Any]:
    if not _is_text(column):
        if not pa.types.is_integer(column.type):
            raise ValueError(column.type)
        column = column.cast(pa.string())
    # names and codes repeat: each becomes one Python string
    coded = pc.utf8_trim_whitespace(column).combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    words = np.array([*(word or None for word in coded.dictionary.to_pylist()), None], dtype=object)
    codes = coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    values: list[Any] = words[codes].tolist()
    return values


def _fast_whole(column: pa.ChunkedArray) -> list[Any]:
    return _listed(_filled(column).cast(pa.int32()))


def _fast_number(column: pa.ChunkedArray) -> list[Any]:
    numbers = _filled(column).cast(pa.float64(), safe=False)
    values = numbers.fill_null(0.0).to_numpy()
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    return _listed(numbers)


def _fast_date(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_date(column.type) and not _is_text(column):
        raise ValueError(column.type)
    days = _listed(_filled(column).cast(pa.date32()).cast(pa.int32()))
    known = {day: EPOCH.date() + timedelta(days=day) for day in set(days) if day is not None}
    return [known.get(day) for day in days]


def _fast_instant(column: pa.ChunkedArray) -> list[Any]:
    column = _filled(column)
    if not pa.types.is_timestamp(column.type):
        if not _is_text(column):
            raise ValueError(column.type)
        column = column.cast(pa.timestamp("us", "UTC"))
    moments = _listed(column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()))
    known = {moment: EPOCH + timedelta(microseconds=moment) for moment in set(moments) if moment is not None}
    return [known.get(moment) for moment in moments]


def _fast_truth(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_boolean(column.type):
        raise ValueError(column.type)
    values: list[Any] = column.to_pylist()
    return values


_FAST: Final[dict[str, Callable[[pa.ChunkedArray], list[Any]]]] = {
    "text": _fast_text,
    "whole number": _fast_whole,
    "number": _fast_number,
    "date": _fast_date,
    "instant": _fast_instant,
    "truth": _fast_truth,
}


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _listed_slowly(column: pa.ChunkedArray) -> list[object]:
    """Return Python values, and the text of those that Python cannot hold, such as a date beyond its calendar."""
    try:
        values: list[object] = column.to_pylist()
    except (OverflowError, ValueError):
        return [_python(scalar) for scalar in column]
    return values


def _python(scalar: pa.Scalar) -> object:
    try:
        value: object = scalar.as_py()
    except (OverflowError, ValueError):
        return str(scalar.cast(pa.int32() if pa.types.is_date32(scalar.type) else pa.int64()).as_py())
    return value


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column with blanks and NaN as nulls. Raises ValueError for a column of booleans, which are not numbers."""
    if pa.types.is_boolean(column.type):
        raise ValueError(column.type)
    if _is_text(column):
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def _listed(column: pa.ChunkedArray) -> list[Any]:
    """Return the values with None for null, without an Arrow scalar for each."""
    values = column.fill_null(0).to_numpy()
    if not column.null_count:
        listed: list[Any] = values.tolist()
        return listed
    as_objects = values.astype(object)
    as_objects[column.is_null().to_numpy()] = None
    with_nulls: list[Any] = as_objects.tolist()
    return with_nulls
