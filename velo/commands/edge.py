"""The edge: the environment, the wall clock and the terminal are read and written here and nowhere else."""

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from velo.commands.fitting import fitted, whole_width
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.atomic_files import OTHERS
from velo.storage.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files to read.")]
Step = Callable[[str, int, int], None]
LINE_SECONDS: Final = 15.0
"""Between two lines of progress where there is no terminal."""


def now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


def open_store() -> Store:
    """The store that the environment names; what this process and its children write from here on is its owner's alone."""
    os.umask(OTHERS)
    return Store.open(Settings.from_env())


def instant(text: str | None) -> datetime | None:
    """An instant from the command line: ISO 8601 with an offset, or a `Z`."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise UserError(f"{text!r} is no instant with an offset: write it like 2025-06-21T13:55:00Z or …+01:00")
    return parsed.astimezone(UTC)


def plain(value: Any) -> Any:
    """A report as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def show(report: Any, as_json: bool, table: Callable[[], Any]) -> None:
    """Print a report: as one JSON document, or as what `table` makes of it.

    In a pipe or a file a line is as long as it has to be, unless COLUMNS says how long it may be.
    """
    if as_json:
        sys.stdout.write(json.dumps(plain(report), ensure_ascii=False, indent=2) + "\n")
        return
    console, shown = Console(), table()
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = whole_width(shown)
    console.print(fitted(shown, console.width))


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> Table:
    """A small table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


@contextmanager
def _lines() -> Iterator[Step]:
    begun, ended = time.monotonic(), threading.Event()
    latest = ("begin", 0, 0)

    def step(what: str, done: int, total: int) -> None:
        nonlocal latest
        latest = what, done, total

    def say() -> None:
        while not ended.wait(LINE_SECONDS):
            what, done, total = latest
            of = f" ({done} of {total})" if total else ""
            typer.echo(f"{what}{of}, {time.monotonic() - begun:.0f} s so far", err=True)

    teller = threading.Thread(target=say, daemon=True)
    teller.start()
    try:
        yield step
    finally:
        ended.set()
        teller.join()


@contextmanager
def steps(quiet: bool) -> Iterator[Step]:
    """A progress bar on the error stream; it is told the step, how many are done and of how many.

    Where that stream is no terminal, a line every `LINE_SECONDS`: what is quick says nothing, what is not is never silent.
    """
    if quiet:
        yield lambda step, done, total: None
        return
    if not sys.stderr.isatty():
        with _lines() as step:
            yield step
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("begin", total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)
