"""Growth charts as SVG: both axes logarithmic, each contender with its own mark and dash."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from benchmarks.interleaved import Timing
from velo.svg import HEIGHT, Axes, picture

DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
LEGEND_ROW = 15


def growth_chart(title: str, x_name: str, y_name: str, series: Mapping[str, Sequence[tuple[float, Timing]]]) -> str:
    """The median of each size with the range of its rounds, as the text of an SVG file."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, timing in points for y in (timing.low, timing.high)]
    x_ends, y_ends = _decades(xs), _decades(ys)
    height = HEIGHT + LEGEND_ROW * len(series)
    axes = Axes(x_ends, y_ends, HEIGHT)
    marks = [_across(axes, x_name, y_name)]
    for number, (name, points) in enumerate(series.items()):
        spots = [(log10(x), timing) for x, timing in points]
        path = axes.path([(x, log10(timing.median)) for x, timing in spots])
        marks.append(f'<polyline class="line" stroke-dasharray="{DASHES[number % len(DASHES)]}" points="{path}"/>')
        for x, timing in spots:
            left, low = axes.at(x, log10(timing.low))
            _, high = axes.at(x, log10(timing.high))
            marks.append(f'<line class="whisker" x1="{left:.1f}" y1="{low:.1f}" x2="{left:.1f}" y2="{high:.1f}"/>')
            marks.append(_mark(number, left, axes.at(x, log10(timing.median))[1]))
        top = HEIGHT + LEGEND_ROW * number + 4
        dash = DASHES[number % len(DASHES)]
        marks.append(f'<line class="line" stroke-dasharray="{dash}" x1="10" y1="{top}" x2="46" y2="{top}"/>')
        marks.append(_mark(number, 28, top))
        marks.append(f'<text x="52" y="{top + 4}">{escape(name)}</text>')
    description = "; ".join(
        f"{name}: " + ", ".join(f"{timing.median:,.3g} at {x:,.0f}" for x, timing in points)
        for name, points in series.items()
    )
    return picture(title, description, marks, height)


def _across(axes: Axes, x_name: str, y_name: str) -> str:
    parts = [axes.across(x_name, [_power(power) for power in range(int(axes.x[0]), int(axes.x[1]) + 1)])]
    for power in range(int(axes.y[0]), int(axes.y[1]) + 1):
        left, top = axes.at(axes.x[0], power)
        right, _ = axes.at(axes.x[1], power)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{top:.1f}"/>')
        parts.append(f'<text x="{left - 5:.1f}" y="{top + 4:.1f}" text-anchor="end">{_power(power)}</text>')
    middle = HEIGHT / 2
    parts.append(f'<text x="8" y="{middle}" text-anchor="middle" transform="rotate(-90 8 {middle})">')
    return "".join([*parts, f"{escape(y_name)}</text>"])


def _power(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def _decades(values: Sequence[float]) -> tuple[float, float]:
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return float(low), float(max(high, low + 1))


def _mark(number: int, left: float, top: float) -> str:
    kind = "solid" if number % 2 == 0 else "hollow"
    if number // 2 % 2 == 0:
        return f'<circle class="{kind}" cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
    return f'<rect class="{kind}" x="{left - 4:.1f}" y="{top - 4:.1f}" width="8" height="8"/>'
