"""Dead letters read again by their importer, or the door of the feeds, after the code or the rows were mended."""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.storage.log.reader import end as log_end
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.feeds.validation import SOURCE as FEED
from velo.streams.feeds.validation import MessageValidator, ValidMessage
from velo.streams.importers import dead_letters, raceform, runners
from velo.streams.importers.dead_letters import LETTER, DeadLetter
from velo.streams.importers.results import Parsed, Row

RowImporter = Callable[[Sequence[Row], Store], Parsed]
"""Reads rows as a dead letter or an export of them has them."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of the letters that were tried: `taken` are settled, `refused` are still open, with the reasons."""

    tried: int
    taken: int
    appended: int
    identical: int
    refused: Mapping[str, str]


IMPORTERS: Final[Mapping[str, RowImporter]] = {
    runners.RUNNER_TABLE: runners.parse_rows,
    raceform.SOURCE: raceform.parse_rows,
}
"""The importer of each source."""


def replay(
    store: Store,
    mended: Path | None = None,
    *,
    late: bool = False,
    clock: Callable[[], datetime],
    importers: Mapping[str, RowImporter] = IMPORTERS,
) -> ReplayReport:
    """Read the open letters' rows again, by the importer of their source, and load the races that pass.

    With `mended`, an edited export, the letters in it are tried, with its rows. A letter whose race passes is marked
    as replayed; the others stay as they are. Raises `UserError`, and changes nothing, where a race is older than the
    log's end and not `late`, or `mended` is no export of open letters. A letter whose source has no importer stays.
    What came through a feed is taken as the feed would take it now: it is known from now on.
    """
    letters = {one.letter: one for one in dead_letters.read(store.home)}
    rows = _mended(mended, letters) if mended else {letter: one.rows for letter, one in letters.items()}
    refused: dict[str, str] = {}
    passed: list[tuple[str, Parsed]] = []
    live: list[tuple[str, ValidMessage]] = []
    door = MessageValidator.of(store)
    for letter, given in rows.items():
        source = letters[letter].source
        if source == FEED:
            taken_or_not = _through(door, given, _arrived(store, clock()))
            if isinstance(taken_or_not, ValidMessage):
                live.append((letter, taken_or_not))
            else:
                refused[letter] = taken_or_not
            continue
        if not given:
            refused[letter] = "its rows were too long for a letter: mend the file and give it again"
            continue
        if source not in importers:
            refused[letter] = f"letters of {source} are not replayed: mend the file and give it again"
            continue
        parsed = importers[source](given, store)
        if parsed.refused or not parsed.messages:
            refused[letter] = "; ".join(f"{one.reason}: {one.detail}" for one in parsed.refused) or "no rows"
        else:
            passed.append((letter, parsed))
    letter_of = {id(message): letter for letter, parsed in passed for message in parsed.messages}
    with LogWriter.open(store, clock=clock) as writer:
        if passed or live:
            writer.store = store.with_keys(passed[0][1].keys if passed else door.policy)
        report = writer.load([message for _, parsed in passed for message in parsed.messages], late=late)
        refused |= {letter_of[id(message)]: str(why) for message, why in report.refused}
        appended, identical = report.appended, report.identical
        for letter, told in live:
            try:
                outcome = writer.append(told.message, told.kept)
            except Refused as why:
                refused[letter] = str(why)
                continue
            appended, identical = appended + (outcome.seq is not None), identical + (outcome.seq is None)
        writer.sync()
        taken = [letter for letter, _ in (*passed, *live) if letter not in refused]
        dead_letters.settle(store.home, taken, clock())
    return ReplayReport(len(rows), len(taken), appended, identical, refused)


def _arrived(store: Store, now: datetime) -> datetime:
    """The instant at which the log takes what comes now: it never goes back, though the machine's clock may."""
    end = log_end(store.home).known_at
    return now if end is None else max(now, end)


def _through(door: MessageValidator, rows: Sequence[Row], now: datetime) -> ValidMessage | str:
    """A feed's message out of its letter, or why it cannot be taken."""
    if len(rows) != 1 or not isinstance(rows[0].get("message"), str):
        return "a letter of a feed is one row with a column message: leave them as they were exported"
    if rows[0].get("message_bytes"):
        return f"the letter has only the beginning of its {rows[0]['message_bytes']} bytes: send the message again"
    told = door.take(str(rows[0]["message"]).encode(), now)
    return told if isinstance(told, ValidMessage) else f"{told.reason}: {told.detail}"


def _plain(value: Any) -> Any:
    return dead_letters.plain(value) if isinstance(value, str) else value


def _mended(path: Path, letters: Mapping[str, DeadLetter]) -> dict[str, list[Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as unreadable:
        raise UserError(f"{path} cannot be read ({unreadable}): name an edited export of dead letters") from None
    by_letter: dict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows, 2):
        letter = row.pop(LETTER, None)
        if letter not in letters:
            raise UserError(
                f"{path}, line {number}: {LETTER} {letter!r} is no open dead letter: leave that column as it was exported"
            )
        by_letter[letter].append({dead_letters.plain(name): _plain(value) for name, value in row.items() if name})
    if not by_letter:
        raise UserError(f"{path} has no rows: name an edited export of dead letters")
    return by_letter
