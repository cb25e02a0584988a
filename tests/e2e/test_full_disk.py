"""A disk that is really full: one line and exit code 2, nothing acknowledged is lost, and it goes on once there is room."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cli import velo_forked
from tests.support.logs import a_store, bytes_of
from tests.support.stores import NOW, Conformance, rows_apart
from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.storage.log import reader
from velo.storage.store import Home, Store
from velo.streams.audit import audit
from velo.streams.dataflow.plan import error_if_full

pytestmark = pytest.mark.usefixtures("fresh_batches")

DISK_MB = 48


@dataclass
class Disk:
    """A small file system of its own, mounted at `root`."""

    root: Path

    def fill(self, leave_kb: int) -> None:
        """Take all room but so much."""
        room = os.statvfs(self.root)
        with (self.root / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave_kb * 1024)

    def free(self) -> None:
        """Give the room back."""
        (self.root / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs; without the right to mount one the test is skipped."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "velo-test", str(root)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("NOT TESTED: a full disk, for want of the right to mount a small one (run as root to test it)")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def london(shared: Path) -> Path:
    return shared / "conformance" / "london.parquet"


@pytest.fixture
def whole(conformance: Conformance) -> Store:
    """The same log, on a disk with room, and its tables; never written to."""
    return conformance("london").store


def test_an_ingest_goes_on_where_the_disk_was_full(disk: Disk, london: Path, whole: Store) -> None:
    """Part of a load got in: the log is whole as far as it goes, and the same command ends in the same log."""
    home = disk.root / "home"
    disk.fill(leave_kb=700)
    velo_forked("ingest", "runners", london, home=home).told("make room")
    store = a_store(home)
    assert reader.check(store.home) == []
    velo_forked("ingest", "runners", london, home=home).told("make room")
    disk.free()
    assert velo_forked("ingest", "runners", london, home=home).code == 0
    assert bytes_of(store.home) == bytes_of(whole.home)


def test_a_build_that_finds_no_room_leaves_the_tables_as_they_were(disk: Disk, london: Path, whole: Store) -> None:
    """The generation of before is served until the next is whole."""
    home = disk.root / "home"
    assert velo_forked("ingest", "runners", london, home=home).code == 0
    disk.fill(leave_kb=900)
    velo_forked("build", home=home).told("room")
    assert not (home / "offline").exists()
    disk.free()
    assert velo_forked("build", home=home).code == 0
    assert rows_apart(a_store(home), whole) == []


def test_the_engines_error_over_a_full_disk_is_a_line_with_its_remedy_and_another_is_not(tmp_path: Path) -> None:
    """It is a panic, or a RuntimeError where the disk fills while the engine closes an epoch."""
    full = RuntimeError(
        'called `Result::unwrap()` on an `Err` value: SqliteFailure(Error { code: DiskFull }, Some("…"))'
    )
    with pytest.raises(UserError, match=r"No space left on device.: make room, then start the stream again"):
        raised_in_the_engine(full, tmp_path)
    for other in (
        RuntimeError("called `Result::unwrap()` on an `Err` value: SqliteFailure(Error { code: Busy })"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(other)):
            raised_in_the_engine(other, tmp_path)


def raised_in_the_engine(error: BaseException, home: Path) -> None:
    with error_if_full(Home(home)):
        raise error


@pytest.mark.parametrize("leave_kb", [60, 1500], ids=["for the engine's recovery store", "for the tables"])
def test_a_stream_that_finds_no_room_ends_with_a_line_and_goes_on_later(
    disk: Disk, london: Path, tmp_path: Path, leave_kb: int
) -> None:
    """Offline and online end as if there had been room all the time."""
    home = disk.root / "home"
    assert velo_forked("ingest", "runners", london, home=home).code == 0
    elsewhere = Home(tmp_path / "redis")
    url = embedded_redis.ensure(elsewhere)
    try:
        disk.fill(leave_kb)
        said = velo_forked("stream", "--once", "--snapshot-seconds", 0, home=home, REDIS_URL=url)
        assert said.code == 2, said.err
        last = said.err.rstrip().splitlines()[-1]
        assert last.startswith("velo: "), said.err
        assert "room" in last
        assert "Traceback" not in said.err
        disk.free()
        assert velo_forked("stream", "--once", home=home, REDIS_URL=url).code == 0
        report = audit(a_store(home), NOW, client=connect_url(url))
        assert (report.found, report.next_seq) == (0, 1140)
    finally:
        embedded_redis.down(elsewhere)
