"""Fit printed output to its width: unwrapped lines in a file or a pipe, records instead of a table that is too wide."""

from typing import Final

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

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
