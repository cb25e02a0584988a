"""Read files by an importer without loading them: account for every row, and show values beside the source's own text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.dead_letters import RAW, Row, json_value
from velo.streams.importers.declare import ParsedCards
from velo.streams.importers.importer import CardsImporter, Importer, ResultsImporter
from velo.streams.importers.ingest import counts
from velo.streams.importers.results import Parsed

SPOTS: Final = 20
_LOOKED_AT: Final = 200
"""How many rows are looked at for one with a text in the column, before the column goes without a spot."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One value: the runner table's column and value, and the text of the source that it was read from."""

    race_id: str
    horse: str
    column: str
    written: str
    value: Any


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a load that was not made. `rows` = `accepted_rows` + `refused_rows` + `long_rows`; rows that were left out are in `warnings`.

    `long_rows` are those of refused races that are too long for a dead letter, and so stay in their file. `races` counts accepted races, `refused` refused races by reason.
    """

    source: str
    rows: int
    races: int
    accepted_rows: int
    refused_rows: int
    long_rows: int
    refused: Mapping[str, int]
    examples: Mapping[str, str]
    warnings: Mapping[str, int]
    spots: tuple[Spot, ...]

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show."""
        return [
            ("rows", self.rows),
            ("in accepted races", self.accepted_rows),
            ("in refused races", self.refused_rows),
            *([("too long for a dead letter", self.long_rows)] if self.long_rows else []),
            ("races accepted", self.races),
            ("races refused", sum(self.refused.values())),
        ]

    def notes(self) -> list[str]:
        """Refusals, each reason with one example, and corrections."""
        examples = [f"  for example: {detail}" for detail in self.examples.values()]
        return [*counts(self.refused, self.warnings), *examples]


def check(name: str, paths: Sequence[Path], store: Store) -> CheckReport:
    """Return what a load of files would do, by the name of an importer or the path of a mapping; nothing is written.

    Raises `UserError` for a file of another source, and for an importer that cannot read without loading.
    """
    return check_by(registry.importer(name), paths, store)


def check_by(importer: Importer, paths: Sequence[Path], store: Store) -> CheckReport:
    """Return what a load of files by an importer would do (see `check`)."""
    parsed: Parsed | ParsedCards
    if isinstance(importer, ResultsImporter):
        parsed = results = importer.read(paths, store)
        rows = [row for rows in results.rows_of for row in rows]
        accepted, spots = len(rows), spots_of(rows, importer.sources)
    elif isinstance(importer, CardsImporter):
        parsed = cards = importer.read(paths, store)
        accepted, spots = sum(len(card.runners) for card in cards.messages), ()
    else:
        raise UserError(
            f"{importer.source} needs the log to read its files, so they cannot be checked: load them with "
            f"velo ingest {importer.source}"
        )
    lettered = sum(len(letter.rows) for letter in parsed.refused)
    return CheckReport(
        source=importer.source,
        rows=parsed.rows,
        races=len(parsed.messages),
        accepted_rows=accepted,
        refused_rows=lettered,
        long_rows=parsed.rows - accepted - lettered,
        refused=dict(Counter(letter.reason for letter in parsed.refused)),
        examples={letter.reason: f"race {letter.race_id}: {letter.detail}" for letter in reversed(parsed.refused)},
        warnings=dict(parsed.warnings),
        spots=spots,
    )


def spots_of(rows: Sequence[Row], sources: Mapping[str, Sequence[Sequence[str]]]) -> tuple[Spot, ...]:
    """Return `SPOTS` values spread evenly over the rows and over the columns that are read from the source."""
    targets = list(sources)
    spots: list[Spot] = []
    for at in range(3 * SPOTS if rows and targets else 0):  # a column can be blank in every row that is looked at
        target = targets[at % len(targets)]
        begin = at * len(rows) // SPOTS % len(rows)
        for row in rows[begin : begin + _LOOKED_AT]:
            written = _written(row, sources[target])
            if written:
                spots.append(
                    Spot(str(row.get("race_id")), str(row.get("horse")), target, written, json_value(row.get(target)))
                )
                break
        if len(spots) == SPOTS:
            break
    return tuple(spots)


def _written(row: Row, sources: Sequence[Sequence[str]]) -> str:
    """Return the texts of the columns that a value was read from, joined by a bar; empty where all are blank."""
    cells = {name.casefold(): cell for name, cell in row.get(RAW, {}).items() if cell}
    found = (next((cells[name.casefold()] for name in names if name.casefold() in cells), None) for names in sources)
    return " | ".join(str(cell) for cell in found if cell is not None)
