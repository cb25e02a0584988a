"""The objects that `feast apply` reads: every Feast object of the catalogue, for the store of the environment, and a user's own.

A user's own objects are those of the Python files in `feast_objects/` beside `velo.toml`.
"""

from pathlib import Path

from velo.feature_repo.objects import feast_objects, own_objects
from velo.feature_repo.stores.registry import settings_for
from velo.storage.store import Home

home = Home(settings_for(repo_path=Path.cwd()).home)
globals().update({f"object_{number}": each for number, each in enumerate((*feast_objects(home), *own_objects()))})
