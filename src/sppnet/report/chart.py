"""Charts inside a page, as SVG and tables, in the colours of the page, which follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sppnet.arrays import Doubles, Ints
from sppnet.report.page import render

Range = tuple[float, float]
Point = tuple[float, float]

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 468, 30, 228
"""Of the plot in a line chart; texts stand around it."""
SIDE = 126
"""Of the small chart of a curve."""
MAX_POINTS = 200
"""Of a line; a curve of ten thousand detections looks the same with these."""
COUNTED = 30
"""Classes up to which the cells of a matrix hold their numbers."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[Point]


def line_chart(
    title: str, x_label: str, series: Sequence[Series], y_range: Range | None = None, percent: bool = False
) -> Markup:
    """Lines over one axis; nothing without points. percent: y is a share of 1."""
    points = [point for one in series for point in one.points]
    if not points:
        return Markup("")
    across = min(x for x, _ in points), max(x for x, _ in points)
    up = y_range or _widened(min(y for _, y in points), max(y for _, y in points))

    def place_x(x: float) -> float:
        return round(LEFT + _portion(x, across) * (RIGHT - LEFT), 1)

    def place_y(y: float) -> float:
        return round(BOTTOM - _portion(y, up) * (BOTTOM - TOP), 1)

    return render(
        "line_chart.html",
        width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, bottom=BOTTOM, title=title, x_label=x_label,
        says=f"{title}: {'; '.join(_in_words(one, percent) for one in series)}",
        y_ticks=[(place_y(y), f"{100 * y:g} %" if percent else f"{y:,g}") for y in ticks(*up)],
        x_ticks=[(place_x(x), f"{x:,g}") for x in [x for x in ticks(*across) if x == int(x)] or across[:1]],
        lines=[[(place_x(x), place_y(y)) for x, y in thinned(one.points)] for one in series],
        names=[one.name for one in series],
    )  # fmt: skip


def curve_chart(name: str, recall: Doubles, precision: Doubles) -> Markup:
    """Precision over recall of one class, small, both from 0 to 1."""
    points = thinned(list(zip(recall.tolist(), precision.tolist(), strict=True)))
    drawn = [(round(x * SIDE, 1), round((1 - y) * SIDE, 1)) for x, y in points]
    return render("curve_chart.html", side=SIDE, points=drawn, says=f"precision over recall of {name}")


def matrix_chart(classes: Sequence[str], counts: Ints) -> Markup:
    """Counts (k, k): rows are what images show, columns what was said; wrong ones in another colour."""
    return render("matrix.html", classes=classes, counts=counts.tolist(), counted=COUNTED)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most so many of the points, the first and the last among them."""
    last = len(points) - 1
    if last < limit:
        return list(points)
    return [points[index] for index in sorted({i * last // (limit - 1) for i in range(limit)})]


def _portion(value: float, between: Range) -> float:
    low, high = between
    return (value - low) / (high - low) if high > low else 0.5


def _widened(low: float, high: float) -> Range:
    """To round numbers, and to zero where that costs little room or all values are one."""
    if 0 <= low < 0.6 * high or low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 0.0, 1.0
    for _ in range(2):  # a range that grew may have marks of its own
        marks = ticks(low, high)
        step = marks[1] - marks[0]
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high


def _in_words(one: Series, percent: bool) -> str:
    last = one.points[-1][1] if one.points else math.nan
    return f"{one.name} ends at {f'{100 * last:.1f} %' if percent else f'{last:.3g}'}"
