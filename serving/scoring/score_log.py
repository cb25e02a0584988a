"""Log every served score, append-only: one line each in `$VELO_HOME/scores/<UTC day>.ndjson`.

A line says what was served and on what it stood: the instant, the bundle, the fingerprint of the vectors, the odds. It
is enough to make the score again and hold the two together (`velo audit --scores`). A line begins with the CRC-32 of
its rest; one that a crash cut short is told apart by it, and the next line begins anew.

What is served again, the same, makes no line each time, and old days give way: the log is bounded however much is asked.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Final

import orjson

from velo.errors import UserError
from velo.racing.clock import from_text, to_text
from velo.racing.messages import Market, Racecard, to_record
from velo.serving.scoring.scored import ScoredRace
from velo.storage import jsonl
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home

DAYS: Final = 365
MEGABYTES: Final = 4096
EVERY: Final = timedelta(minutes=1)
"""How often a score that is served again as of the same instant is kept."""
EVERY_INSTANT: Final = timedelta(seconds=1)
"""How often one is kept that is the same but for the instant it stands on, as of a race that is polled."""
REMEMBERED: Final = 4096
"""Scores whose last logging time is remembered."""
_CHECKED_EVERY: Final = 4096


class NotKept(UserError):
    """The log could not store a score, so the score must not be served."""


@dataclass(frozen=True, slots=True)
class Served:
    """A score as it was served. `chances` has each runner's (probability, blended); `card` and `odds` what a request brought.

    `repeats` counts how often it was served since the line before that says the same, without a line.
    """

    scored_at: datetime
    as_of: datetime
    race_id: str
    model: str
    fingerprint: str
    features_from: str
    odds_known_at: datetime | None
    chances: Mapping[str, tuple[float, float | None]]
    market: Mapping[str, float]
    card: Mapping[str, Any] | None = None
    odds: Mapping[str, Any] | None = None
    repeats: int = 0


@dataclass(slots=True)
class _Said:
    """When a score was last logged, its `as_of`, and how often it was served since."""

    kept_at: datetime
    as_of: datetime
    repeats: int = 0


@dataclass(slots=True)
class ScoreLog:
    """Appends to the score log of a home; safe for threads, and for processes beside one another.

    Days before the last `days` are removed, and the oldest of those left while all are longer than `megabytes`.
    """

    home: Home
    days: int = DAYS
    megabytes: int = MEGABYTES
    _said: "OrderedDict[bytes, _Said]" = field(default_factory=OrderedDict)
    _lines: int = 0
    _day: str = ""
    _descriptor: int = -1
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, scored: ScoredRace, card: Racecard | None = None, odds: Market | None = None) -> None:
        """Append one served score, before it is served; raises `NotKept` where it cannot be.

        One that was served before, the same, is kept once a minute; where it stands on another instant, once a second.

        Readable when this returns, so that a process that dies loses none; on the disk when the system gets to it, within
        seconds: a machine that loses its power may lose those.
        """
        told: dict[str, Any] = {
            "scored_at": to_text(scored.scored_at),
            "as_of": to_text(scored.as_of),
            "race_id": scored.race_id,
            "model": scored.model,
            "fingerprint": scored.fingerprint,
            "features_from": scored.features_from,
            "odds_known_at": to_text(scored.odds_known_at) if scored.odds_known_at else None,
            "chances": {runner.horse_id: (runner.probability, runner.blended) for runner in scored.runners},
            "market": {
                runner.horse_id: runner.market_odds for runner in scored.runners if runner.market_odds is not None
            },
        }
        if card is not None:
            told["card"] = to_record(card)
        if odds is not None:
            told["odds"] = to_record(odds)
        with self._lock:
            said, told["repeats"] = self._repeated(told, scored)
            if said is None:
                return
            line = jsonl.frame(orjson.dumps(told)[1:])
            try:
                written = os.write(self._open(scored.scored_at), line)
            except OSError as failed:
                raise NotKept(self._why(str(failed))) from None
            if written < len(line):
                # what was torn off is damage; the next line begins anew
                self._reopen()
                raise NotKept(self._why(f"{written} of {len(line)} bytes were written"))
            self._remember(said, scored)

    def _repeated(self, told: Mapping[str, Any], scored: ScoredRace) -> tuple[bytes | None, int]:
        """What a score says but for its instants, None where it needs no line; and how often it was served without one."""
        about = {name: value for name, value in told.items() if name not in ("scored_at", "as_of")}
        content = blake2b(orjson.dumps(about), digest_size=16).digest()
        before = self._said.get(content)
        if before is None:
            return content, 0
        every = EVERY if before.as_of == scored.as_of else EVERY_INSTANT
        if timedelta() <= scored.scored_at - before.kept_at < every:
            before.repeats += 1
            return None, 0
        return content, before.repeats

    def _remember(self, content: bytes, scored: ScoredRace) -> None:
        self._said[content] = _Said(scored.scored_at, scored.as_of)
        self._said.move_to_end(content)
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._reopen()

    def _reopen(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, ""

    def _why(self, failed: str) -> str:
        return f"the score could not be kept under {self.home.scores} ({failed}), so it is not served: make room there"

    def _open(self, now: datetime) -> int:
        day = f"{now.astimezone(UTC):%Y-%m-%d}"
        self._lines += 1
        if day != self._day or self._lines % _CHECKED_EVERY == 0:
            self._make_room(now.astimezone(UTC))
        if day != self._day:
            self._reopen()
            path = make_folder(self.home.scores) / f"{day}.ndjson"
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
            self._day = day
        return self._descriptor

    def _make_room(self, now: datetime) -> None:
        """Remove the days that are too old, and the oldest while all are too long; raises OSError where today's is."""
        first, today = (f"{now - timedelta(days=back):%Y-%m-%d}" for back in (self.days, 0))
        sizes = {path: path.stat().st_size for path in _files(self.home)}
        for path in list(sizes):
            if path.stem < first or (path.stem != today and sum(sizes.values()) > self.megabytes * 2**20):
                path.unlink(missing_ok=True)
                del sizes[path]
        if sum(sizes.values()) > self.megabytes * 2**20:
            raise OSError(f"the scores of today are longer than VELO_SCORES_MB={self.megabytes} allows")


def served(home: Home) -> Iterator[tuple[str, Served | None]]:
    """Every line of the score log, oldest first: where it stands, and what it says; None for one that is damaged."""
    for path in _files(home):
        with suppress(FileNotFoundError):  # removed meanwhile, as too old
            yield from _lines(path)


def _files(home: Home) -> list[Path]:
    return sorted(home.scores.glob("*.ndjson")) if home.scores.is_dir() else []


def _lines(path: Path) -> Iterator[tuple[str, Served | None]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line == b"\n":
                continue
            score = jsonl.parse(line)
            yield f"{path.name}:{number}", None if score is None else _served(score)


def _served(told: dict[str, Any]) -> Served:
    instants = {name: from_text(told[name]) if told[name] else None for name in ("scored_at", "as_of", "odds_known_at")}
    chances = {horse: (own, blended) for horse, (own, blended) in told["chances"].items()}
    return Served(**(told | instants | {"chances": chances}))
