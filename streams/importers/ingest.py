"""Append a checked load to the log, and its refusals to the dead letters."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from velo.errors import UserError
from velo.storage.log.rebuild import rebuild
from velo.storage.log.writer import LoadReport, LogWriter, Progress
from velo.storage.store import Store
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.results import Parsed, collector_paused


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The outcome of a load: every row is in a race that was appended, identical or refused.

    `lower_version` counts among `appended`. `refused` counts races by reason, `dead_letters` the new dead letters.
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

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show."""
        return [
            ("rows", self.rows),
            ("races", self.races),
            ("appended", self.appended),
            ("duplicates", self.identical),
            ("lower versions", self.lower_version),
            ("refused", sum(self.refused.values())),
            ("next seq", self.next_seq),
        ]

    def notes(self) -> list[str]:
        """Refusals and corrections, one line each."""
        more = ["  `velo dead-letters` lists the refused races"] if self.refused else []
        return counts(self.refused, self.warnings) + more


@dataclass(frozen=True, slots=True)
class LogRebuildReport:
    """The contents of a rebuilt log: messages from the files and from the previous log, which is kept at `replaced`."""

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
    """Append a load to the log and its refusals to the dead letters; both are synced to the disk on return.

    The first load of a store sets its key policy. Raises `UserError`, and changes nothing, where the load is older
    than the log's end and not `late`, or another process writes to the log.
    """
    if store.keys not in (None, parsed.keys):
        raise UserError(
            f"the load was read with keys by {parsed.keys}, but the store has them by {store.keys}: read it again"
        )
    with LogWriter.open(store, clock=clock) as writer:
        if parsed.messages:
            store.with_keys(parsed.keys)
        first_seq = writer.next_seq
        try:
            with collector_paused():
                report = writer.load(parsed.messages, late=late, progress=progress)
        except UserError:
            if writer.next_seq == first_seq:  # nothing was loaded, so the store keeps no key policy
                store.save()
            raise
        next_seq = writer.next_seq
        letters = _letters(parsed, report)
        written = dead_letters.write(store.home, letters, clock())  # the log's lock excludes other writers
    return IngestReport(
        source=parsed.source,
        rows=parsed.rows,
        races=len(parsed.messages) + len(parsed.refused),
        appended=report.appended,
        identical=report.identical,
        lower_version=report.lower_version,
        refused=dict(Counter(letter.reason for letter in letters)),
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
    """Replace the log by one of these loads and, unless `fresh`, of the other messages in the previous log.

    The previous log is kept beside the new one. Raises `UserError`, and changes nothing, where the log cannot be replaced.
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
        refused=dict(Counter(letter.reason for letter in letters)),
        dead_letters=written,
        replaced=done.replaced,
        next_seq=done.load.appended,
    )


def counts(refused: Mapping[str, int], warnings: Mapping[str, int]) -> list[str]:
    """Return refusals by reason and warnings, each with its count, as lines to show."""
    return [
        *(f"  refused {count:,} × {reason}" for reason, count in sorted(refused.items())),
        *(f"  note: {count:,} × {warning}" for warning, count in sorted(warnings.items())),
    ]


def _letters(parsed: Parsed, report: LoadReport) -> list[DeadLetter]:
    """Return the dead letters of a load: those of its importer, then those of the log."""
    index = {id(message): index for index, message in enumerate(parsed.messages)}
    refused = ((index.get(id(message)), why) for message, why in report.refused)
    return [*parsed.refused, *(parsed.letter_of(at, why) for at, why in refused if at is not None)]
