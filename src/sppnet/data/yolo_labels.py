"""Lines of YOLO label files: class and box, and what tools write behind them.

    class cx cy width height                    shares of the image's sides
    class cx cy width height confidence         a detector's own output; the confidence is left aside
    class cx cy width height confidence track   with the number of a track, a whole one
    class cx cy width height (x y visible)…     key points, which are left aside
    class (x y)…                                an outline of three points or more; its box is taken

Outlines and key points can look alike, so each number of columns is read in one way in the whole data set.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from sppnet.data.frames import Box
from sppnet.data.text import read_text

SLACK = 0.1
"""Shares may exceed 1 by this and be clipped; beyond it they must be pixels, or something else."""

CLIPPED = 0.01
"""By which a box of rounded numbers may exceed its image."""

SHOWN_LETTERS = 60
"""Of a line that is refused."""

TOLD = {
    "score": ("lines have a number behind the box", "it is taken for a confidence and left aside"),
    "track": ("lines have two numbers behind the box", "they are taken for confidence and track; left aside"),
    "points": ("lines have key points behind the box", "those are left aside"),
    "outline": (
        "lines have pairs of numbers",
        "they are taken for outlines, and the box around each is read; "
        "if they are key points, say so with kpt_shape in data.yaml",
    ),
}
"""Ways of reading more than a box, as problems tell them."""


@dataclass(frozen=True)
class Line:
    """A line with something in it."""

    number: int
    """From 1."""
    columns: tuple[str, ...]

    @property
    def text(self) -> str:
        text = " ".join(self.columns)
        return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"


def read_label(file: Path) -> list[Line]:
    """The lines of a label file."""
    lines = read_text(file).splitlines()
    found = (Line(number, _columns(line)) for number, line in enumerate(lines, 1))
    return [line for line in found if line.columns]


def _columns(line: str) -> tuple[str, ...]:
    """Parted by spaces, by commas or by both; a comma within a number stays, as it may be a decimal point.

    What follows a # is a remark.
    """
    line = line.partition("#")[0]
    columns = line.split()
    columns = columns if len(columns) > 1 else line.replace(",", " ").split()
    return tuple(column.rstrip(",") for column in columns)


def find_ways(labels: Iterable[Iterable[Line]], has_points: bool) -> dict[int, str]:
    """How lines of each number of columns are read: a key of `TOLD`, or "box", or "" for not at all."""
    fits: dict[int, set[str]] = {}
    for lines in labels:
        for line in lines:
            possible = fits.setdefault(len(line.columns), {"track", "points"})
            if "track" in possible and not _has_track(line.columns):
                possible.discard("track")
            if "points" in possible and not _has_points(line.columns):
                possible.discard("points")
    return {columns: _way(columns - 1, possible, has_points) for columns, possible in fits.items()}


def _way(count: int, possible: Set[str], has_points: bool) -> str:
    if count == 4 or (has_points and count > 4):
        return "box"
    if count == 5:
        return "score"
    if possible:
        return min(possible)
    return "outline" if count >= 6 and count % 2 == 0 else ""


def _has_track(columns: Sequence[str]) -> bool:
    """Whether a share and a whole number stand behind the box."""
    return len(columns) == 7 and columns[-1].isdecimal() and _is_share(columns[5])


def _is_share(text: str) -> bool:
    return (numbers := _numbers([text])) is not None and 0 <= numbers[0] <= 1


def _has_points(columns: Sequence[str]) -> bool:
    """Whether threes stand behind the box, of which the last is 0, 1 or 2."""
    numbers = _numbers(columns[7::3]) if len(columns) > 7 and len(columns) % 3 == 2 else None
    return numbers is not None and set(numbers) <= {0, 1, 2}


def box_of(line: Line, way: str) -> Box | str:
    """xyxy in shares of the sides; or a sentence on what else was expected."""
    values = _numbers(line.columns[1:] if way == "outline" else line.columns[1:5])
    if values is None or not way or len(values) < 4:
        return f"five numbers were expected, class and four shares from 0 to 1; got {line.text}"
    if not all(-SLACK <= value <= 1 + SLACK for value in values):
        units = "; pixels are divided by width and height, per cent by 100" if max(values) > 1 else ""
        return f"shares from 0 to 1 were expected behind the class; got {line.text}{units}"
    if way == "outline":
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    cx, cy, width, height = values
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


@dataclass
class CornerTally:
    """Counts lines of a class and four shares, to find out whether these were corners x0, y0, x1, y1."""

    count: int = 0
    beyond: int = 0
    other: int = 0

    def add(self, lines: Iterable[Line]) -> None:
        for values in (_numbers(line.columns[1:]) for line in lines if len(line.columns) == 5):
            if values is not None:
                x, y, width, height = values
                self.count += 1
                self.beyond += x + width / 2 > 1 + CLIPPED or y + height / 2 > 1 + CLIPPED
                self.other += not (x < width <= 1 and y < height <= 1)

    @property
    def are_corners(self) -> bool:
        """Whether every box would be one as corners, and many reach beyond the image as they are read."""
        return not self.other and 4 * self.beyond >= self.count > 2


def class_number(text: str) -> int:
    """A class number, which some tools write as 0.0; −1 for anything else."""
    numbers = _numbers([text])
    return int(numbers[0]) if numbers and numbers[0].is_integer() else -1


def _numbers(columns: Sequence[str]) -> list[float] | None:
    try:
        return [float(column) for column in columns]
    except ValueError:
        return None
