"""The batch that an audit compares a store with: built once for each log, however many stores hold that log."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from velo.storage.log.format import generation, segments
from velo.storage.store import Store


class Fresh(Protocol):
    """Builds a whole batch from a store's log; yields the folder of its tables."""

    def __call__(self, store: Store, now: datetime) -> AbstractContextManager[Path]: ...


def kept_by_log(fresh: Fresh, folder: Path) -> Fresh:
    """The same, its tables kept in `folder` by the log's content, which determines them all but `created_timestamp`."""

    @contextmanager
    def kept(store: Store, now: datetime) -> Iterator[Path]:
        tables = folder / digest(store)
        if not tables.exists():
            with fresh(store, now) as built:
                shutil.copytree(built, tables.with_suffix(".new"), symlinks=True)
            tables.with_suffix(".new").rename(tables)
        yield tables

    return kept


def digest(store: Store) -> str:
    """A digest of a log, its generation and its time zone."""
    seen = hashlib.sha256(f"{generation(store.home)} {store.timezone.key}".encode())
    for segment in segments(store.home):
        seen.update(segment.path.read_bytes())
    return seen.hexdigest()
