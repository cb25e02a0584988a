"""The stream's reader holds no more of the log than a record may have, whatever stands in it."""

import tracemalloc
from pathlib import Path

import pytest

from tests.support.logs import NOON, a_store, fixed, logged, told
from velo.storage.log import tail as tail_module
from velo.storage.log.format import segments
from velo.storage.log.tail import LogTail
from velo.storage.store import Store

RECORD_BYTES = 2**22
ENDLESS_BYTES = 2**27


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A log of three records, where no record may be longer than 4 MiB."""
    monkeypatch.setattr(tail_module, "RECORD_BYTES", RECORD_BYTES)
    made = a_store(tmp_path / "home")
    logged(made, *(told(f"R{number}") for number in range(3)), clock=fixed(NOON))
    return made


def test_a_line_without_an_end_is_waited_for_and_not_held(store: Store) -> None:
    """32 times as long as a record may be; what a writer puts in its place is read."""
    [segment] = segments(store.home)
    whole = segment.path.stat().st_size
    with segment.path.open("r+b") as file:
        file.truncate(whole + ENDLESS_BYTES)
    tail = LogTail(store.home, 0)
    try:
        tracemalloc.start()
        assert [line.seq for line in tail.read(10)] == [0, 1, 2]
        assert tail.read(10) == []
        assert tail.read(10) == []
        assert tracemalloc.get_traced_memory()[1] < 3 * RECORD_BYTES
        tracemalloc.stop()
        logged(store, told("R3"), clock=fixed(NOON))
        assert [(line.seq, line.whole) for line in tail.read(10)] == [(3, True)]
    finally:
        tail.close()


def test_a_line_too_long_for_a_record_is_a_damaged_one_and_the_rest_goes_on(store: Store) -> None:
    """Between two whole records, it has its place, and its beginning is shown."""
    [segment] = segments(store.home)
    first, second, third = segment.path.read_bytes().splitlines(keepends=True)
    too_long = second[:-1] + b"x" * ENDLESS_BYTES + b"\n"
    segment.path.write_bytes(first + too_long + third)
    tail = LogTail(store.home, 0)
    try:
        lines = [line for _ in range(3) for line in tail.read(10)]
    finally:
        tail.close()
    assert [(line.seq, line.whole) for line in lines] == [(0, True), (1, False), (2, True)]
    assert lines[1].text == too_long[: tail_module.BEGINNING_BYTES]
    assert (lines[1].place.offset, lines[1].place.length) == (len(first), len(too_long))
