"""Charts as inline SVG text, readable without colour: marks differ in shape, lines in dashes. Nothing is fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from training.backtest import Equity, Told

WIDTH: Final = 560
HEIGHT: Final = 320
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Axes:
    """A plane of so many pixels that shows `x` and `y` from their low to their high end."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """The `points` attribute of a line through points."""
        return " ".join(f"{left:.1f},{top:.1f}" for left, top in (self.at(*point) for point in points))

    def frame(self, x_name: str, y_name: str, x_labels: Sequence[str], y_form: str) -> str:
        """Axes with their names and ticks; `x_labels` are spread evenly."""
        parts = []
        for step in range(TICKS):
            share = step / (TICKS - 1)
            value = self.y[0] + share * (self.y[1] - self.y[0])
            left, top = self.at(self.x[0], value)
            parts.append(f'<line class="grid" x1="{left}" y1="{top:.1f}" x2="{WIDTH - RIGHT}" y2="{top:.1f}"/>')
            parts.append(f'<text x="{left - 6}" y="{top + 4:.1f}" text-anchor="end">{value:{y_form}}</text>')
        for step, label in enumerate(x_labels):
            left, _ = self.at(self.x[0] + step / max(len(x_labels) - 1, 1) * (self.x[1] - self.x[0]), self.y[0])
            anchor = "start" if step == 0 else "end" if step == len(x_labels) - 1 else "middle"
            parts.append(f'<text x="{left:.1f}" y="{HEIGHT - 22}" text-anchor="{anchor}">{escape(label)}</text>')
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
        parts.append(f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">')
        parts.append(f"{escape(y_name)}</text>")
        return "".join(parts)


def reliability_chart(circles: Told, squares: Told) -> str:
    """Said against won in bins of equal numbers, two models; on the dashed line every word is true."""
    points = [list(zip(one.diagram.said.tolist(), one.diagram.won.tolist(), strict=True)) for one in (circles, squares)]
    most = max((max(point) for each in points for point in each), default=1.0) * 1.05
    axes = Axes((0.0, most), (0.0, most))
    marks = [axes.frame("said", "won", [f"{most * step / 4:.0%}" for step in range(5)], ".0%")]
    marks.append(f'<polyline class="dashed" points="{axes.path([(0.0, 0.0), (most, most)])}"/>')
    for left, top in (axes.at(*point) for point in points[0]):
        marks.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4.5"/>')
    for left, top in (axes.at(*point) for point in points[1]):
        marks.append(f'<rect class="hollow" x="{left - 4:.1f}" y="{top - 4:.1f}" width="8" height="8"/>')
    return _svg(f"Reliability: circles {circles.name}, squares {squares.name}", marks)


def equity_chart(equity: Equity) -> str:
    """Units won by day, within the band of seasons made of the same days drawn anew."""
    count = len(equity.units)
    low, high = min(0.0, *equity.low, *equity.units), max(0.0, *equity.high, *equity.units)
    axes = Axes((0.0, float(max(count - 1, 1))), (low, high))
    labels = [equity.days[0], equity.days[count // 2], equity.days[-1]]
    marks = [axes.frame("race day", "units won", labels, ",.0f")]
    band = [*enumerate(equity.high), *reversed(list(enumerate(equity.low)))]
    marks.append(f'<polygon class="band" points="{axes.path([(float(day), units) for day, units in band])}"/>')
    marks.append(f'<polyline class="dashed" points="{axes.path([(0.0, 0.0), (axes.x[1], 0.0)])}"/>')
    marks.append(f'<polyline class="line" points="{axes.path([(float(d), u) for d, u in enumerate(equity.units)])}"/>')
    return _svg(f"Units won by {equity.strategy}, one unit a bet, and its 95 % band", marks)


def bar_chart(title: str, values: Mapping[str, float], form: str) -> str:
    """Horizontal bars, each with its value beside it."""
    most = max(values.values(), default=1.0) or 1.0
    marks = []
    for place, (name, value) in enumerate(values.items()):
        top, width = 20 * place, max(value, 0.0) / most * 200
        marks.append(f'<text x="290" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        marks.append(f'<rect class="bar" x="296" y="{top + 3}" width="{width:.1f}" height="13"/>')
        marks.append(f'<text x="{302 + width:.1f}" y="{top + 14}">{value:{form}}</text>')
    return _svg(title, marks, 20 * len(values) + 4)


def _svg(title: str, marks: Sequence[str], height: int = HEIGHT) -> str:
    told = escape(title)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{told}">{"".join(marks)}</svg>'
        f"<figcaption>{told}</figcaption></figure>"
    )
