"""Pyramid pooling in torch's own operations: averages, and for tools that cannot use the custom operator.

`torch.onnx` has a translation of each of them, and `torch.func` differentiates and maps them.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.errors import GeometryError
from sppnet.ops.plan import filling_order, plan_levels
from sppnet.ops.windows import bin_edges, check_cells

_kept: ContextVar[bool] = ContextVar("operator kept in ONNX exports", default=False)


@contextlib.contextmanager
def operator_kept() -> Iterator[None]:
    """Within the block, ONNX exports keep the operator as one node: for whoever translates it."""
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


def is_wanted() -> bool:
    """Whether `torch.onnx` is exporting, and does not know the operator."""
    return torch.onnx.is_in_onnx_export() and not _kept.get()


def pool_whole(features: Tensor, levels: tuple[int, ...], pooling: Literal["max", "average"]) -> Tensor:
    """Whole maps (b, c, h, w) → (b, c × bins), exact for any size in the exported graph too.

    The bins are computed from positions that the graph counts: sizes as symbols are simplified on the way
    to ONNX, whose division rounds negative numbers towards zero, and bins come out one cell off.
    """
    plans = plan_levels(levels)
    grids: dict[int, Tensor] = {}
    for index in filling_order(plans):
        n, source = plans[index].n, plans[index].source
        if source is None or pooling == "average":
            grids[index] = _pool_level(features, n, pooling)
        else:
            factor = levels[source] // n
            grids[index] = grids[source].unflatten(2, (n, factor)).unflatten(4, (n, factor)).amax((3, 5))
    return torch.cat([grids[index].flatten(1) for index in range(len(levels))], 1)


def _pool_level(features: Tensor, n: int, pooling: Literal["max", "average"]) -> Tensor:
    """(b, c, h, w) → (b, c, n, n)"""
    down, across = _bin_masks(features[:1, :1, :, 0], n), _bin_masks(features[:1, :1, 0], n)
    if pooling == "average":
        down, across = (mask / mask.sum(1, keepdim=True) for mask in (down, across))
        return down.to(features.dtype) @ features @ across.to(features.dtype).T
    limits = torch.finfo if features.is_floating_point() else torch.iinfo
    lowest = float("-inf") if features.is_floating_point() else limits(features.dtype).min
    rows = torch.where(down[:, :, None], features[:, :, None], lowest).amax(3)
    return torch.where(across, rows[:, :, :, None], lowest).amax(4)


def _bin_masks(side: Tensor, n: int) -> Tensor:
    """Which cells of a side each of its n bins holds, (n, size); of the side only the length matters."""
    positions = torch.ones_like(side, dtype=torch.int64).flatten().cumsum(0)  # from 1
    size, steps = positions[-1:], torch.arange(n, device=side.device)
    start = torch.div(steps * size, n, rounding_mode="floor")[:, None]
    end = torch.div((steps + 1) * size + n - 1, n, rounding_mode="floor")[:, None]
    return (positions > start) & (positions <= end)


def pool_each(features: Tensor, cells: Tensor | None, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w), cells (n, 5) or None for the whole maps → (n, c × bins)."""
    if cells is None:
        return _pool_levels(features, levels)
    while torch._C._functorch.is_gradtrackingtensor(cells):
        cells = torch._C._functorch.get_unwrapped(cells)
    if torch._C._functorch.is_batchedtensor(cells):
        raise GeometryError(
            "windows cannot be mapped by torch.func.vmap; pass them all at once, as (n, 5) "
            "cells with the map's index first"
        )
    parts = [
        _pool_levels(features[which : which + 1, :, y0:y1, x0:x1], levels)
        for which, x0, y0, x1, y1 in cells.tolist()
    ]
    return torch.cat(parts) if parts else _pool_levels(features, levels)[:0]


def _pool_levels(features: Tensor, levels: tuple[int, ...]) -> Tensor:
    return torch.cat([F.adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1)


def pool_tangent(features: Tensor, tangent: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """What the vectors change by where the features change by `tangent`: its value at each maximum."""
    parts = []
    for which, x0, y0, x1, y1 in cells.tolist():
        window, change = (each[which, :, y0:y1, x0:x1] for each in (features, tangent))
        places = [F.adaptive_max_pool2d(window, n, return_indices=True)[1].flatten(1) for n in levels]
        parts.append(torch.cat([change.flatten(1).gather(1, place).flatten() for place in places]))
    return torch.stack(parts) if parts else _pool_levels(tangent, levels)[:0]


def average_each(features: Tensor, cells: Tensor | None, levels: tuple[int, ...]) -> Tensor:
    """As `pool_each`, by averages: those of `adaptive_avg_pool2d`, of windows up to rounding."""
    graph = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    torch_has_it = features.is_floating_point() and (graph or features.shape[1] > 0)
    # On a GPU its gradient is not the same on every run.
    if cells is None and torch_has_it and (graph or features.device.type != "cuda"):
        return _average_levels(features, levels)
    windows = check_cells(features, cells)
    branches = torch_has_it and not graph and not torch._C._are_functorch_transforms_active()
    if not branches or features.isfinite().all():
        return _average_by_sums(features, windows, levels)
    parts = [  # an infinite sum would reach all windows beyond it
        _average_levels(features[which : which + 1, :, y0:y1, x0:x1], levels)
        for which, x0, y0, x1, y1 in windows.tolist()
    ]
    return torch.cat(parts) if parts else _average_levels(features, levels)[:0]


def _average_levels(features: Tensor, levels: tuple[int, ...]) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(features, n).flatten(1) for n in levels], 1)


def _average_by_sums(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The sum over any rectangle is four reads of the integral image.

    It is summed in float64 (float32 where the device has no float64).
    """
    kind = torch.float32 if features.device.type == "mps" else torch.float64
    rows = features.permute(0, 2, 3, 1).to(kind)
    integral = F.pad(rows.cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))  # (b, h + 1, w + 1, c)
    return torch.cat([_average_level(integral, cells, n) for n in levels], 1).to(features.dtype)


def _average_level(integral: Tensor, cells: Tensor, n: int) -> Tensor:
    """The n×n bins of windows (k, 5): (k, c × n²)."""
    which = cells[:, 0, None, None]
    left, right = bin_edges(cells[:, 1], cells[:, 3], n)
    top, bottom = bin_edges(cells[:, 2], cells[:, 4], n)
    left, right, top, bottom = left[:, None, :], right[:, None, :], top[:, :, None], bottom[:, :, None]
    total = integral[which, bottom, right] - integral[which, top, right]
    total = total - integral[which, bottom, left] + integral[which, top, left]  # (k, n, n, c)
    count = (bottom - top) * (right - left)
    return (total / count[..., None]).permute(0, 3, 1, 2).flatten(1)
