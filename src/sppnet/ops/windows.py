"""Windows of feature maps, as callers give them: checked, and as one tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.errors import GeometryError

Cells = Tensor | npt.NDArray[np.integer]
RoICells = Cells | Sequence[Cells] | None


def bin_edges(low: Tensor, high: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """First cell and end of n bins of each side [low, high), as `geometry.grid` has them; (k, n) each."""
    steps = torch.arange(n, device=low.device)
    size = (high - low)[:, None]
    return low[:, None] + steps * size // n, low[:, None] + ((steps + 1) * size + n - 1) // n


def list_windows(features: Tensor, cells: RoICells) -> Tensor | None:
    """(n, 5) int64 on the features' device, or None for the whole maps."""
    if cells is None:
        return None
    if not isinstance(cells, Tensor) and (hasattr(cells, "__array__") or not hasattr(cells, "__iter__")):
        cells = _as_tensor(cells)
    if isinstance(cells, Tensor):
        if cells.ndim == 2 and cells.shape[1] == 5:
            return as_indices(cells, features)
        if features.shape[0] != 1:
            raise GeometryError(
                f"for {features.shape[0]} maps, cells must be one (n, 4) tensor a map or (n, 5) with the "
                f"map's index first; got one tensor of shape {tuple(cells.shape)}"
            )
        cells = [cells]
    parts = [_as_tensor(part) for part in cells]
    if len(parts) != features.shape[0] or any(part.ndim != 2 or part.shape[1] != 4 for part in parts):
        shapes = [tuple(part.shape) for part in parts]
        raise GeometryError(
            f"cells must be {features.shape[0]} tensors (n, 4), one for each map; got shapes {shapes}"
        )
    rows = [F.pad(part, (1, 0), value=index) for index, part in enumerate(parts)]
    return as_indices(torch.cat(rows) if rows else torch.empty(0, 5, dtype=torch.int64), features)


def _as_tensor(cells: Any) -> Tensor:
    """Of tables, lists and arrays, be they read-only, reversed or of another byte order."""
    if isinstance(cells, Tensor):
        if cells.layout != torch.strided:
            raise GeometryError(f"cells must be a dense tensor; got {cells.layout}. Call to_dense() first")
        return cells
    if torch.compiler.is_dynamo_compiling() and isinstance(cells, np.ndarray):
        return torch.as_tensor(cells)
    array = np.asarray(cells)
    if array.dtype.kind not in "iu":
        raise GeometryError(
            f"cells must be integers; got {array.dtype}. boxes_to_cells turns image boxes into cells"
        )
    return torch.from_numpy(np.array(array, np.int64, order="C"))


def as_indices(cells: Any, features: Tensor) -> Tensor:
    """Windows as int64 on the features' device; raises GeometryError for numbers of another kind."""
    cells = _as_tensor(cells)
    if cells.is_floating_point() or cells.is_complex() or cells.dtype == torch.bool:
        raise GeometryError(
            f"cells must be integers; got {cells.dtype}. boxes_to_cells turns image boxes into cells"
        )
    if cells.is_meta and not features.is_meta:
        raise GeometryError("cells must be numbers; got a tensor without any, on the device meta")
    indices: Tensor = cells.to(device=features.device, dtype=torch.int64)
    return indices


def check_cells(features: Tensor, cells: Tensor | None) -> Tensor:
    """The windows, whole maps for None; raises GeometryError naming the first that does not fit."""
    batch, _, height, width = features.shape
    if min(height, width) < 1:
        raise GeometryError(
            f"a feature map needs at least 1×1 cells; got {height}×{width}. Use a larger image"
        )
    if cells is None:
        whole = torch.tensor([0, 0, 0, width, height], device=features.device).repeat(batch, 1)
        whole[:, 0] = torch.arange(batch, device=features.device)
        return whole
    which, x0, y0, x1, y1 = cells.unbind(1)
    fits = (which >= 0) & (which < batch) & (x0 >= 0) & (x0 < x1) & (x1 <= width)
    fits &= (y0 >= 0) & (y0 < y1) & (y1 <= height)
    if torch.compiler.is_compiling():  # a graph has no branches on numbers
        torch.ops.aten._assert_async.msg(fits.all(), "a window is empty or not inside its map")
    elif not fits.all():
        index = int((~fits).nonzero()[0])
        raise GeometryError(
            f"window {index} (map, x0, y0, x1, y1) = {tuple(cells[index].tolist())} is empty or not inside "
            f"the {batch} maps of {height}×{width} cells; boxes_to_cells clips boxes to a map"
        )
    return cells
