"""Racecards as rpscrape writes them: JSON, region → course → off time → race, with the race's runners in it.

Source: the card pages of a British racing paper. The values are read as those of its results are
(`streams.importers.raceform_row`), so that card and result of one race meet on the same keys. What is settled here:

- `off_time` is naive local time: British and Irish offs are Europe/London, others in the store's zone and marked
  `off_inferred`. A foreign hour with a leading nought (`08:30`) is by the 24-hour clock, any other as in results.
- A horse is `name (country)` of the card's `region`, GB without one; a foreign course has its country's suffix, as in
  results (`Naas` of region IRE is `Naas (IRE)`).
- `race_id` is the source's own number as text, else made of date, course and off as for results. A card with an id
  does not meet a result that was exported without ids, nor the other way round: export both with ids, or neither.
- A non-runner (`non_runner`, or NON-RUNNER for a jockey) stays on the card, where a reader looks for it, without the
  pseudo jockey and marked; a `NonRunner` message follows the card. A later card without the mark takes it back.
- A reserve is no declared runner until it gets a run: it is counted and left out, and the next card that no longer
  calls it a reserve declares it.
- Ratings (`rpr`, `ts`) are of races before this one; like all else without a place in the runner table they are kept
  with the runner, where no feature reaches them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from streams.importers import cells
from streams.importers.cards import ParsedCards
from streams.importers.columns import COLUMNS
from streams.importers.dead_letters import DeadLetter
from streams.importers.file_kinds import refuse_other_kind
from streams.importers.raceform import DECISIVE
from streams.importers.raceform_row import HOME_COUNTRIES, course_with_country, parse_row, with_country
from streams.importers.results import BAD, RAW, Maker, Row, letter, plain
from velo.errors import Refused, UserError
from velo.racing.messages import NON_RUNNER, Racecard
from velo.racing.names import name_key
from velo.settings import KeyPolicy
from velo.store import Store

MAX_BYTES: Final = 2**25
_SAMPLE_BYTES: Final = 2**12
SOURCE: Final = "rpscrape-cards"
NO_RIDER: Final = frozenset({"non-runner", "non runner", "nonrunner"})
"""What stands for the jockey of a horse that does not run."""
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
"""The column of a results row for each field of a race, which older releases name otherwise."""
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
_LEADING_NOUGHT: Final = re.compile(r"(0\d):([0-5]\d)(?::\d{2})?")
_SHOWN: Final = 60
"""How many characters of a strange value a refusal shows."""
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a file a race stands: what the tree says of it, should the race itself not."""

    region: str
    course: str
    off: str
    race: Any


def read_rpscrape_cards(paths: Sequence[Path], store: Store) -> ParsedCards:
    """The racecards in some files, non-runners marked; a later card of a race replaces an earlier one.

    A card that breaks a rule goes to `refused`, and the rest goes on. Raises `UserError` for a file that is none.
    """
    if not paths:
        raise UserError("no file is named: name one or more files of rpscrape racecards")
    policy: KeyPolicy = store.keys or "name"
    warnings: Counter[str] = Counter()
    maker = Maker(store, policy, warnings)
    owners: dict[str, tuple[date, str | None]] = {}
    cards: list[Racecard] = []
    refused: list[DeadLetter] = []
    count = 0
    for path in paths:
        for place in _races(path):
            raw = _as_read(place)
            count += len(raw)
            race_id = cells.text(_cell(place.race.get("race_id"))) if isinstance(place.race, dict) else None
            try:
                rows = _declared_rows(place, store, warnings)
                card = maker.card(rows[0]["race_id"], rows)
                _refuse_shared_id(card, owners)
            except Refused as why:
                refused.append(letter(SOURCE, race_id, None, why, raw))
                continue
            cards.append(card)
    return ParsedCards(cards, refused, warnings, count, policy)


def _races(path: Path) -> Iterator[_Place]:
    """Every race of a file, whatever it holds; raises `UserError` where the file is no such tree."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:  # read into objects it would take thirty times as much
            raise UserError(
                f"{path} has more than {MAX_BYTES:,} bytes, but a day's racecards have a few million: split it"
            )
        refuse_other_kind(path, content[:_SAMPLE_BYTES], "racecards as rpscrape writes them are JSON")
        told = json.loads(content, parse_constant=lambda _: None)
    except OSError as refused:
        raise UserError(f"{path} cannot be read ({refused.strerror}): name a file of rpscrape racecards") from None
    except (ValueError, RecursionError) as refused:
        why = str(refused).splitlines()[0]
        raise UserError(f"{path} is no JSON ({why}): name a file of racecards as rpscrape writes it") from None
    for region, courses in _branches(path, told, "regions"):
        for course, offs in _branches(path, courses, f"courses of {region}"):
            for off, race in _branches(path, offs, f"off times of {course}"):
                yield _Place(region, course, off, race)


def _branches(path: Path, told: Any, what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(told, dict):
        raise UserError(
            f"{path}: the {what} are {_shown(told)}, but rpscrape's racecards go region, course, off time, race: "
            "name a file of racecards"
        )
    yield from told.items()


def _declared_rows(place: _Place, store: Store, warnings: Counter[str]) -> list[dict[str, Any]]:
    """The rows of a race's runners but the reserves, in the runner table's columns; raises `Refused`."""
    race = place.race
    if not isinstance(race, dict):
        raise Refused("no race", f"{place.course} {place.off} is {_shown(race)}, but holds a race: correct it")
    runners = race.get("runners")
    if not isinstance(runners, list) or not all(isinstance(one, dict) for one in runners):
        raise Refused("bad value", f"runners is {_shown(runners)}, but holds a list of runners: correct it")
    declared = [one for one in runners if not _flag(one, "reserve")]
    if len(declared) < len(runners):
        warnings["reserve, not declared"] += len(runners) - len(declared)
    if not declared:
        raise Refused("no runners", "a card declares one runner or more: leave the race out until it has them")
    rows = [_row(place, race, one, store) for one in declared]
    for row in rows:
        warnings.update(f"unreadable {column}, unknown" for column in row.get("unreadable", {}))
    if rows[0].get("off_inferred"):
        warnings["foreign race, off inferred"] += 1
    return rows


def _row(place: _Place, race: Record, runner: Record, store: Store) -> dict[str, Any]:
    region = _text(race.get("region")) or _text(place.region)
    course = course_with_country(_text(race.get("course")) or place.course, region)
    cell = {column: _first(race, names) for column, names in _RACE_CELLS.items()}
    cell |= {column: _first(runner, names) for column, names in _RUNNER_CELLS.items()}
    off = _cell(race.get("off_time")) or place.off
    cell |= {"region": region or "", "course": course, "off": off}
    cell["horse"] = with_country(_cell(runner.get("name")), _text(runner.get("region"))) or ""
    riderless = name_key(cell["jockey"]) in NO_RIDER
    if riderless:
        cell |= {"jockey": "", "jockey_id": ""}
    try:
        row = parse_row(cell, store.timezone)
    except UserError as wrong:
        raise Refused("bad value", str(wrong)) from None
    row["off_time"] = _early_abroad(row, off, store.timezone) or row["off_time"]
    unreadable = row.get("unreadable", {})
    bad = {column: unreadable[column] for column in DECISIVE if column in unreadable}
    if isinstance(race.get("handicap"), bool):
        row["handicap"] = race["handicap"]
    row["non_runner"] = riderless or _flag(runner, "non_runner")
    if row["non_runner"]:
        row["status"] = NON_RUNNER
    return _kept(race, _RACE_PLACED) | _kept(runner, _RUNNER_PLACED) | row | ({BAD: bad} if bad else {})


def _refuse_shared_id(card: Racecard, owners: dict[str, tuple[date, str | None]]) -> None:
    """Raise `Refused` for an id that another race of the load has; an off may move, date and course do not."""
    race = card.race
    own = (race.race_date, name_key(race.course))
    if owners.setdefault(card.race_id, own) != own:
        raise Refused(
            "race_id of another race",
            f"race_id {card.race_id} is of {owners[card.race_id][1]} on {owners[card.race_id][0]} too: correct one of them",
        )


def _early_abroad(row: Record, off: str, timezone: ZoneInfo) -> datetime | None:
    """The off of a foreign race written with a leading nought: by the 24-hour clock, so in the morning; else None."""
    found = _LEADING_NOUGHT.fullmatch(off.strip())
    if found is None or row["country"] in HOME_COUNTRIES:
        return None
    return datetime.combine(row["race_date"], time(int(found[1]), int(found[2])), tzinfo=timezone).astimezone(UTC)


def _as_read(place: _Place) -> list[Row]:
    """The race as a dead letter keeps it: a row a runner, each with what the file says of the race."""
    if not isinstance(place.race, dict):
        return [{RAW: {"region": place.region, "course": place.course, "off_time": place.off, "race": place.race}}]
    race = {name: value for name, value in place.race.items() if name != "runners"}
    runners = place.race.get("runners")
    if not isinstance(runners, list) or not runners:
        return [{RAW: {"race": race, "runners": runners}}]
    return [{RAW: {"race": race, **(one if isinstance(one, dict) else {"runner": one})}} for one in runners]


def _kept(told: Record, placed: frozenset[str]) -> dict[str, Any]:
    """What has no place in the runner table, where it says something."""
    left = ((name, value) for name, value in told.items() if name not in placed and value not in _NOTHING)
    return {f"source_{name}" if name in COLUMNS else name: plain(value) for name, value in left}


def _flag(runner: Record, name: str) -> bool:
    given = runner.get(name)
    return given is True or _cell(given).casefold() in ("true", "1")


def _first(told: Record, names: Sequence[str]) -> str:
    return next((text for name in names if (text := _cell(told.get(name)))), "")


def _cell(value: Any) -> str:
    """A JSON value as the cell of a results file would have it; blank for null."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str | None:
    return cells.text(_cell(value))


def _shown(value: Any) -> str:
    told = json.dumps(value, ensure_ascii=False)
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}…"
