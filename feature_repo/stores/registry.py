"""Where Feast keeps its registry: in the store's home, found like everything else of the store."""

import uuid
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig
from feast.utils import _utc_now
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from velo.errors import UserError
from velo.feature_repo.stores.home import settings_for
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home


class HomeRegistryStore(FileRegistryStore):
    """Feast's file registry at `$VELO_HOME/registry.db`, or at `path` where the configuration names one, below the home.

    Replaced in one step, so that a reader never meets half of it. Two `feast apply` at once: the last one's holds.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None) -> None:
        path = registry_config.path
        if not Path(path or "").is_absolute():
            home = Home(settings_for(repo_path=repo_path).home)
            path = str(home.root / path if path else home.registry)
        super().__init__(registry_config.model_copy(update={"path": path}), repo_path or Path.cwd())

    def get_registry_proto(self) -> Any:
        """The registry as it is kept; raises `UserError` where it cannot be read."""
        try:
            return super().get_registry_proto()  # type: ignore[no-untyped-call]  # Feast's
        except DecodeError as damaged:
            raise UserError(f"{self._filepath} is damaged ({damaged}): remove it, then repeat the command") from None

    def _write_registry(self, registry_proto: Any) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        make_folder(self._filepath.parent)
        write_atomically(self._filepath, registry_proto.SerializeToString())
