"""Tables for the terminal and for Markdown. Numbers get thousands separators; nothing is said by colour alone."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table


def table_of(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Iterable[Any]],
    left: Collection[str] | None = None,
    **style: Any,
) -> Table:
    """A table for the terminal. The columns named in `left` are aligned left, the others right; without `left` all are left."""
    table = Table(title=title, title_justify="left", **style)
    for name in columns:
        table.add_column(name, justify="left" if left is None or name in left else "right")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> Table:
    """A table of names and values, without a header."""
    table = table_of(title, ("", ""), rows, show_header=False, box=None, padding=(0, 2, 0, 0))
    # a title wider than its table would be wrapped
    table.min_width = cell_len(title)
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---") -> Iterator[str]:
    """The lines of a Markdown table; `rule` is the line under the header of each column after the first."""
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{f'{rule}|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
