"""Files that only their owner can read: the umask of the process while a method writes."""

import os
import threading
from typing import Final

from velo.storage.atomic_files import OTHERS


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
