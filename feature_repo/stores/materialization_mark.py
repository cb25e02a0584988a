"""A record in Redis of the rows of a view that were materialised into it.

Feast records only the instant up to which it materialised. It misses rows written later with an earlier event time, and it
does not notice an emptied Redis. This mark names the table parts that were materialised and the instant: a row is new if its
part is not named or its event time is later. The mark is stored beside the rows, so it disappears with them.
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
class Materialized:
    """The parts (see `identity`) whose rows with event times up to `until` (UTC) were written."""

    parts: frozenset[str]
    until: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one view. `rows_as` identifies the row format; a mark of another format counts as absent."""

    client: Any
    url: str
    key: str
    rows_as: str

    def begin(self) -> tuple[Materialized | None, str]:
        """Replace the mark by a token until `end`. Returns what was materialised before, None for nothing, and the token."""
        running = json.dumps({"running": uuid.uuid4().hex})
        with redis_errors(self.url):
            held = self.client.get(self.key)
            self.client.set(self.key, running)
        written = json.loads(held) if held else {}
        if written.get("rows_as") != self.rows_as:
            return None, running
        return Materialized(frozenset(written["parts"]), datetime.fromisoformat(written["until"])), running

    def end(self, running: str, materialized: Materialized) -> None:
        """Set the mark, unless another materialisation has begun since: then the next one writes all rows again.

        Raises `UserError` if Redis was emptied meanwhile.
        """
        mark = {
            "rows_as": self.rows_as,
            "parts": sorted(materialized.parts),
            "until": materialized.until.isoformat(),
        }
        with redis_errors(self.url):
            held = self.client.get(self.key)
            if held is None:
                raise UserError(f"the Redis at {self.url} was emptied meanwhile: repeat the materialisation")
            if held.decode() == running:
                self.client.set(self.key, json.dumps(mark))


def mark_key(project: str, view: str) -> str:
    """The Redis key of a view's mark."""
    return f"velo:materialised:{project}:{view}"


def identity(part: str, folder: Path) -> str:
    """A part's name, size and time of writing: a part written again under the same name has another identity."""
    path = Path(part)
    status = path.stat()
    name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
    return f"{name} {status.st_size} {status.st_mtime_ns}"


def is_new_sql(event: str, part: str, before: Materialized | None, parts: Sequence[str], folder: Path) -> str:
    """An SQL condition for rows not materialised `before`; `event` and `part` are SQL of a row's event time and part."""
    if before is None:
        return "true"
    new = [path for path in parts if identity(path, folder) not in before.parts]
    listed = ", ".join(text(path) for path in new)
    later = f"{event} > TIMESTAMPTZ '{before.until.astimezone(UTC).isoformat()}'"
    return f"{later} OR {part} IN ({listed})" if new else later
