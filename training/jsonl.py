"""An append-only file of JSON lines, one frozen record per line.

Looks at locked windows and trials of a period are kept so (`velo.training.final_window`, `velo.training.trials`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from velo.errors import UserError
from velo.storage.atomic_files import make_folder, write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Line = TypeVar("Line", bound=DataclassInstance)
else:
    Line = TypeVar("Line")


def read(path: Path, line: type[Line], says: str) -> tuple[Line, ...]:
    """All records of a file, oldest first, none without the file; a damaged file raises `UserError` that names what it `says`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    try:
        return tuple(line(**json.loads(text)) for text in lines)
    except (ValueError, TypeError) as damaged:
        raise UserError(f"{path} is damaged ({damaged}): restore it, it says {says}") from damaged


def add(path: Path, before: Sequence[Line], record: Line) -> None:
    """Append a record after those `read`; a crash leaves the file with it or without it."""
    make_folder(path.parent)
    lines = [json.dumps(asdict(each), ensure_ascii=False) for each in (*before, record)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
