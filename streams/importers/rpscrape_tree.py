"""rpscrape's file of racecards as a tree: JSON, region → course → off time → race."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.streams.importers.file_kinds import refuse_other_kind
from velo.streams.importers.rows import RAW, Row

MAX_BYTES: Final = 2**25
_SAMPLE_BYTES: Final = 2**12
_SHOWN: Final = 60
"""How many characters of a strange value a refusal shows."""


@dataclass(frozen=True, slots=True)
class TreePath:
    """Where in a file a race stands: what the tree says of it, should the race itself not."""

    path: Path
    region: str
    course: str
    off: str
    race: Any


def races(path: Path) -> list[TreePath]:
    """Every race of a file, whatever it holds; raises `UserError` where the file is no such tree, or has no race at all."""
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
    places = list(_places(path, told))
    if places and not any(isinstance(place.race, dict) for place in places):
        raise _no_tree(path, f"{places[0].course or places[0].region} has", places[0].race)
    return places


def _places(path: Path, told: Any) -> Iterator[TreePath]:
    """The tree's races; of a region or a course that is no tree, one place with what it holds."""
    if not isinstance(told, dict):
        raise _no_tree(path, "it holds", told)
    for region, courses in told.items():
        if not isinstance(courses, dict):
            yield TreePath(path, region, "", "", courses)
            continue
        for course, offs in courses.items():
            if not isinstance(offs, dict):
                yield TreePath(path, region, course, "", offs)
                continue
            for off, race in offs.items():
                yield TreePath(path, region, course, off, race)


def _no_tree(path: Path, where: str, told: Any) -> UserError:
    return UserError(
        f"{path} is no file of racecards: {where} {shown(told)}, but rpscrape's go region, course, off time, race: "
        "name a file of racecards"
    )


def as_read(place: TreePath) -> list[Row]:
    """The race as a dead letter keeps it: a row a runner, each with what the file says of the race."""
    if not isinstance(place.race, dict):
        return [{RAW: {"region": place.region, "course": place.course, "off_time": place.off, "race": place.race}}]
    race = {name: value for name, value in place.race.items() if name != "runners"}
    runners = place.race.get("runners")
    if not isinstance(runners, list) or not runners:
        return [{RAW: {"race": race, "runners": runners}}]
    return [{RAW: {"race": race, **(one if isinstance(one, dict) else {"runner": one})}} for one in runners]


def shown(value: Any) -> str:
    """The beginning of a value as JSON, for a refusal to show."""
    told = json.dumps(value, ensure_ascii=False)
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}…"
