"""Charts as SVG inside a page: colours are the page's own, so they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from unicodedata import east_asian_width

import numpy as np

from sppnet.arrays import Doubles, Ints
from sppnet.report.page import Html

Range = tuple[float, float]

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 42
"""Room around the plot of a line chart, for texts."""

SMALL, SMALL_EDGE = 150, 24
MAX_POINTS = 200
"""Of a line; a curve of ten thousand detections looks the same with these."""

CELL, SMALL_CELL, LONGEST_NAME = 24, 18, 16
"""Of a matrix: side of a cell with a number and without, letters of a name shown."""
LETTER, WIDE_LETTER = 8.2, 13.5
"""Room for a letter in any font that a page may be shown in, and for a Chinese one."""
MIN_SHARE = 0.75
"""Of its size, to which a matrix may shrink."""
COUNTED = 30
"""Classes up to which the cells of a matrix hold their numbers."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str, x_label: str, series: Sequence[Series], y_range: Range | None = None, percent: bool = False
) -> Html:
    """Lines over one axis; nothing without points. percent: y is a share of 1."""
    points = [point for one in series for point in one.points]
    if not points:
        return Html("")
    low, high = y_range or _widened(min(y for _, y in points), max(y for _, y in points))
    frame = _Frame((min(x for x, _ in points), max(x for x, _ in points)), (low, high))
    texts = [_text(LEFT, 16, title, "start")]
    lines = [_axis_line(frame, y, f"{100 * y:g} %" if percent else f"{y:,g}") for y in ticks(low, high)]
    across = [x for x in ticks(*frame.x_range) if x == int(x)] or [frame.x_range[0]]
    lines += [_text(frame.x(x), HEIGHT - BOTTOM + 18, f"{x:,g}") for x in across]
    texts += [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label), *_legend(series)]
    drawn = [_polyline(frame, one.points, index) for index, one in enumerate(series)]
    says = f"{title}: {'; '.join(_in_words(one, percent) for one in series)}"
    return _svg(WIDTH, HEIGHT, says, [*lines, *drawn, *texts], "chart")


def curve_chart(name: str, recall: Doubles, precision: Doubles) -> Html:
    """Precision over recall of one class, small, both from 0 to 1."""
    side = SMALL - SMALL_EDGE

    def place(x: float, y: float) -> str:
        return f"{SMALL_EDGE + x * side:.1f},{(1 - y) * side:.1f}"

    chosen = thinned(len(recall))
    points = " ".join(place(recall[i], precision[i]) for i in chosen)
    parts = [
        f'<rect class="grid-line" x="{SMALL_EDGE}" y="0" width="{side}" height="{side}" fill="none"/>',
        _line(SMALL_EDGE, side / 2, SMALL, side / 2),
        _line(SMALL_EDGE + side / 2, 0, SMALL_EDGE + side / 2, side),
        f'<polyline class="line s0" points="{points}"/>' if points else "",
        _text(SMALL_EDGE - 4, 10, "1", "end"),
        _text(SMALL_EDGE - 4, side, "0", "end"),
        _text(SMALL_EDGE, SMALL - 8, "0"),
        _text(SMALL - 4, SMALL - 8, "1"),
        _text(SMALL_EDGE + side / 2, SMALL - 8, "recall"),
    ]
    return _svg(SMALL, SMALL, f"precision over recall of {name}", parts)


def matrix_chart(classes: Sequence[str], counts: Ints) -> Html:
    """Counts (k, k): rows are what images show, columns what was said; wrong ones in another colour."""
    names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in classes]
    cell = CELL if len(classes) <= COUNTED else SMALL_CELL
    middle = cell / 2 + 4.5  # where a line of text stands that is centred in a cell
    edge = max(map(_room, names)) + 12
    side = edge + len(classes) * cell
    totals = np.maximum(counts.sum(axis=1), 1)
    parts = [_text(edge - 6, edge + i * cell + middle, name, "end") for i, name in enumerate(names)]
    for column, name in enumerate(names):
        x = edge + column * cell + middle
        parts.append(
            f'<text x="{x:.1f}" y="{edge - 6:.1f}" transform="rotate(-90 {x:.1f} {edge - 6:.1f})">'
            f"{escape(name)}</text>"
        )
    parts += [_line(edge, edge + i * cell, side, edge + i * cell) for i in range(len(names) + 1)]
    parts += [_line(edge + i * cell, edge, edge + i * cell, side) for i in range(len(names) + 1)]
    for row, column in np.argwhere(counts).tolist():
        count = int(counts[row, column])
        says = f"{classes[row]}, said to be {classes[column]}: {count}"
        x, y = edge + column * cell, edge + row * cell
        kind = "cell" if row == column else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell}" height="{cell}" '
            f'fill-opacity="{0.15 + 0.4 * count / totals[row]:.2f}"><title>{escape(says)}</title></rect>'
        )
        if len(classes) <= COUNTED:
            parts.append(_text(x + cell / 2, y + middle, str(count), kind="count"))
    drawn = _svg(side, side, f"confusion matrix of {len(classes)} classes", parts, "matrix")
    # Letters must not grow with a small matrix, nor shrink below reading: it scrolls on a narrow screen.
    room = f"max-width:{side:.0f}px;min-width:{MIN_SHARE * side:.0f}px"
    return Html(
        '<div class="wide" tabindex="0" role="region" aria-label="confusion matrix">'
        f'<div style="{room}">{drawn}</div></div>'
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def thinned(n: int, limit: int = MAX_POINTS) -> list[int]:
    """Indices of at most so many of n points, the first and the last among them."""
    return list(range(n)) if n <= limit else sorted({i * (n - 1) // (limit - 1) for i in range(limit)})


# --- parts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """Where numbers lie in a line chart."""

    x_range: Range
    y_range: Range

    def x(self, value: float) -> float:
        return LEFT + _portion(value, self.x_range) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - _portion(value, self.y_range) * (HEIGHT - TOP - BOTTOM)


def _room(text: str) -> float:
    return sum(WIDE_LETTER if east_asian_width(letter) in "WF" else LETTER for letter in text)


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


def _polyline(frame: _Frame, points: Sequence[tuple[float, float]], index: int) -> str:
    kind = f"s{index % 3}" + (" dashed" if index % 3 else "")
    places = " ".join(
        f"{frame.x(points[i][0]):.1f},{frame.y(points[i][1]):.1f}" for i in thinned(len(points))
    )
    if len(points) == 1:  # a line of one point is not drawn
        x, _, y = places.partition(",")
        return f'<circle class="line {kind}" cx="{x}" cy="{y}" r="3"/>'
    return f'<polyline class="line {kind}" points="{places}"/>'


def _legend(series: Sequence[Series]) -> list[str]:
    """From the right, where the title does not reach."""
    parts, x = [], float(WIDTH - RIGHT)
    for index in reversed(range(len(series))):
        name = series[index].name
        parts.append(_text(x, 16, name, "end"))
        x -= _room(name) + 4
        kind = f"s{index % 3}" + (" dashed" if index % 3 else "")
        parts.append(f'<line class="line {kind}" x1="{x - 22:.1f}" y1="12" x2="{x:.1f}" y2="12"/>')
        x -= 36
    return parts if len(series) > 1 else []


def _in_words(one: Series, percent: bool) -> str:
    last = one.points[-1][1] if one.points else math.nan
    return f"{one.name} ends at {f'{100 * last:.1f} %' if percent else f'{last:.3g}'}"


def _axis_line(frame: _Frame, y: float, label: str) -> str:
    height = frame.y(y)
    return _line(LEFT, height, WIDTH - RIGHT, height) + _text(LEFT - 6, height + 4, label, "end")


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid-line" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(width: float, height: float, says: str, parts: Sequence[str], kind: str = "") -> Html:
    named = f' class="{kind}"' if kind else ""
    return Html(
        f'<svg{named} viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(says)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
