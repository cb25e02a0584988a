"""JSON: values that it supports, and lines that begin with a checksum, for files that are only ever appended to.

A line is `{"crc":"8 hex digits",REST` and a newline. REST is a JSON object without its opening brace; the CRC-32 is of its
bytes, the closing brace included and the newline not. So a line is valid JSON, and a torn or changed one is recognised.
"""

import dataclasses
from collections.abc import Mapping
from datetime import date
from enum import Enum
from typing import Any, Final
from zlib import crc32

import orjson

_HEAD: Final = b'{"crc":"'
_REST: Final = len(_HEAD) + 8 + len(b'",')


def frame(rest: bytes) -> bytes:
    """The line of a JSON object, given without its opening brace and with at least one field."""
    return b'%s%08x",%s\n' % (_HEAD, crc32(rest), rest)


def is_whole(line: bytes) -> bool:
    """Whether a line, with or without its newline, has the checksum that it was written with."""
    rest = line[_REST:].rstrip(b"\n")
    return line[: len(_HEAD)] == _HEAD and line[len(_HEAD) : _REST] == b'%08x",' % crc32(rest)


def parse(line: bytes) -> dict[str, Any] | None:
    """The fields of a line, without `crc`; None where the line is torn or its checksum differs.

    A line that lacks only its newline parses: a writer that must not append to such a line has to check for it.
    """
    if not is_whole(line):
        return None
    fields: dict[str, Any] = orjson.loads(b"{" + line[_REST:])
    return fields


def plain(value: Any) -> Any:
    """Convert a report to types that JSON supports: an array becomes a list, NaN null, a member of an enum its value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
