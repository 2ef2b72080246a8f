"""An image convolved once a scale, and any window of it pooled as often as asked.

The convolutions are the expensive part, so they are done once and kept as a value. A window is
pooled at the scale that brings it nearest to 224×224 pixels (paper section 4.1), and windows that
fall on the same cells of the same map are pooled once: about a quarter of an image's proposals do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sppnet.arrays import Ints, Reals
from sppnet.errors import GeometryError
from sppnet.geometry.grid import (
    BoxMapping,
    CellGrid,
    boxes_to_cells,
    choose_scales,
)
from sppnet.ops.pooling import pool_maps

Boxes = Reals


@dataclass(frozen=True, eq=False)
class RoIs:
    """Where boxes lie on the maps of an image; boxes on the same cells are one window."""

    cells: Ints
    """(u, 5) distinct windows: index of the map, then xyxy in its cells, half-open."""
    roi_of_box: Ints
    """(n,) the window of each box."""

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The features of one image at one or several scales."""

    size_hw: tuple[int, int]
    """Of the image that boxes refer to, in pixels."""
    sizes_hw: tuple[tuple[int, int], ...]
    """Of the image at each scale."""
    maps: tuple[Tensor, ...]
    """(c, h, w) for each scale."""
    grid: CellGrid

    def __post_init__(self) -> None:
        if not self.maps or len(self.maps) != len(self.sizes_hw):
            raise GeometryError(f"{len(self.sizes_hw)} scales need as many maps; got {len(self.maps)}")
        if min(side for size in (self.size_hw, *self.sizes_hw) for side in size) < 1:
            raise GeometryError(f"images have sides of 1 or more; got {self.size_hw} and {self.sizes_hw}")

    @property
    def channels(self) -> int:
        return self.maps[0].shape[0]

    @property
    def scales_px(self) -> tuple[int, ...]:
        """The shorter side at each scale."""
        return tuple(min(size) for size in self.sizes_hw)

    def windows(self, boxes: Boxes, rule: BoxMapping = "paper", at: Ints | None = None) -> RoIs:
        """The cells of boxes (n, 4) xyxy in pixels of the image.

        at: (n,) index of the scale of each; by default the best one (`choose_scales`).
        """
        distinct, of_box = np.unique(self._cells(boxes, rule, at), axis=0, return_inverse=True)
        return RoIs(distinct, of_box.reshape(-1))

    def pool(
        self,
        boxes: Boxes,
        levels: Sequence[int] = (1, 2, 3, 6),
        rule: BoxMapping = "paper",
        at: Ints | None = None,
    ) -> Tensor:
        """Vectors (n, c × bins) of boxes (n, 4), one a box: `pool_windows` where repeats may be shared."""
        return pool_maps(self.maps, self._cells(boxes, rule, at), levels)

    def pool_windows(self, windows: RoIs, levels: Sequence[int] = (1, 2, 3, 6)) -> Tensor:
        """Vectors (u, c × bins), one a distinct window."""
        return pool_maps(self.maps, windows.cells, levels)

    def _cells(self, boxes: Boxes, rule: BoxMapping, at: Ints | None) -> Ints:
        """(n, 5) of boxes, as in `Windows.cells`."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        if at is None:
            at = choose_scales(boxes, self.size_hw, self.scales_px, rule)
        cells = np.empty((len(boxes), 5), np.int64)
        cells[:, 0] = at
        for index in range(len(self.maps)):
            chosen = np.flatnonzero(at == index)
            cells[chosen, 1:] = self._cells_at(index, boxes[chosen], rule)
        return cells

    def _cells_at(self, index: int, boxes: Boxes, rule: BoxMapping) -> Ints:
        (height, width), (scaled_height, scaled_width) = self.size_hw, self.sizes_hw[index]
        ratio = np.array([scaled_width / width, scaled_height / height] * 2)
        map_hw = self.maps[index].shape[1], self.maps[index].shape[2]
        return boxes_to_cells(boxes * ratio, self.grid, map_hw, rule)
