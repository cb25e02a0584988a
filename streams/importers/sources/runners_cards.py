"""Racecards in the neutral form: the runner table without outcomes, one row for each declared runner (contract 3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from velo.errors import UserError
from velo.storage.store import Store
from velo.streams.importers.declare import SOURCE, ParsedCards, checked_cards
from velo.streams.importers.importer import CardsImporter
from velo.streams.importers.sources.runners import typed_rows

REQUIRED: Final = ("race_id", "race_date", "course", "horse")


def read_cards(sources: Sequence[Path | pa.Table], store: Store) -> ParsedCards:
    """Read the racecards in some files or tables. Outcome columns are left out; a row of status NR marks a non-runner.

    A card that breaks a rule goes to `refused`. Raises `UserError` for a file that is not a runner table.
    """
    if not sources:
        raise UserError("no file is named: name one or more files of declared runners")
    return checked_cards(typed_rows(sources, REQUIRED), store, SOURCE, "id")


IMPORTER: Final = CardsImporter(
    SOURCE,
    "Load racecards from runner tables without outcomes. A card without known_at is known on arrival.",
    read_cards,
)
