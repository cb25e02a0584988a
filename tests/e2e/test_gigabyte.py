"""A gigabyte on one line, where a race has some kilobytes: one clear line comes back, and the memory stays small.

The files are as long as they say and take no room on the disk: what is between their first and last bytes is a hole.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_hostile_inputs import a_result
from tests.support import forked
from tests.support.builders import a_race, a_runner, write_csv
from tests.support.cli import OURS, Ran, velo
from tests.support.logs import NOON, a_store, told
from tests.support.shared import REPO
from velo.errors import Refused
from velo.racing.clock import to_text
from velo.storage.log import writer as log_writer
from velo.storage.log.format import RECORD_BYTES, framed, segments
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home
from velo.streams.importers.rpscrape_tree import MAX_BYTES as CARD_BYTES

GIGABYTE = 2**30
ROOM_MB = 400
"""What a process may take at its most, beyond what it has once DuckDB, pyarrow and Feast are imported."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    velo("down", home=tmp_path / "home")


def long_file(path: Path, begins: bytes, ends: bytes) -> Path:
    """A file of a gigabyte and a bit, whose middle is a hole."""
    with path.open("wb") as file:
        file.write(begins)
        file.seek(GIGABYTE)
        file.write(ends)
    assert path.stat().st_size > GIGABYTE
    assert path.stat().st_blocks * 512 < 2**22, "the disk keeps no holes: this would fill it"
    return path


def frugal(*argv: object, home: Path) -> Ran:
    """Run `velo` in a process of its own, and hold it to its room."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    grown = home.parent / "grown"
    program, given = "tests.support.measured", [str(grown), *map(str, argv)]
    ran = Ran(*forked.ran(program, given, cwd=REPO, environ=kept | {"VELO_HOME": str(home)}, seconds=300.0))
    assert int(grown.read_text()) < ROOM_MB * 1024, f"{argv}: {int(grown.read_text()) // 1024} MB"
    return ran


def taken(home: Path) -> None:
    """The good message behind it was taken, the log is whole, and the tables can be made of it."""
    assert velo("log", "check", home=home).code == 0
    assert velo("build", home=home).code == 0
    held = velo("sql", "select distinct horse_id from horse_form", "--json", home=home)
    assert [each["horse_id"] for each in held.document] == ["arkle"]


def test_a_feeds_line_of_a_gigabyte_is_one_dead_letter(home: Path, tmp_path: Path) -> None:
    day = long_file(tmp_path / "day.jsonl", b'{"type":"result","junk":"', b'"}\n' + a_result("good", "Arkle") + b"\n")
    assert frugal("feed", "redis", day, "--key", "racing", home=home).code == 0
    ran = frugal("ingest", "--follow", "--redis", "racing", "--once", "--json", home=home)
    report = json.loads(ran.out)
    assert (report["refused"], report["appended"]) == ({"too long": 1}, 1)
    assert home.joinpath("dead-letters.ndjson").stat().st_size < 2**20
    taken(home)


@pytest.mark.parametrize(
    ("argv", "name", "begins", "said"),
    [
        (("cards", "rpscrape"), "cards.json", b'{"GB":{"Ascot":{"13:30":"', f"more than {CARD_BYTES:,} bytes"),
        (("cards", "runners"), "cards.csv", b"race_id,race_date,course,horse\n1,2024-05-01,Ascot,", "cannot be read"),
        (("ingest", "runners"), "rows.csv", b"race_id,race_date,course,horse,status\n1,2024-05-01,", "cannot be read"),
        (("ingest", "runners"), "header.csv", b"race_id,race_date,", "cannot be read"),
        (("ingest", "raceform"), "rows.csv", b'date,course,off,horse,pos\n2024-05-01,"', "a line of more than"),
        (
            ("ingest", "betfair-sp"),
            "rows.csv",
            b'EVENT_DT,EVENT_NAME,MENU_HINT,SELECTION_NAME,BSP\n1,"',
            "a line of more than",
        ),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, tuple) else "",
)
def test_a_file_with_a_field_of_a_gigabyte_is_refused_in_a_line(
    home: Path, tmp_path: Path, argv: tuple[str, ...], name: str, begins: bytes, said: str
) -> None:
    """A file is distinguished from a binary one by its first bytes, so that those are text here."""
    path = long_file(tmp_path / name, begins + b"x" * 2**17, b"x,1,FINISHED\n")
    frugal(*argv, path, home=home).told(str(path), said)
    assert not list(home.glob("log/*"))


def test_a_race_too_long_for_a_record_is_a_dead_letter_and_every_other_race_is_taken(
    home: Path, tmp_path: Path
) -> None:
    """In the log it would be read by no build, ever: the log refuses it, and keeps its rows out of the letter."""
    note = "x" * 1_000_000
    rows = [row | {"note": note} for row in a_race(*(a_runner(f"h{n}", n) for n in range(1, 90)), race_id="long")]
    path = write_csv(tmp_path / "rows.csv", [*rows, *(row | {"note": ""} for row in a_race(race_id="good"))])
    ran = velo("ingest", "runners", path, "--json", home=home)
    assert (ran.document["refused"], ran.document["appended"]) == ({"too long": 1}, 1)
    assert home.joinpath("dead-letters.ndjson").stat().st_size < 2000
    tried = velo("dead-letters", "replay", home=home)
    assert "correct the file" in tried.out, tried
    assert velo("log", "check", home=home).code == 0
    assert velo("build", home=home).code == 0


@pytest.mark.parametrize("known_at", [None, "2024-05-01 08:00"], ids=["as it arrives", "with its instant"])
def test_a_card_too_long_for_a_record_is_a_dead_letter_and_every_other_card_is_taken(
    known_at: str | None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "RECORD_BYTES", 4096)
    rows = [
        {
            "race_id": race_id,
            "race_date": "2024-05-01",
            "course": "Ascot",
            "horse": race_id,
            "note": "x" * length,
            "known_at": known_at,
        }
        for race_id, length in (("long", 5000), ("good", 10))
    ]
    ran = velo("cards", "runners", write_csv(tmp_path / "cards.csv", rows), "--json", home=home)
    assert (ran.document["refused"], ran.document["appended"]) == ({"too long": 1}, 1)
    letters = velo("dead-letters", "--json", home=home).document
    assert "too long" in str(letters)
    assert "long" in str(letters)


def test_the_log_takes_no_record_that_the_batch_would_not_read(tmp_path: Path) -> None:
    sql = (REPO / "streams/batch/sql/log.sql").read_text(encoding="utf-8")
    assert f"maximum_object_size = {RECORD_BYTES}," in sql
    with LogWriter.open(a_store(tmp_path / "home", "Europe/London"), clock=lambda: NOON) as writer:
        with pytest.raises(Refused, match="a record of the log has"):
            writer.append(told("R1", None), {"note": "x" * RECORD_BYTES})
        assert writer.append(told("R1", None)).seq == 0


def a_log_of_one(home: Path) -> Path:
    """A log with one race; returns its segment."""
    assert (
        velo("ingest", "runners", write_csv(home.parent / "rows.csv", a_race(a_runner("Arkle", 1))), home=home).code
        == 0
    )
    (segment,) = segments(Home(home))
    return segment.path


def test_a_torn_tail_of_a_gigabyte_is_reported_and_cut_by_the_next_writer(home: Path) -> None:
    """As a disk leaves it that had the room of a file before its bytes."""
    path = a_log_of_one(home)
    whole = path.stat().st_size
    os.truncate(path, GIGABYTE)
    checked = frugal("log", "check", "--json", home=home)
    assert checked.code == 1
    assert f"the last {GIGABYTE - whole} bytes are not a whole record" in checked.out
    assert frugal("build", home=home).code == 0
    assert frugal("tick", home=home).code == 0
    assert whole < path.stat().st_size < 2 * whole
    taken(home)


def test_a_line_of_a_gigabyte_within_the_log_is_reported_with_its_place(home: Path) -> None:
    path = a_log_of_one(home)
    whole = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(GIGABYTE)
        file.write(b"\n")
        file.write(framed(2, "0" * 16, to_text(NOON.replace(year=2090)), b'"type":"tick","schema_version":2}'))
    checked = frugal("log", "check", "--json", home=home)
    assert checked.code == 1
    assert f"byte {whole}" in checked.out
    frugal("build", home=home).told(f"is damaged at byte {whole}", "velo log check")
    frugal("tick", home=home).told(f"is damaged at byte {whole}", "velo log check")
    assert path.stat().st_size > GIGABYTE, "nothing is cut that a whole record follows"


def test_a_body_of_a_gigabyte_is_cut_off_at_the_bound_and_the_service_stays_up(home: Path) -> None:
    """In chunks without a length, and with one that says a gigabyte: 413 after some hundred kilobytes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**{name: value for name, value in os.environ.items() if name not in OURS}, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "velo.cli", "serve", "--port", str(port)]
    environ |= {"VELO_HOME": str(home), "VELO_TOKEN": "a token"}
    with forked.Popen(command, cwd=REPO, env=environ, stderr=subprocess.PIPE) as server:
        try:
            while (
                b"200 OK"
                not in asked(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[0]
            ):
                assert server.poll() is None, server.stderr.read()
                time.sleep(0.05)
            before = held_kb(server.pid)
            head = b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer a token\r\n"
            for claim, begin, end in (
                (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n", b"\r\n"),
                (b"Content-Length: %d\r\n\r\n" % GIGABYTE, b"", b""),
            ):
                answer, sent = asked(port, head + claim, begin + b" " * 2**16 + end)
                assert b" 413 " in answer
                assert sent < 2**25, "the rest of a gigabyte was taken from the wire"
            assert held_kb(server.pid) - before < 2**15
            assert b"200 OK" in asked(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[0]
        finally:
            server.terminate()


def asked(port: int, head: bytes, block: bytes = b"") -> tuple[bytes, int]:
    """What a server answers to a head and as many blocks as make a gigabyte, or as it takes; and how much it took."""
    sent = 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(head)
            try:
                while block and sent < GIGABYTE:
                    line.sendall(block)
                    sent += len(block)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = b""
            while more := line.recv(2**16):
                answer += more
            return answer, sent
    except (ConnectionRefusedError, ConnectionResetError):
        return b"", sent


def held_kb(pid: int) -> int:
    """The most memory that a running process held."""
    held = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert held
    return int(held[1])
