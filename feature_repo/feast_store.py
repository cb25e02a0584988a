"""Feast over an opened store: the same objects and plug-ins as `feast` on the command line, without the environment."""

import contextlib
import io
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.storage.store import Store

if TYPE_CHECKING:
    from feast import FeatureStore


def prepare_feast() -> None:
    """Call it before Feast is imported; it has no effect afterwards.

    typeguard's decorator returns its target unchanged, as `python -O` does: it parses a module again for each method
    that it decorates, and mypy checks our calls of Feast instead. prometheus_client is imported first, because Feast
    sets PROMETHEUS_MULTIPROC_DIR, under which all registries of a process count into the same files.
    """
    if "feast" not in sys.modules:
        import prometheus_client  # noqa: F401
        import typeguard

        typeguard.typechecked = _unchanged


def _unchanged(target: Any = None, **_: Any) -> Any:
    return _unchanged if target is None else target


REPO = Path(__file__).parent


def feature_store(store: Store) -> "FeatureStore":
    """Feast over a store's registry, tables and Redis; ignores VELO_HOME and REDIS_URL. Imports Feast, which takes a second."""
    prepare_feast()
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    settings = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    settings["registry"]["path"] = str(store.home.registry)
    settings["online_store"] |= {"home": str(store.home.root), "redis_url": store.redis_url}
    return FeatureStore(config=RepoConfig(**settings, repo_path=REPO))


def apply(store: Store, families: Sequence[Family] = FAMILIES) -> "FeatureStore":
    """Register the catalogue's objects, as `feast apply` does; returns Feast over the store."""
    feast = feature_store(store)
    from velo.feature_repo.objects import feast_objects

    with warnings.catch_warnings():
        # the warning is that on-demand views are slow offline; our offline store passes them only their inputs
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
        feast.apply(feast_objects(store.home, families))
    return feast


def materialize(store: Store, until: datetime) -> None:
    """Bring the online store up to an instant (UTC), as `feast materialize-incremental` does, without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        feature_store(store).materialize_incremental(until)
