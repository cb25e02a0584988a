"""Recognise a file by its first bytes, whatever its name, so that the error for a wrong one is accurate."""

from pathlib import Path
from typing import Final, NamedTuple

from velo.errors import UserError


class FileKind(NamedTuple):
    """A kind of file: its name, and how to get at the values in it."""

    name: str
    remedy: str


GZIP: Final = FileKind("a gzip file", "unpack it first (`gunzip`), and give the file in it")
PARQUET: Final = FileKind(
    "a Parquet file", "save it as CSV in UTF-8, or, if it is a runner table, say `velo ingest runners`"
)
BZIP2: Final = FileKind("a bzip2 file", "unpack it first (`bunzip2`), and give the file in it")
ZIP: Final = FileKind("a zip archive", "unpack it first (`unzip`), and give the file in it")
TAR: Final = FileKind("a tar archive", "unpack it first (`tar -xf`), and give the file in it")
EXCEL: Final = FileKind("an Excel workbook", "save its sheet as CSV in UTF-8")
_OPEN_DOCUMENT: Final = FileKind("an OpenDocument spreadsheet", "save its sheet as CSV in UTF-8")
_HTML: Final = FileKind(
    "a web page (HTML)", "download the data itself: the address may have answered with an error or a login page"
)
_UTF16: Final = FileKind("UTF-16 text", "save it in UTF-8")
_SIGNATURES: Final[tuple[tuple[bytes, FileKind], ...]] = (
    (b"\x1f\x8b", GZIP),
    (b"PAR1", PARQUET),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", FileKind("an xz file", "unpack it first (`unxz`), and give the file in it")),
    (b"\x28\xb5\x2f\xfd", FileKind("a zstd file", "unpack it first (`unzstd`), and give the file in it")),
    (b"\x04\x22\x4d\x18", FileKind("an lz4 file", "unpack it first (`unlz4`), and give the file in it")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", "unpack it first (`7z x`), and give the file in it")),
    (b"Rar!\x1a\x07", FileKind("a RAR archive", "unpack it first (`unrar x`), and give the file in it")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", EXCEL),
    (b"%PDF-", FileKind("a PDF", "get the data as CSV: a printed page holds no columns")),
    (b"ARROW1", FileKind("an Arrow (Feather) file", "save it as CSV in UTF-8 or as Parquet")),
    (b"SQLite format 3\x00", FileKind("an SQLite database", "export its table as CSV in UTF-8")),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
)
_TAR_AT: Final = 257
_PACKED_SHEET_WITHIN: Final = 4096


def file_kind(sample: bytes) -> FileKind | None:
    """Return the kind that a file's first bytes (500 or more) show; None for text and for unknown kinds."""
    kind = next((kind for signature, kind in _SIGNATURES if sample.startswith(signature)), None)
    if kind is ZIP:
        begins = sample[:_PACKED_SHEET_WITHIN]
        if b"[Content_Types].xml" in begins or b"xl/" in begins:
            return EXCEL
        return _OPEN_DOCUMENT if b"opendocument.spreadsheet" in begins else ZIP
    if kind is None and sample[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return TAR
    text = sample[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return _HTML if kind is None and text.startswith((b"<!doctype html", b"<html")) else kind


def refuse_other_kind(path: Path | str, sample: bytes, wanted: str, *read: FileKind) -> None:
    """Raise `UserError` for a file of a known kind other than `read`. `wanted` completes the error: "… is a CSV file"."""
    kind = file_kind(sample)
    if kind is not None and kind not in read:
        raise UserError(f"{path} is {kind.name}, but {wanted}: {kind.remedy}")
