"""The base of a store's methods: settings, clock, private files, and damage reported in one line."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from velo.api.values import Library, instant
from velo.errors import UserError
from velo.settings import FEATURE_CONFIG, Settings, config_file
from velo.storage.atomic_files import OTHERS
from velo.storage.store import Home, Store

Progress = Callable[[str, int, int], None]
"""Called with the step, the number done and the total."""
LEAD: Final = timedelta(minutes=5)
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def utc_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


def silent(step: str, done: int, total: int) -> None:
    """Report no progress."""


class OpenedStore:
    """The settings of a store, and how a call opens it."""

    def __init__(
        self, settings: Settings, *, frames: Library = "pandas", clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.settings = settings
        self.frames = frames
        self.clock = clock
        # a caller may change the working folder, and with it what lies above it
        self._folder = Path.cwd()

    @property
    def home(self) -> Home:
        """The paths of the store's files."""
        return Home(self.settings.home)

    def opened(self) -> Store:
        """Return the store as it is now; raises `UserError` for settings, or declared features, that contradict its own."""
        FEATURE_CONFIG.choose(config_file(self.settings.home, self._folder), self.settings.home)
        return replace(Store.open(self.settings), extra_columns=_extra_columns)

    def _not_later(self, as_of: str | datetime | None) -> datetime:
        """Return an instant, or now for None; raises `UserError` for one in the future."""
        from velo.racing.clock import to_text

        now, asked = self.clock(), instant(as_of)
        if asked is not None and asked > now:
            raise UserError(f"--as-of {to_text(asked)} is in the future: leave it out to see what is known now")
        return asked or now

    @contextmanager
    def _at_work(self) -> Iterator[Store]:
        """Open the store for one call: files are private to their owner, and damage is reported as a `UserError`."""
        with PRIVATE:
            try:
                yield self.opened()
            except UserError:
                raise
            except BaseException as broke:
                line = line_of(broke, self.home)
                if line is None:
                    raise
                raise UserError(line) from broke


def _extra_columns() -> frozenset[str]:
    """The columns of the user's own files that declared features read; the declarations are read when first needed."""
    from velo.feature_repo.catalogue.families import OWN_MEASURES
    from velo.racing.measures import extra_columns

    return frozenset(column.name for column in extra_columns(OWN_MEASURES))


class PrivateFiles:
    """Sets the umask of the process while any call is at work, and restores it after the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._calls == 0:
                self._before = os.umask(OTHERS)
            self._calls += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                os.umask(self._before)


PRIVATE: Final = PrivateFiles()


def line_of(broke: BaseException, home: Home) -> str | None:
    """Return the value, the rule and the remedy for an error that the store or the system caused; None for any other."""
    if isinstance(broke, OSError):
        return _refusal(broke) if broke.errno is not None else _damage(home) or _refusal(broke)
    # an engine's panic is no Exception
    if isinstance(broke, Exception) or type(broke).__name__ == "PanicException":
        return _damage(home)
    return None


def _damage(home: Home) -> str | None:
    from velo.streams.integrity_check import found

    return found(home)


def _refusal(refused: OSError) -> str:
    remedy = "make room on the disk" if refused.errno in NO_ROOM else "set VELO_HOME to a place you may write to"
    return f"{refused.filename or 'the disk'}: {refused.strerror or refused}; {remedy}, then repeat the command"
