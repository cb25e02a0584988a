"""The name of each view's last complete fill of Redis, which the store remembers beside its log.

A fill's name begins with the store's identity and ends with the epoch of the rows' formulas. A reader compares the name in
Redis with the remembered one, and its epoch with that of the published tables: so publishing tables of other formulas has
every reader refuse the rows of the formulas before, in the same step.
"""

from collections.abc import Iterable
from secrets import token_hex
from typing import Final

from velo.feature_repo.stores.redis_layout import Layout
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Home, given_id

_EPOCH_AT: Final = 4
"""The place of the epoch among a name's parts; names of earlier versions have none."""
NO_EPOCH: Final = 0
"""The epoch of no formulas: those begin at 1."""


def new_fill(layout: Layout, home: Home, generation: int, epoch: int) -> str:
    """A new name for a fill of a view; gives the store an identity where it has none."""
    return f"{given_id(home)}:{generation}:{layout.fingerprint:08x}:{token_hex(8)}:{epoch}"


def fill_epoch(fill: str) -> int | None:
    """The epoch of a fill's rows; None in a name of an earlier version."""
    parts = fill.split(":")
    return int(parts[_EPOCH_AT]) if len(parts) > _EPOCH_AT else None


def remember(home: Home, view: str, fill: str) -> None:
    """Record the last complete fill of a view."""
    write_atomically(make_folder(home.online) / view, fill.encode() + b"\n", mode=0o600)


def forget(home: Home, view: str) -> None:
    """Expect no fill of a view."""
    (home.online / view).unlink(missing_ok=True)


def fill_remembered(home: Home, view: str) -> str | None:
    """The last complete fill of a view; None without one."""
    try:
        return (home.online / view).read_text().strip() or None
    except OSError:
        return None


def refuse_numberless_fills(home: Home, views: Iterable[str]) -> None:
    """Have readers refuse the rows in Redis of some views if an earlier version filled them: their epoch is unknown."""
    for view in views:
        fill = fill_remembered(home, view)
        if fill is not None and fill_epoch(fill) is None:
            remember(home, view, f"{fill}:{NO_EPOCH}")
