"""Betfair starting prices into the log: matched against the results that are there.

A starting price is fixed at the off, so it changes no value of before and no decision time sees it. The file of a day
therefore goes in whenever it comes: a price older than the log's end gets the next instant of the log, and an earlier
instant does not show it. It never claims an instant later than now, which would put the log's clock ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from velo.racing.messages import Result, instant_of
from velo.storage.log.reader import messages
from velo.storage.log.writer import Clock, LogWriter, Progress
from velo.storage.store import Store
from velo.streams.importers.betfair_sp import Unmatched, read_betfair_sp


@dataclass(frozen=True, slots=True)
class BetfairReport:
    """What became of the rows: `rows` = `prices` + `repeated` + the `unmatched`, each of which says why.

    `races` have prices; of their messages, one a race, `appended` are new and `identical` are in the log already.
    """

    rows: int
    races: int
    prices: int
    repeated: int
    appended: int
    identical: int
    unmatched: tuple[Unmatched, ...]


def ingest_betfair_sp(
    store: Store, paths: Sequence[Path], *, clock: Clock, progress: Progress | None = None
) -> BetfairReport:
    """Add starting prices to races of the log; prices that are there already are counted, not appended.

    Raises `UserError` for a file of another kind.
    """
    matched = read_betfair_sp(paths, (one for _, one in messages(store.home) if isinstance(one, Result)))
    now = clock()
    timely = [replace(one, known_at=min(instant_of(one), now)) for one in matched.messages]
    with LogWriter.open(store, clock=clock) as writer:
        report = writer.load(timely, late=True, progress=progress)
    return BetfairReport(
        rows=matched.rows,
        races=len(matched.messages),
        prices=sum(len(one.prices) for one in matched.messages),
        repeated=matched.repeated,
        appended=report.appended,
        identical=report.identical,
        unmatched=tuple(matched.unmatched),
    )
