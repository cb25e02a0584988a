"""The parts a report's page is put together from: text in, well-formed HTML out, everything escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from velo.training.gate import Verdict

Cell = str | Verdict
_CLASSES: Final = {Verdict.PASS: "PASS", Verdict.FAIL: "FAIL", Verdict.NOT_ENOUGH_DATA: "MORE"}


def section(title: str, content: str) -> str:
    """A part of the page under a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def paragraphs(lines: Iterable[str], style: str = "") -> str:
    """A paragraph a line."""
    named = f' class="{style}"' if style else ""
    return "".join(f"<p{named}>{escape(line)}</p>" for line in lines)


def items(title: str, lines: Sequence[str]) -> str:
    """A list that is to be seen; nothing where it is empty."""
    if not lines:
        return ""
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="beware" aria-label="{escape(title)}">{listed}</ul>'


def tiles(figures: Iterable[tuple[str, str, str]]) -> str:
    """Figures to see at a glance: name, value, interval."""
    told = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd><dd class="told">{escape(interval)}</dd></div>'
        for name, value, interval in figures
    )
    return f'<dl class="tiles">{told}</dl>'


def folded(summary: str, content: str) -> str:
    """Detail for who asks for it: folded on a screen, open on paper."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def charts(*figures: str) -> str:
    """Charts beside one another where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str) -> str:
    """A table that becomes a card a row on a phone; its roles are written out, for the cards would lose them.

    The first cell of a row is its name. An interval in square brackets goes below its value.
    """
    head = "".join(f'<th scope="col" role="columnheader">{escape(column)}</th>' for column in columns)
    body = "".join(f'<tr role="row">{_row(columns, row)}</tr>' for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="stack" role="table">'
        f'<caption>{escape(caption)}</caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _row(columns: Sequence[str], row: Sequence[Cell]) -> str:
    name, *rest = row
    cells = [f'<th scope="row" role="rowheader">{_cell(name)}</th>']
    for column, cell in zip(columns[1:], rest, strict=True):
        cells.append(f'<td role="cell" data-label="{escape(column)}">{_cell(cell)}</td>')
    return "".join(cells)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Verdict):
        return f'<span class="{_CLASSES[cell]}">{cell.value}</span>'
    value, bracket, rest = cell.partition(" [")
    if not bracket:
        return f"<span>{escape(cell)}</span>"
    inside, _, after = rest.partition("]")
    return f"<span>{escape(value + after)}<small>{escape(inside.replace(', ', ' to '))}</small></span>"
