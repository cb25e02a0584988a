"""Feast's registry in the store's home, and the settings of the store that a Feast plug-in serves."""

import os
import uuid
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig
from feast.utils import _utc_now
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from velo.errors import UserError
from velo.settings import Settings, installed
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home


def settings_for(home: str | None = None, repo_path: Path | None = None) -> Settings:
    """Return the settings of the store at `home`, else of VELO_HOME, else of the project that holds `repo_path`.

    An installed `repo_path` is in no project: then the working folder decides, as for the commands. Feast's YAML has no
    defaults for variables, so its plug-ins read the environment themselves. Raises `UserError`.
    """
    beside = None if repo_path is None or installed(repo_path.resolve()) or os.environ.get("VELO_HOME") else repo_path
    return Settings.from_env(os.environ | {"VELO_HOME": home} if home else os.environ, beside)


def epoch_of(home: Home, view: str) -> int:
    """The epoch of the formulas that a view's tables were built with, from 1; read from disk at each call.

    For a view of the user's own it is that of all tables; 1 where there are none.
    """
    folder = table_versions.current(home)
    return 1 if folder is None else table_versions.manifest_of(folder).epoch_of(view)


class HomeRegistryStore(FileRegistryStore):
    """Feast's file registry at `$VELO_HOME/registry.db`, or at the configured `path` (relative to the home).

    A write replaces the file in one step. Of two concurrent `feast apply` the last one wins.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None) -> None:
        path = registry_config.path
        if not Path(path or "").is_absolute():
            home = Home(settings_for(repo_path=repo_path).home)
            path = str(home.root / path if path else home.registry)
        super().__init__(registry_config.model_copy(update={"path": path}), repo_path or Path.cwd())

    def get_registry_proto(self) -> Any:
        """The stored registry; raises `UserError` if it is damaged."""
        try:
            return super().get_registry_proto()  # type: ignore[no-untyped-call]  # Feast's
        except DecodeError as damaged:
            raise UserError(f"{self._filepath} is damaged ({damaged}): remove it, then repeat the command") from None

    def _write_registry(self, registry_proto: Any) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        make_folder(self._filepath.parent)
        write_atomically(self._filepath, registry_proto.SerializeToString())
