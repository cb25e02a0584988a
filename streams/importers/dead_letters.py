"""Dead letters: what was refused, why, and the rows themselves, so that nothing is dropped silently.

`dead-letters.ndjson` is append-only, one JSON object per line: a letter, with its identity `letter`, or
`{"at", "replayed": letter}` when its race was accepted later.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from velo.errors import Refused, UserError
from velo.racing.clock import to_text
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home

Row = Mapping[str, Any]
PART: Final = "\0part"
"""Reserved key of a row: its file within the load, if known."""
BAD: Final = "\0bad"
"""Reserved key of a row: its values of the wrong kind, by column; a value is a `Refused` if it has its own reason."""
RAW: Final = "\0raw"
"""Reserved key of a row: the row as read, if the typed row lacks some of it."""
RESERVED: Final = frozenset({PART, BAD, RAW})
LETTER_CHARACTERS: Final = 2**22
"""The most characters in the rows of a dead letter: a thousand times what a race needs."""
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
LETTER: Final = "dead_letter"
"""The column of an export with the identity of a row's letter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused version of a race (or a row without a race), by the importer `source`, with its rows as read."""

    source: str
    race_id: str | None
    result_version: int | None
    reason: str
    detail: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def letter(self) -> str:
        """The identity: the same refusal of the same rows is the same letter, whenever it happens."""
        content = (self.source, self.race_id, self.result_version, self.reason, [dict(row) for row in self.rows])
        return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def read(home: Home, *, replayed: bool = False) -> list[DeadLetter]:
    """Return the open letters, oldest first; with `replayed`, also the closed ones."""
    letters, settled = _all(home)
    return [letter for name, letter in letters.items() if replayed or name not in settled]


def write(home: Home, letters: Iterable[DeadLetter], at: datetime) -> int:
    """Append the letters that the file does not have yet, synced on return; returns their number."""
    held, _ = _all(home)
    new = {letter.letter: letter for letter in letters}
    lines = [{"at": to_text(at), "letter": name, **asdict(letter)} for name, letter in new.items() if name not in held]
    _append(home, lines)
    return len(lines)


def settle(home: Home, letters: Iterable[str], at: datetime) -> None:
    """Mark letters as replayed."""
    _append(home, [{"at": to_text(at), "replayed": letter} for letter in letters])


def export(home: Home, path: Path, source: str | None = None) -> int:
    """Write the open letters' rows to a CSV file to correct by hand, as their importer reads them; returns the number of rows.

    A text that a spreadsheet would run as a formula gets an apostrophe, which `plain` removes. A file has one source: raises
    `UserError` where letters of several are open and no source is chosen.
    """
    letters = [letter for letter in read(home) if source in (None, letter.source)]
    sources = sorted({letter.source for letter in letters})
    if len(sources) > 1:
        raise UserError(f"dead letters of {', '.join(sources)} are open: choose one of them to export")
    rows = [{LETTER: letter.letter, **row} for letter in letters for row in letter.rows]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or [LETTER]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(neutral, columns))
            writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    except OSError as refused:
        raise UserError(f"cannot write {path} ({refused.strerror}): name a file in a folder you may write to") from None
    return len(rows)


def neutral(text: str) -> str:
    """Return the text with an apostrophe where a spreadsheet would take it for a formula; `plain` undoes it."""
    return f"'{text}" if _FORMULA.match(text) else text


def plain(text: str) -> str:
    """Return the text that `neutral` was called with."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _cell(value: object) -> object:
    if isinstance(value, dict | list | bool):
        return orjson.dumps(value).decode()
    return neutral(value) if isinstance(value, str) else value


def _all(home: Home) -> tuple[dict[str, DeadLetter], set[str]]:
    """Return all letters by identity, and the identities of those replayed. A torn last line is ignored."""
    letters: dict[str, DeadLetter] = {}
    settled: set[str] = set()
    try:
        content = home.dead_letters.read_bytes()
    except FileNotFoundError:
        return letters, settled
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            record = orjson.loads(line)
            if "replayed" in record:
                settled.add(record["replayed"])
                continue
            fields = {name: record[name] for name in DeadLetter.__slots__}
        except (orjson.JSONDecodeError, KeyError, TypeError) as damaged:
            raise UserError(
                f"{home.dead_letters}, line {number} cannot be read ({damaged}): restore it from a backup, or remove it"
            ) from None
        letters[record["letter"]] = DeadLetter(**{**fields, "rows": tuple(fields["rows"])})
    return letters, settled


def _append(home: Home, records: list[dict[str, Any]]) -> None:
    if not records:
        return
    make_folder(home.root)
    with home.dead_letters.open("ab+") as file:
        whole = _whole_length(file.seek(0, os.SEEK_END), home.dead_letters)
        file.truncate(whole)
        file.write(b"".join(orjson.dumps(record) + b"\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def _whole_length(size: int, path: Path) -> int:
    """Return the length up to the last line's end: the repeated load writes a torn line again."""
    return path.read_bytes().rfind(b"\n") + 1 if size else 0


def letter(source: str, race_id: str | None, version: int | None, why: Refused, rows: Sequence[Row]) -> DeadLetter:
    """Return the dead letter of refused rows, with the rows as read; race and version are None if unknown.

    Rows beyond `LETTER_CHARACTERS` stay in their file, and the letter says so: all letters are read into memory.
    """
    read = tuple(_as_read(row) for row in rows)
    size = sum(len(str(row)) for row in read)
    detail = why.detail
    if size > LETTER_CHARACTERS:
        read, detail = (), f"{detail} (its {len(rows):,} rows of {size:,} characters are left in their file)"
    return DeadLetter(source, race_id, version, why.reason, detail, read)


def _as_read(row: Row) -> dict[str, Any]:
    read = row.get(RAW) or {name: value for name, value in row.items() if name not in RESERVED} | row.get(BAD, {})
    return {
        name: json_value(value) for name, value in read.items() if value is not None and not isinstance(value, Refused)
    }


def json_value(value: Any) -> Any:
    """Convert a value to JSON's types: instants and dates as text, NaN as null, any other type as its text."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo is None else to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return str(value)
