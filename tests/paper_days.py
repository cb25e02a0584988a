"""A paper trader over some race days, instant by instant, in a process that may be killed in the middle of a write.

    python -m tests.paper_days HOME FROM WRITES BYTES

goes on from the instant FROM of the days and, at its write number WRITES (0: never), writes BYTES of the line and kills itself.
Each instant is noted in HOME/instant before it is traded; HOME/instants has them all, a line each.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from serving.paper import BY_EDGE, Rule, Trader, step
from serving.paper_ledger import writing
from serving.told import told_of
from velo.racing.cards import declared_at
from velo.racing.clock import from_text
from velo.settings import Settings
from velo.store import Store

LEAD = timedelta(minutes=5)
TRADER = Trader("a-model", "paper only", LEAD, Rule(BY_EDGE, 0.3, "edge ≥ 0.3"))


@dataclass(frozen=True, slots=True)
class PlainRunner:
    """A runner with a chance of its own."""

    horse_id: str
    horse: str
    probability: float
    market_odds: float | None
    market_source: str | None
    blended: float | None = None


@dataclass(frozen=True, slots=True)
class PlainRace:
    """A race scored without a model: the last bits of a score are no matter of the ledger's."""

    model: str
    runners: Sequence[PlainRunner]


def plain_score(store: Store, race_id: str, as_of: datetime, now: datetime) -> PlainRace:
    """Equal chances, at the odds told by `as_of`."""
    assert as_of <= now
    race = declared_at(told_of(store.home, race_id).messages, as_of)
    assert race is not None
    odds = race.odds.prices if race.odds else {}
    runners = [
        PlainRunner(one.horse_id, one.horse or "", 1.0 / len(race.runners), odds.get(one.horse_id), "show")
        for one in race.runners
    ]
    return PlainRace(TRADER.bundle, runners)


def trade(home: Path, begin: int, writes: int, torn: int) -> None:
    """Trade from an instant on; see the module."""
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
            step(store, ledger, TRADER, partial(plain_score, store), partial(every.__getitem__, at))


if __name__ == "__main__":
    trade(Path(sys.argv[1]), *map(int, sys.argv[2:]))
