"""What a crash, a full disk or a reader in between meets: whole records, and a log that goes on."""

import os
import resource
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import forked, killed
from tests.support.killed import SEGMENT_BYTES, a_big_load
from tests.support.logs import NOON, a_store, bytes_of, fixed, held, logged, told
from velo.errors import UserError
from velo.racing.messages import GoingChange
from velo.storage import jsonl
from velo.storage.log import format as log_segments
from velo.storage.log import reader
from velo.storage.log.format import complete_length, framed, last_whole, segments
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store

HOUR = timedelta(hours=1)


def test_a_torn_last_record_is_never_read_and_is_repaired_by_the_next_writer(store: Store) -> None:
    """Torn at every byte: the record cut there is not read, and sent again it makes the same file."""
    logged(store, told("R1"), told("R2", NOON + HOUR))
    path = segments(store.home)[0].path
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert complete_length(path) == first
        assert [message.race_id for message in held(store)] == ["R1"]
        assert reader.end(store.home).next_seq == 1
        logged(store, told("R2", NOON + HOUR))
        assert path.read_bytes() == whole


def test_a_first_record_torn_leaves_an_empty_log_that_can_be_written(store: Store) -> None:
    logged(store, told())
    path = segments(store.home)[0].path
    path.write_bytes(path.read_bytes()[:-1])
    assert held(store) == []
    logged(store, told())
    assert held(store) == [told()]


def test_a_damaged_tail_of_whole_lines_is_kept_beside_the_segment(store: Store) -> None:
    """A write cut short leaves part of a line; whole lines that do not check were something once."""
    logged(store, told("R1"), told("R2", NOON + HOUR))
    path = segments(store.home)[0].path
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first] + whole[first:].replace(b"Ascot", b"Epsom"))
    logged(store, told("R3", NOON + 2 * HOUR))
    assert [message.race_id for message in held(store)] == ["R1", "R3"]
    assert [each.read_bytes() for each in store.home.log.glob("*.torn-*")] == [
        whole[first:].replace(b"Ascot", b"Epsom")
    ]


def test_the_tail_is_found_behind_records_of_any_length(store: Store) -> None:
    """Longer and shorter than the blocks in which the tail is read."""
    for size in (1, 60_000, 70_000, 200_000):
        logged(store, GoingChange(f"R{size}", "x" * size, NOON))
        path = segments(store.home)[-1].path
        whole = path.stat().st_size
        with path.open("ab") as file:
            file.write(b'{"crc":"' + b"y" * size)
        assert complete_length(path) == whole
        assert reader.end(store.home).next_seq == len(held(store))


PIECES = st.sampled_from(
    [framed(1, "0" * 16, "2024-05-01T12:00:00.000000Z", b'"x":"%s"}' % (b"y" * size)) for size in (0, 40, 900)]
    + [b"junk", b"\n", b"\0" * 1000, b"a line\n", b"x" * 500]
)


@given(st.lists(PIECES, max_size=12))
@settings(max_examples=300)
def test_the_last_whole_record_is_the_one_that_reading_all_lines_finds(pieces: list[bytes]) -> None:
    """Read from the end in small blocks, with lines too long for a record left out, against every line in turn."""
    content, most, place, last = b"".join(pieces), 400, 0, (0, b"")
    for line in content.splitlines(keepends=True):
        place += len(line)
        if line.endswith(b"\n") and jsonl.is_whole(line) and len(line) <= most:
            last = (place, line)
    with pytest.MonkeyPatch.context() as patched, NamedTemporaryFile() as file:
        patched.setattr(log_segments, "RECORD_BYTES", most)
        patched.setattr(log_segments, "_TAIL_BLOCK", 64)
        Path(file.name).write_bytes(content)
        assert last_whole(Path(file.name)) == last


@pytest.mark.slow
@pytest.mark.parametrize(("kill_at", "torn_bytes"), [(500, 0), (2000, 1), (2500, 211), (3500, 7)])
def test_a_load_killed_and_repeated_ends_in_the_same_log(tmp_path: Path, kill_at: int, torn_bytes: int) -> None:
    """kill -9 in a process of its own, its last write torn besides."""
    whole, cut = a_store(tmp_path / "whole"), a_store(tmp_path / "cut")
    with LogWriter.open(whole, clock=fixed(), segment_bytes=SEGMENT_BYTES) as writer:
        writer.load(a_big_load())
    assert forked.called(killed.load, cut.home.root, kill_at) == -signal.SIGKILL
    left = segments(cut.home)
    assert 0 < len(left) < len(segments(whole.home))
    os.truncate(left[-1].path, max(0, left[-1].path.stat().st_size - torn_bytes))
    with LogWriter.open(cut, clock=fixed(), segment_bytes=SEGMENT_BYTES) as writer:
        report = writer.load(a_big_load())
    assert 0 < report.appended < 4000
    assert bytes_of(cut.home) == bytes_of(whole.home)


def test_a_write_that_fails_leaves_no_part_of_a_record(store: Store) -> None:
    """The disk is full, as far as this process can see."""
    logged(store, told("R1"))
    before = bytes_of(store.home)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LogWriter.open(store, clock=fixed()) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(next(iter(before.values()))) + 100, limits[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write to the log .* make room"):
                writer.append(told("R2"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert bytes_of(store.home) == before
        with pytest.raises(UserError, match="open the log again"):
            writer.append(told("R3"))
    logged(store, told("R2", NOON + HOUR))
    assert [message.race_id for message in held(store)] == ["R1", "R2"]


def test_whole_records_that_a_failed_write_left_are_of_the_log(store: Store) -> None:
    """A reader may have met them, so they are not taken back; the load repeated ends in the log of one that went well."""
    load = [told(f"R{number:05d}", NOON + number * HOUR) for number in range(300)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LogWriter.open(store, clock=fixed()) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(UserError, match="make room"):
                writer.load(load)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 10 < len(held(store)) < 300
    assert segments(store.home)[0].path.read_bytes().endswith(b"\n")
    assert reader.check(store.home) == []
    whole = a_store(store.home.root.with_name("whole"))
    for each in (store, whole):
        logged(each, *load)
    assert bytes_of(store.home) == bytes_of(whole.home)


def test_a_folder_that_cannot_be_made_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = replace(a_store(tmp_path / "home"), home=type(a_store(tmp_path / "home").home)(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match="set VELO_HOME to a place you may write to"):
        LogWriter.open(store, clock=fixed())


def test_reading_meets_no_torn_record_while_a_writer_appends(store: Store) -> None:
    """Read after every few bytes of a record that is being written."""
    logged(store, told("R1"), told("R2", NOON + HOUR))
    path = segments(store.home)[0].path
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first])
    reading = reader.records(store.home)
    with path.open("ab", buffering=0) as file:
        for at in range(first, len(whole), 7):
            assert [record["seq"] for record in reader.records(store.home)] == [0]
            file.write(whole[at : at + 7])
    assert [record["seq"] for record in reading] == [0, 1]
