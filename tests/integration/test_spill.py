"""What a join spills to the disk is bounded, and goes with the process that wrote it, killed or not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.shared import REPO
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.changelog import MOST_SPILL_BYTES, SPILL_PREFIX, spill_folder, spill_limit

HOLDER = """
import sys, time
from pathlib import Path
from velo.feature_repo.stores.changelog import spill_folder
with spill_folder(Path(sys.argv[1])) as folder:
    (folder / "block").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


def holder(place: Path) -> "tuple[subprocess.Popen[str], Path]":
    """A process that spills below `place`, and where."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_spilled_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    killed, left = holder(tmp_path)
    living, held = holder(tmp_path)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "block").exists()
        with spill_folder(tmp_path) as own:
            assert not left.exists()
            assert (held / "block").exists()
            assert own.is_dir()
        assert not own.exists()
        assert held.exists()
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_another_folder_of_that_name_which_is_a_link_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / f"{SPILL_PREFIX}link").symlink_to(kept)
    with spill_folder(tmp_path):
        pass
    assert (kept / "file").exists()


def test_duckdb_may_not_fill_the_disk(tmp_path: Path) -> None:
    assert 0 < int(spill_limit(tmp_path).removesuffix("MB")) <= MOST_SPILL_BYTES // 10**6
    with changelog.engine("100MB") as connection:
        folder, limit = connection.execute(
            "SELECT current_setting('temp_directory'), current_setting('max_temp_directory_size')"
        ).fetchall()[0]
    assert Path(folder).name.startswith(SPILL_PREFIX)
    assert limit != "90% of available disk space"
