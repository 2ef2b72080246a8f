"""The definition of pyramid pooling: three plain loops, the measure of every faster way.

cells: (n, 5) int64, a row (map, x0, y0, x1, y1), half-open, inside the map, never empty.
"""

import torch
from torch import Tensor

from sppnet.geometry.grid import bin_edges


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w), cells (n, 5) → (n, c × bins): level, then channel, row, column."""
    vectors = [_pool_window(features, window, levels) for window in cells.tolist()]
    bins = sum(n * n for n in levels)
    return torch.stack(vectors) if vectors else features.new_empty(0, features.shape[1] * bins)


def _pool_window(features: Tensor, window: list[int], levels: tuple[int, ...]) -> Tensor:
    which, x0, y0, x1, y1 = window
    part = features[which, :, y0:y1, x0:x1]
    parts = []
    for n in levels:
        for top, bottom in bin_edges(y1 - y0, n):
            for left, right in bin_edges(x1 - x0, n):
                parts.append(_maximum(part[:, top:bottom, left:right].flatten(1)))
    columns = torch.stack(parts, 1).split([n * n for n in levels], 1)  # per level (c, n·n)
    return torch.cat([column.flatten() for column in columns])


def _maximum(numbers: Tensor) -> Tensor:
    """The maximum of each row, as torch's adaptive pooling has it: of 0 and −0 the first, of NaN the last."""
    if not numbers.is_floating_point():
        return numbers.amax(1)
    is_nan = numbers.isnan()
    first = (numbers == numbers.amax(1, keepdim=True)).int().argmax(1)
    last_nan = numbers.shape[1] - 1 - is_nan.flip(1).int().argmax(1)
    place = torch.where(is_nan.any(1), last_nan, first)
    return one_nan(numbers.gather(1, place[:, None])[:, 0])


def one_nan(numbers: Tensor) -> Tensor:
    """bfloat16 has one NaN in torch's adaptive pooling (of contiguous maps), other types keep their bits."""
    if numbers.dtype != torch.bfloat16:
        return numbers
    return numbers.masked_fill(numbers.isnan(), float("nan"))


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w): all to each bin's first maximum, by rows."""
    result = torch.zeros(features.shape, dtype=accumulator(features.dtype), device=features.device)
    channels = features.shape[1]
    for window, row in zip(cells.tolist(), grad, strict=True):
        which, x0, y0, x1, y1 = window
        start = 0
        for n in levels:
            block = row[start : start + channels * n * n].view(channels, n, n)
            start += channels * n * n
            for i, (top, bottom) in enumerate(bin_edges(y1 - y0, n)):
                for j, (left, right) in enumerate(bin_edges(x1 - x0, n)):
                    rows, columns = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
                    _add_to_first(
                        result[which, :, rows, columns], features[which, :, rows, columns], block[:, i, j]
                    )
    return result.to(features.dtype)


def _add_to_first(result: Tensor, part: Tensor, grad: Tensor) -> None:
    for channel in range(part.shape[0]):
        numbers = part[channel].flatten().tolist()
        top = max(numbers)
        nans = [i for i, number in enumerate(numbers) if number != number]
        first = nans[0] if nans else numbers.index(top)
        result[channel, first // part.shape[2], first % part.shape[2]] += grad[channel]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype gradients are summed in: a half-precision sum of many windows would lose them."""
    return torch.float64 if dtype == torch.float64 else torch.float32
