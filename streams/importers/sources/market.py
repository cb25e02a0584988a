"""Market snapshots: CSV or Parquet, one row for each runner of each snapshot of a race's odds.

Columns: `race_id`, `known_at` (a UTC instant), `odds` (decimal), `horse_id` or `horse`, `source` (whose odds, `market` without
one) and `volume` (stakes matched so far). The rows with the same race, instant and source are one snapshot. A row without odds
above 1 has none: its runner is missing in the snapshot. A snapshot is known from its instant on, so that history has to be
loaded in its place in the log: `velo log rebuild --source market FILE` puts it among the messages that the log has.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from velo.errors import Refused, UserError
from velo.racing.messages import Market
from velo.settings import KeyPolicy
from velo.storage.store import Store
from velo.streams.importers.columns import WANTED
from velo.streams.importers.dead_letters import BAD, Row, letter
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.race_maker import RaceMaker, bad_value, refuse_control_characters
from velo.streams.importers.results import Parsed, collector_paused
from velo.streams.importers.sources.runners import typed_one_by_one, typed_rows

SOURCE: Final = "market"
KINDS: Final = {
    "race_id": "text", "known_at": "instant", "source": "text", "horse_id": "text", "horse": "text", "odds": "number",
    "volume": "number",
}  # fmt: skip
REQUIRED: Final = ("race_id", "known_at", "odds")
NO_ODDS: Final = "rows without odds above 1"


def read_snapshots(paths: Sequence[Path], store: Store) -> Parsed:
    """Read the snapshots in some files as one load. Raises `UserError` for a file of another kind."""
    if not paths:
        raise UserError("no file is named: name one or more files of market snapshots")
    return _checked((row for path in paths for row in _rows(path)), store)


def parse_rows(rows: Iterable[Row], store: Store) -> Parsed:
    """Read the snapshots in rows of dead letters: values may be text."""
    return _checked(typed_one_by_one(rows, KINDS), store)


def _rows(path: Path) -> Iterator[Row]:
    for row in typed_rows([path], REQUIRED, KINDS):
        if not {"horse_id", "horse"} & row.keys():
            raise UserError(f"{path} has no column horse_id and none horse: add one of them")
        yield row


def _checked(rows: Iterable[Row], store: Store) -> Parsed:
    policy: KeyPolicy = store.keys or "id"
    parsed = Parsed([], [], Counter(), 0, SOURCE, policy)
    snapshots: dict[tuple[str, datetime | None, str], list[Row]] = {}
    count = 0
    with collector_paused():
        for row in rows:
            count += 1
            key = row.get("race_id") or "", row.get("known_at"), row.get("source") or SOURCE
            snapshots.setdefault(key, []).append(row)
        maker = RaceMaker(store, policy, parsed.warnings)
        for (race_id, known_at, source), of in snapshots.items():
            try:
                parsed.messages.append(_snapshot(maker, race_id, known_at, source, of))
            except Refused as why:
                parsed.refused.append(letter(SOURCE, race_id or None, None, why, of))
                continue
            parsed.rows_of.append(of)
    return Parsed(parsed.messages, parsed.refused, parsed.warnings, count, SOURCE, policy, parsed.rows_of)


def _snapshot(maker: RaceMaker, race_id: str, known_at: datetime | None, source: str, rows: Sequence[Row]) -> Market:
    """The snapshot that some rows say. Raises `Refused` for one that breaks a rule."""
    for name, value in ((name, value) for row in rows for name, value in row.get(BAD, {}).items()):
        raise value if isinstance(value, Refused) else bad_value(name, value, WANTED[KINDS[name]])
    if not race_id:
        raise Refused("no race_id", "a snapshot is of a race: give its rows race_id")
    if known_at is None:
        raise Refused("no known_at", "a snapshot is known from an instant on: give its rows known_at")
    refuse_control_characters(race_id)
    prices, volumes, named = dict[str, float](), dict[str, float](), set[str]()
    for row in rows:
        horse = maker.horse_key(row)
        if not horse:
            raise Refused("runner without a horse", "odds are of a horse: give each row horse_id or horse")
        if horse in named:
            raise Refused("horse twice", f"{horse} has two rows in the snapshot of {known_at}: leave one of them")
        named.add(horse)
        odds, volume = row.get("odds"), row.get("volume")
        if volume is not None and volume >= 0.0:
            volumes[horse] = volume
        if odds is not None and odds > 1.0:
            prices[horse] = odds
        else:
            maker.warnings[NO_ODDS] += 1
    if not prices:
        raise Refused("no prices", "no horse has odds above 1: leave the snapshot out")
    return Market(race_id, prices, source, known_at, volumes or None)


IMPORTER: Final = ResultsImporter(
    SOURCE,
    "Load market snapshots: CSV or Parquet, one row for each runner and instant.",
    read_snapshots,
    parse_rows,
)
