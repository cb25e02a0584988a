"""What a Redis was given of a view by materialisation, remembered in that Redis itself.

Feast remembers up to which instant it was asked to materialise. That says nothing of rows written later that fall before it,
as where the instant lay in the future, nor of a Redis that was emptied since. So a mark beside the rows names the parts of the
table whose rows were offered, and up to which instant: a row is new where its part is not named or it falls after that. A mark
is gone when its rows are.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from velo.errors import UserError
from velo.feature_repo.stores.changelog import text
from velo.feature_repo.stores.redis_client import redis_errors


@dataclass(frozen=True, slots=True)
class Given:
    """The parts whose rows up to `until` (UTC) were offered, each by what tells it from another of its name."""

    parts: frozenset[str]
    until: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one view. `rows_as` says how its rows are written: rows written in another way are not those of now."""

    client: Any
    url: str
    key: str
    rows_as: str

    def begin(self) -> tuple[Given | None, str]:
        """What was given before, None for nothing, and what stands in the mark's place until `end`."""
        running = json.dumps({"running": uuid.uuid4().hex})
        with redis_errors(self.url):
            held = self.client.get(self.key)
            self.client.set(self.key, running)
        written = json.loads(held) if held else {}
        if written.get("rows_as") != self.rows_as:
            return None, running
        return Given(frozenset(written["parts"]), datetime.fromisoformat(written["until"])), running

    def end(self, running: str, given: Given) -> None:
        """Set the mark, unless another materialisation has begun since: then the next one offers all rows again.

        Raises `UserError` where Redis was emptied meanwhile.
        """
        told = {"rows_as": self.rows_as, "parts": sorted(given.parts), "until": given.until.isoformat()}
        with redis_errors(self.url):
            held = self.client.get(self.key)
            if held is None:
                raise UserError(f"the Redis at {self.url} was emptied meanwhile: repeat the materialisation")
            if held.decode() == running:
                self.client.set(self.key, json.dumps(told))


def mark_key(project: str, view: str) -> str:
    """The Redis key of a view's mark."""
    return f"velo:materialised:{project}:{view}"


def identity(part: str, folder: Path) -> str:
    """What tells a part from another, also from one that is later written under its name."""
    path = Path(part)
    about = path.stat()
    name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
    return f"{name} {about.st_size} {about.st_mtime_ns}"


def is_new_sql(event: str, part: str, given: Given | None, parts: Sequence[str], folder: Path) -> str:
    """A condition on a row that was not offered yet, over the SQL of its instant and of its part."""
    if given is None:
        return "true"
    new = [one for one in parts if identity(one, folder) not in given.parts]
    listed = ", ".join(text(one) for one in new)
    later = f"{event} > TIMESTAMPTZ '{given.until.astimezone(UTC).isoformat()}'"
    return f"{later} OR {part} IN ({listed})" if new else later
