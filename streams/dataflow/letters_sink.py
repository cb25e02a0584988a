"""Records that could not be read, to the dead letters: once each, however often they are met."""

from dataclasses import dataclass

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from streams.dataflow.source import Clock
from streams.dataflow.steps import ALL
from streams.dataflow.telemetry import say
from streams.importers import dead_letters
from streams.importers.dead_letters import DeadLetter
from velo.store import Home


@dataclass(frozen=True, slots=True)
class LettersSink(FixedPartitionedSink[DeadLetter, None]):
    """One partition: the store's dead letters."""

    home: Home
    clock: Clock

    def list_parts(self) -> list[str]:
        """One file."""
        return [ALL]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "LettersPartition":
        """A letter told again is the same letter, so there is nothing to resume."""
        return LettersPartition(self)


@dataclass(frozen=True, slots=True)
class LettersPartition(StatefulSinkPartition[DeadLetter, None]):
    """The writer of dead letters."""

    sink: LettersSink

    def write_batch(self, values: list[DeadLetter]) -> None:
        """Append those that are not there yet."""
        for one in values:
            say("stream.dead_letter", race_id=one.race_id, reason=one.reason, detail=one.detail)
        dead_letters.write(self.sink.home, values, self.sink.clock())

    def snapshot(self) -> None:
        """Nothing to remember."""
