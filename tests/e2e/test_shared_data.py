"""A run without the shared data says how much it did not test; CI does not accept such a run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs two tests that ask for the shared data, in a repository of their own that has none beside it."""
    tests = tmp_path / "a b" / "tests"
    (tests / "support").mkdir(parents=True)
    for name in ("__init__.py", "conftest.py", "support/__init__.py", "support/shared.py"):
        shutil.copy(TESTS / name, tests / name)
    (tests / "test_real.py").write_text(
        "from tests.support.shared import shared_file\n\n"
        "def test_one(shared):\n    assert (shared / 'conformance').is_dir()\n\n"
        "def test_two():\n    assert shared_file('conformance/x').exists()\n",
        encoding="utf-8",
    )

    def go(**environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VELO_", "PYTEST_")) and k != "CI"}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=tests.parent,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return go


def place(folder: Path) -> None:
    """Shared data of one empty file."""
    (folder / "conformance").mkdir(parents=True)
    (folder / "conformance" / "x").touch()


def test_what_was_skipped_for_want_of_shared_data_is_counted(run: Run) -> None:
    done = run(CI="true")
    assert done.returncode == 0, done.stdout
    assert "NOT TESTED: 2 promises on real data were skipped" in done.stdout
    assert "2 skipped" in done.stdout


def test_ci_fails_without_the_shared_data_when_asked_to_require_it(run: Run) -> None:
    done = run(CI="true", VELO_REQUIRE_SHARED="1")
    assert done.returncode == 1, done.stdout
    assert "VELO_REQUIRE_SHARED=1 makes this a failure" in done.stdout


def test_shared_data_is_found_beside_the_repository(run: Run, tmp_path: Path) -> None:
    place(tmp_path / "shared")
    done = run(CI="true", VELO_REQUIRE_SHARED="1")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "NOT TESTED" not in done.stdout


def test_velo_shared_names_another_folder(run: Run, tmp_path: Path) -> None:
    place(tmp_path / "elsewhere")
    done = run(VELO_SHARED=str(tmp_path / "elsewhere"))
    assert "2 passed" in done.stdout, done.stdout
