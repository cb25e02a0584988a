"""The append-only ledger of paper trading: bets, written before the off, and their settlements.

`$VELO_HOME/paper/ledger.ndjson` has one JSON line per race and model with all its bets, and one per settlement. A line begins
with its checksum and is synced before it counts, so a crash leaves a race's decision whole or absent; the next writer removes
a torn line. Each model decides a race once, and the decision is settled once; repeated calls do nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.racing.clock import from_text, to_text
from velo.storage import jsonl, locks
from velo.storage.atomic_files import make_folder, sync_folder
from velo.storage.store import Home

FILE: Final = "ledger.ndjson"
LOCK: Final = "lock"
DECISION: Final = "decision"
SETTLEMENT: Final = "settlement"
WIN: Final = "win"


@dataclass(frozen=True, slots=True)
class PaperBet:
    """A bet to win, or for a place in the pool: the model's p, the decimal price taken (None: SP, or the dividend) and its source, units staked.

    `kelly` is the share of the bank by quarter-Kelly over all win bets on the race, None without a price.
    """

    horse_id: str
    horse: str
    p: float
    price: float | None
    source: str | None
    stake: float
    kelly: float | None
    pool: str = WIN


@dataclass(frozen=True, slots=True)
class Decision:
    """A model's decision about a race: instants are UTC, `race_date` local; `as_of` is the instant of its score, None without one.

    `missed` is the reason why no bet was possible; `rule` describes the bets.
    """

    race_id: str
    bundle: str
    mode: str
    race_date: str
    off_time: datetime
    as_of: datetime | None
    written_at: datetime
    rule: str
    runners: int
    bets: tuple[PaperBet, ...]
    missed: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The race and the model: each model decides a race once."""
        return self.race_id, self.bundle


@dataclass(frozen=True, slots=True)
class SettledBet:
    """A bet's outcome: the settled `price` (of a place bet the dividend, None if it lost), `share` of the win, `profit` in units, the `closing` price, and the `reason` in words.

    `deductions` names the table applied: Rule 4 or an exchange's reduction factors.
    """

    horse_id: str
    outcome: str
    price: float | None
    share: float
    profit: float | None
    closing: float | None
    reason: str
    deductions: str
    pool: str = WIN


@dataclass(frozen=True, slots=True)
class Settlement:
    """The bets of a decision settled on version 1 of the result, known at `result_known_at`."""

    race_id: str
    bundle: str
    result_known_at: datetime
    written_at: datetime
    bets: tuple[SettledBet, ...]

    @property
    def key(self) -> tuple[str, str]:
        """The race and the model: each decision is settled once."""
        return self.race_id, self.bundle


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger as read: decisions and settlements by (race, bundle), in the order they were written."""

    decisions: Mapping[tuple[str, str], Decision]
    settlements: Mapping[tuple[str, str], Settlement]

    def open(self) -> list[Decision]:
        """Decisions with bets that are not settled."""
        return [made for key, made in self.decisions.items() if made.bets and key not in self.settlements]


class Ledger:
    """The writer of a ledger; `writing` makes it."""

    def __init__(self, descriptor: int, book: Book) -> None:
        self._descriptor = descriptor
        self._book = book

    @property
    def book(self) -> Book:
        """The decisions and settlements."""
        return self._book

    def decide(self, decision: Decision) -> bool:
        """Append a decision and sync it; False if this model already decided the race.

        Raises `ValueError` for a bet after the off, and for two bets on a horse in a pool.
        """
        if decision.key in self._book.decisions:
            return False
        if decision.bets and decision.written_at >= decision.off_time:
            raise ValueError(f"race {decision.race_id}: a bet must be written before the off")
        if len({(bet.horse_id, bet.pool) for bet in decision.bets}) != len(decision.bets):
            raise ValueError(f"race {decision.race_id}: a decision has at most one bet per horse and pool")
        self._append(DECISION, asdict(decision))
        self._book = replace(self._book, decisions={**self._book.decisions, decision.key: decision})
        return True

    def settle(self, settlement: Settlement) -> bool:
        """Append a settlement and sync it; False if the decision is already settled."""
        if settlement.key in self._book.settlements:
            return False
        self._append(SETTLEMENT, asdict(settlement))
        self._book = replace(self._book, settlements={**self._book.settlements, settlement.key: settlement})
        return True

    def _append(self, kind: str, entry: Mapping[str, Any]) -> None:
        content = json.dumps({"type": kind} | dict(entry), ensure_ascii=False, default=to_text)[1:]
        line = jsonl.frame(content.encode())
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)


@contextmanager
def writing(home: Home) -> Iterator[Ledger]:
    """Open the ledger for writing and remove a torn last line. Raises `UserError` while another process writes to it."""
    folder = make_folder(home.paper)
    try:
        lock = locks.acquire(folder / LOCK)
    except locks.LockHeld:
        raise UserError(f"another `velo paper` writes to {folder}: stop it, or run with --report only") from None
    try:
        path = folder / FILE
        book, whole = _read(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(descriptor).st_size > whole:
                os.ftruncate(descriptor, whole)
                os.fsync(descriptor)
            sync_folder(folder)
            yield Ledger(descriptor, book)
        finally:
            os.close(descriptor)
    finally:
        os.close(lock)


def read(home: Home) -> Book:
    """Read the ledger, except for a line that is being written; empty before the first decision."""
    return _read(home.paper / FILE)[0]


def _read(path: Path) -> tuple[Book, int]:
    """Return the book and the length of the whole lines in bytes; raises `UserError` for damage before the last line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Book({}, {}), 0
    decisions: dict[tuple[str, str], Decision] = {}
    settlements: dict[tuple[str, str], Settlement] = {}
    whole = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        # a line without its newline is torn, even where its checksum is right: the next line would be appended to it
        entry = jsonl.parse(line) if line.endswith(b"\n") else None
        if entry is None:
            if number < len(lines) - 1:
                raise UserError(f"{path} is damaged in line {number + 1}: restore it, it records the bets")
            break
        whole += len(line)
        kind = entry.pop("type")
        if kind == DECISION:
            decision = _decision(entry)
            decisions[decision.key] = decision
        else:
            settlement = _settlement(entry)
            settlements[settlement.key] = settlement
    return Book(decisions, settlements), whole


def _decision(entry: dict[str, Any]) -> Decision:
    as_of = entry["as_of"] and from_text(entry["as_of"])
    times = {name: from_text(entry[name]) for name in ("off_time", "written_at")}
    return Decision(**(entry | times | {"as_of": as_of, "bets": tuple(PaperBet(**bet) for bet in entry["bets"])}))


def _settlement(entry: dict[str, Any]) -> Settlement:
    times = {name: from_text(entry[name]) for name in ("result_known_at", "written_at")}
    return Settlement(**(entry | times | {"bets": tuple(SettledBet(**bet) for bet in entry["bets"])}))
