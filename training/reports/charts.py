"""Charts as inline SVG, readable without colour: marks differ in shape, lines in dashes. They load nothing.

They are drawn for a phone's width, so that the text stays readable there. Each has a title and a description for screen readers.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, sqrt
from typing import Final

from velo.resampling import Figure
from velo.svg import BOTTOM, TOP, Axes, drawing
from velo.training.gate.windows import Floor
from velo.training.reports.backtest_report import Equity, Measurements

MOST_AE: Final = 2.0
"""The right end of a chart of A/E: greater values are drawn there."""
Z_95: Final = 1.96


def reliability_chart(of: Measurements, name: str) -> str:
    """The win rate against the mean p in bins of equal numbers, with binomial 95 % intervals; the diagonal is perfect calibration."""
    points = list(zip(of.diagram.said.tolist(), of.diagram.won.tolist(), of.diagram.runners.tolist(), strict=True))
    halves = [Z_95 * sqrt(max(won * (1.0 - won), 1e-9) / runners) for _, won, runners in points]
    most = max((max(p, won + half) for (p, won, _), half in zip(points, halves, strict=True)), default=1.0)
    most = ceil(most / 0.04) * 0.04  # whole percents at every quarter
    axes = Axes((0.0, most), (0.0, most))
    marks = [axes.frame("predicted", "won", [f"{most * step / 4:.0%}" for step in range(5)], ".0%")]
    marks.append(f'<polyline class="dashed" points="{axes.path([(0.0, 0.0), (most, most)])}"/>')
    for (p, won, _), half in zip(points, halves, strict=True):
        left, top = axes.at(p, won)
        ends = [axes.at(p, end)[1] for end in (max(won - half, 0.0), won + half)]
        marks.append(f'<line class="whisker" x1="{left:.1f}" y1="{ends[0]:.1f}" x2="{left:.1f}" y2="{ends[1]:.1f}"/>')
        marks.append(f'<circle class="solid" cx="{left:.1f}" cy="{top:.1f}" r="3.5"/>')
    description = "; ".join(f"predicted {p:.1%}, won {won:.1%}" for p, won, _ in points)
    outside = sum(abs(won - p) > half for (p, won, _), half in zip(points, halves, strict=True))
    caption = (
        f"{name}: {len(points)} bins of equal numbers, with 95 % intervals. On the dashed line the win rate equals the "
        f"prediction; the intervals of {outside} of {len(points)} bins exclude it."
    )
    return drawing(f"Reliability of {name}", description, caption, marks)


def equity_chart(equity: Equity, name: str) -> str:
    """Units won by day, within the 95 % band of resampled race days."""
    count = len(equity.units)
    low, high = min(0.0, *equity.low, *equity.units), max(0.0, *equity.high, *equity.units)
    axes = Axes((0.0, float(max(count - 1, 1))), (low, high))
    marks = [axes.frame("race day", "units won", [equity.days[0], equity.days[-1]], ",.0f")]
    band = [*enumerate(equity.high), *reversed(list(enumerate(equity.low)))]
    marks.append(f'<polygon class="band" points="{axes.path([(float(day), units) for day, units in band])}"/>')
    marks.append(f'<polyline class="dashed" points="{axes.path([(0.0, 0.0), (axes.x[1], 0.0)])}"/>')
    marks.append(f'<polyline class="line" points="{axes.path([(float(d), u) for d, u in enumerate(equity.units)])}"/>')
    end = f"{equity.units[-1]:+,.0f} units at the end, 95 % band {equity.low[-1]:+,.0f} to {equity.high[-1]:+,.0f}"
    caption = f"{name}, {equity.strategy}, one unit a bet: {end}. The dashed line is breaking even."
    return drawing(f"Units won by {name}, {equity.strategy}", end, caption, marks)


def interval_chart(title: str, rows: Sequence[tuple[str, Figure, Figure]], names: tuple[str, str], at_one: str) -> str:
    """Two figures per row with their intervals, circles and squares; the dashed line is 1."""
    axes = Axes((0.0, MOST_AE), (0.0, 1.0), TOP + BOTTOM + 38 * len(rows), 50)
    labels = [f"{axes.x[0] + step / 4 * (axes.x[1] - axes.x[0]):.2f}" for step in range(5)]
    marks = [axes.across("winners ÷ expected winners", labels)]
    marks.append(f'<polyline class="dashed" points="{axes.path([(1.0, 0.0), (1.0, 1.0)])}"/>')
    for place, (label, *pair) in enumerate(rows):
        top = TOP + 38 * place + 19
        marks.append(f'<text x="44" y="{top + 4}" text-anchor="end">{escape(label)}</text>')
        for which, figure in enumerate(pair):
            marks.append(_whisker(axes, figure, top - 7 + 14 * which, hollow=which == 1))
    description = "; ".join(f"{label}: {_words(first)} and {_words(other)}" for label, first, other in rows)
    caption = (
        f"{title}: circles {names[0]}, squares (dashed whiskers) {names[1]}; 95 % intervals. "
        f"At the dashed line {at_one}."
    )
    return drawing(title, description, caption, marks, axes.height)


def floors_rows(price: Sequence[Floor], own: Sequence[Floor]) -> list[tuple[str, Figure, Figure]]:
    """Rows of `interval_chart` from two sets of floors over the same buckets."""
    return [(floor.bucket, floor.ae, other.ae) for floor, other in zip(price, own, strict=True)]


def _whisker(axes: Axes, figure: Figure, top: float, *, hollow: bool) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    at, low, high = (
        axes.at(min(max(value, axes.x[0]), axes.x[1]), 0.0)[0] for value in (figure.value, figure.low, figure.high)
    )
    line = f'<line class="whisker{" thin" if hollow else ""}" x1="{low:.1f}" y1="{top}" x2="{high:.1f}" y2="{top}"/>'
    if hollow:
        return line + f'<rect class="hollow" x="{at - 4:.1f}" y="{top - 4}" width="8" height="8"/>'
    return line + f'<circle class="solid" cx="{at:.1f}" cy="{top}" r="4.5"/>'


def _words(figure: Figure) -> str:
    if figure.value is None:
        return "none"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f}, from {figure.low:.2f} to {figure.high:.2f}"
