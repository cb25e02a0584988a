"""A file of another kind is recognised by its content, not its name, by every command that takes files."""

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.support.cli import velo
from tests.support.raceform_rows import ROW, SECOND, written
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.feeds.producer import bodies

COMMANDS = (
    ("ingest", "raceform"),
    ("ingest", "runners"),
    ("ingest", "betfair-sp"),
    ("cards", "runners"),
    ("cards", "rpscrape"),
)
CSV = b"date,course,off,horse,pos\n2024-05-01,Ascot,2:00,Arkle (IRE),1\n"


def zipped(*names: str, first: bytes = CSV) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            archive.writestr(name, first)
    return whole.getvalue()


def a_tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        entry = tarfile.TarInfo("results.csv")
        entry.size = len(CSV)
        archive.addfile(entry, io.BytesIO(CSV))
    return whole.getvalue()


def a_database() -> bytes:
    with sqlite3.connect(":memory:") as made:
        made.execute("create table results (date text)")
        return made.serialize()


def an_arrow_file() -> bytes:
    table, whole = pa.table({"date": ["2024-05-01"]}), io.BytesIO()
    with pa.ipc.new_file(whole, table.schema) as writer:
        writer.write_table(table)
    return whole.getvalue()


def a_zstd() -> bytes:
    whole: bytes = pa.compress(CSV, codec="zstd", asbytes=True)
    return whole


KINDS: list[tuple[bytes, str, str]] = [
    (zipped("results.csv"), "a zip archive", "unzip"),
    (zipped(), "a zip archive", "unzip"),
    (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "CSV in UTF-8"),
    (zipped("mimetype", first=b"application/vnd.oasis.opendocument.spreadsheet"), "an OpenDocument spreadsheet", "CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512, "an Excel workbook", "CSV in UTF-8"),
    (bz2.compress(CSV), "a bzip2 file", "bunzip2"),
    (lzma.compress(CSV), "an xz file", "unxz"),
    (a_zstd(), "a zstd file", "unzstd"),
    (a_tar(), "a tar archive", "tar -xf"),
    (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7-Zip archive", "7z x"),
    (b"Rar!\x1a\x07\x01\x00", "a RAR archive", "unrar x"),
    (b"%PDF-1.7\n%\xe2\xe3", "a PDF", "get the data as CSV"),
    (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "a web page", "login page"),
    (b"\xef\xbb\xbf\n <HTML>", "a web page", "login page"),
    (an_arrow_file(), "an Arrow (Feather) file", "Parquet"),
    (a_database(), "an SQLite database", "export its table"),
    ("date,course\n".encode("utf-16"), "UTF-16 text", "UTF-8"),
]


@pytest.mark.parametrize("name", ["results.csv", "results.zip", "cards.json"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_the_kind_is_recognised_whatever_the_name_says(kind: tuple[bytes, str, str], name: str, tmp_path: Path) -> None:
    content, found, remedy = kind
    path = tmp_path / name
    path.write_bytes(content)
    for command in COMMANDS if name == "results.csv" else COMMANDS[:1]:
        velo(*command, path, home=tmp_path / "home").told(f"{path} is {found}", remedy)
    assert not (tmp_path / "home" / "log").exists()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != ("cards", "rpscrape")])
def test_gzip_is_read_where_a_csv_is_and_reported_where_a_table_is(command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(gzip.compress(b"x"))
    words = ("is a gzip file", "gunzip") if "runners" in command else ("no column",)
    velo(*command, path, home=tmp_path / "home").told(str(path), *words)


@pytest.mark.parametrize(
    "content", [gzip.compress(b'{"type": "tick"}'), zipped("messages.ndjson")], ids=["gzip", "zip"]
)
def test_what_is_packed_is_not_sent_as_lines_of_messages(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "messages.ndjson"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"messages are JSON lines: unpack it first"):
        list(bodies([path], Store.open(Settings(home=tmp_path / "home"))))


def test_gzip_is_known_by_its_content_and_text_under_its_name_is_read(tmp_path: Path) -> None:
    plain = written(tmp_path / "results.csv", ROW, ROW | SECOND)
    packed, misnamed = tmp_path / "packed.csv", tmp_path / "plain.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    misnamed.write_bytes(plain.read_bytes())
    for number, path in enumerate((packed, misnamed)):
        ran = velo("ingest", "raceform", path, "--json", home=tmp_path / f"home{number}")
        assert ran.document["appended"] == 1


def test_parquet_is_read_as_a_runner_table_and_reported_elsewhere(tmp_path: Path) -> None:
    row = {"race_id": ["R1"], "race_date": ["2024-05-01"], "course": ["Ascot"], "horse": ["Arkle"]}
    path = tmp_path / "table.csv"
    parquet.write_table(pa.table(row | {"status": ["FINISHED"], "position": [1]}), path)
    assert velo("ingest", "runners", path, "--json", home=tmp_path / "home").document["appended"] == 1
    for command in (("ingest", "raceform"), ("ingest", "betfair-sp"), ("cards", "rpscrape")):
        velo(*command, path, home=tmp_path / "home").told("is a Parquet file", "velo ingest runners")
