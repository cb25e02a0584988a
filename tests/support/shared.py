"""Where the shared real and conformance files are: beside the repository, read in place, never copied."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

REPO = Path(__file__).resolve().parents[2]
ABSENT = "no shared data"
"""How every skip for want of shared data begins; the closing line of a run counts them by it."""


def absent(where: str) -> NoReturn:
    """End the test for want of shared data: skipped, or failed where the data is required."""
    found = f"{ABSENT} at {where}: this promise is NOT checked; put the data there or name its folder in VELO_SHARED"
    if os.environ.get("CI") == "true" and os.environ.get("VELO_REQUIRE_SHARED") == "1":
        pytest.fail(f"{found} (VELO_REQUIRE_SHARED=1 makes this a failure)", pytrace=False)
    pytest.skip(found)


def shared_folder() -> Path:
    """The folder of shared data, or the test is skipped and says where it was looked for.

    `VELO_SHARED` names it; else it is the first `shared` with conformance files beside the repository or beside one
    of its parents, so that a worktree finds it too. With CI=true and VELO_REQUIRE_SHARED=1 its absence is a failure.
    """
    named = os.environ.get("VELO_SHARED")
    for folder in [Path(named)] if named else [parent / "shared" for parent in REPO.parents]:
        if (folder / "conformance").is_dir():
            return folder.resolve()
    absent(named or f"{REPO.parent.name}/shared")


def shared_file(name: str) -> Path:
    """The shared file `name` (such as "conformance/london.parquet"), or the test is skipped and says it is missing."""
    path = shared_folder() / name
    if not path.exists():
        absent(str(path))
    return path
