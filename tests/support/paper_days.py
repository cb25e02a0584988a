"""A paper trader over some race days, instant by instant, in a process that may be killed in the middle of a write."""

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from tests.support.seasons import FIRST_DAY, opened
from velo.racing.cards import declared_at
from velo.racing.clock import from_text
from velo.serving.paper_trading.ledger import Decision, PaperBet, writing
from velo.serving.paper_trading.trader import BY_EDGE, Rule, Trader, step
from velo.serving.scoring.race_messages import messages_of_race
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.unbuilt_log import UnbuiltLog

LEAD = timedelta(minutes=5)
SEASON_DAYS = 100
LAST_DAYS = 2
OFF = datetime(2025, 6, 1, 14, tzinfo=UTC)
TRADER = Trader("a-model", "paper only", LEAD, Rule(BY_EDGE, 0.3, "edge ≥ 0.3"))
BET = PaperBet("a", "A", 0.3, 4.0, "show", 1.0, 0.01)
DECISION = Decision("r1", "m", "paper only", "2025-06-01", OFF, OFF - LEAD, OFF - LEAD, "edge ≥ 0.05", 8, (BET,), None)


@dataclass(frozen=True, slots=True)
class PlainRunner:
    """A runner with a chance of its own."""

    horse_id: str
    horse: str
    probability: float
    market_odds: float | None
    market_source: str | None
    blended: float | None = None
    place: float | None = None


@dataclass(frozen=True, slots=True)
class PlainRace:
    """A race scored without a model: the last bits of a score are no matter of the ledger's."""

    model: str
    runners: Sequence[PlainRunner]


def plain_score(store: Store, race_id: str, as_of: datetime, now: datetime) -> PlainRace:
    """Equal chances, at the odds known by `as_of`."""
    assert as_of <= now
    race = declared_at(messages_of_race(store.home, race_id).messages, as_of)
    assert race is not None
    odds = race.odds.prices if race.odds else {}
    runners = [
        PlainRunner(runner.horse_id, runner.horse or "", 1.0 / len(race.runners), odds.get(runner.horse_id), "show")
        for runner in race.runners
    ]
    return PlainRace(TRADER.bundle, runners)


def instants() -> list[datetime]:
    """On the season's last days, between each decision time and its off, and after each result."""
    days = [FIRST_DAY + timedelta(days=day) for day in range(0, SEASON_DAYS, 3)][-LAST_DAYS:]
    return [
        datetime(day.year, day.month, day.day, 13, minute, 1, tzinfo=UTC) + timedelta(minutes=30 * race)
        for day in days
        for race in range(4)
        for minute in (26, 46)
    ]


def at(now: datetime) -> Callable[[], datetime]:
    return lambda: now


def a_copy(store: Store, folder: Path) -> Store:
    return opened(shutil.copytree(store.home.root, folder, symlinks=True))


def traded(store: Store, trader: Trader = TRADER) -> None:
    with writing(store.home) as ledger:
        for now in instants():
            step(store, UnbuiltLog(store.home), ledger, trader, partial(plain_score, store), at(now))


def trade(home: Path, begin: int, writes: int, torn: int) -> None:
    """Trade from the instant number `begin` on; at the write number `writes` (0: never), write `torn` bytes of the line and die.

    Each instant is noted in HOME/instant before it is traded; HOME/instants has them all, a line each.
    """
    store = Store.open(Settings(home))
    write, seen = os.write, 0

    def killing(descriptor: int, content: bytes) -> int:
        nonlocal seen
        seen += 1
        if seen == writes:
            write(descriptor, content[:torn])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, content)

    os.write = killing  # type: ignore[assignment]
    every = [from_text(line) for line in (home / "instants").read_text().split()]
    with writing(store.home) as ledger:
        for at in range(begin, len(every)):
            (home / "instant").write_text(str(at))
            step(
                store,
                UnbuiltLog(store.home),
                ledger,
                TRADER,
                partial(plain_score, store),
                partial(every.__getitem__, at),
            )
