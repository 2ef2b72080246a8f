"""An image convolved once a scale, and any window of it pooled as often as asked.

The convolutions are the expensive part, so they are done once and kept as a value. A window is
pooled at the scale that brings it nearest to 224×224 pixels (paper section 4.1), and windows that
fall on the same cells of the same maps are pooled once: about a quarter of an image's proposals do.
A trunk with several taps gives a map for each of them, and a window's vector is what is pooled from
each, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Doubles, Ints, Reals
from sppnet.distinct import distinct_rows
from sppnet.errors import GeometryError
from sppnet.features.head_boxes import HeadBoxes
from sppnet.geometry.grid import (
    BoxMapping,
    CellGrid,
    ScaleRule,
    boxes_to_cells,
    choose_scales,
    count_bins,
    scale_distances,
)
from sppnet.ops.pooling import pool_maps

Boxes = Reals


@dataclass(frozen=True, eq=False)
class RoIs:
    """Where boxes lie on the maps of an image; boxes on the same cells are one window."""

    cells: Ints
    """(u, 1 + 4·taps) distinct windows: index of the scale, then xyxy in cells of each tap, half-open."""
    roi_of_box: Ints
    """(n,) the window of each box."""

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True, eq=False)
class TapMaps:
    """The maps of one tap of a trunk."""

    maps: tuple[Tensor, ...]
    """(c, h, w) for each scale."""
    grid: CellGrid


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The features of one image at one or several scales, from one or several taps of a trunk."""

    size_hw: tuple[int, int]
    """Of the image that boxes refer to, in pixels."""
    sizes_hw: tuple[tuple[int, int], ...]
    """Of the image at each scale."""
    taps: tuple[TapMaps, ...]
    """The finest first."""
    head: HeadBoxes | None = None
    """Of a trunk that is a detector's network, its own boxes."""

    def __post_init__(self) -> None:
        if not self.taps:
            raise GeometryError("feature maps need one tap or more; got none")
        for tap in self.taps:
            if not tap.maps or len(tap.maps) != len(self.sizes_hw):
                raise GeometryError(f"{len(self.sizes_hw)} scales need as many maps; got {len(tap.maps)}")
        if min(side for size in (self.size_hw, *self.sizes_hw) for side in size) < 1:
            raise GeometryError(f"images have sides of 1 or more; got {self.size_hw} and {self.sizes_hw}")

    @staticmethod
    def of_one_tap(
        size_hw: tuple[int, int],
        sizes_hw: tuple[tuple[int, int], ...],
        maps: tuple[Tensor, ...],
        grid: CellGrid,
    ) -> "FeatureMaps":
        """maps: (c, h, w) for each of sizes_hw, of a trunk that gives one map."""
        return FeatureMaps(size_hw, sizes_hw, (TapMaps(maps, grid),))

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """(c, h, w) for each scale, of the finest tap."""
        return self.taps[0].maps

    @property
    def grid(self) -> CellGrid:
        """Of the finest tap."""
        return self.taps[0].grid

    @property
    def channels(self) -> int:
        """Of all taps together."""
        return sum(tap.maps[0].shape[0] for tap in self.taps)

    @property
    def scales_px(self) -> tuple[int, ...]:
        """The shorter side at each scale."""
        return tuple(min(size) for size in self.sizes_hw)

    def choose_scales(self, boxes: Boxes, rule: ScaleRule = "paper") -> Ints:
        """(n,) index of the best scale for each box (n, 4) xyxy in pixels of the image."""
        return choose_scales(np.asarray(boxes).reshape(-1, 4), self.size_hw, self.scales_px, rule)

    def nearest_scales(self, boxes: Boxes, count: int, rule: ScaleRule = "paper") -> Ints:
        """(n, up to `count`) indices of the scales that suit each box, the best first."""
        distances = scale_distances(np.asarray(boxes).reshape(-1, 4), self.size_hw, self.scales_px, rule)
        order: Ints = np.argsort(distances, axis=1, kind="stable")[:, :count]
        return order

    def windows(self, boxes: Boxes, rule: BoxMapping = "paper", at: Ints | None = None) -> RoIs:
        """The cells of boxes (n, 4) xyxy in pixels of the image.

        at: (n,) index of the scale of each; by default the best one by the paper's or the released rule.
        """
        return RoIs(*distinct_rows(self._cells(boxes, rule, at)))

    def pool(
        self,
        boxes: Boxes,
        levels: Sequence[int] = (1, 2, 3, 6),
        rule: BoxMapping = "paper",
        at: Ints | None = None,
    ) -> Tensor:
        """Vectors (n, c × bins) of boxes (n, 4), one a box: `pool_windows` where repeats may be shared."""
        cells = self._cells(boxes, rule, at)
        return torch.cat([self._pool_tap(index, cells, levels) for index in range(len(self.taps))], 1)

    def pool_windows(self, windows: RoIs, levels: Sequence[int] = (1, 2, 3, 6)) -> Tensor:
        """Vectors (u, c × bins), one a distinct window, float32."""
        if len(self.taps) == 1:
            return self._pool_tap(0, windows.cells, levels).float()
        bins = count_bins(levels)
        vectors, first = torch.empty(len(windows), self.channels * bins), 0
        for index, tap in enumerate(self.taps):  # written once, in the end's precision
            behind = first + len(tap.maps[0]) * bins
            vectors[:, first:behind] = self._pool_tap(index, windows.cells, levels)
            first = behind
        return vectors

    def cells_to_boxes(self, index: int, cells: Ints) -> Doubles:
        """(n, 4) xyxy in pixels of the image: what lies about cells (n, 4) of the finest tap at a scale."""
        (height, width), (scaled_height, scaled_width) = self.size_hw, self.sizes_hw[index]
        ratio = np.array([width / scaled_width, height / scaled_height] * 2)
        boxes: Doubles = self.grid.cells_to_boxes(cells) * ratio
        return boxes

    def _pool_tap(self, index: int, cells: Ints, levels: Sequence[int]) -> Tensor:
        """Of one tap; cells: (n, 1 + 4·taps)."""
        return pool_maps(self.taps[index].maps, cells[:, [0, *range(4 * index + 1, 4 * index + 5)]], levels)

    def _cells(self, boxes: Boxes, rule: BoxMapping, at: Ints | None) -> Ints:
        """(n, 1 + 4·taps) of boxes, as in `RoIs.cells`."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        if at is None:
            at = self.choose_scales(boxes, rule)
        cells = np.empty((len(boxes), 1 + 4 * len(self.taps)), np.int64)
        cells[:, 0] = at
        for index in range(len(self.sizes_hw)):
            chosen = np.flatnonzero(at == index)
            cells[chosen, 1:] = self._cells_at(index, boxes[chosen], rule)
        return cells

    def _cells_at(self, index: int, boxes: Boxes, rule: BoxMapping) -> Ints:
        (height, width), (scaled_height, scaled_width) = self.size_hw, self.sizes_hw[index]
        scaled = boxes * np.array([scaled_width / width, scaled_height / height] * 2)
        found = []
        for tap in self.taps:
            map_hw = tap.maps[index].shape[1], tap.maps[index].shape[2]
            found.append(boxes_to_cells(scaled, tap.grid, map_hw, rule))
        return np.hstack(found)
