"""The bins of the paper's training rule beside the exact ones: why 10 cells do not make 4 bins that way."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sppnet.drawing import colour_of
from sppnet.geometry.grid import bin_edges, sliding_windows
from sppnet.report.contact_sheet import FAINT, INK, PAPER, arrange, write

Bins = Sequence[tuple[int, int]]

MAP_PX = 400
"""Side of a map, at most; a cell has a whole number of pixels."""
CELL_PX = (12, 40)
BAR = 18
"""From one bin's bar to the next, in pixels."""
LINE, SEEN, UNSEEN = (190, 195, 200), (86, 180, 233), (213, 94, 0)
"""Blue, the deeper the more bins see a cell; vermilion for one that none does."""


def draw_bins(size: int, level: int) -> Image.Image:
    """A sheet of both rules, for maps of size×size cells and level×level bins. Raises GeometryError."""
    exact, sliding = bin_edges(size, level), sliding_windows(size, level)
    window, stride = (size + level - 1) // level, size // level
    rule = f"training rule: window {window}, stride {stride}; {_counted(sliding, size)}"
    rows = max(len(sliding), len(exact))
    panels = [
        (_draw(sliding, size, rows), rule),
        (_draw(exact, size, rows), f"exact: {_counted(exact, size)}"),
    ]
    return arrange(f"{size} cells a side into {level} bins a side", panels, 2)


def _counted(bins: Bins, size: int) -> str:
    unseen = size - len(_seen(bins))
    missed = f"{unseen} of {size} cells in none" if unseen else "every cell seen"
    return f"{len(bins)} bins, {missed}"


def _seen(bins: Bins) -> set[int]:
    return {cell for start, end in bins for cell in range(start, end)}


def _draw(bins: Bins, size: int, rows: int) -> Image.Image:
    """One side with a bar a bin above, in room for so many, and the map of both sides below."""
    cell = min(max(MAP_PX // size, CELL_PX[0]), CELL_PX[1])
    side, top = cell * size, BAR * rows + 30
    picture = Image.new("RGB", (max(side, MAP_PX) + 2, top + side + 2), PAPER)
    pen = ImageDraw.Draw(picture)
    for index in range(size):
        write(pen, (index * cell + 4, 0), str(index), 13, cell + 8, FAINT)
    for number, (start, end) in enumerate(bins):
        y = 22 + number * BAR
        pen.rectangle((start * cell + 1, y, end * cell - 1, y + BAR - 5), colour_of(number), INK)
    counts = np.array([sum(start <= index < end for start, end in bins) for index in range(size)])
    often = counts[:, None] * counts[None, :]
    for row, column in np.ndindex(size, size):
        place = (column * cell, top + row * cell, (column + 1) * cell, top + (row + 1) * cell)
        pen.rectangle(place, _shade(int(often[row, column]), int(often.max(initial=1))), LINE)
    return picture


def _shade(count: int, maximum: int) -> tuple[int, int, int]:
    if not count:
        return UNSEEN
    part = 0.25 + 0.75 * count / maximum
    red, green, blue = (round(255 - (255 - channel) * part) for channel in SEEN)
    return red, green, blue
