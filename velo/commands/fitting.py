"""What a command prints, fitted to where it goes: whole lines into a file or a pipe, records where a table is too wide."""

from typing import Final

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED: Final = 100_000
LEAST: Final = 80
"""What is not for a terminal is at least as wide as a small one."""


def whole_width(shown: RenderableType) -> int:
    """Columns that something needs so that nothing of it is folded or cut."""
    return max(LEAST, _measured(shown).maximum)


def fitted(shown: RenderableType, width: int) -> RenderableType:
    """The same, where a table that would have to cut its words at this width is told as records, a line a value."""
    if isinstance(shown, Group):
        return Group(*(fitted(one, width) for one in shown.renderables))
    if isinstance(shown, Table) and _measured(shown).minimum > width:
        return records(shown)
    return shown


def records(table: Table) -> Group:
    """A table's rows one after another: the first cell as a heading, below it the name and value of each other."""
    lines: list[RenderableType] = [Text.assemble(_text(table.title), style="italic")] if table.title else []
    first, *rest = table.columns
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    for heading, *values in cells:
        told = Table.grid(padding=(0, 2, 0, 0))
        for column, value in zip(rest, values, strict=True):
            told.add_row(Text.assemble("  ", _text(column.header)), value)
        lines += [Text.assemble(_text(first.header), ": " if first.header else "", _text(heading), style="bold"), told]
    return Group(*lines)


def _measured(shown: RenderableType) -> Measurement:
    console = Console(width=UNBOUNDED)
    return Measurement.get(console, console.options, shown)


def _text(value: RenderableType) -> Text:
    return value if isinstance(value, Text) else Text.from_markup(str(value))
