"""Read a file of any form as a frame (`velo.streams.importers.frame`).

Forms: CSV with any of `,` `;` tab `|`, JSON, NDJSON, Parquet and Excel (xlsx), recognised by content; plain or in gzip, bzip2,
zip or tar. An archive holds one frame for each of its files, a workbook one for each sheet. Numbers, dates and truths become text, so that
every form is read by the same readers. Whatever is wrong with a file is a `UserError` of one line.
"""

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from velo.errors import UserError
from velo.streams.importers.columns import value_of
from velo.streams.importers.dead_letters import json_value
from velo.streams.importers.file_kinds import BZIP2, EXCEL, GZIP, PARQUET, TAR, ZIP, file_kind, refuse_other_kind
from velo.streams.importers.frame import Column, Frame
from velo.streams.importers.json_rows import json_rows
from velo.streams.importers.tables import parquet_table
from velo.streams.importers.workbook import sheets

SEPARATORS: Final = ",;\t|"
WANTED: Final = "a file of races is CSV, JSON, NDJSON, Parquet or xlsx, plain or in gzip, bzip2, zip or tar"
_SAMPLE_BYTES: Final = 2**16
_LONGEST_HEADER: Final = 2**20
_UNPACKED_AT_LEAST: Final = 2**24
_UNPACKED_TIMES: Final = 200
"""A file of results unpacks to ten or thirty times its size; one that unpacks to 200 times is made to fill the memory."""
_MOST_JSON: Final = 2**28
"""More takes tens of gigabytes as Python objects."""
_DAMAGED: Final = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
    RuntimeError,
)


def frames(path: Path, rows_at: str | None = None, encoding: str = "utf-8") -> Iterator[Frame]:
    """Yield the frame of a file, or of each file in a zip.

    `rows_at` is the path to the rows in JSON, `results.runners`: its objects' own fields are columns too, named by their path.
    Without it the path with the most rows is used. `encoding` is that of a CSV. Raises `UserError` for a file that cannot be read.
    """
    for label, stream in contents(path):
        sample = stream.read(_SAMPLE_BYTES)
        stream.seek(0)
        if sample.startswith(b"PK") and file_kind(sample) is EXCEL:
            yield from _from_workbook(label, stream)
        else:
            yield _frame(label, stream, path if label == str(path) else None, rows_at, encoding)


def contents(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the unpacked content of a file, or of each file in a zip, with what begins an error about it.

    Raises `UserError` for a file that cannot be opened or unpacked, or unpacks to an excessive size.
    """
    try:
        with path.open("rb") as file:
            most = _UNPACKED_AT_LEAST + _UNPACKED_TIMES * path.stat().st_size
            yield from _unpacked(str(path), file, most)
    except OSError as refused:
        if refused.errno is None:  # bzip2's word for damaged data
            raise _damaged(path, refused) from None
        raise UserError(f"{path} cannot be read ({refused.strerror}): check the path") from None
    except _DAMAGED as broken:
        raise _damaged(path, broken) from None


def _damaged(path: Path, broken: Exception) -> UserError:
    why = str(broken).splitlines()[0] if str(broken) else "it ends early"
    return UserError(f"{path} is damaged: its compressed data cannot be unpacked ({why}): fetch it again")


def _unpacked(label: str, file: IO[bytes], most: int, depth: int = 0) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the content of a file, or of each file in an archive; an archive in an archive is unpacked once."""
    sample = file.read(_SAMPLE_BYTES)
    kind = file_kind(sample)
    file.seek(0)
    if kind not in (GZIP, BZIP2, ZIP, TAR):
        yield label, file
        return
    if depth > 1:
        raise UserError(f"{label} is an archive in an archive in an archive: unpack it first")
    if kind in (GZIP, BZIP2):
        inner = gzip.GzipFile(fileobj=file) if kind is GZIP else bz2.BZ2File(file)
        yield from _unpacked(label, io.BytesIO(_bounded(label, inner, most)), most, depth + 1)
        return
    empty = True
    for name, member in _members(file) if kind is ZIP else _tar_members(file):
        content = _bounded(f"{label}/{name}", member, most)
        most, empty = most - len(content), False
        yield from _unpacked(f"{label}/{name}", io.BytesIO(content), most, depth + 1)
    if empty:
        raise UserError(f"{label} holds no file: fetch it again")


def _members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files of a zip that may hold rows."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir() and _is_data(member.filename):
                with archive.open(member) as content:
                    yield member.filename, content


def _tar_members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files of a tar that may hold rows; links and devices are none."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and _is_data(member.name) else None
            if content is not None:
                yield member.name, content


def _is_data(name: str) -> bool:
    """Whether a file of a zip may hold rows: no system's own file and no read-me."""
    path = PurePosixPath(name)
    return not (
        path.name.startswith(".") or "__MACOSX" in path.parts or path.suffix.casefold() in (".md", ".txt.asc", ".pdf")
    )


def _bounded(label: str, stream: Any, most: int) -> bytes:
    content: bytes = stream.read(most + 1)
    if len(content) > most:
        raise UserError(
            f"{label} unpacks to more than {_UNPACKED_TIMES} times its size, which no file of results does: unpack it "
            "yourself and look at it"
        )
    return content


def _frame(label: str, stream: Any, path: Path | None, rows_at: str | None, encoding: str) -> Frame:
    sample = stream.read(_SAMPLE_BYTES)
    if not sample.strip():
        raise UserError(f"{label} is empty: export it again, or leave it out")
    utf16 = sample.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not utf16:
        refuse_other_kind(label, sample, WANTED, PARQUET)
    if file_kind(sample) is PARQUET:
        return _from_parquet(label, path)
    content = sample + stream.read()
    begins = content[:_SAMPLE_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begins in (b"{", b"["):
        return _from_json(label, content, rows_at)
    return _from_csv(label, content, "utf-16" if utf16 else encoding)


def _from_parquet(label: str, path: Path | None) -> Frame:
    if path is None:
        raise UserError(f"{label} is a Parquet file in an archive: unpack it first, and give the file in it")
    try:
        table = parquet_table(path)
    except (pa.ArrowException, OSError) as broken:
        raise UserError(f"{label} cannot be read ({' '.join(str(broken).split())[:200]}): export it again") from None
    columns = {
        name.strip(): Column.of([_as_text(cell) for cell in table[name].to_pylist()]) for name in table.column_names
    }
    return _with_rows(Frame.of(label, columns, table.num_rows, 0))


def _from_workbook(label: str, stream: IO[bytes]) -> Iterator[Frame]:
    """Yield each sheet of a workbook that has a header and rows."""
    found = False
    for name, rows in sheets(label, stream):
        header, cells = rows[0], rows[1:]
        if cells:
            found = True
            names = [title or f"column {at + 1}" for at, title in enumerate(header)]
            if twice := next((title for title in names if names.count(title) > 1), None):
                raise UserError(f"{label}/{name} has the column {twice!r} more than once: keep one of them")
            columns = {title: Column.of([row[at] for row in cells]) for at, title in enumerate(names)}
            yield Frame.of(f"{label}/{name}", columns, len(cells), 2)
    if not found:
        raise UserError(f"{label} has no sheet with a header and rows: export it again, or leave it out")


def _from_json(label: str, content: bytes, rows_at: str | None) -> Frame:
    if len(content) > _MOST_JSON:
        raise UserError(f"{label} has more than {_MOST_JSON:,} bytes, but JSON is read whole: split it")
    rows = json_rows(label, content, rows_at)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: Column.of([_as_text(row.get(name)) for row in rows]) for name in names}
    return _with_rows(Frame.of(label, columns, len(rows)))


def _as_text(value: object) -> str | None:
    """Return a value of JSON or Parquet as a CSV has it; a whole float loses its zero fraction."""
    if value is None or value is False or value is True:
        return None if value is None else str(value).lower()
    shown = json_value(value)
    return None if shown is None else value_of(shown, "text") if not isinstance(shown, dict | list) else str(shown)


def _from_csv(label: str, content: bytes, encoding: str) -> Frame:
    if encoding.casefold().replace("-", "") != "utf8":
        try:
            content = content.decode(encoding).encode()
        except UnicodeDecodeError:
            raise UserError(f"{label} is not {encoding} text: save it as CSV in UTF-8") from None
    if b"\0" in content[:_SAMPLE_BYTES]:
        raise UserError(f"{label} is a binary file, but {WANTED}: export it as one of these")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        headers = {separator: _header(content, separator) for separator in SEPARATORS}
    except csv.Error as broken:
        raise UserError(f"{label} has a header that is no CSV ({broken}): export it again") from None
    separator = max(SEPARATORS, key=lambda each: len(headers[each]))
    ragged: list[tuple[int | None, int, int]] = []

    def note_ragged(row: arrow_csv.InvalidRow) -> str:
        ragged.append((row.number, row.actual_columns, row.expected_columns))
        return "error"

    try:
        # on one thread: an error then names its row
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=note_ragged
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(headers[separator], pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        names = table.column_names
    except UnicodeDecodeError:
        raise UserError(f"{label} is not UTF-8 text: save it as CSV in UTF-8") from None
    except pa.ArrowException as broken:
        if ragged:
            number, cells, expected = ragged[0]
            raise UserError(
                f"{label}, line {number} has {cells} cells, the header {expected}: quote the cells that hold "
                f"{separator!r}, or fetch the file again if it was cut short"
            ) from None
        why = " ".join(str(broken).split())[:200]
        advice = "save it as CSV in UTF-8" if "UTF8" in why or "utf" in why.casefold() else "export it again"
        raise UserError(f"{label} cannot be read as CSV ({why}): {advice}") from None
    columns: dict[str, Column] = {}
    for at, name in enumerate(names):
        shown = name.strip() or f"column {at + 1}"
        if shown in columns:
            raise UserError(f"{label} has the column {shown!r} more than once: keep one of them")
        columns[shown] = _encoded(table.column(at))
    return _with_rows(Frame.of(label, columns, table.num_rows, 2))


def _header(content: bytes, separator: str) -> list[str]:
    """Return the cells of the header, which may hold line breaks in quotes."""
    begins = content[:_LONGEST_HEADER].decode(errors="ignore")
    lines = csv.reader(io.StringIO(begins, newline=""), delimiter=separator)
    return next((cells for cells in lines if cells), [])


def _encoded(column: pa.ChunkedArray) -> Column:
    if pa.types.is_null(column.type):
        return Column([None], np.full(len(column), -1, np.int32))
    coded = pc.utf8_trim_whitespace(column).combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    return Column(
        [*(word or None for word in coded.dictionary.to_pylist()), None],
        coded.indices.fill_null(-1).to_numpy(zero_copy_only=False),
    )


def _with_rows(frame: Frame) -> Frame:
    if not frame.rows or not frame.columns:
        raise UserError(f"{frame.label} has no rows: export it again, or leave it out")
    return frame
