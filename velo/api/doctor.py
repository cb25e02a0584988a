"""`velo doctor`: whether this environment and this store can work, one check a line, each failure with its remedy."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from typing import Final

from velo.errors import UserError
from velo.settings import DISTRIBUTION
from velo.storage.store import Store

PYTHONS: Final = ((3, 11), (3, 12))
LEAST_FREE_GB: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `says` is what was found, or the value, the rule and the remedy where it is not `ok`."""

    check: str
    ok: bool
    says: str


def doctor(opened: Callable[[], Store], now: datetime) -> list[Finding]:
    """Run every check; those of the store need one that opens. Changes nothing."""
    found = [
        _finding(name, check) for name, check in (("python", _python), ("packages", _packages), ("lightgbm", _trees))
    ]
    stores: list[Store] = []

    def store() -> str:
        stores.append(opened())
        return _place(stores[0])

    found.append(_finding("store", store))
    if stores:
        of_store: dict[str, Callable[[Store], str]] = {
            "features": _features,
            "log": lambda store: _log(store, now),
            "tables": _tables,
            "files": _files,
            "redis": _redis,
            "model": _model,
        }
        found += [_finding(name, lambda check=check: check(stores[0])) for name, check in of_store.items()]  # type: ignore[misc]
    return found


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, says=check())
    except UserError as fault:
        return Finding(name, ok=False, says=" ".join(str(fault).split()))


def _python() -> str:
    version = sys.version.split()[0]
    if sys.version_info[:2] not in PYTHONS:
        raise UserError(f"Python is {version}, but Bytewax has wheels for 3.11 and 3.12 alone: use one of these")
    return version


def _packages() -> str:
    from packaging.requirements import Requirement

    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "not checked: the program runs from its folder, not from an installed package"
    wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = []
    for requirement in needed:
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: run `pip install --upgrade {DISTRIBUTION}`")
    return f"{DISTRIBUTION} {version} and the {len(needed)} packages it needs"


def _trees() -> str:
    try:
        import lightgbm
    except OSError as broken:
        raise UserError(f"LightGBM does not load ({broken}): install the OpenMP runtime (libgomp1 on Debian)") from None
    return str(lightgbm.__version__)


def _place(store: Store) -> str:
    root = store.home.root
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} cannot be written: set VELO_HOME to a place you may write to")
    free = shutil.disk_usage(there).free / 1e9
    if free < LEAST_FREE_GB:
        raise UserError(f"{free:.1f} GB are free at {there}, and a build needs {LEAST_FREE_GB:.0f} GB: make room there")
    return f"{root}, {store.timezone.key}, {free:,.1f} GB free"


def _features(_: Store) -> str:
    from velo.feature_repo.catalogue.families import FAMILIES, SHIPPED
    from velo.feature_repo.catalogue.request_time import OWN_VIEWS
    from velo.settings import FEATURE_CONFIG

    own = [family.view for family in FAMILIES[len(SHIPPED) :]] + [view.name for view in OWN_VIEWS]
    if not own:
        return f"{len(FAMILIES)} views"
    return f"{len(FAMILIES)} views; your own, by {FEATURE_CONFIG.read() or 'entry points'}: {', '.join(own)}"


def _log(store: Store, now: datetime) -> str:
    from velo.racing.clock import to_text
    from velo.storage.log.reader import end

    last = end(store.home)
    if last.known_at is None:
        return "empty: load results with `velo ingest`"
    if last.known_at > now:
        raise UserError(
            f"the last message is of {to_text(last.known_at)}, after now ({to_text(now)}): set this machine's clock"
        )
    return f"{last.next_seq:,} messages, to {to_text(last.known_at)}"


def _tables(store: Store) -> str:
    from velo.storage import table_versions
    from velo.storage.log.reader import end
    from velo.streams.batch.formulas import fingerprint

    folder = table_versions.current(store.home)
    if folder is None:
        return "none: run `velo build`"
    manifest = table_versions.manifest_of(folder)
    if manifest.fingerprint != fingerprint():
        raise UserError("the tables are of other formulas than the catalogue's: run `velo plan`, then `velo build`")
    behind = end(store.home).next_seq - manifest.next_seq
    return f"epoch {manifest.epoch}, {behind:,} messages behind the log"


def _files(store: Store) -> str:
    from velo.streams.integrity_check import found

    if (damage := found(store.home)) is not None:
        raise UserError(damage)
    return "no damage found"


def _redis(store: Store) -> str:
    from velo.feature_repo.stores import embedded_redis
    from velo.feature_repo.stores.redis_client import connect_url, redis_errors

    url = store.redis_url or embedded_redis.running(store.home)
    if url is None:
        return "the store's own does not run: what needs it starts it"
    with redis_errors(url):
        connect_url(url).ping()
    return "answers"


def _model(store: Store) -> str:
    from velo.storage.table_versions import current_formulas
    from velo.training import bundle

    formulas = current_formulas(store.home)
    if formulas is None or not store.home.serving_model.exists():
        return "none: run `velo train`"
    return bundle.load(store.home, formulas).version
