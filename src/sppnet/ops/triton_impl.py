"""Pyramid pooling on a CUDA device, in Triton.

Forward: a program owns one bin of one window, for BLOCK channels. Backward: a program owns BLOCK
channels of one map and takes its windows in order, so that no two programs add to the same cell
and the sums have one order. Triton comes with torch on Linux; without a GPU the same code runs
in its interpreter (TRITON_INTERPRET=1), slowly.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sppnet.geometry.grid import count_bins
from sppnet.ops.reference import accumulator

BLOCK = 64


@triton.jit
def _pool_kernel(
    features, cells, bins, vectors, channels, width, stride_map, stride_channel, stride_row, stride_column,
    bin_count, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    window, bin_ = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    n, i, j, first = _read_bin(bins, bin_)
    which, top, bottom, left, right = _find_bin(cells, window, n, i, j)
    start = features + which * stride_map + channel * stride_channel
    best = tl.load(start + top * stride_row + left * stride_column, mask=inside).to(WIDE)
    for y in range(top, bottom):
        for x in range(left, right):
            number = tl.load(start + y * stride_row + x * stride_column, mask=inside).to(WIDE)
            best = tl.where((number > best) | (number != number), number, best)
    place = (window * bin_count + first) * channels + channel * n * n + i * n + j
    tl.store(vectors + place, best.to(vectors.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad, features, cells, order, starts, bins, result, channels, height, width, bin_count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    plane = (which * channels + channel) * height * width
    for index in range(tl.load(starts + which), tl.load(starts + which + 1)):
        window = tl.load(order + index)
        for bin_ in range(bin_count):
            n, i, j, first = _read_bin(bins, bin_)
            _, top, bottom, left, right = _find_bin(cells, window, n, i, j)
            winner = tl.zeros([BLOCK], tl.int64) + top * width + left
            best = tl.load(features + plane + winner, mask=inside)
            for y in range(top, bottom):
                for x in range(left, right):
                    number = tl.load(features + plane + y * width + x, mask=inside)
                    beats = (number > best) | ((number != number) & (best == best))
                    winner = tl.where(beats, y * width + x, winner)
                    best = tl.where(beats, number, best)
            place = (window * bin_count + first) * channels + channel * n * n + i * n + j
            target = result + plane + winner
            total = tl.load(target, mask=inside) + tl.load(grad + place, mask=inside)
            tl.store(target, total, mask=inside)


@triton.jit
def _read_bin(bins, bin_):
    """A row of `_list_bins`: the level, the bin's row and column, the bins of the levels before."""
    row = bins + bin_ * 4
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)


@triton.jit
def _find_bin(cells, window, n, i, j):
    """The map of a window, and the cells of its bin (i, j) of n×n."""
    row = cells + window * 5
    which, x0, y0, x1, y1 = (
        tl.load(row),
        tl.load(row + 1),
        tl.load(row + 2),
        tl.load(row + 3),
        tl.load(row + 4),
    )
    top, bottom = y0 + i * (y1 - y0) // n, y0 + ((i + 1) * (y1 - y0) + n - 1) // n
    left, right = x0 + j * (x1 - x0) // n, x0 + ((j + 1) * (x1 - x0) + n - 1) // n
    return which, top, bottom, left, right


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w), cells (n, 5) → (n, c × bins)."""
    channels, width = features.shape[1], features.shape[3]
    bin_count = count_bins(levels)
    vectors = features.new_empty(len(cells), channels * bin_count)
    grid = (len(cells), bin_count, triton.cdiv(channels, BLOCK))
    if vectors.numel():
        _pool_kernel[grid](
            features, cells.contiguous(), _list_bins(levels, features.device), vectors, channels, width,
            *features.stride(), bin_count, BLOCK=BLOCK,
            WIDE=tl.float64 if features.dtype == torch.float64 else tl.float32,
        )  # fmt: skip
    return vectors


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    batch, channels, height, width = features.shape
    kind = accumulator(features.dtype)
    result = torch.zeros(features.shape, dtype=kind, device=features.device)
    which = cells[:, 0].contiguous()
    order = torch.argsort(which, stable=True)
    starts = torch.searchsorted(which[order], torch.arange(batch + 1, device=which.device))
    grid = (batch, triton.cdiv(channels, BLOCK))
    if grad.numel():
        _backward_kernel[grid](
            grad.to(kind).contiguous(), features.to(kind).contiguous(), cells.contiguous(), order, starts,
            _list_bins(levels, features.device), result, channels, height, width, count_bins(levels),
            BLOCK=BLOCK,
        )  # fmt: skip
    return result.to(features.dtype)


def _list_bins(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """A row (n, row, column, bins of the levels before) for each bin of the pyramid, int64."""
    rows, first = [], 0
    for n in levels:
        rows += [(n, i, j, first) for i in range(n) for j in range(n)]
        first += n * n
    return torch.tensor(rows, dtype=torch.int64, device=device)
