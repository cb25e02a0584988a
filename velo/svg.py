"""What charts are drawn on: a plane with its axes, and a figure as inline SVG text. Nothing is fetched.

Drawn for a phone's width, so that letters stay readable there; a desk shows them larger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 360
HEIGHT: Final = 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 38
TICKS: Final = 5
STYLE: Final = (
    "text{font:10px system-ui,sans-serif;fill:#222}.grid{stroke:#ddd}.line{stroke:#222;fill:none;stroke-width:1.5}"
    ".solid{fill:#222}.hollow{fill:#fff;stroke:#222;stroke-width:1.5}.whisker{stroke:#222}"
)
"""For pictures that stand alone."""
ROW: Final = 34
"""Height of a bar and the words above it."""


@dataclass(frozen=True, slots=True)
class Axes:
    """A plane of so many pixels that shows `x` and `y` from their low to their high end."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = HEIGHT
    left: int = LEFT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return self.left + across * (WIDTH - self.left - RIGHT), self.height - BOTTOM - up * (
            self.height - TOP - BOTTOM
        )

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """The `points` attribute of a line through points."""
        return " ".join(f"{left:.1f},{top:.1f}" for left, top in (self.at(*point) for point in points))

    def frame(self, x_name: str, y_name: str, x_labels: Sequence[str], y_form: str) -> str:
        """Axes with their names and ticks; `x_labels` are spread evenly."""
        parts = []
        for step in range(TICKS):
            value = self.y[0] + step / (TICKS - 1) * (self.y[1] - self.y[0])
            left, top = self.at(self.x[0], value)
            parts.append(f'<line class="grid" x1="{left}" y1="{top:.1f}" x2="{WIDTH - RIGHT}" y2="{top:.1f}"/>')
            parts.append(f'<text x="{left - 5}" y="{top + 4:.1f}" text-anchor="end">{value:{y_form}}</text>')
        parts.append(self.across(x_name, x_labels))
        middle = (self.height - BOTTOM + TOP) / 2
        parts.append(f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">')
        parts.append(f"{escape(y_name)}</text>")
        return "".join(parts)

    def across(self, name: str, labels: Sequence[str]) -> str:
        """The name and the labels, spread evenly, of the axis below."""
        parts = []
        for step, label in enumerate(labels):
            left = self.left + step / max(len(labels) - 1, 1) * (WIDTH - self.left - RIGHT)
            anchor = "start" if step == 0 else "end" if step == len(labels) - 1 else "middle"
            parts.append(f'<text x="{left:.1f}" y="{self.height - 21}" text-anchor="{anchor}">{escape(label)}</text>')
        middle = (self.left + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{self.height - 4}" text-anchor="middle">{escape(name)}</text>')
        return "".join(parts)


def bar_chart(title: str, values: Mapping[str, float], form: str) -> str:
    """Horizontal bars, each with its name and value above it."""
    most = max(values.values(), default=1.0) or 1.0
    marks = []
    for place, (name, value) in enumerate(values.items()):
        top, width = ROW * place, max(value, 0.0) / most * WIDTH
        marks.append(f'<text x="0" y="{top + 14}">{escape(name)}</text>')
        marks.append(f'<text x="{WIDTH}" y="{top + 14}" text-anchor="end">{value:{form}}</text>')
        marks.append(f'<rect class="bar" x="0" y="{top + 19}" width="{width:.1f}" height="8"/>')
    told = "; ".join(f"{name} {value:{form}}" for name, value in values.items())
    return drawing(title, told, title, marks, ROW * len(values) + 2)


def drawing(title: str, told: str, caption: str, marks: Sequence[str], height: int = HEIGHT) -> str:
    """A figure of marks with its caption, and a title and a description for those who hear it."""
    name = "-".join("".join(one if one.isalnum() else " " for one in title.casefold()).split())
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(told)}</desc>{"".join(marks)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def picture(title: str, told: str, marks: Sequence[str], height: int = HEIGHT) -> str:
    """A file of its own, in ink that shows on a light page and a dark one."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc><style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(marks)}</svg>\n'
    )
