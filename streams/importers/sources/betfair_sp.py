"""Betfair starting prices: the exchange's public CSV, matched to results that the log has.

A starting price is fixed at the off, so it changes no earlier value and no decision time sees it. A day's file can therefore be
loaded at any time: a price older than the log's end gets the log's next instant. It never claims an instant later than now,
which would put the log's clock ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from velo.racing.messages import Result, instant_of
from velo.storage.log.reader import messages
from velo.storage.log.writer import Clock, LogWriter, Progress
from velo.storage.store import Store
from velo.streams.importers.betfair_match import SOURCE, Unmatched, read_betfair_sp

_SHOWN: Final = 20
"""How many unmatched rows are shown; `--json` has all of them."""


@dataclass(frozen=True, slots=True)
class BetfairReport:
    """The outcome of a load: `rows` = `prices` + `repeated` + the number of `unmatched`, each with its reason.

    `races` counts the races with prices. Each has one message: `appended` are new, `identical` are in the log already.
    """

    rows: int
    races: int
    prices: int
    repeated: int
    appended: int
    identical: int
    unmatched: tuple[Unmatched, ...]

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show."""
        return [
            ("rows", self.rows),
            ("races priced", self.races),
            ("prices", self.prices),
            ("repeated rows", self.repeated),
            ("unmatched rows", len(self.unmatched)),
            ("appended", self.appended),
            ("duplicates", self.identical),
        ]

    def notes(self) -> list[str]:
        """The first unmatched rows with their reasons."""
        return [
            f"  {row.path.name}:{row.line} {row.selection}: {row.reason}: {row.detail}"
            for row in self.unmatched[:_SHOWN]
        ]


@dataclass(frozen=True, slots=True)
class _PricesImporter:
    source: str = SOURCE
    help: str = "Load Betfair starting prices (the public CSV) for races already in the log, of any age."

    def load(
        self,
        store: Store,
        files: Sequence[Path],
        *,
        late: bool = True,
        clock: Clock,
        progress: Progress | None = None,
    ) -> BetfairReport:
        """Add starting prices to races of the log. Raises `UserError` for a file of another kind."""
        results = (message for _, message in messages(store.home) if isinstance(message, Result))
        matched = read_betfair_sp(files, results)
        now = clock()
        timely = [replace(market, known_at=min(instant_of(market), now)) for market in matched.messages]
        with LogWriter.open(store, clock=clock) as writer:
            report = writer.load(timely, late=True, progress=progress)
        return BetfairReport(
            rows=matched.rows,
            races=len(matched.messages),
            prices=sum(len(market.prices) for market in matched.messages),
            repeated=matched.repeated,
            appended=report.appended,
            identical=report.identical,
            unmatched=tuple(matched.unmatched),
        )


IMPORTER: Final = _PricesImporter()
