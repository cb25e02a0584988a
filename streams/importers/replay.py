"""Replay dead letters: their importer, or the feeds' validation, reads them again after the code or the rows were corrected."""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from velo.errors import Refused, UserError
from velo.storage.log.reader import end as log_end
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.feeds.validation import SOURCE as FEED
from velo.streams.feeds.validation import MessageValidator, ValidMessage
from velo.streams.importers import dead_letters, registry
from velo.streams.importers.dead_letters import LETTER, DeadLetter, Row
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.results import Parsed


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The outcome of a replay: `taken` letters are closed; `refused` ones stay open, each with its reason."""

    tried: int
    taken: int
    appended: int
    identical: int
    refused: Mapping[str, str]


def replay(
    store: Store,
    corrected: Path | None = None,
    *,
    late: bool = False,
    clock: Callable[[], datetime],
    importer_of: Callable[[str], ResultsImporter | None] | None = None,
) -> ReplayReport:
    """Read every open dead letter again, or only those in a `corrected` export, with its rows.

    A letter whose race passes is closed; the others stay as they are. Raises `UserError`, and changes nothing, where a race
    is older than the log's end and not `late`, or `corrected` is not an export of open letters. A letter whose source cannot
    be replayed stays open. A message of a feed is validated as if it arrived now: it is known from now on.
    """
    importer_of = importer_of or partial(registry.results_importer, home=store.home)
    letters = {letter.letter: letter for letter in dead_letters.read(store.home)}
    rows = _corrected_rows(corrected, letters) if corrected else {name: letter.rows for name, letter in letters.items()}
    refused: dict[str, str] = {}
    passed: list[tuple[str, Parsed]] = []
    live: list[tuple[str, ValidMessage]] = []
    validator = MessageValidator.of(store)
    for letter, letter_rows in rows.items():
        source = letters[letter].source
        if source == FEED:
            valid_or_reason = _validated(validator, letter_rows, _arrival(store, clock()))
            if isinstance(valid_or_reason, ValidMessage):
                live.append((letter, valid_or_reason))
            else:
                refused[letter] = valid_or_reason
            continue
        parsed_or_reason = _parsed(importer_of(source), source, letter_rows, store)
        if isinstance(parsed_or_reason, Parsed):
            passed.append((letter, parsed_or_reason))
        else:
            refused[letter] = parsed_or_reason
    letter_of = {id(message): letter for letter, parsed in passed for message in parsed.messages}
    with LogWriter.open(store, clock=clock) as writer:
        if passed or live:
            writer.store = store.with_keys(passed[0][1].keys if passed else validator.policy)
        report = writer.load([message for _, parsed in passed for message in parsed.messages], late=late)
        refused |= {letter_of[id(message)]: str(why) for message, why in report.refused}
        appended, identical = report.appended, report.identical
        for letter, valid in live:
            try:
                outcome = writer.append(valid.message, valid.kept)
            except Refused as why:
                refused[letter] = str(why)
                continue
            appended, identical = appended + (outcome.seq is not None), identical + (outcome.seq is None)
        writer.sync()
        taken = [letter for letter, _ in (*passed, *live) if letter not in refused]
        dead_letters.settle(store.home, taken, clock())
    return ReplayReport(len(rows), len(taken), appended, identical, refused)


def _parsed(importer: ResultsImporter | None, source: str, rows: Sequence[Row], store: Store) -> Parsed | str:
    """Return the results in the rows of a dead letter, or the reason why there are none."""
    if not rows:
        return "its rows were too long for a dead letter: correct the file and load it again"
    if importer is None:
        return f"dead letters of {source} cannot be replayed: correct the file and load it again"
    parsed = importer.read_rows(rows, store)
    if parsed.messages and not parsed.refused:
        return parsed
    return "; ".join(f"{each.reason}: {each.detail}" for each in parsed.refused) or "no rows"


def _arrival(store: Store, now: datetime) -> datetime:
    """Return the instant of arrival: now, but never before the log's end, since the machine's clock may go back."""
    end = log_end(store.home).known_at
    return now if end is None else max(now, end)


def _validated(validator: MessageValidator, rows: Sequence[Row], now: datetime) -> ValidMessage | str:
    """Return the feed's message in a dead letter, or the reason why it is refused."""
    if len(rows) != 1 or not isinstance(rows[0].get("message"), str):
        return "a letter of a feed is one row with a column message: leave them as they were exported"
    if rows[0].get("message_bytes"):
        return f"the letter has only the beginning of its {rows[0]['message_bytes']} bytes: send the message again"
    outcome = validator.take(str(rows[0]["message"]).encode(), now)
    return outcome if isinstance(outcome, ValidMessage) else f"{outcome.reason}: {outcome.detail}"


def _plain(value: Any) -> Any:
    return dead_letters.plain(value) if isinstance(value, str) else value


def _corrected_rows(path: Path, letters: Mapping[str, DeadLetter]) -> dict[str, list[Row]]:
    """Return the rows of an export by dead letter."""
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
                f"{path}, line {number}: {LETTER} {letter!r} is not an open dead letter: leave that column as it was exported"
            )
        by_letter[letter].append({dead_letters.plain(name): _plain(value) for name, value in row.items() if name})
    if not by_letter:
        raise UserError(f"{path} has no rows: name an edited export of dead letters")
    return by_letter
