"""Where the shared real and conformance files are: beside the repository, read in place, never copied."""

import os
from pathlib import Path

import pytest


def shared_file(name: str) -> Path:
    """The shared file `name` (e.g. "conformance/london.parquet"), or the test is skipped and says which is missing.

    Looked for in `$VELO_SHARED` and then in a directory `shared` beside the repository or beside any of its parents.
    """
    given = os.environ.get("VELO_SHARED")
    homes = [Path(given)] if given else [parent / "shared" for parent in Path(__file__).resolve().parents[2:]]
    for home in homes:
        if (home / name).exists():
            return home / name
    pytest.skip(f"shared/{name} is not beside this repository: this promise is NOT checked here")
