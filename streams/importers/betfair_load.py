"""Betfair starting prices into the log: matched against the results that are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.importers.betfair_sp import Unmatched, read_betfair_sp
from streams.log.reader import messages
from streams.log.writer import Clock, LogWriter, Progress
from velo.racing.messages import Result
from velo.store import Store


@dataclass(frozen=True, slots=True)
class BetfairReport:
    """What became of the rows: `prices` in `races`, of which some are new; the rest is `unmatched`, each with why."""

    rows: int
    races: int
    prices: int
    appended: int
    identical: int
    unmatched: tuple[Unmatched, ...]


def ingest_betfair_sp(
    store: Store, paths: Sequence[Path], *, late: bool, clock: Clock, progress: Progress | None = None
) -> BetfairReport:
    """Add starting prices to races of the log; prices that are there already are counted, not appended.

    Raises `UserError` for a file that is none of these, or prices older than the log's end unless `late`.
    """
    matched = read_betfair_sp(paths, (one for _, one in messages(store.home) if isinstance(one, Result)))
    with LogWriter.open(store, clock=clock) as writer:
        report = writer.load(matched.messages, late=late, progress=progress)
    return BetfairReport(
        rows=matched.rows,
        races=len(matched.messages),
        prices=sum(len(one.prices) for one in matched.messages),
        appended=report.appended,
        identical=report.identical,
        unmatched=tuple(matched.unmatched),
    )
