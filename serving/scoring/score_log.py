"""Log every served score, append-only: one line each in `$VELO_HOME/scores/<UTC day>.ndjson`.

A line has what was served and its inputs: the instant, the bundle, the fingerprint of the features and a digest of each of
their columns, the odds. So the score can be computed again and compared (`velo audit --scores`). A line begins with the CRC-32 of its rest, which shows a line
that a crash cut short; the next line starts on a new line.

A score that is served repeatedly makes a line at most once per interval, and old days are deleted, so the log's size is
bounded for any number of requests.
"""

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Final

import orjson

from velo.errors import UserError
from velo.racing.clock import from_text, to_text
from velo.racing.messages import Market, Racecard, to_record
from velo.serving.scoring.feature_matrix import COLUMNS_MARK, differing_columns, has_digest_of_each
from velo.serving.scoring.scored import ScoredRace
from velo.storage import jsonl
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home

DAYS: Final = 365
MEGABYTES: Final = 4096
EVERY: Final = timedelta(minutes=1)
"""The least time between lines of an equal score as of the same instant."""
EVERY_INSTANT: Final = timedelta(seconds=1)
"""The least time between lines of scores that differ in `as_of` alone, as when a race is polled."""
REMEMBERED: Final = 4096
"""Scores whose last logging time is remembered."""
_CHECKED_EVERY: Final = 4096


UNNAMED: Final = ("(unknown)",)
"""The columns that differ in a score of a line without digests: those of early releases have none."""


class NotKept(UserError):
    """The log could not store a score, so the score must not be served."""


@dataclass(frozen=True, slots=True)
class Served:
    """A served score. `chances` has each runner's (probability, blended); `card` and `odds` are those of a request, if it had any.

    `repeats` counts the times it was served without a line since its previous line. `column_digests` are those of its columns
    (`velo.serving.scoring.feature_matrix.column_digests`) and `columns` says which columns these are, None in a line of an earlier
    release.
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
    column_digests: str | None = None
    columns: str | None = None

    def differing(self, fingerprint: str, digests: str, reads: Collection[str]) -> tuple[str, ...]:
        """The columns of `reads` in which the score's features are others than those of a fingerprint and digests.

        `UNNAMED` where the fingerprints differ and no digest says in which. None of a score that was served with the columns of
        another catalogue: its digests are not theirs.
        """
        if self.fingerprint == fingerprint or self.columns not in (None, COLUMNS_MARK):
            return ()
        if self.column_digests is None:
            return UNNAMED
        if not has_digest_of_each(self.column_digests):
            return ()
        # equal digests of unequal values mean other runners, or a column that has no digest of its own
        found = differing_columns(self.column_digests, digests) or UNNAMED
        # the formulas of a column that the model does not read may have changed since
        return tuple(name for name in found if name in reads or name in UNNAMED)


_FIELDS: Final = frozenset(each.name for each in fields(Served))


@dataclass(slots=True)
class _LastLine:
    """When a score was last logged, its `as_of`, and how often it was served since."""

    logged_at: datetime
    as_of: datetime
    repeats: int = 0


@dataclass(slots=True)
class ScoreLog:
    """Appends to the score log of a home; safe for threads and for concurrent processes.

    Files older than `days` are deleted, then the oldest while all together exceed `megabytes`.
    """

    home: Home
    days: int = DAYS
    megabytes: int = MEGABYTES
    _last_lines: "OrderedDict[bytes, _LastLine]" = field(default_factory=OrderedDict)
    _lines: int = 0
    _day: str = ""
    _descriptor: int = -1
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, scored: ScoredRace, card: Racecard | None = None, odds: Market | None = None) -> None:
        """Append a score before it is served; raises `NotKept` if it cannot be written.

        An equal score makes a line at most once a minute; one that differs in `as_of` alone, once a second. The line survives the
        process when this returns, but it is not synced: a power failure may lose the last seconds.
        """
        entry: dict[str, Any] = {
            "scored_at": to_text(scored.scored_at),
            "as_of": to_text(scored.as_of),
            "race_id": scored.race_id,
            "model": scored.model,
            "fingerprint": scored.fingerprint,
            "column_digests": scored.column_digests,
            "columns": COLUMNS_MARK,
            "features_from": scored.features_from,
            "odds_known_at": to_text(scored.odds_known_at) if scored.odds_known_at else None,
            "chances": {runner.horse_id: (runner.probability, runner.blended) for runner in scored.runners},
            "market": {
                runner.horse_id: runner.market_odds for runner in scored.runners if runner.market_odds is not None
            },
        }
        if card is not None:
            entry["card"] = to_record(card)
        if odds is not None:
            entry["odds"] = to_record(odds)
        with self._lock:
            content, entry["repeats"] = self._repeated(entry, scored)
            if content is None:
                return
            line = jsonl.frame(orjson.dumps(entry)[1:])
            try:
                written = os.write(self._open(scored.scored_at), line)
            except OSError as failed:
                raise NotKept(self._why(str(failed))) from None
            if written < len(line):
                # the torn line is damaged; the next one starts on a new line
                self._reopen()
                raise NotKept(self._why(f"{written} of {len(line)} bytes were written"))
            self._remember(content, scored)

    def _repeated(self, entry: Mapping[str, Any], scored: ScoredRace) -> tuple[bytes | None, int]:
        """The digest of an entry without its instants, None if it needs no line; and how often it was served without one."""
        about = {name: value for name, value in entry.items() if name not in ("scored_at", "as_of")}
        content = blake2b(orjson.dumps(about), digest_size=16).digest()
        before = self._last_lines.get(content)
        if before is None:
            return content, 0
        every = EVERY if before.as_of == scored.as_of else EVERY_INSTANT
        if timedelta() <= scored.scored_at - before.logged_at < every:
            before.repeats += 1
            return None, 0
        return content, before.repeats

    def _remember(self, content: bytes, scored: ScoredRace) -> None:
        self._last_lines[content] = _LastLine(scored.scored_at, scored.as_of)
        self._last_lines.move_to_end(content)
        if len(self._last_lines) > REMEMBERED:
            self._last_lines.popitem(last=False)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._reopen()

    def _reopen(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, ""

    def _why(self, failed: str) -> str:
        return f"the score could not be logged in {self.home.scores} ({failed}), so it is not served: make room there"

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
        """Delete the days that are too old, and the oldest while all exceed the limit; raises OSError if today's alone does."""
        first, today = (f"{now - timedelta(days=back):%Y-%m-%d}" for back in (self.days, 0))
        sizes = {path: path.stat().st_size for path in _files(self.home)}
        for path in list(sizes):
            if path.stem < first or (path.stem != today and sum(sizes.values()) > self.megabytes * 2**20):
                path.unlink(missing_ok=True)
                del sizes[path]
        if sum(sizes.values()) > self.megabytes * 2**20:
            raise OSError(f"the scores of today are longer than VELO_SCORES_MB={self.megabytes} allows")


@dataclass(frozen=True, slots=True)
class ScorePosition:
    """A place in the score log: after all lines of the days before `day` (UTC) and the first `offset` bytes of that day's."""

    day: str = ""
    offset: int = 0


def log_end(home: Home) -> ScorePosition:
    """The place after all lines written so far."""
    files = _files(home)
    return ScorePosition(files[-1].stem, files[-1].stat().st_size) if files else ScorePosition()


def served_after(home: Home, position: ScorePosition) -> Iterator[tuple[ScorePosition, Served | None]]:
    """The whole lines after a place, oldest first: the place after each, and its score; None for a damaged line."""
    for path in _files(home):
        if path.stem < position.day:
            continue
        offset = position.offset if path.stem == position.day else 0
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                offset += len(line)
                if line != b"\n":
                    score = jsonl.parse(line)
                    yield ScorePosition(path.stem, offset), None if score is None else _served(score)


def served(home: Home) -> Iterator[tuple[str, Served | None]]:
    """Every line of the score log, oldest first: its file and number, and the score; None for a damaged line."""
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


def _served(entry: dict[str, Any]) -> Served:
    instants = {
        name: from_text(entry[name]) if entry[name] else None for name in ("scored_at", "as_of", "odds_known_at")
    }
    chances = {horse: (own, blended) for horse, (own, blended) in entry["chances"].items()}
    known = {name: value for name, value in entry.items() if name in _FIELDS}
    return Served(**(known | instants | {"chances": chances}))
