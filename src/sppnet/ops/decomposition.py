"""Pyramid pooling in torch's own operations, for tools that cannot use the custom operator.

`torch.onnx` translates slices and reductions of any size, and `torch.func` differentiates and maps
`adaptive_max_pool2d`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.errors import GeometryError


def pool_whole(features: Tensor, levels: tuple[int, ...], pooling: Literal["max", "average"]) -> Tensor:
    """Whole maps (b, c, h, w) → (b, c × bins): rows cut into bins, then columns; sizes may be symbols."""
    return torch.cat([_pool_columns(_pool_rows(features, n, pooling), n, pooling) for n in levels], 1)


def _pool_rows(features: Tensor, n: int, pooling: Literal["max", "average"]) -> Tensor:
    size = features.shape[2]
    parts = [features[:, :, i * size // n : ((i + 1) * size + n - 1) // n] for i in range(n)]
    return torch.cat([_reduced(part, 2, pooling) for part in parts], 2)


def _pool_columns(features: Tensor, n: int, pooling: Literal["max", "average"]) -> Tensor:
    size = features.shape[3]
    parts = [features[:, :, :, i * size // n : ((i + 1) * size + n - 1) // n] for i in range(n)]
    return torch.cat([_reduced(part, 3, pooling) for part in parts], 3).flatten(1)


def _reduced(part: Tensor, dim: int, pooling: Literal["max", "average"]) -> Tensor:
    return part.amax(dim, keepdim=True) if pooling == "max" else part.mean(dim, keepdim=True)


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
