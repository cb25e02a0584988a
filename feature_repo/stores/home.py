"""Which store a Feast plug-in serves: what its configuration says, else what the environment says."""

import os
from pathlib import Path

from velo.settings import Settings, installed
from velo.storage.store import Home, Store


def settings_for(home: str | None = None, repo_path: Path | None = None) -> Settings:
    """Return the settings of the store at `home`, else of VELO_HOME, else of the project that holds `repo_path`.

    An installed `repo_path` is in no project: then the working folder decides, as for the commands. Feast builds its
    plug-ins from a YAML file that knows no defaults for variables, so they look here themselves. Raises `UserError`.
    """
    beside = None if repo_path is None or installed(repo_path.resolve()) or os.environ.get("VELO_HOME") else repo_path
    return Settings.from_env(os.environ | {"VELO_HOME": home} if home else os.environ, beside)


def epoch_of(home: Home) -> int:
    """The epoch of the formulas the store's tables were built with, from 1; read anew at each call."""
    return max(1, len(Store.open(Settings(home.root)).epochs))
