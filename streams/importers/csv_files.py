"""Read CSV files of unknown quality: whatever is wrong with one is an error of one line."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from sys import intern
from typing import IO, TYPE_CHECKING

from velo.errors import UserError
from velo.streams.importers.file_kinds import GZIP, file_kind, refuse_other_kind

if TYPE_CHECKING:
    from _csv import Reader

HEADER_AGAIN = "header in the middle of a file, left out"
"""The warning that counts rows which repeat the header."""
Names = Callable[[Sequence[str]], list[str]]
_LONGEST_CELL = 1 << 20
_LONGEST_LINE = 1 << 24
_REPEATED = 64
_SAMPLE_BYTES = 4096
_UNPACKED_AT_LEAST = 1 << 22
_UNPACKED_TIMES = 50
"""A CSV of results compresses to a tenth; a file that unpacks to 50 times its size is made to fill the memory."""


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One line of a file: its number, from 1, and its cells by column name.

    `repeats_header` marks a line that repeats the header, as in concatenated files.
    """

    path: Path
    line: int
    cells: Mapping[str, str]
    repeats_header: bool = False

    @property
    def place(self) -> str:
        """File and line, to begin an error message with."""
        return f"{self.path}, line {self.line}"


def csv_rows(path: Path, required: Iterable[str], what: str, names: Names = list) -> Iterator[CsvRow]:
    """Yield the rows of a CSV file with a header (UTF-8, a byte-order mark allowed; gzip is unpacked), in file order.

    Column names are trimmed, casefolded and then passed through `names`. A file without the `required` columns is not `what`.
    Raises `UserError` for a file that is missing, empty, not text, without a required column, with a column twice, with a
    row that has more or fewer cells than the header, or with a line or content of excessive size.
    """
    try:
        with path.open("rb") as binary:
            sample = binary.read(_SAMPLE_BYTES)
            binary.seek(0)
            refuse_other_kind(path, sample, f"{what} is a CSV file", GZIP)
            packed = file_kind(sample) is GZIP
            with _unpacked(binary, packed=packed) as stream:
                yield from _read(path, _text_only(path, stream, what, packed=packed), frozenset(required), what, names)
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text, but {what} is a CSV file: save it as CSV in UTF-8") from None
    except (EOFError, zlib.error):
        raise UserError(f"{path} is damaged: its compressed data cannot be unpacked: fetch it again") from None
    except OSError as refused:
        raise UserError(f"{path} cannot be read ({refused.strerror or refused}): check the path") from None


def _unpacked(binary: IO[bytes], *, packed: bool) -> IO[str]:
    content = gzip.GzipFile(fileobj=binary) if packed else binary
    return TextIOWrapper(content, encoding="utf-8-sig", newline="")


def _read(path: Path, text: Iterator[str], required: frozenset[str], what: str, names: Names) -> Iterator[CsvRow]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(text, strict=True)
    lines = _parsed(path, reader, what)
    as_written = _folded(next(lines, []))
    header = names(as_written)
    if not any(header):
        raise UserError(f"{path} is empty, but {what} has a header and rows: fetch it again")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path} has the column {twice[0]!r} more than once: keep one of them")
    missing = sorted(required.difference(header))
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}, which {what} needs; it has {', '.join(header[:12])}"
            f"{', …' if len(header) > 12 else ''}: export it with the missing columns"
        )
    rows = 0
    for cells in lines:
        if not any(cells):
            continue
        if cells[0].strip().casefold() == as_written[0] and _folded(cells) == as_written:
            yield CsvRow(path, reader.line_num, dict(zip(header, cells, strict=False)), repeats_header=True)
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {reader.line_num} has {len(cells)} cells, the header {len(header)}: "
                "quote the cells that hold commas, or fetch the file again if it was cut short"
            )
        rows += 1
        # the whole load is in memory, and its cells repeat: each short text is one object
        once = [intern(cell) if len(cell) < _REPEATED else cell for cell in cells]
        yield CsvRow(path, reader.line_num, dict(zip(header, once, strict=True)))
    if not rows:
        raise UserError(f"{path} has a header but no rows: fetch it again, or leave it out")


def _folded(cells: Iterable[str]) -> list[str]:
    return [cell.strip().casefold() for cell in cells]


def _parsed(path: Path, reader: "Reader", what: str) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as broken:
        raise UserError(
            f"{path}, line {reader.line_num} is no CSV ({broken}): give {what} as a CSV file, quotes doubled within quotes"
        ) from None


def _text_only(path: Path, stream: IO[str], what: str, *, packed: bool) -> Iterator[str]:
    most, unpacked = max(_UNPACKED_AT_LEAST, _UNPACKED_TIMES * path.stat().st_size), 0
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise UserError(
                f"{path} has a line of more than {_LONGEST_LINE:,} characters, but {what} is a CSV file: fetch it again"
            )
        unpacked += len(line)
        if packed and unpacked > most:
            raise UserError(
                f"{path} unpacks to more than {_UNPACKED_TIMES} times its size, which no CSV does: unpack it yourself "
                "and look at it"
            )
        if "\0" in line:
            raise UserError(f"{path} is a binary file, but {what} is a CSV file: give the CSV in UTF-8")
        yield line
