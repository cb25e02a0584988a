"""The edge of the program: only here are the environment, the wall clock and the terminal used."""

import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from velo.api.opened import utc_now as now
from velo.api.race_store import RaceStore
from velo.api.values import instant
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.atomic_files import OTHERS
from velo.storage.jsonl import plain
from velo.storage.store import Home, Store
from velo.text_tables import facts, table_of

__all__ = [
    "As", "Files", "Json", "Step", "enter", "facts", "instant", "now", "open_store", "plain", "race_store", "show", "steps", "table_of",
    "with_environment",
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files to read.")]
Params = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An argument of the factory of --model, JSON or text; repeat it for more."),
]
As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Work in this environment of the store: see `velo environments --help`."),
]
Step = Callable[[str, int, int], None]
SIMULATED: Final = "simulated racing: everything in this store is made up"
LINE_SECONDS: Final = 15.0
"""Interval between progress lines when the error stream is not a terminal."""


def open_store() -> Store:
    """Open the store that the environment names; sets the umask so that files written from here on are private to their owner."""
    return race_store().opened()


def race_store() -> RaceStore:
    """Return the store that the environment names as the Python interface; sets the umask as `open_store` does."""
    os.umask(OTHERS)
    return RaceStore(Settings.from_env(), clock=now)


def enter(name: str) -> None:
    """Make an environment of the store the home of this process, and of those that it starts.

    Raises `UserError` where there is no such environment.
    """
    from velo.api.environments import environment

    os.environ["VELO_HOME"] = str(environment(Home(Settings.from_env().home), name).root)
    os.environ.pop("REDIS_URL", None)


def with_environment(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option `--as NAME`: it then works in that environment."""

    @wraps(command)
    def within(*args: Any, environment: str | None = None, **options: Any) -> None:
        if environment is not None:
            enter(environment)
        command(*args, **options)

    signature = inspect.signature(command)
    option = inspect.Parameter("environment", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=As)
    within.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    within.__annotations__ = {**command.__annotations__, "environment": As}
    return within


_EXAMPLES: Final = {"--param": "max_depth=4", "--staking": "commission=0.02"}


def parameters(pairs: Sequence[str] | None, option: str = "--param") -> dict[str, Any]:
    """Parse `name=value` pairs: a value is JSON, or else text. Raises `UserError` for a pair without a name or given twice."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise UserError(
                f"{option} {pair!r} must be name=value, each name once: write it like {option} {_EXAMPLES[option]}"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def show(report: Any, as_json: bool, table: Callable[[], Any]) -> None:
    """Print a report as one JSON document, or as the table that `table` returns.

    Lines in a pipe or a file are never wrapped unless COLUMNS sets a width.
    """
    if as_json:
        sys.stdout.write(json.dumps(plain(report), ensure_ascii=False, indent=2) + "\n")
        return
    console, shown = Console(), table()
    if Home(Settings.from_env().home).demo.exists():
        console.print(SIMULATED, highlight=False, soft_wrap=True)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = whole_width(shown)
    console.print(fitted(shown, console.width))


@contextmanager
def _lines() -> Iterator[Step]:
    started, finished = time.monotonic(), threading.Event()
    latest = ("start", 0, 0)

    def step(what: str, done: int, total: int) -> None:
        nonlocal latest
        latest = what, done, total

    def print_lines() -> None:
        while not finished.wait(LINE_SECONDS):
            what, done, total = latest
            of = f" ({done} of {total})" if total else ""
            typer.echo(f"{what}{of}, {time.monotonic() - started:.0f} s so far", err=True)

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield step
    finally:
        finished.set()
        printer.join()


@contextmanager
def steps(quiet: bool) -> Iterator[Step]:
    """Show progress on the error stream; the callback takes the step, the number done and the total.

    A terminal gets a progress bar. Anything else gets one line every `LINE_SECONDS`, so a quick command prints none.
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
        task = bar.add_task("start", total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)


UNBOUNDED: Final = 100_000
LEAST: Final = 80
"""Minimum width of output that is not a terminal."""


def whole_width(shown: RenderableType) -> int:
    """The width at which nothing is wrapped or cut, at least `LEAST`."""
    return max(LEAST, _measured(shown).maximum)


def fitted(shown: RenderableType, width: int) -> RenderableType:
    """The same, with each table that would cut words at this width shown as records, one line for each value."""
    if isinstance(shown, Group):
        return Group(*(fitted(part, width) for part in shown.renderables))
    if isinstance(shown, Table) and _measured(shown).minimum > width:
        return records(shown)
    return shown


def records(table: Table) -> Group:
    """A table as records: the first cell of a row is its heading, the others follow as name and value."""
    lines: list[RenderableType] = [Text.assemble(_text(table.title), style="italic")] if table.title else []
    first, *rest = table.columns
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    for heading, *values in cells:
        record = Table.grid(padding=(0, 2, 0, 0))
        for column, value in zip(rest, values, strict=True):
            record.add_row(Text.assemble("  ", _text(column.header)), value)
        lines += [
            Text.assemble(_text(first.header), ": " if first.header else "", _text(heading), style="bold"),
            record,
        ]
    return Group(*lines)


def _measured(shown: RenderableType) -> Measurement:
    console = Console(width=UNBOUNDED)
    return Measurement.get(console, console.options, shown)


def _text(value: RenderableType) -> Text:
    return value if isinstance(value, Text) else Text.from_markup(str(value))
