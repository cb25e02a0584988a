"""Draw charts as inline SVG text, without external resources.

The drawing is as wide as a phone screen, so that text stays readable there; larger screens scale it up.
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
"""Style of standalone SVG files."""
ROW: Final = 34
"""Height of a bar with its label, in pixels."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes that map `x` and `y` ranges (low, high) to pixels."""

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
    for index, (name, value) in enumerate(values.items()):
        top, width = ROW * index, max(value, 0.0) / most * WIDTH
        marks.append(f'<text x="0" y="{top + 14}">{escape(name)}</text>')
        marks.append(f'<text x="{WIDTH}" y="{top + 14}" text-anchor="end">{value:{form}}</text>')
        marks.append(f'<rect class="bar" x="0" y="{top + 19}" width="{width:.1f}" height="8"/>')
    description = "; ".join(f"{name} {value:{form}}" for name, value in values.items())
    return drawing(title, description, title, marks, ROW * len(values) + 2)


def drawing(title: str, description: str, caption: str, marks: Sequence[str], height: int = HEIGHT) -> str:
    """An HTML figure of SVG marks with a caption, and a title and a description for screen readers."""
    name = "-".join("".join(character if character.isalnum() else " " for character in title.casefold()).split())
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>{"".join(marks)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def picture(title: str, description: str, marks: Sequence[str], height: int = HEIGHT) -> str:
    """A standalone SVG file on a white background, readable on light and dark pages."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc><style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(marks)}</svg>\n'
    )
