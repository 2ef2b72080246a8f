"""A first score of all dense windows, a few thousand of which are then pooled and judged."""

import torch
from torch import Tensor, nn

from sppnet.arrays import Ints
from sppnet.ops.pooling import pyramid_pool
from sppnet.proposals.dense_windows import GEOMETRY, DenseWindows

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
