"""The sink of dead letters: each unreadable record is written once, however often it is read."""

from dataclasses import dataclass
from typing import ClassVar

from bytewax.outputs import StatefulSinkPartition

from velo.storage.store import Home
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import say
from velo.streams.dataflow.operators import ALL, Reads, StreamSink
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterSink(StreamSink[DeadLetter, None]):
    """One partition: the store's dead letters."""

    step: ClassVar[str] = "dead-letters"
    reads: ClassVar[Reads] = "letters"

    home: Home
    clock: Clock

    def list_parts(self) -> list[str]:
        """One file."""
        return [ALL]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "DeadLetterPartition":
        """Return the writer. It resumes nothing: a letter that comes again is the same letter."""
        return DeadLetterPartition(self)


@dataclass(frozen=True, slots=True)
class DeadLetterPartition(StatefulSinkPartition[DeadLetter, None]):
    """The writer of dead letters."""

    sink: DeadLetterSink

    def write_batch(self, values: list[DeadLetter]) -> None:
        """Append the letters that the file does not have yet."""
        for letter in values:
            say("stream.dead_letter", race_id=letter.race_id, reason=letter.reason, detail=letter.detail)
        dead_letters.write(self.sink.home, values, self.sink.clock())

    def snapshot(self) -> None:
        """Return no state."""
