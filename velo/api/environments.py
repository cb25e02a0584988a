"""Environments of a store: other formulas tried on the same log, and thrown away; nothing of them is served.

`$VELO_HOME/environments/NAME/` is a store of its own except for the log. `log` in it is a link to the store's log, which it only
reads. Its tables begin as hard links to the files of the store's current tables, which never change, so an environment takes the
disk of what differs. It has its own epochs, models, backtests, training sets and reports. It has no online store, and none of its
commands writes to the log.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.settings import CONFIG
from velo.storage import locks, table_versions
from velo.storage.atomic_files import make_folder, sync_folder
from velo.storage.log.reader import end
from velo.storage.store import Home, Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment: its tables' epoch and position, the views whose formulas differ from the store's, and its models.

    `messages_behind` counts the messages of the log that its tables do not have. `own_bytes` are of files that only it has, with
    those that the store has replaced since; `shared_bytes` are of files that the store has too.
    """

    name: str
    epoch: int
    messages_behind: int
    differ: tuple[str, ...]
    models: int
    own_bytes: int
    shared_bytes: int


def environment(home: Home, name: str) -> Home:
    """The home of an environment; raises `UserError` where there is none of that name."""
    found = home.environment(name)
    if not found.identity.exists():
        there = ", ".join(_names(home)) or "none"
        raise UserError(
            f"there is no environment {name!r} at {home.environments} ({there}): make it with `velo apply --as NAME`"
        )
    return found


def create(store: Store, name: str, config: Path | None = None) -> Home:
    """Make an environment with the current tables of a store; it appears whole or not at all.

    `config` is the velo.toml that its features come from, by default that of the store. Raises `UserError` for a bad name, one
    that is taken, and a store without tables.
    """
    home = store.home
    if home.parent_store is not None:
        raise UserError(f"{home.root} is an environment itself: leave out --as, or set VELO_HOME to the store")
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a name of an environment: use up to 40 of a-z, 0-9, _ and -")
    if config is not None and not config.is_file():
        raise UserError(f"{config} is not a file: name the velo.toml of the environment's features")
    made = home.environment(name)
    with _sole_maker(home):
        if made.root.exists():
            raise UserError(
                f"{made.root} exists: choose another name, or remove it with `velo environments drop {name}`"
            )
        aside = Home(home.environments / f".{name}.tmp")
        _fill(store, aside)
        if config is not None:
            (aside.root / CONFIG).symlink_to(config.resolve())
        aside.root.rename(made.root)
        sync_folder(home.environments)
    return made


def drop(home: Home, name: str) -> int:
    """Remove an environment; returns the bytes that only it had. Raises `UserError` where a build writes to it."""
    found = environment(home, name)
    with _sole_maker(home), table_versions.sole_publisher(found):
        own, _ = _bytes_of(found, home)
        aside = home.environments / f".{name}.tmp"
        found.root.rename(aside)
        sync_folder(home.environments)
        shutil.rmtree(aside)
    return own


def environments(home: Home) -> tuple[Environment, ...]:
    """The environments of a store, by name."""
    served = table_versions.current_formulas(home)
    log_end = end(home).next_seq
    found = []
    for name in _names(home):
        own = home.environment(name)
        folder = table_versions.current(own)
        if folder is None:
            continue
        manifest = table_versions.manifest_of(folder)
        views, theirs = manifest.formulas.views, served.views if served else {}
        differ = sorted(view for view in views.keys() | theirs.keys() if views.get(view) != theirs.get(view))
        models = sum(path.is_dir() for path in own.models.glob("[!.]*"))
        behind = log_end - manifest.next_seq
        found.append(Environment(name, manifest.epoch, behind, tuple(differ), models, *_bytes_of(own, home)))
    return tuple(found)


def _names(home: Home) -> list[str]:
    if not home.environments.is_dir():
        return []
    folders = sorted(path.name for path in home.environments.iterdir() if not path.name.startswith("."))
    return [name for name in folders if home.environment(name).identity.exists()]


@contextmanager
def _sole_maker(home: Home) -> Iterator[None]:
    """Wait for and hold the lock on the environments of a store; what a killed command left half made is removed first."""
    make_folder(home.environments)
    with locks.holding(home.environments / ".lock", wait=True):
        for left in home.environments.glob(".*.tmp"):
            shutil.rmtree(left)
        yield


def _fill(store: Store, made: Home) -> None:
    """Write the files of a new environment; again where a build of the store replaced some meanwhile."""
    from velo.streams.batch import staging

    while True:
        shutil.rmtree(made.root, ignore_errors=True)
        make_folder(made.root)
        served = table_versions.current(store.home)
        if served is None:
            raise UserError(f"there are no tables at {store.home.offline}: run `velo build` first")
        measured = staging.record_of(store.home)
        try:
            table_versions.link_current(served, made)
            staging.link_parts(store.home, made)
        except FileNotFoundError as missing:
            if served == table_versions.current(store.home) and measured == staging.record_of(store.home):
                raise UserError(f"{missing.filename} is missing: run `velo build --whole` first") from None
            continue
        break
    made.log.symlink_to(Path("..", "..", store.home.log.name), target_is_directory=True)
    if store.home.demo.exists():
        shutil.copyfile(store.home.demo, made.demo)
    replace(store, home=made).save()


def _bytes_of(own: Home, store: Home) -> tuple[int, int]:
    """The bytes of the files that only an environment has, and of those that it shares with its store."""
    served = {(entry.st_dev, entry.st_ino) for entry in _files(store.generations, store.batch)}
    sizes = {(entry.st_dev, entry.st_ino): entry.st_size for entry in _files(own.root)}
    shared = sum(size for inode, size in sizes.items() if inode in served)
    return sum(sizes.values()) - shared, shared


def _files(*folders: Path) -> Iterator[os.stat_result]:
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                try:
                    yield Path(folder, name).lstat()
                except FileNotFoundError:
                    # removed by a build meanwhile
                    continue
