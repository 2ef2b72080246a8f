"""Dense windows of a feature map: many sizes and shapes, everywhere."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.boxes import clip_boxes
from sppnet.distinct import distinct_rows
from sppnet.geometry.grid import CellGrid

GEOMETRY = 6
"""Number of geometry features."""


NAMES_OF_0_1 = {
    "kept": "max_refined", "positive": "positive_iou", "negative": "negative_iou", "overlap": "nms_iou",
}  # fmt: skip
"""What fields are called in models of version 0.1.0."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which windows are looked at, and how the head learns."""

    levels: tuple[int, ...] = (1, 3)
    channels: int = 96
    """Principal components of the features that are pooled."""
    coarse: Literal["cells", "pooled"] = "cells"
    """What the coarse score sees: the cell at a window's centre and the window's shape; pooled, its level 1,
    in models of version 0.1.0."""
    max_refined: int = 1_500
    """Windows that remain after the coarse score."""
    sizes: tuple[int, ...] = (2, 3, 4, 6, 8, 11, 15, 20, 27, 36)
    """Square roots of the windows' areas, in cells."""
    shapes: tuple[float, ...] = (0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0)
    """Widths over heights."""
    step: float = 0.25
    """From one window to the next, as a share of its side."""
    hidden: int = 128
    positive_iou: float = 0.6
    """Positive IoU threshold."""
    negative_iou: float = 0.35
    """Negative IoU threshold."""
    per_image: int = 128
    """Windows drawn from an image, at most half of them positive."""
    epochs: int = 6
    learning_rate: float = 2e-3
    nms_iou: float = 0.8
    """IoU above which the lower-scoring of two proposals is removed."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "WindowConfig":
        values: dict[str, Any] = {
            NAMES_OF_0_1.get(key, key): tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        values.setdefault("coarse", "pooled")
        return WindowConfig(**values)


@dataclass(frozen=True, eq=False)
class DenseWindows:
    """The windows of a map; read-only."""

    windows: Ints
    """(n, 4) distinct, xyxy in cells. The whole map is among them."""
    cell: Ints
    """(n,) the cell at the centre of each, counted row by row."""
    shape: Ints
    """(n,) the row of `sides` that each has."""
    sides: Ints
    """(m, 2) distinct widths and heights, in cells."""

    @staticmethod
    def of(windows: Ints, map_hw: tuple[int, int]) -> "DenseWindows":
        across, down = np.minimum((windows[:, :2] + windows[:, 2:]) // 2, np.array(map_hw[::-1]) - 1).T
        sides, shape = distinct_rows(windows[:, 2:] - windows[:, :2])
        arrays = windows, down * map_hw[1] + across, shape, sides
        for array in arrays:
            array.setflags(write=False)
        return DenseWindows(*arrays)


@lru_cache(maxsize=64)
def dense_windows(map_hw: tuple[int, int], config: WindowConfig) -> DenseWindows:
    """Windows of all sizes and shapes, everywhere on a map."""
    found = [np.array([[0, 0, map_hw[1], map_hw[0]]])]
    for size in config.sizes:
        for shape in config.shapes:
            across, down = max(1, round(size * shape**0.5)), max(1, round(size / shape**0.5))
            if across > map_hw[1] * 1.25 or down > map_hw[0] * 1.25:
                continue
            across, down = min(across, map_hw[1]), min(down, map_hw[0])
            left = _starts(map_hw[1], across, config.step)
            top = _starts(map_hw[0], down, config.step)
            y, x = np.meshgrid(top, left, indexing="ij")
            found.append(np.stack([x, y, x + across, y + down], -1).reshape(-1, 4))
    return DenseWindows.of(distinct_rows(np.concatenate(found))[0], map_hw)


def _starts(side: int, length: int, step: float) -> Ints:
    count = int(np.ceil((side - length) / max(1.0, length * step))) + 1
    starts: Ints = np.unique(np.linspace(0, side - length, count).round().astype(np.int64))
    return starts


def windows_to_boxes(
    windows: Ints,
    map_hw: tuple[int, int],
    grid: CellGrid,
    scaled_hw: tuple[int, int],
    size_hw: tuple[int, int],
) -> Floats:
    """The image boxes (n, 4) of windows of cells (`CellGrid.cells_to_boxes`).

    By rule "paper" these cells are the ones a box covers (`boxes_to_cells`), save that the first row and
    column are not where their centres lie on the image's border, as with pads of half a kernel: no box
    within the image has those strictly inside.
    """
    (height, width), (scaled_height, scaled_width) = size_hw, scaled_hw
    boxes = grid.cells_to_boxes(windows) * np.array([width / scaled_width, height / scaled_height] * 2)
    # What touches the map's border reaches to the image's.
    boxes[:, :2] = np.where(windows[:, :2] == 0, 0, boxes[:, :2])
    boxes[:, 2:] = np.where(windows[:, 2:] == map_hw[::-1], (width, height), boxes[:, 2:])
    return clip_boxes(boxes.astype(np.float32), size_hw)


def describe(boxes: Floats, size_hw: tuple[int, int]) -> Floats:
    """(n, GEOMETRY): centre and size as shares of the image, log area and log shape."""
    height, width = size_hw
    sides = (boxes[:, 2:] - boxes[:, :2]) / np.array([width, height], np.float32)
    centres = (boxes[:, 2:] + boxes[:, :2]) / np.array([2 * width, 2 * height], np.float32)
    logs = np.log(np.maximum(sides, 1e-4))
    return np.hstack([centres, sides, logs.sum(1, keepdims=True), logs[:, :1] - logs[:, 1:]]).astype(
        np.float32
    )
