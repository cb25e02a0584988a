"""Checksummed JSON lines and file locks: what every stage stores by."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shared import REPO
from velo.storage import jsonl, locks

REST = b'"seq":7,"horse":"Arkle"}'
LINE = b'{"crc":"%08x",%s\n' % (crc32(REST), REST)
HOLDER = """
import sys
from pathlib import Path
from velo.storage import locks
with locks.holding(Path(sys.argv[1])) as descriptor:
    locks.record_holder(descriptor)
    print("held", flush=True)
    sys.stdin.read()
"""
WAITER = """
import sys
from pathlib import Path
from velo.storage import locks
print("waiting", flush=True)
with locks.holding(Path(sys.argv[1]), wait=True):
    print("acquired", flush=True)
"""
FIELDS = st.dictionaries(st.text(min_size=1), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text())


def started(script: str, path: Path) -> "subprocess.Popen[str]":
    """A process that runs a script on a lock file; its first line of output is read."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() in ("held", "waiting")
    return process


# JSON lines


def test_a_line_has_these_bytes_and_no_others() -> None:
    """The check value of CRC-32 (IEEE 802.3), that of `123456789`, is cbf43926."""
    assert jsonl.frame(b"123456789") == b'{"crc":"cbf43926",123456789\n'
    assert jsonl.frame(REST) == LINE
    assert orjson.loads(LINE) == {"crc": f"{crc32(REST):08x}", "seq": 7, "horse": "Arkle"}


def test_a_line_parses_to_its_fields_without_the_checksum() -> None:
    assert jsonl.parse(LINE) == {"seq": 7, "horse": "Arkle"}
    assert jsonl.parse(LINE.removesuffix(b"\n")) == {"seq": 7, "horse": "Arkle"}


def test_a_line_cut_anywhere_before_its_newline_is_torn() -> None:
    for length in range(len(LINE) - 1):
        assert not jsonl.is_whole(LINE[:length]), length
        assert jsonl.parse(LINE[:length]) is None


def test_a_line_with_any_one_byte_changed_is_damaged() -> None:
    for place in range(len(LINE) - 1):
        changed = LINE[:place] + bytes([LINE[place] ^ 1]) + LINE[place + 1 :]
        assert not jsonl.is_whole(changed), place


@given(FIELDS.filter(lambda fields: fields and "crc" not in fields))
def test_what_is_framed_is_parsed_to_the_same(fields: dict[str, object]) -> None:
    line = jsonl.frame(orjson.dumps(fields)[1:])
    assert line.count(b"\n") == 1
    assert jsonl.parse(line) == fields


# Locks


def test_a_lock_excludes_another_process_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    assert not path.exists(), "a question creates no file"
    with started(HOLDER, path) as holder:
        assert locks.is_held(path)
        with pytest.raises(locks.LockHeld, match=f"locked by process {holder.pid}$") as held:
            locks.acquire(path)
        assert held.value.holder == str(holder.pid)
        holder.kill()
    assert not locks.is_held(path), "the lock ends with its process"
    with locks.holding(path):
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_a_holder_that_recorded_no_pid_is_unknown(tmp_path: Path) -> None:
    for path, flags in ((tmp_path / "lock", locks.OPEN_OR_CREATE), (tmp_path, os.O_RDONLY)):
        descriptor = locks.acquire(path, flags=flags)
        with pytest.raises(locks.LockHeld, match="locked by another process") as held:
            locks.acquire(path, flags=flags)
        assert held.value.holder is None
        os.close(descriptor)


def test_one_that_waits_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.holding(path):
        waiter = started(WAITER, path)
        assert waiter.poll() is None
    assert waiter.communicate(timeout=30)[0].strip() == "acquired"
    assert waiter.returncode == 0


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced between open and flock, once: the lock is then that of the new file."""
    path = tmp_path / "lock"
    flock = fcntl.flock
    calls: list[int] = []

    def replacing(descriptor: int, operation: int) -> None:
        if not calls:
            path.unlink()
            path.write_bytes(b"new")
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replacing)
    with locks.holding(path) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        assert locks.is_held(path)
    assert len(calls) == 3, "twice to acquire, once to ask"


def test_the_lock_of_a_folder_that_is_gone_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    flock = fcntl.flock

    def removing(descriptor: int, operation: int) -> None:
        folder.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removing)
    with pytest.raises(FileNotFoundError):
        locks.acquire(folder, wait=True, flags=os.O_RDONLY)


def test_a_process_that_inherits_the_descriptor_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.holding(path) as descriptor:
        heir = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
        )
    assert locks.is_held(path)
    heir.communicate(timeout=30)
    assert not locks.is_held(path)
