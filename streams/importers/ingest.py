"""From a parsed load to the log and the dead letters."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from velo.errors import UserError
from velo.storage.log.rebuild import rebuild
from velo.storage.log.writer import LoadReport, LogWriter, Progress
from velo.storage.store import Store
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.results import Parsed


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


@dataclass(frozen=True, slots=True)
class LogRebuildReport:
    """What a rebuilt log is made of: messages of the files, and those kept of the log before; `replaced` is that."""

    from_files: int
    from_log: int
    superseded: int
    refused: Mapping[str, int]
    dead_letters: int
    replaced: Path | None
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
        begun = writer.next_seq
        try:
            report = writer.load(parsed.messages, late=late, progress=progress)
        except UserError:
            if writer.next_seq == begun:  # nothing was loaded, and so no policy fixed
                store.save()
            raise
        next_seq = writer.next_seq
        letters = _letters(parsed, report)
        written = dead_letters.write(store.home, letters, clock())  # while the log's lock keeps others out
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


def rebuild_from(
    store: Store,
    loads: Sequence[Parsed],
    *,
    fresh: bool = False,
    clock: Callable[[], datetime],
    progress: Progress | None = None,
) -> LogRebuildReport:
    """Replace the log by one of these loads and, unless `fresh`, of what the log held that they do not tell again.

    The log before stays whole beside the new one. Raises `UserError`, and changes nothing, where it cannot be.
    """
    policies = {parsed.keys for parsed in loads} | ({store.keys} if store.keys else set())
    if len(policies) > 1:
        raise UserError("some of the files have keys by name, others by id: set VELO_KEYS, and read them all again")
    done = rebuild(
        store, [message for parsed in loads for message in parsed.messages], fresh=fresh, clock=clock, progress=progress
    )
    for policy in policies:
        store.with_keys(policy)
    letters = [letter for parsed in loads for letter in _letters(parsed, done.load)]
    written = dead_letters.write(store.home, letters, clock())
    return LogRebuildReport(
        from_files=done.load.appended - done.kept,
        from_log=done.kept,
        superseded=done.superseded,
        refused=dict(Counter(one.reason for one in letters)),
        dead_letters=written,
        replaced=done.replaced,
        next_seq=done.load.appended,
    )


def _letters(parsed: Parsed, report: LoadReport) -> list[DeadLetter]:
    """The letters of a load: what its importer refused, then what the log did."""
    place = {id(message): place for place, message in enumerate(parsed.messages)}
    refused = ((place.get(id(message)), why) for message, why in report.refused)
    return [*parsed.refused, *(parsed.letter_of(at, why) for at, why in refused if at is not None)]
