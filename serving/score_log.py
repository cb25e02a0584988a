"""Every score served, append-only: `$VELO_HOME/scores/<UTC day>.ndjson`, a line each.

A line says what was served and on what it stood: the instant, the bundle, the fingerprint of the vectors, the odds. It
is enough to make the score again and hold the two together (`velo audit --scores`). A line begins with the CRC-32 of
its rest; one that a crash cut short is told apart by it, and the next line begins anew.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final
from zlib import crc32

import orjson

from serving.scored import ScoredRace
from velo.errors import UserError
from velo.files import make_folder
from velo.racing.clock import from_text, to_text
from velo.racing.messages import Market, Racecard, to_record
from velo.store import Home

_CRC: Final = len(b'{"crc":"00000000",')


class NotKept(UserError):
    """A score that the log could not take: it must not be served."""


@dataclass(frozen=True, slots=True)
class Served:
    """A score as it was served. `chances` has each runner's (probability, blended); `card` and `odds` what a request brought."""

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


@dataclass(slots=True)
class ScoreLog:
    """Appends to the score log of a home; safe for threads, and for processes beside one another."""

    home: Home
    _day: str = ""
    _descriptor: int = -1
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, scored: ScoredRace, card: Racecard | None = None, odds: Market | None = None) -> None:
        """Append one served score, before it is served; raises `NotKept` where it cannot be.

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
            "chances": {one.horse_id: (one.probability, one.blended) for one in scored.runners},
            "market": {one.horse_id: one.market_odds for one in scored.runners if one.market_odds is not None},
        }
        if card is not None:
            told["card"] = to_record(card)
        if odds is not None:
            told["odds"] = to_record(odds)
        rest = orjson.dumps(told)[1:]
        line = b'{"crc":"%08x",%s\n' % (crc32(rest), rest)
        with self._lock:
            try:
                written = os.write(self._open(scored.scored_at), line)
            except OSError as failed:
                raise NotKept(self._why(str(failed))) from None
            if written < len(line):
                # what was torn off is damage; the next line begins anew
                self._reopen()
                raise NotKept(self._why(f"{written} of {len(line)} bytes were written"))

    def close(self) -> None:
        """Let the file go."""
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
        if day != self._day:
            self._reopen()
            path = make_folder(self.home.scores) / f"{day}.ndjson"
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
            self._day = day
        return self._descriptor


def served(home: Home) -> Iterator[tuple[str, Served | None]]:
    """Every line of the score log, oldest first: where it stands, and what it says; None for one that is damaged."""
    for path in sorted(home.scores.glob("*.ndjson")) if home.scores.is_dir() else ():
        yield from _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Served | None]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line == b"\n":
                continue
            rest = line[_CRC:].rstrip(b"\n")
            whole = line[:_CRC] == b'{"crc":"%08x",' % crc32(rest)
            yield f"{path.name}:{number}", _served(orjson.loads(b"{" + rest)) if whole else None


def _served(told: dict[str, Any]) -> Served:
    instants = {name: from_text(told[name]) if told[name] else None for name in ("scored_at", "as_of", "odds_known_at")}
    chances = {horse: (own, blended) for horse, (own, blended) in told["chances"].items()}
    return Served(**(told | instants | {"chances": chances}))
