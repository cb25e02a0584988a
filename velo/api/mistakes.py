"""What an unexpected error comes from, in one line: a damaged store, a full disk, a folder that cannot be written."""

import errno
from typing import Final

from velo.storage.store import Home

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
