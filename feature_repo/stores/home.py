"""Which store a Feast plug-in serves: what its configuration says, else what the environment says."""

import os
from pathlib import Path

from velo.settings import Settings
from velo.storage.store import Home, Store


def settings_for(home: str | None = None, repo_path: Path | None = None) -> Settings:
    """The settings of the store at `home`, else of VELO_HOME, else of the checkout `repo_path` or one stands in.

    Feast builds its plug-ins from a YAML file that knows no defaults for variables, so they look here themselves.
    """
    settings = Settings.from_env(cwd=None if repo_path is None or os.environ.get("VELO_HOME") else repo_path)
    return settings if home is None else Settings(Path(home), settings.timezone, settings.redis_url, settings.keys)


def epoch_of(home: Home) -> int:
    """The epoch of the formulas the store's tables were built with, from 1; read anew at each call."""
    return max(1, len(Store.open(Settings(home.root)).epochs))
