"""The log beyond the tables, for those who ask about a race before the next build: its messages, by its id."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson

from streams import generations
from streams.dataflow.tail import UNREADABLE, Line, LogTail, about, message_of
from streams.dataflow.telemetry import position
from streams.log.segments import generation
from streams.log.upgrades import upgraded
from velo.racing.clock import from_text
from velo.racing.messages import Message
from velo.store import Home

READ_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Beyond:
    """Reads a store's log from a record on."""

    home: Home

    def messages(self, race_id: str, from_seq: int) -> list[Message]:
        """The messages of a race from a seq on, in order; a record that is no message is left out."""
        found = []
        for line in self._lines(from_seq):
            if about(line.text).race_id == race_id:
                try:
                    found.append(message_of(line.text))
                except UNREADABLE:
                    continue
        return found

    def complete_until(self, seq: int) -> datetime | None:
        """The instant of the first record from a seq on; None at the log's end."""
        first = next(self._lines(seq), None)
        return None if first is None else from_text(upgraded(orjson.loads(first.text))["known_at"])

    def tables_end(self) -> int:
        """The seq before which the offline tables hold everything: of the last build, or what the stream sealed since."""
        folder = generations.current(self.home)
        built = generations.manifest_of(folder).next_seq if folder is not None else 0
        where = position(self.home)
        sealed = where.sealed_seq if where is not None and where.log_generation == generation(self.home) else 0
        return max(built, sealed)

    def _lines(self, from_seq: int) -> Iterator[Line]:
        tail = LogTail(self.home, from_seq)
        try:
            while lines := tail.read(READ_AT_ONCE):
                yield from (line for line in lines if line.whole)
        finally:
            tail.close()
