"""Feast objects of a user's own, beside the catalogue's: those that the Python files of one folder define."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from feast import Entity, FeatureService
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource

from velo.errors import UserError
from velo.settings import FEATURE_CONFIG

FOLDER: Final = "feast_objects"
"""The folder, beside `velo.toml`."""
_KINDS: Final = (DataSource, Entity, BaseFeatureView, FeatureService)


def own_objects(folder: Path | None = None) -> list[Any]:
    """The Feast objects that the folder's files define at their top level, by file name; without a folder none.

    Raises `UserError` for a file that does not import.
    """
    if folder is None:
        config = FEATURE_CONFIG.read()
        if config is None:
            return []
        folder = config.parent / FOLDER
    found: dict[int, Any] = {}
    for path in sorted(folder.glob("*.py")):
        spec = spec_from_file_location(f"own_feast_objects_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as broken:  # noqa: BLE001  a user's file may raise anything
            said = " ".join(f"{type(broken).__name__}: {broken}".split())
            raise UserError(f"{path} does not import ({said}): correct it, or take it out") from None
        found |= {id(value): value for value in vars(module).values() if isinstance(value, _KINDS)}
    return list(found.values())
