"""A store: one home folder, one time zone, one key policy, and the epochs of its formulas."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any
from zoneinfo import ZoneInfo

from velo.errors import UserError
from velo.settings import DEFAULT_TIMEZONE, KeyPolicy, Settings, zone_named
from velo.storage.atomic_files import make_folder, make_private, sync_folder, write_atomically

FORMAT = 1
CONTENTS = (
    "store.json", "log", "dead-letters.ndjson", "feeds", "offline", "generations", "batch", "warehouse.duckdb", "registry.db",
    "redis", "online", "recovery", "stream", "datasets", "models", "backtests", "scores", "paper", "reports", "up",
    "mappings", "environments", "monitor", "demo.txt",
)  # fmt: skip
"""The entries of a home: VÉLØ changes nothing else there."""
STORE_ID = "store-id"
"""The file in the log's folder that identifies the store; a copy of the log is a copy of the store."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of a store below VELO_HOME."""

    root: Path

    @property
    def environments(self) -> Path:
        """The environments of this store, one folder each (`velo.api.environments`)."""
        return self.root / "environments"

    def environment(self, name: str) -> "Home":
        """The home of an environment of this store, made or not."""
        return Home(self.environments / name)

    @property
    def parent_store(self) -> "Home | None":
        """The store that this home is an environment of; None for a store."""
        parent = Home(self.root.parent.parent)
        return parent if parent.environments == self.root.parent and parent.identity.is_file() else None

    def refuse_environment(self, missing: str) -> None:
        """Raise `UserError` where this is an environment of a store, which has no `missing`."""
        parent = self.parent_store
        if parent is not None:
            raise UserError(
                f"{self.root} is an environment, which has no {missing}: leave out --as, or set VELO_HOME to {parent.root}"
            )

    @property
    def identity(self) -> Path:
        """The store's time zone, key policy and epochs."""
        return self.root / "store.json"

    @property
    def log(self) -> Path:
        """Segments of the log."""
        return self.root / "log"

    @property
    def dead_letters(self) -> Path:
        """Refused input, with reasons."""
        return self.root / "dead-letters.ndjson"

    @property
    def mappings(self) -> Path:
        """The user's own mappings of sources, as they were when a file was last loaded: dead letters are read by them again."""
        return self.root / "mappings"

    @property
    def feeds(self) -> Path:
        """The offset up to which each feed is in the log, one file a feed."""
        return self.root / "feeds"

    @property
    def up(self) -> Path:
        """The programs that `velo up` runs, and the lock it holds."""
        return self.root / "up"

    @property
    def demo(self) -> Path:
        """The season that `velo demo` simulated here; missing in every other store."""
        return self.root / "demo.txt"

    @property
    def offline(self) -> Path:
        """The current generation of the feature tables: a link into `generations`, one folder a view."""
        return self.root / "offline"

    @property
    def generations(self) -> Path:
        """The generations of the feature tables: the current one, the one before, and the last one of other formulas."""
        return self.root / "generations"

    @property
    def batch(self) -> Path:
        """The batch build's files between builds: measured starts and upgraded old segments."""
        return self.root / "batch"

    @property
    def warehouse(self) -> Path:
        """The analyst's read-only DuckDB file."""
        return self.root / "warehouse.duckdb"

    @property
    def registry(self) -> Path:
        """Feast's registry."""
        return self.root / "registry.db"

    @property
    def redis(self) -> Path:
        """The embedded Redis: its data, its configuration, its address."""
        return self.root / "redis"

    @property
    def online(self) -> Path:
        """The record of what was written to the online store, to check that it is still there: one file per view, and the position."""
        return self.root / "online"

    @property
    def recovery(self) -> Path:
        """Bytewax's recovery stores, one folder for each log and epoch."""
        return self.root / "recovery"

    @property
    def stream(self) -> Path:
        """The position and the lock of a running stream."""
        return self.root / "stream"

    @property
    def datasets(self) -> Path:
        """Cached training sets, named by what they were made from; a missing one is made again."""
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        """Model bundles."""
        return self.root / "models"

    @property
    def serving_model(self) -> Path:
        """The file with the version of the model that serves; absent where none does."""
        return self.models / "current"

    @property
    def backtests(self) -> Path:
        """Backtests: out-of-fold predictions and their results."""
        return self.root / "backtests"

    @property
    def scores(self) -> Path:
        """Every score served, one file a UTC day."""
        return self.root / "scores"

    @property
    def monitor(self) -> Path:
        """The last report on what is served, and profiles made for models that have none."""
        return self.root / "monitor"

    @property
    def monitor_report(self) -> Path:
        """The last report of `velo monitor`."""
        return self.monitor / "report.json"

    @property
    def paper(self) -> Path:
        """Paper trading: the ledger of its bets."""
        return self.root / "paper"

    @property
    def reports(self) -> Path:
        """Reports for people."""
        return self.root / "reports"


def no_extra_columns() -> frozenset[str]:
    """No feature reads a column of the user's own."""
    return frozenset()


@dataclass(frozen=True, slots=True)
class Store:
    """An opened store. `timezone` defines local dates; `keys` is None until the first load fixes it.

    `extra_columns` returns the columns of the user's own files that features read: results that differ in them are not the same.
    """

    home: Home
    timezone: ZoneInfo
    keys: KeyPolicy | None = None
    epochs: tuple[str, ...] = ()
    redis_url: str | None = None
    extra_columns: Callable[[], frozenset[str]] = field(default=no_extra_columns, compare=False, repr=False)

    @property
    def simulated(self) -> bool:
        """Whether the store's racing is made up: `velo demo` filled it."""
        return self.home.demo.exists()

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """The store of a home; one that was never written to has the settings asked for, or the defaults.

        One that others than its owner can read, as earlier releases left it, is closed to them. Raises `UserError` where
        the settings contradict what the store was made with.
        """
        home = Home(settings.home)
        written = _read(home.identity)
        if written:
            make_private(home.root, CONTENTS)
        timezone = settings.timezone or zone_named(written.get("timezone", DEFAULT_TIMEZONE))
        if written and written["timezone"] != timezone.key:
            raise UserError(
                f"VELO_TIMEZONE is {timezone.key!r}, but the store at {home.root} was made with "
                f"{written['timezone']!r}: unset it, or use another VELO_HOME"
            )
        keys = written.get("keys") or settings.keys
        if settings.keys and keys != settings.keys:
            raise UserError(
                f"VELO_KEYS is {settings.keys!r}, but the store at {home.root} was first loaded by {keys!r}: "
                "unset it, or use another VELO_HOME"
            )
        # what an environment computes is not served
        redis_url = settings.redis_url if home.parent_store is None else None
        return cls(home, timezone, keys, tuple(written.get("epochs", ())), redis_url)

    def save(self, within: Path | None = None) -> "Store":
        """Write the identity, making the home where needed; returns self. `within` is as in `write_atomically`."""
        make_private(make_folder(self.home.root), CONTENTS)
        content = {"format": FORMAT, "timezone": self.timezone.key, "keys": self.keys, "epochs": list(self.epochs)}
        if _read(self.home.identity) != content:
            write_atomically(self.home.identity, json.dumps(content, indent=2).encode() + b"\n", within=within)
        return self

    def with_keys(self, policy: KeyPolicy) -> "Store":
        """The store with its key policy fixed; a store that has one keeps it."""
        return self if self.keys else replace(self, keys=policy).save()

    def with_epoch_of(self, fingerprint: str) -> tuple["Store", int]:
        """The store and the epoch (from 1) for tables of formulas of this fingerprint; formulas unlike the last begin a new one.

        Call it just before tables are published: the number counts from then on, and the current tables say which is theirs.
        Values of a later epoch replace those of an earlier, also at the same instant.
        """
        # as written: another process may have published since this store was opened
        epochs = tuple(_read(self.home.identity).get("epochs", ()))
        if not epochs or epochs[-1] != fingerprint:
            epochs = (*epochs, fingerprint)
        # a publisher removes what a killed one left in the folder that it alone writes to
        store = replace(self, epochs=epochs).save(within=make_folder(self.home.generations))
        return store, len(epochs)


def store_id(home: Home) -> str | None:
    """The store's identity, 16 hex digits; None before it has one."""
    try:
        return (home.log / STORE_ID).read_text().strip() or None
    except OSError:
        return None


def given_id(home: Home) -> str:
    """The identity of a store, made if it has none; concurrent calls agree on it."""
    held = store_id(home)
    if held is not None:
        return held
    path = make_folder(home.log) / STORE_ID
    aside = path.with_name(f".{STORE_ID}.{token_hex(8)}.tmp")
    write_atomically(aside, token_hex(8).encode() + b"\n")
    try:
        os.link(aside, path)
    except FileExistsError:
        if not path.read_text().strip():
            # a power cut left the name and not what was in it
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(home.log)
    return path.read_text().strip()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        written: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        raise UserError(f"{path.parent} is not a folder, nor can be one: set VELO_HOME to a place for one") from None
    except (ValueError, OSError) as damaged:
        raise UserError(
            f"{path} cannot be read ({damaged}): restore it from a backup, or use another VELO_HOME"
        ) from None
    form = written.get("format") if isinstance(written, dict) else None
    if form is None or (form == FORMAT and "timezone" not in written):
        raise UserError(f"{path} is not the identity of a store: restore it from a backup, or use another VELO_HOME")
    if form != FORMAT:
        raise UserError(f"{path} has format {form!r}, this version reads {FORMAT}: upgrade velo")
    identity: Mapping[str, Any] = written
    return identity
