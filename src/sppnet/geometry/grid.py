"""Where bins, cells, scales and views lie: every rounding of the package, in integers.

The same formulas in float32 put bins one cell off (first at size 3, level 21), so nothing
here divides floats. Box corners may be fractions of a pixel; they are held in sixty-fourths.
Functions of boxes take and return numpy arrays; bins are plain tuples.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Doubles, Ints, Reals, array_of
from sppnet.errors import GeometryError

SUBPIXELS = 64
"""Box corners are rounded to 1/64 pixel before they are mapped to cells."""

VIEW_PX = 224
"""Side of a view, and the side a window is scaled towards (paper section 3.1.5 and 4.1)."""

RELEASED_SLACK_PX = 6.5
"""How far beyond a box's border the released code still takes a cell's centre, before rounding."""

BoxMapping = Literal["paper", "released"]
ScaleRule = Literal["paper", "released", "log"]
Boxes = Reals | npt.NDArray[np.integer]


# --- bins: a side of `size` cells cut into n -----------------------------------------------------


def bin_edges(size: int, n: int) -> list[tuple[int, int]]:
    """The n half-open bins of a side of `size` cells (paper Appendix A; equals adaptive pooling).

    They cover every cell, are never empty, and overlap a neighbour by one cell at most while
    size ≥ n. On fewer cells than bins some cells stand in several bins.
    """
    check_levels((n,))
    if size < 1:
        raise GeometryError(f"a side to be cut into bins needs at least 1 cell, got {size}")
    return [(i * size // n, ((i + 1) * size + n - 1) // n) for i in range(n)]


def sliding_bins(size: int, n: int) -> list[tuple[int, int]]:
    """The n bins of the paper's training rule: window ⌈size/n⌉, stride ⌊size/n⌋ (section 2.3).

    Raises GeometryError where that rule does not give exactly n bins that cover the side, which
    is wherever size < n or size mod n > 1: size 10 with n = 4 (index 9 is never seen) or n = 6
    (9 bins). Where it does, the bins equal `bin_edges`.
    """
    edges, bins = bin_edges(size, n), sliding_windows(size, n)
    window, stride = (size + n - 1) // n, size // n
    if bins != edges:
        seen = bins[-1][1] if bins else 0
        raise GeometryError(
            f"the paper's training rule on a side of a = {size} cells with n = {n} (window {window}, stride "
            f"{stride}) gives {len(bins)} bins that see {seen} of {size} cells; it needs a mod n of 0 or 1 "
            'and a ≥ n. Use rule="adaptive", or an input size whose map fits'
        )
    return bins


def sliding_windows(size: int, n: int) -> list[tuple[int, int]]:
    """What the training rule takes literally, n bins or not: none where size < n and the stride is 0."""
    window, stride = (size + n - 1) // n, size // n
    starts = range(0, size - window + 1, stride) if stride else range(0)
    return [(start, start + window) for start in starts]


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """The levels of a pyramid as a tuple of int; raises GeometryError unless they are integers ≥ 1."""
    try:
        checked = tuple(operator.index(n) for n in levels)  # numpy's integers too
    except TypeError:
        checked = ()
    if not checked or min(checked) < 1 or any(isinstance(n, bool | np.bool_) for n in levels):
        raise GeometryError(f"levels must be one or more integers ≥ 1, such as (1, 2, 3, 6); got {levels!r}")
    return checked


def count_bins(levels: Sequence[int]) -> int:
    """Number of bins of a pyramid: 50 for (1, 2, 3, 6)."""
    return sum(n * n for n in check_levels(levels))


# --- cells: a box in an image, seen on its feature map -------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CellGrid:
    """Where the cells of a feature map lie in the image."""

    stride: int
    """Image pixels from one cell to the next."""
    center0: float
    """0-based pixel index at the centre of cell 0, a multiple of one half; pads can make it negative."""
    receptive_field: int
    """Side in pixels of the square that one cell sees."""

    def __post_init__(self) -> None:
        if self.stride < 1 or self.receptive_field < 1 or self.center0 * 2 != int(self.center0 * 2):
            raise GeometryError(
                f"a cell grid needs stride and receptive field ≥ 1 and a half-integer centre: {self}"
            )

    def cells_to_boxes(self, cells: npt.ArrayLike) -> Doubles:
        """Squares of one stride about the cells' centres, joined: (n, 4) xyxy in pixels.

        cells: (n, 4) xyxy half-open. A centre lies where `boxes_to_cells` takes it to be, at its pixel's
        index, so that these boxes cover these cells. At the map's border they may reach beyond the image.
        """
        boxes: Doubles = np.asarray(cells, np.float64) * self.stride + (self.center0 - self.stride / 2)
        return boxes


def boxes_to_cells(boxes: Boxes, grid: CellGrid, map_hw: tuple[int, int], rule: BoxMapping = "paper") -> Ints:
    """The cells that boxes cover on a feature map of `map_hw` cells.

    boxes: (n, 4) xyxy in pixels of the image the map was computed from, half-open.
    Returns (n, 4) xyxy in cells, half-open, never empty and inside the map.
    rule "paper": the cells whose centres lie strictly inside the box (section "Mapping a Window
    to Feature Maps" of Appendix A). "released": the authors' code, which loosens that by 1.5
    pixels for a stride of 16. A box that catches no cell gets the one in its middle.
    """
    if rule not in ("paper", "released"):
        raise GeometryError(f'rule must be "paper" or "released", got {rule!r}')
    if min(map_hw) < 1:
        raise GeometryError(f"a feature map needs at least 1×1 cells, got {map_hw[0]}×{map_hw[1]}")
    corners = _subpixels(boxes)
    first, last = _paper_cells(corners, grid) if rule == "paper" else _released_cells(corners, grid)
    middle = (first + last) // 2
    inverted = first > last
    first, last = np.where(inverted, middle, first), np.where(inverted, middle, last)
    limit = np.array([map_hw[1] - 1, map_hw[0] - 1])
    return np.hstack([np.clip(first, 0, limit), np.clip(last, 0, limit) + 1])


def aligned_cells(fine: CellGrid, coarse: CellGrid, count: int, limit: int) -> Ints:
    """(count,) along one side, the cell of a coarse map whose centre is nearest to that of each fine cell.

    count, limit: cells of the fine and of the coarse map along that side. A tie takes the later cell.
    """
    centres = np.arange(count, dtype=np.int64) * (2 * fine.stride) + int(2 * fine.center0)
    nearest = (centres - int(2 * coarse.center0) + coarse.stride) // (2 * coarse.stride)
    return np.clip(nearest, 0, limit - 1)


def _subpixels(boxes: Boxes) -> Ints:
    """Boxes (n, 4) as integers, in 1/64 pixel."""
    array = np.asarray(array_of(boxes))
    if array.ndim != 2 or array.shape[1] != 4:
        raise GeometryError(f"boxes must have shape (n, 4), xyxy; got {array.shape}")
    if not np.isfinite(array).all():
        raise GeometryError("boxes must be finite; got NaN or infinity")
    return np.floor(array.astype(np.float64) * SUBPIXELS + 0.5).astype(np.int64)


def _paper_cells(corners: Ints, grid: CellGrid) -> tuple[Ints, Ints]:
    """First and last cell (n, 2) whose centres lie strictly between the corners; first > last if none."""
    step, center0 = grid.stride * SUBPIXELS, int(grid.center0 * SUBPIXELS)
    first = (corners[:, :2] - center0) // step + 1
    last = (corners[:, 2:] - center0 + step - 1) // step - 1
    return first, last


def _released_cells(corners: Ints, grid: CellGrid) -> tuple[Ints, Ints]:
    """First and last cell (n, 2) by spm_pool_caffe_mex.cpp: slack, then the nearest cell.

    ⌊u/S + ½⌋ = ⌊(2u + S) / 2S⌋ and ⌈u/S − ½⌉ = ⌈(2u − S) / 2S⌉. Its right corner is the last
    pixel inside the box, so one less than a half-open end.
    """
    step, center0 = grid.stride * SUBPIXELS, int(grid.center0 * SUBPIXELS)
    slack = int(RELEASED_SLACK_PX * SUBPIXELS)
    left = corners[:, :2] - center0 + slack
    right = corners[:, 2:] - SUBPIXELS - center0 - slack
    first = (2 * left + step) // (2 * step)
    last = (2 * right - step + 2 * step - 1) // (2 * step)
    return first, last


# --- scales and views ----------------------------------------------------------------------------


def scaled_size(size_hw: tuple[int, int], scale_px: int) -> tuple[int, int]:
    """(height, width) after resizing the shorter side to `scale_px`; halves round up."""
    short = min(size_hw)
    if short < 1 or scale_px < 1:
        raise GeometryError(f"sizes must be at least 1 pixel; got image {size_hw} and scale {scale_px}")
    height, width = ((2 * side * scale_px + short) // (2 * short) for side in size_hw)
    return height, width


def scale_of_views(scale_px: int, size_px: int) -> int:
    """Shorter side at which a view of `size_px` shows what one of 224 shows at `scale_px`; rounds down."""
    return scale_px * size_px // VIEW_PX


def choose_scales(
    boxes: Boxes, size_hw: tuple[int, int], scales: Sequence[int], rule: ScaleRule = "paper"
) -> Ints:
    """For every box the index of its best scale: the one at which it is nearest to 224×224 pixels.

    boxes: (n, 4) xyxy in pixels of the image of `size_hw`, half-open.
    rule "paper": nearest in pixel count (section 4.1). "released": nearest along the scale axis
    to the scale that makes the box 208 pixels wide. "log": nearest by the ratio of areas, so that twice
    too large is as far as half too small. Equal distances take the earlier scale.
    """
    nearest: Ints = scale_distances(boxes, size_hw, scales, rule).argmin(axis=1)
    return nearest


def scale_distances(
    boxes: Boxes, size_hw: tuple[int, int], scales: Sequence[int], rule: ScaleRule = "paper"
) -> npt.NDArray[Any]:
    """(n, scales) how far each box is from 224×224 pixels at each scale, as `choose_scales` measures it."""
    if rule not in _DISTANCES:
        raise GeometryError(f"rule must be one of {', '.join(_DISTANCES)}; got {rule!r}")
    if not scales or min(scales) < 1:
        raise GeometryError(f"scales must be one or more sizes ≥ 1 pixel; got {scales!r}")
    corners = _subpixels(boxes)
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 1)
    box_areas = sides[:, 0] * sides[:, 1]  # in 1/64² pixel
    return _DISTANCES[rule](box_areas, min(size_hw), np.asarray(scales, dtype=np.int64))


def _paper_distances(box_areas: Ints, short: int, scales: Ints) -> npt.NDArray[np.object_]:
    """|area·(scale/short)² − 224²| times short²·64²: Python integers, since int64 could overflow."""
    target = VIEW_PX**2 * short**2 * SUBPIXELS**2
    return abs(box_areas.astype(object)[:, None] * (scales**2).astype(object)[None, :] - target)


def _released_distances(box_areas: Ints, short: int, scales: Ints) -> Ints:
    """|scale − round(13·16·short / √area)|, spm_expected_scale.m; a half rounds up."""
    expected = [(math.isqrt((2 * 208 * short * SUBPIXELS) ** 2 // int(area)) + 1) // 2 for area in box_areas]
    return abs(np.asarray(expected, dtype=np.int64).reshape(-1, 1) - scales[None, :])


def _log_distances(box_areas: Ints, short: int, scales: Ints) -> npt.NDArray[np.float64]:
    """|log of area·(scale/short)² / 224²|. Roundings of a logarithm choose only between equal scales."""
    at_scale_1 = np.log(box_areas) - 2 * np.log(VIEW_PX * SUBPIXELS * short)
    distances: npt.NDArray[np.float64] = abs(at_scale_1[:, None] + 2 * np.log(scales)[None, :])
    return distances


_DISTANCES: dict[str, Callable[[Ints, int, Ints], npt.NDArray[Any]]] = {
    "paper": _paper_distances, "released": _released_distances, "log": _log_distances,
}  # fmt: skip


def view_boxes(
    size_hw: tuple[int, int], positions: int, view_px: int = VIEW_PX
) -> list[tuple[int, int, int, int]]:
    """Square views of an image, xyxy: 1 centre, 5 with the corners, 9 with the middles of the sides.

    Positions that fall together are given once, so an image whose shorter side is `view_px` has 3
    of the 9 (section 3.1.5), a square one 1.
    """
    height, width = size_hw
    if min(size_hw) < view_px:
        raise GeometryError(
            f"views of {view_px} pixels do not fit an image of {height}×{width}; scale it up first"
        )
    bottom, right = height - view_px, width - view_px
    middle_y, middle_x = bottom // 2, right // 2
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    sides = [(0, middle_x), (middle_y, 0), (middle_y, right), (bottom, middle_x)]
    places = {1: [], 5: corners, 9: corners + sides}
    if positions not in places:
        raise GeometryError(f"views come in 1, 5 or 9 positions; got {positions}")
    distinct = dict.fromkeys([(middle_y, middle_x), *places[positions]])
    return [(x, y, x + view_px, y + view_px) for y, x in distinct]
