"""Read rpscrape's file of racecards as a tree: JSON, region → course → off time → race."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.streams.importers.dead_letters import RAW, Row
from velo.streams.importers.file_kinds import refuse_other_kind

MAX_BYTES: Final = 2**25
_SAMPLE_BYTES: Final = 2**12
_SHOWN: Final = 60
"""The most characters of an unexpected value that an error shows."""


@dataclass(frozen=True, slots=True)
class TreePath:
    """A race and its path in the file, which says what the race itself may leave out."""

    path: Path
    region: str
    course: str
    off: str
    race: Any


def races(path: Path) -> list[TreePath]:
    """Return every race of a file, valid or not. Raises `UserError` for a file that is not such a tree or has no race."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:  # as Python objects it would take thirty times the memory
            raise UserError(
                f"{path} has more than {MAX_BYTES:,} bytes, but a day's racecards have a few million: split it"
            )
        refuse_other_kind(path, content[:_SAMPLE_BYTES], "racecards as rpscrape writes them are JSON")
        tree = json.loads(content, parse_constant=lambda _: None)
    except OSError as refused:
        raise UserError(f"{path} cannot be read ({refused.strerror}): name a file of rpscrape racecards") from None
    except (ValueError, RecursionError) as refused:
        why = str(refused).splitlines()[0]
        raise UserError(f"{path} is no JSON ({why}): name a file of racecards as rpscrape writes it") from None
    places = list(_places(path, tree))
    if places and not any(isinstance(place.race, dict) for place in places):
        raise _not_a_tree(path, f"{places[0].course or places[0].region} has", places[0].race)
    return places


def _places(path: Path, tree: Any) -> Iterator[TreePath]:
    """Yield the tree's races; for a region or a course that is not an object, one path with its value."""
    if not isinstance(tree, dict):
        raise _not_a_tree(path, "it holds", tree)
    for region, courses in tree.items():
        if not isinstance(courses, dict):
            yield TreePath(path, region, "", "", courses)
            continue
        for course, offs in courses.items():
            if not isinstance(offs, dict):
                yield TreePath(path, region, course, "", offs)
                continue
            for off, race in offs.items():
                yield TreePath(path, region, course, off, race)


def _not_a_tree(path: Path, where: str, value: Any) -> UserError:
    return UserError(
        f"{path} is not a file of racecards: {where} {shown(value)}, but rpscrape's go region, course, off time, race: "
        "name a file of racecards"
    )


def as_read(place: TreePath) -> list[Row]:
    """Return the race as a dead letter keeps it: one row for each runner, each with the race's own fields."""
    if not isinstance(place.race, dict):
        return [{RAW: {"region": place.region, "course": place.course, "off_time": place.off, "race": place.race}}]
    race = {name: value for name, value in place.race.items() if name != "runners"}
    runners = place.race.get("runners")
    if not isinstance(runners, list) or not runners:
        return [{RAW: {"race": race, "runners": runners}}]
    return [{RAW: {"race": race, **(runner if isinstance(runner, dict) else {"runner": runner})}} for runner in runners]


def shown(value: Any) -> str:
    """Return the beginning of a value as JSON, for an error message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
