"""Stores that are costly to make, made once for a whole run: the first worker that needs one makes it, the others wait."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from velo.storage.store import Home

if TYPE_CHECKING:
    from velo.storage.store import Store
    from velo.training.dataset.training_set import TrainingSet

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
    """A copy of a home, its Parquet parts by hard link: they are replaced, never changed in place.

    Without Feast's registry, which holds the paths of the first.
    """
    shutil.copytree(folder, to, symlinks=True, copy_function=_link_parts)
    Home(to).registry.unlink(missing_ok=True)
    return to


class Seasons:
    """Made-up seasons by their number of days: each built, and its training set joined, once a run."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def store(self, days: int) -> "Store":
        """A built store of one's own."""
        from tests.support.seasons import opened

        return opened(copied(self._built(days), self._factory.mktemp("season") / "home"))

    def rows(self, days: int) -> "TrainingSet":
        """The training set of such a store."""
        from velo.training.dataset.training_set import training_set

        return made_once(self._factory, f"season-{days}-rows", lambda _: training_set(self.store(days)))[1]

    def _built(self, days: int) -> Path:
        from tests.support.seasons import a_season, a_store

        return made_once(self._factory, f"season-{days}", lambda home: a_store(home, a_season(days)).home.root)[0]


def _link_parts(source: str, target: str) -> None:
    if Path(source).is_socket():
        return  # that of a Redis that runs at the first home
    if source.endswith(".parquet"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
