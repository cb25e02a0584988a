"""The serving model, loaded again when a model is promoted or judged, or the tables' formulas change."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from velo.errors import UserError
from velo.storage import table_versions
from velo.storage.store import Store
from velo.training.bundle import GATE, Bundle, load


class NoModel(UserError):
    """No model can serve: none is stored, or the current one does not fit the tables."""


@dataclass(slots=True)
class Bundles:
    """The models of one store."""

    store: Store
    _loaded: Bundle | None = None
    _seen: tuple[int, ...] = ()
    _watched: tuple[str | None, tuple[Path, ...]] = (None, ())
    """The version and the files that decide whether it still serves; cached because making the paths costs more than `stat`."""
    _lock: Lock = field(default_factory=Lock)

    def current(self) -> Bundle:
        """The serving bundle; raises `NoModel` if there is none, or it does not fit the tables."""
        seen = self._signs()
        if self._loaded is None or seen != self._seen:
            with self._lock:
                if self._loaded is None or self._signs() != self._seen:
                    self._loaded = self._load(None)
                    self._seen = self._signs()
        return self._loaded

    def of(self, version: str) -> Bundle:
        """A version, serving or not; raises as `current` does."""
        if self._loaded is not None and self._loaded.version == version and self._signs() == self._seen:
            return self._loaded
        return self._load(version)

    def formulas(self) -> table_versions.Formulas:
        """The formulas of the tables; raises `UserError` without tables."""
        formulas = table_versions.current_formulas(self.store.home)
        if formulas is None:
            raise UserError(f"there are no feature tables at {self.store.home.offline}: run `velo build` first")
        return formulas

    def _load(self, version: str | None) -> Bundle:
        try:
            return load(self.store.home, self.formulas(), version)
        except UserError as none:
            raise NoModel(str(none)) from none

    def _signs(self) -> tuple[int, ...]:
        """The modification times and inodes of the files that decide which model serves."""
        version = self._loaded.version if self._loaded else ""
        of, paths = self._watched
        if of != version:
            home = self.store.home
            paths = (home.serving_model, home.models / version / GATE, home.offline / table_versions.MANIFEST)
            self._watched = (version, paths)
        stats = []
        for path in paths:
            try:
                stat = path.stat()
            except FileNotFoundError:
                stats += [0, 0]
            else:
                stats += [stat.st_mtime_ns, stat.st_ino]
        return tuple(stats)
