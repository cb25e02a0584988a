"""Stores that are costly to make, made once for a whole run: the first worker that needs one makes it, the others wait."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Made = TypeVar("Made")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> tuple[Path, Made]:
    """The folder that `make` filled and what it returned, for every worker of this run; copy the folder to write to it.

    `make` gets the path of a folder that does not exist yet; what it returns is pickled. Where it fails, the next
    caller makes it again.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once" / name
    folder.parent.mkdir(exist_ok=True)
    kept = folder.with_suffix(".pickle")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            made = pickle.dumps(make(folder))
            kept.with_suffix(".new").write_bytes(made)
            kept.with_suffix(".new").rename(kept)
        answer: Made = pickle.loads(kept.read_bytes())
    return folder, answer


def copied(folder: Path, to: Path) -> Path:
    """A copy of a home, its Parquet parts by hard link: they are replaced, never changed in place."""
    return shutil.copytree(folder, to, symlinks=True, copy_function=_link_parts)


def _link_parts(source: str, target: str) -> None:
    if source.endswith(".parquet"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
