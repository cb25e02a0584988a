"""Racecards as rpscrape writes them: JSON, region → course → off time → race, with the race's runners.

Source: the card pages of a British racing paper. Values are read as those of its results
(`velo.streams.importers.raceform_row`), so that card and result of a race have the same keys. What the files leave open:

- `off_time` is London time for every meeting, by the 24-hour clock today and by the 12-hour clock in older releases. It is
  read as in results (`velo.streams.importers.off_clock`), and marked `off_inferred` where it stays ambiguous.
- A horse is `name (country)` with its `region`. Without a region (a setting, and the release of 2025-12-28), it is the
  horse of the log with the source's `horse_id`, else the only one of that name. Of several the country is left out, and a
  horse that the log does not have is GB. Each case is counted.
- A foreign course has its country's suffix, as in results (`Naas` of region IRE is `Naas (IRE)`).
- `race_id` is the source's number as text, else made of date, course and off as for results. A card with an id and a
  result exported without ids are two races: export both with ids, or neither.
- A non-runner (`non_runner`, or the jockey NON-RUNNER) stays on the card, marked and without a jockey; a `NonRunner`
  message follows the card. A later card without the mark reinstates the horse.
- A reserve is not declared until it gets a run: it is counted and left out, and the next card without that mark declares it.
- Ratings (`rpr`, `ts`) are of earlier races. Like every field that the runner table lacks they are kept with the runner,
  where no feature reads them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.racing.messages import NON_RUNNER, Racecard
from velo.racing.names import name_key
from velo.settings import KeyPolicy
from velo.storage.store import Store
from velo.streams.importers import parsers
from velo.streams.importers.columns import COLUMNS
from velo.streams.importers.dead_letters import BAD, DeadLetter, json_value, letter
from velo.streams.importers.declare import ParsedCards
from velo.streams.importers.importer import CardsImporter
from velo.streams.importers.known_horses import KnownHorses, Wanted
from velo.streams.importers.off_clock import LONDON, OffReader, RaceOff
from velo.streams.importers.race_maker import RaceMaker
from velo.streams.importers.raceform_row import (
    DECISIVE,
    course_with_country,
    has_country,
    parse_row,
    when,
    with_country,
)
from velo.streams.importers.rpscrape_tree import TreePath, as_read, races, shown

SOURCE: Final = "rpscrape-cards"
NO_RIDER: Final = frozenset({"non-runner", "non runner", "nonrunner"})
"""What the source writes for the jockey of a horse that does not run."""
_RACE_CELLS: Final = {
    "race_id": ("race_id",),
    "date": ("date",),
    "race_name": ("race_name",),
    "type": ("race_type", "type"),
    "class": ("race_class",),
    "rating_band": ("rating_band",),
    "surface": ("surface",),
    "going": ("going",),
    "dist_y": ("distance_y",),
    "dist": ("distance",),
    "dist_f": ("distance_f",),
    "known_at": ("known_at",),
}
"""Columns of a results row, and the fields of a race for each; older releases have other names."""
_RUNNER_CELLS: Final = {
    "num": ("number",),
    "draw": ("draw",),
    "horse_id": ("horse_id",),
    "jockey_id": ("jockey_id",),
    "jockey": ("jockey",),
    "trainer_id": ("trainer_id",),
    "trainer": ("trainer",),
    "age": ("age",),
    "sex": ("sex_code", "sex"),
    "lbs": ("lbs",),
    "or": ("ofr",),
    "hg": ("headgear",),
}
_RACE_PLACED: Final = frozenset(name for names in _RACE_CELLS.values() for name in names) | {
    "course", "handicap", "off_time", "region", "runners",
}  # fmt: skip
_RUNNER_PLACED: Final = frozenset(name for names in _RUNNER_CELLS.values() for name in names) | {
    "name", "non_runner", "region", "reserve",
}  # fmt: skip
_NOTHING: Final[tuple[object, ...]] = (None, "", [], {})
_MET: Final = {
    "by its id": "found in the log by its id",
    "by the only name": "found in the log by the only such name",
    "several of that name": "not found: the log has several of that name",
    "not in the log": "not found: the log has none of that name, taken as GB",
}
Record = Mapping[str, Any]


def read_rpscrape_cards(paths: Sequence[Path], store: Store) -> ParsedCards:
    """Read the racecards in some files, non-runners marked; a later card of a race replaces an earlier one.

    A card that breaks a rule goes to `refused`. Raises `UserError` for a file of another kind.
    """
    if not paths:
        raise UserError("no file is named: name one or more files of rpscrape racecards")
    policy: KeyPolicy = store.keys or "name"
    warnings: Counter[str] = Counter()
    maker = RaceMaker(store, policy, warnings)
    places = [place for path in paths for place in races(path)]
    reading = _Reading(
        store, OffReader.of(_offs(places), LONDON), KnownHorses.of(store.home, _without_region(places)), warnings
    )
    owners: dict[str, tuple[date, str | None]] = {}
    cards: list[Racecard] = []
    refused: list[DeadLetter] = []
    count = 0
    for place in places:
        raw = as_read(place)
        count += len(raw)
        race_id = parsers.text(_cell(place.race.get("race_id"))) if isinstance(place.race, dict) else None
        try:
            rows = reading.declared_rows(place)
            card = maker.card(rows[0]["race_id"], rows)
            _refuse_shared_id(card, owners)
        except Refused as why:
            refused.append(letter(SOURCE, race_id, None, why, raw))
            continue
        cards.append(card)
    return ParsedCards(cards, refused, warnings, count, policy)


def _offs(places: Iterable[TreePath]) -> Iterator[RaceOff]:
    """Yield the offs as written, of all races with a readable one."""
    for place in places:
        try:
            _, off = when(_race_cells(place), place.path) if isinstance(place.race, dict) else (None, None)
        except Refused:
            continue
        if off:
            yield off


def _without_region(places: Iterable[TreePath]) -> set[Wanted]:
    """Return the runners without a country."""
    lists = (place.race.get("runners") for place in places if isinstance(place.race, dict))
    runners = (runner for listed in lists if isinstance(listed, list) for runner in listed if isinstance(runner, dict))
    return {wanted for runner in runners if (wanted := _wanted(runner))}


def _wanted(runner: Record) -> Wanted | None:
    """Return a runner to look for in the log; None where it has a country, or no name."""
    name = _text(runner.get("name"))
    if name is None or _text(runner.get("region")) or has_country(name):
        return None
    return Wanted(_text(runner.get("horse_id")), name)


def _race_cells(place: TreePath) -> dict[str, str]:
    """Return the race's fields by the columns of a results row."""
    race: Record = place.race
    region = _text(race.get("region")) or _text(place.region)
    course = course_with_country(_text(race.get("course")) or place.course, region)
    cell = {column: _first(race, names) for column, names in _RACE_CELLS.items()}
    return cell | {"region": region or "", "course": course, "off": _cell(race.get("off_time")) or place.off}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads the races of one load, with all of its offs and the horses of the log that it may mean."""

    store: Store
    offs: OffReader
    known: KnownHorses
    warnings: Counter[str]

    def declared_rows(self, place: TreePath) -> list[dict[str, Any]]:
        """Return the rows of a race's runners except reserves, in the runner table's columns. Raises `Refused`."""
        race = place.race
        if not isinstance(race, dict):
            where = " ".join(filter(None, (place.region, place.course, place.off)))
            raise Refused("no race", f"{where} is {shown(race)}, but holds a race: correct it")
        runners = race.get("runners")
        if not isinstance(runners, list) or not all(isinstance(runner, dict) for runner in runners):
            raise Refused("bad value", f"runners is {shown(runners)}, but holds a list of runners: correct it")
        declared = [runner for runner in runners if not _flag(runner, "reserve")]
        if len(declared) < len(runners):
            self.warnings["reserve, not declared"] += len(runners) - len(declared)
        if not declared:
            raise Refused("no runners", "a card declares one runner or more: leave the race out until it has them")
        rows = [self._row(place, runner) for runner in declared]
        for row in rows:
            self.warnings.update(f"unreadable {column}, unknown" for column in row.get("unreadable", {}))
        if rows[0].get("off_inferred"):
            self.warnings["off inferred"] += 1
        if all(map(_wanted, declared)):
            self.warnings["race without regions of its runners"] += 1
        return rows

    def _row(self, place: TreePath, runner: Record) -> dict[str, Any]:
        race = place.race
        cell = _race_cells(place) | {column: _first(runner, names) for column, names in _RUNNER_CELLS.items()}
        horse = self._horse(runner)
        cell["horse"] = horse or ""
        riderless = name_key(cell["jockey"]) in NO_RIDER
        if riderless:
            cell |= {"jockey": "", "jockey_id": ""}
        row = parse_row(cell, self.store.timezone, self.offs, place.path) | {"horse": horse}
        unreadable = row.get("unreadable", {})
        bad = {column: unreadable[column] for column in DECISIVE if column in unreadable}
        if isinstance(race.get("handicap"), bool):
            row["handicap"] = race["handicap"]
        row["non_runner"] = riderless or _flag(runner, "non_runner")
        if row["non_runner"]:
            row["status"] = NON_RUNNER
        return _kept(race, _RACE_PLACED) | _kept(runner, _RUNNER_PLACED) | row | ({BAD: bad} if bad else {})

    def _horse(self, runner: Record) -> str | None:
        """Return the horse's name with its country, if the card says it or the log knows it."""
        wanted = _wanted(runner)
        if wanted is None:
            return with_country(_cell(runner.get("name")), _text(runner.get("region")))
        horse = self.known.meet(wanted)
        self.warnings[f"runner without region, {_MET[horse.met]}"] += 1
        if horse.met == "not in the log":
            return with_country(wanted.name)
        return horse.name or wanted.name


def _refuse_shared_id(card: Racecard, owners: dict[str, tuple[date, str | None]]) -> None:
    """Raise `Refused` for the id of another race of the load. An off may move; date and course do not."""
    race = card.race
    own = (race.race_date, name_key(race.course))
    if owners.setdefault(card.race_id, own) != own:
        raise Refused(
            "race_id of another race",
            f"race_id {card.race_id} is of {owners[card.race_id][1]} on {owners[card.race_id][0]} too: correct one of them",
        )


def _kept(record: Record, placed: frozenset[str]) -> dict[str, Any]:
    """Return the fields that the runner table lacks, without empty ones."""
    left = ((name, value) for name, value in record.items() if name not in placed and value not in _NOTHING)
    return {f"source_{name}" if name in COLUMNS else name: json_value(value) for name, value in left}


def _flag(runner: Record, name: str) -> bool:
    value = runner.get(name)
    return value is True or _cell(value).casefold() in ("true", "1")


def _first(record: Record, names: Sequence[str]) -> str:
    return next((text for name in names if (text := _cell(record.get(name)))), "")


def _cell(value: Any) -> str:
    """Return a JSON value as the cell of a results file; blank for null."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str | None:
    return parsers.text(_cell(value))


IMPORTER: Final = CardsImporter(
    SOURCE,
    "Load racecards and non-runners from rpscrape JSON files; a reserve is declared once it has a run.",
    read_rpscrape_cards,
)
