"""How far a feed was taken, kept so that no message is taken twice after a crash, whatever the feed delivers again.

A message is appended with its place (`origin`), so the log itself says how far it came. The file of a feed says how
far all is settled, dead letters included, and from which record on the log need be asked.
"""

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from streams.feeds.source import order
from streams.log import reader
from streams.log.segments import generation
from velo.errors import UserError
from velo.files import make_folder, write_atomically
from velo.store import Home


@dataclass(frozen=True, slots=True)
class Places:
    """`settled` is the place up to which all is done, `appended` the last one that the log holds; None before any."""

    settled: str | None = None
    appended: str | None = None

    def was_appended(self, at: str) -> bool:
        """Whether what stands at a place was dealt with by a run that ended before it could settle it."""
        return self.appended is not None and order(at) <= order(self.appended)


def read(home: Home, feed: str) -> Places:
    """The places of a feed; raises `UserError` where its file is damaged."""
    path = _path(home, feed)
    settled, from_seq = None, 0
    try:
        written = json.loads(path.read_bytes())
        settled = written["settled"]
        if written["generation"] == generation(home):
            from_seq = written["next_seq"]
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as damaged:
        raise UserError(
            f"{path} cannot be read ({damaged}): restore it from a backup, or remove it to take the feed from its start"
        ) from None
    appended = None
    for record in reader.records(home, from_seq):
        origin = record.get("origin")
        if origin and origin["feed"] == feed:
            appended = origin["at"]
    return Places(settled, appended)


def settle(home: Home, feed: str, at: str, next_seq: int) -> None:
    """Have it on the disk that a feed is settled up to a place, the log before `next_seq` holding what came of it."""
    path = _path(home, feed)
    make_folder(path.parent)
    content = {"feed": feed, "settled": at, "next_seq": next_seq, "generation": generation(home)}
    write_atomically(path, json.dumps(content).encode() + b"\n")


def _path(home: Home, feed: str) -> Path:
    return home.feeds / f"{blake2b(feed.encode(), digest_size=8).hexdigest()}.json"
