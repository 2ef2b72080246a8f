"""Learned windows: proposals from the same feature map, by the same pooling.

Dense windows of many sizes and shapes are pooled with levels 1 and 3; a small head, which knows
nothing of classes, says how well each fits an object and nudges its box; the best go on. It is the
step from SPP-net towards region proposal networks, taken with the pyramid itself, and it trains in
seconds on the data set's own boxes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Ints
from sppnet.boxes import clip_boxes, decode_boxes
from sppnet.errors import ConfigError
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid, aligned_cells, count_bins
from sppnet.ops.nms import nms
from sppnet.ops.pooling import pyramid_pool
from sppnet.proposals.dense_windows import (
    GEOMETRY,
    DenseWindows,
    WindowConfig,
    dense_windows,
    describe,
    windows_to_boxes,
)
from sppnet.structures import Proposals

SHAPE = 4
"""Number of features of a window's shape."""

CELL_HIDDEN, SHAPE_HIDDEN = 64, 32


class CellScores(nn.Module):
    """The score of a window from the cell at its centre and its shape alone, as in a region proposal network.

    A product of what is seen at the cell and what suits the shape: a matrix product scores all cells by all
    shapes, where pooling each window takes ten times as long. A cell sees far beyond itself, and tells a
    window that fits from one that is too large, whose maxima are the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cell = nn.Linear(channels + 2, CELL_HIDDEN)
        self.shape = nn.Linear(SHAPE, SHAPE_HIDDEN)
        self.shape_output = nn.Linear(SHAPE_HIDDEN, CELL_HIDDEN + 1)

    def forward(self, cells: Tensor, shapes: Tensor) -> Tensor:
        """(n, channels + 2) of `describe_cells` and (n, SHAPE) of `describe_shapes`, a row each for a
        window → (n,) scores."""
        suited = self.shape_output(self.shape(shapes).relu())
        result: Tensor = (self.cell(cells).relu() * suited[:, 1:]).sum(1) + suited[:, 0]
        return result

    def score_all(self, features: Tensor, dense: DenseWindows) -> Tensor:
        """(channels, h, w) → (n,) scores of the dense windows of this map."""
        height, width = features.shape[1:]
        suited = self.shape_output(self.shape(describe_shapes(dense.sides, (height, width))).relu())
        seen = self.cell(describe_cells(features)).relu()
        table = torch.addmm(suited[:, 0], seen, suited[:, 1:].T)
        return table.flatten()[torch.from_numpy(dense.cell * len(dense.sides) + dense.shape)]


def describe_cells(features: Tensor) -> Tensor:
    """(channels, h, w) → (h × w, channels + 2): features, and where a cell lies."""
    down, across = ((torch.arange(side).to(features) + 0.5) / side for side in features.shape[1:])
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.cat([features.flatten(1).T, torch.stack([x.flatten(), y.flatten()], 1)], 1)


def describe_shapes(sides: Ints, map_hw: tuple[int, int]) -> Tensor:
    """(n, 2) widths and heights in cells → (n, SHAPE): shares of the map, log area and log shape."""
    shares = torch.tensor(sides) / torch.tensor([map_hw[1], map_hw[0]])
    logs = shares.log()
    return torch.cat([shares, logs.sum(1, keepdim=True), logs[:, :1] - logs[:, 1:]], 1)


class PooledScores(nn.Module):
    """The score of a window from its level 1 and geometry, of heads learned before version 0.2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels + GEOMETRY, 32)
        self.second = nn.Linear(32, 1)

    def score_all(self, features: Tensor, windows: Tensor, geometry: Tensor) -> Tensor:
        """(channels, h, w), (n, 4) windows and their (n, GEOMETRY) → (n,) scores."""
        pooled = pyramid_pool(features[None], windows, (1,))
        result: Tensor = self.second(self.first(torch.cat([pooled, geometry], 1)).relu())[:, 0]
        return result


DELTA_UNIT = 0.2
"""Box deltas are divided by this, so that they are about as large as scores."""

SURPLUS = 3
"""Windows that enter NMS for each that is to remain."""

OLDER_MODULES = {
    "glance": "coarse.first", "glance_score": "coarse.second",
    "coarse": "coarse.first", "coarse_output": "coarse.second",
}  # fmt: skip

CHUNK = 4096
"""Windows pooled and judged at a time: 16 MB, where all at once would be hundreds."""


class ProposalHead(nn.Module):
    """Pooled vectors and geometry of windows → how well they fit an object, and where to move."""

    def __init__(self, channels: int, config: WindowConfig) -> None:
        super().__init__()
        if config.levels[0] != 1:
            raise ConfigError(f"the first level of the windows must be 1; got {config.levels}")
        self.config = config
        reduced = min(channels, config.channels)
        self.register_buffer("components", torch.from_numpy(np.eye(reduced, channels, dtype=np.float32)))
        self.components: Tensor
        length = reduced * count_bins(config.levels) + GEOMETRY
        self.coarse = CellScores(reduced) if config.coarse == "cells" else PooledScores(reduced)
        self.first = nn.Linear(length, config.hidden)
        self.second = nn.Linear(config.hidden, 5)

    def forward(self, pooled: Tensor, geometry: Tensor) -> Tensor:
        """(n, channels × bins) and (n, GEOMETRY) → (n, 5): a score (above 0: an object), then box deltas."""
        result: Tensor = self.second(_joint(self.first, pooled, geometry).relu())
        return result

    @torch.inference_mode()
    def propose(self, maps: FeatureMaps, max_proposals: int) -> Proposals:
        """The best windows of an image's first map, at most `max_proposals`."""
        features, size_hw = reduce_channels(maps, self.components), maps.size_hw
        map_hw = features.shape[1], features.shape[2]
        windows = self._select_coarse(features, maps)
        boxes = windows_to_boxes(windows, map_hw, maps.grid, maps.sizes_hw[0], size_hw)
        outputs = self._refine(features, windows, torch.from_numpy(describe(boxes, size_hw)))
        scores, order = outputs[:, 0].topk(min(SURPLUS * max_proposals, len(outputs)))
        deltas = outputs[order, 1:].numpy() * DELTA_UNIT
        moved = clip_boxes(decode_boxes(boxes[order.numpy()], deltas), size_hw)
        kept = nms(moved, scores.numpy(), self.config.nms_iou, max_proposals)
        return Proposals(moved[kept], scores.numpy()[kept])

    def _select_coarse(self, features: Tensor, maps: FeatureMaps) -> Ints:
        """The (n, 4) dense windows with the best coarse scores, in the order of all."""
        map_hw = features.shape[1], features.shape[2]
        dense = dense_windows(map_hw, self.config)
        if len(dense.windows) <= self.config.max_refined:
            return dense.windows
        if isinstance(self.coarse, CellScores):
            scores = self.coarse.score_all(features, dense)
        else:
            boxes = windows_to_boxes(dense.windows, map_hw, maps.grid, maps.sizes_hw[0], maps.size_hw)
            geometry = torch.from_numpy(describe(boxes, maps.size_hw))
            scores = self.coarse.score_all(features, torch.tensor(dense.windows), geometry)
        chosen = scores.topk(self.config.max_refined).indices.sort().values
        windows: Ints = dense.windows[chosen.numpy()]
        return windows

    def _refine(self, features: Tensor, windows: Ints, geometry: Tensor) -> Tensor:
        """Outputs for windows, a cache full at a time."""
        outputs = []
        for start in range(0, len(windows), CHUNK):
            part = slice(start, start + CHUNK)
            pooled = pyramid_pool(features[None], torch.tensor(windows[part]), self.config.levels)
            outputs.append(self(pooled, geometry[part]))
        return torch.cat(outputs)


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the names of today; files of version 0.1.0 have others."""
    renamed = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{OLDER_MODULES.get(module, module)}.{leaf}".lstrip(".")] = tensor
    return renamed


def _joint(layer: nn.Linear, pooled: Tensor, geometry: Tensor) -> Tensor:
    """The layer on (pooled, geometry) side by side, without putting them there."""
    length = pooled.shape[1]
    hidden = torch.addmm(layer.bias, geometry, layer.weight[:, length:].T)
    return hidden.addmm(pooled, layer.weight[:, :length].T)


def reduce_channels(maps: FeatureMaps, components: Tensor) -> Tensor:
    """The first scale's maps and components (count, channels) → (count, h, w) float32.

    A cell of the finest tap has with it the nearest cell of each coarser one.
    """
    height, width = maps.maps[0].shape[1:]
    first, total = 0, torch.zeros(len(components), height, width)
    for tap in maps.taps:
        features = tap.maps[0]
        part = components[:, first : first + len(features)]
        reduced = (part @ features.flatten(1).to(part)).view(len(part), *features.shape[1:])
        first += len(features)
        total = total + (reduced if tap is maps.taps[0] else _spread(reduced, tap.grid, maps))
    return total


def _spread(features: Tensor, grid: CellGrid, maps: FeatureMaps) -> Tensor:
    """(c, h, w) of a coarser tap, at the cells of the finest."""
    down, across = _places(features, grid, maps)
    return features[:, down][:, :, across]


def _places(features: Tensor, grid: CellGrid, maps: FeatureMaps) -> tuple[Tensor, Tensor]:
    """(h,) and (w,) the row and the column of a tap that each row and column of the finest has with it."""
    height, width = maps.maps[0].shape[1:]
    down = torch.from_numpy(aligned_cells(maps.grid, grid, height, features.shape[1]))
    return down, torch.from_numpy(aligned_cells(maps.grid, grid, width, features.shape[2]))


def take_cells(maps: FeatureMaps, cells: Tensor) -> Tensor:
    """(m, channels): every tap of the first scale, at some cells (m,) of the finest, counted row by row."""
    width = maps.maps[0].shape[2]
    row, column = cells // width, cells % width
    found = [maps.maps[0][:, row, column]]
    for tap in maps.taps[1:]:
        down, across = _places(tap.maps[0], tap.grid, maps)
        found.append(tap.maps[0][:, down[row], across[column]])
    return torch.cat(found).T.contiguous()
