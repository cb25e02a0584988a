"""Records that could not be read, to the dead letters: once each, however often they are met."""

from dataclasses import dataclass

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from velo.storage.store import Home
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import say
from velo.streams.dataflow.operators import ALL
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterSink(FixedPartitionedSink[DeadLetter, None]):
    """One partition: the store's dead letters."""

    home: Home
    clock: Clock

    def list_parts(self) -> list[str]:
        """One file."""
        return [ALL]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "DeadLetterPartition":
        """A letter told again is the same letter, so there is nothing to resume."""
        return DeadLetterPartition(self)


@dataclass(frozen=True, slots=True)
class DeadLetterPartition(StatefulSinkPartition[DeadLetter, None]):
    """The writer of dead letters."""

    sink: DeadLetterSink

    def write_batch(self, values: list[DeadLetter]) -> None:
        """Append those that are not there yet."""
        for one in values:
            say("stream.dead_letter", race_id=one.race_id, reason=one.reason, detail=one.detail)
        dead_letters.write(self.sink.home, values, self.sink.clock())

    def snapshot(self) -> None:
        """Nothing to remember."""
