"""Flatten JSON or NDJSON to rows: one for each object of a nested list, with the fields of the objects around it."""

from collections.abc import Iterator
from typing import Any, Final

import orjson

from velo.errors import UserError

_DEEPEST: Final = 12
"""Objects within objects: a file of races has four or five levels."""
_MOST_COLUMNS: Final = 2_000
_SHOWN: Final = 60
_RUNNERS: Final = frozenset({"runners", "horses", "entries", "starters", "atlar"})
"""What sources call the list of a race's runners."""
Fields = dict[str, Any]


def json_rows(label: str, content: bytes, rows_at: str | None) -> list[Fields]:
    """Return the rows at a path of field names, `results.runners`; a field's column is its path, `results.runners.horse`.

    An empty path is the document's own list. Without a path (None) the one with the most rows is used. Objects saved without
    the first object of the path, the service's answer, give the same columns. An object whose list is
    missing or empty is one row of the fields above it. Raises `UserError` for text that is not JSON or lacks the path.
    """
    roots = documents(label, content)
    path = _longest(roots) if rows_at is None else tuple(filter(None, rows_at.split(".")))
    rows: list[Fields] = []
    found = False
    prefix = ""
    held = {name for root in roots if isinstance(root, dict) for name in root}
    if len(path) > 1 and path[0] not in held and path[1] in held:
        prefix, path = f"{path[0]}.", path[1:]  # the list's objects were saved without the answer around them
    for root in roots:
        if not isinstance(root, dict):
            raise UserError(
                f"{label} holds {_shown(root)} where an object belongs: give a list of races, or one race a line"
            )
        found = found or not path or path[0] in root
        rows.extend(_rows(label, root, path, prefix, {}, 0))
    if not roots:
        raise UserError(f"{label} holds an empty list: export it again, or leave it out")
    if not found:
        raise UserError(
            f"{label} has no {path[0]!r}; it has {', '.join(list(roots[0])[:8])}: give a file with the list {rows_at}"
        )
    return rows


def documents(label: str, content: bytes) -> list[Any]:
    """Return the objects of a JSON list, of one JSON object, or of the lines of NDJSON."""
    try:
        whole = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
        return whole if isinstance(whole, list) else [whole]
    except orjson.JSONDecodeError as broken:
        lines = [(at, line) for at, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        first_error = str(broken).splitlines()[0]
    found = []
    for number, line in lines:
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError as broken:
            why = first_error if not found else f"line {number}: {str(broken).splitlines()[0]}"
            raise UserError(f"{label} is no JSON ({why}): fetch it again if it was cut short") from None
    return found


def _rows(label: str, node: Fields, path: tuple[str, ...], prefix: str, above: Fields, level: int) -> Iterator[Fields]:
    fields = above | dict(_scalars(label, node, prefix, level))
    if len(fields) > _MOST_COLUMNS:
        raise UserError(f"{label} has an object of more than {_MOST_COLUMNS:,} fields: it is no file of races")
    if not path:
        yield fields
        return
    items = node.get(path[0])
    items = [items] if isinstance(items, dict) else items
    if not isinstance(items, list) or not items:
        yield fields
        return
    for item in items:
        if isinstance(item, dict):
            yield from _rows(label, item, path[1:], f"{prefix}{path[0]}.", fields, level + 1)
        else:
            yield fields | {f"{prefix}{path[0]}": _shown(item)}


def _scalars(label: str, node: Fields, prefix: str, level: int) -> Iterator[tuple[str, Any]]:
    if level > _DEEPEST:
        raise UserError(f"{label} has objects nested more than {_DEEPEST} deep: it is no file of races")
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _scalars(label, value, f"{prefix}{name}.", level + 1)
        elif not isinstance(value, list):
            yield f"{prefix}{name}", value


def _longest(roots: list[Any]) -> tuple[str, ...]:
    """Return the path to the list with the most objects: the first 20 documents decide."""
    counts: dict[tuple[str, ...], int] = {}

    def count(node: Any, path: tuple[str, ...]) -> None:
        if not isinstance(node, dict) or len(path) > _DEEPEST:
            return
        for name, value in node.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                counts[*path, name] = counts.get((*path, name), 0) + len(value)
                for item in value:
                    count(item, (*path, name))

    for root in roots[:20]:
        count(root, ())
    # lists of quotes or past races hang below a runner and can be longer
    return max(counts, key=lambda path: (path[-1].casefold() in _RUNNERS, counts[path]), default=())


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
