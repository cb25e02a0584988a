"""From a parsed load to the log and the dead letters."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from streams.importers import dead_letters
from streams.importers.results import Parsed
from streams.log.writer import LogWriter, Progress
from velo.errors import UserError
from velo.store import Store


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a load: every row is in a race that was appended, identical or refused.

    `lower_version` counts among `appended`. `refused` counts reasons, `dead_letters` the letters that are new.
    """

    source: str
    rows: int
    races: int
    appended: int
    identical: int
    lower_version: int
    refused: Mapping[str, int]
    dead_letters: int
    warnings: Mapping[str, int]
    next_seq: int


def ingest(
    store: Store,
    parsed: Parsed,
    *,
    late: bool = False,
    clock: Callable[[], datetime],
    progress: Progress | None = None,
) -> IngestReport:
    """Append a load to the log and its refusals to the dead letters; both are on the disk when this returns.

    The first load of a store fixes its key policy. Raises `UserError`, and changes nothing, where the load is older
    than the log's end and not `late`, or another process writes to the log.
    """
    if store.keys not in (None, parsed.keys):
        raise UserError(
            f"the load was read with keys by {parsed.keys}, but the store has them by {store.keys}: read it again"
        )
    with LogWriter.open(store, clock=clock) as writer:
        if parsed.messages:
            store.with_keys(parsed.keys)
        report = writer.load(parsed.messages, late=late, progress=progress)
        next_seq = writer.next_seq
    place = {id(message): place for place, message in enumerate(parsed.messages)}
    letters = [*parsed.refused, *(parsed.letter_of(place[id(message)], why) for message, why in report.refused)]
    written = dead_letters.write(store.home, letters, clock())
    return IngestReport(
        source=parsed.source,
        rows=parsed.rows,
        races=len(parsed.messages) + len(parsed.refused),
        appended=report.appended,
        identical=report.identical,
        lower_version=report.lower_version,
        refused=dict(Counter(one.reason for one in letters)),
        dead_letters=written,
        warnings=dict(parsed.warnings),
        next_seq=next_seq,
    )
