"""Racecards in the neutral form: the runner table without outcomes, one row for each declared runner (contract 3)."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from velo.errors import Refused, UserError
from velo.settings import KeyPolicy
from velo.storage.store import Store
from velo.streams.importers.declare import SOURCE, ParsedCards
from velo.streams.importers.importer import CardsImporter
from velo.streams.importers.race_maker import RaceMaker
from velo.streams.importers.rows import Row, letter
from velo.streams.importers.sources.runners import typed_rows

REQUIRED: Final = ("race_id", "race_date", "course", "horse")


def read_cards(sources: Sequence[Path | pa.Table], store: Store) -> ParsedCards:
    """Read the racecards in some files or tables. Outcome columns are left out; a row of status NR marks a non-runner.

    A card that breaks a rule goes to `refused`. Raises `UserError` for a file that is not a runner table.
    """
    if not sources:
        raise UserError("no file is named: name one or more files of declared runners")
    policy: KeyPolicy = store.keys or "id"
    warnings: Counter[str] = Counter()
    maker = RaceMaker(store, policy, warnings)
    races: dict[str, list[Row]] = defaultdict(list)
    messages, refused, count = [], [], 0
    for row in typed_rows(sources, REQUIRED):
        count += 1
        if row.get("race_id") is None:
            why = Refused("no race_id", "a row belongs to a race by its race_id: give it one")
            refused.append(letter(SOURCE, None, None, why, (row,)))
        else:
            races[row["race_id"]].append(row)
    for race_id, rows in races.items():
        try:
            messages.append(maker.card(race_id, rows))
        except Refused as why:
            refused.append(letter(SOURCE, race_id, None, why, rows))
    return ParsedCards(messages, refused, warnings, count, policy)


IMPORTER: Final = CardsImporter(
    SOURCE,
    "Load racecards from runner tables without outcomes. A card without known_at is known on arrival.",
    read_cards,
)
