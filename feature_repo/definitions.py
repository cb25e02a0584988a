"""The objects that `feast apply` reads: every Feast object of the catalogue, for the store of the environment."""

from pathlib import Path

from velo.feature_repo.objects import feast_objects
from velo.feature_repo.stores.registry import settings_for
from velo.storage.store import Home

globals().update({each.name: each for each in feast_objects(Home(settings_for(repo_path=Path.cwd()).home))})
