"""A write that is repeated while its store is unavailable."""

import errno
import os
import threading
from collections.abc import Callable

import pytest

from velo.errors import UserError
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.retry import Retry


def failing(*errors: Exception) -> Callable[[], None]:
    """A write that raises each of these, then succeeds."""
    left = list(errors)

    def write() -> None:
        if left:
            raise left.pop(0)

    return write


def test_a_write_is_repeated_until_its_store_answers() -> None:
    away = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    Retry(threading.Event(), Telemetry()).until_done("online", failing(UserError("Redis is away"), away))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_stream_with_one_line(number: int) -> None:
    """Waiting makes no room: the write that comes next would not be tried."""
    full = OSError(number, os.strerror(number), "/store/online/fill")
    with pytest.raises(
        UserError, match=r"^cannot write /store/online/fill \(.*\): make room, then start the stream again"
    ):
        Retry(threading.Event(), Telemetry()).until_done("online", failing(full))
