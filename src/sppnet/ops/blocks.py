"""What the CPU kernels read: a map in blocks of 64 channels, and where the bins of every size begin and end.

A block is laid out channels-last, as integers in the order of the floats (`simd`), so 16-, 32- and
64-bit floats share one kernel, and NaN, made the largest integer, wins as it does in torch. Every
array is flat, with offsets counted by hand: views cost more here than the work on them. What vectors
are read from is cache-line aligned: one that lies across two lines costs twice.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.geometry.grid import bin_edges
from sppnet.jit import inner
from sppnet.ops.plan import filling_order, plan_levels
from sppnet.ops.simd import (
    LANES,
    LINE_BYTES,
    SQUARE,
    larger_of_four,
    rank_lanes,
    rank_square,
    unrank_four_rows,
    unrank_lanes,
    unrank_square,
)

BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

SIZES_AT_ONCE = 64
"""Sizes of windows are tabled in so many steps, so that most maps share a table."""


# --- in Python, before the kernel ----------------------------------------------------------------


def flat_bits(features: Tensor) -> tuple[Array, bool]:
    """Features (b, c, h, w) as flat integers, and whether channels are last; other layouts are copied."""
    features = features.detach().view(BITS[features.dtype])
    if features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last):
        return features.contiguous().view(-1).numpy(), False
    return features.permute(0, 2, 3, 1).reshape(-1).numpy(), True


def infinity_bits(dtype: torch.dtype) -> int:
    """The bits of +∞ as an integer: what exceeds them, sign aside, is NaN."""
    return int(torch.tensor(float("inf"), dtype=dtype).view(BITS[dtype]))


@lru_cache(maxsize=64)
def plan_array(levels: tuple[int, ...]) -> Array:
    """A row (n, first bin, row of the source or −1) for each level, finest first."""
    plans = plan_levels(levels)
    order = filling_order(plans)
    rows = []
    for index in order:
        plan = plans[index]
        rows.append((plan.n, plan.first_bin, -1 if plan.source is None else order.index(plan.source)))
    return np.array(rows, dtype=np.int64)


def edge_table(levels: tuple[int, ...], longest: int) -> Array:
    """Where bins lie: (rows of the plan, size, bin, 2) int64, for sizes up to `longest` at least.

    The last axis: a bin's first cell, and the one after its last.
    """
    return _edge_table(levels, -(-longest // SIZES_AT_ONCE) * SIZES_AT_ONCE)


@lru_cache(maxsize=32)
def _edge_table(levels: tuple[int, ...], longest: int) -> Array:
    plan = plan_array(levels)
    table = np.zeros((len(plan), longest + 1, plan[:, 0].max(), 2), np.int64)
    for row, n in enumerate(plan[:, 0].tolist()):
        table[row, 1:, :n] = [bin_edges(size, n) for size in range(1, longest + 1)]
    return table


# --- compiled ------------------------------------------------------------------------------------


@inner
def aligned(count: int, like: Array) -> Array:
    """Room for `count` numbers such as those of `like`, from the beginning of a line of memory on."""
    room = np.empty(count + LINE_BYTES // like.itemsize, like.dtype)
    start = -room.ctypes.data % LINE_BYTES // like.itemsize
    return room[start : start + count]


@inner
def lay_out(
    block: Array, features: Array, last: bool, shape: tuple[int, int, int], which: int, channel: int,
    infinity: int, merged: int,
) -> None:  # fmt: skip
    """64 channels of a map from `channel` on → block[y, x, channel], as ordered integers.

    shape: channels, height, width. merged: −1 to make −0 equal to 0, 0 to rank it just below.
    Where the map has no more channels, the last again: those numbers are never written out.
    """
    channels, height, width = shape
    cells = height * width
    whole = channel + LANES <= channels
    if last and whole:
        for cell in range(cells):
            rank_lanes(
                features, (which * cells + cell) * channels + channel, infinity, merged, block, cell * LANES
            )
    elif whole and cells >= SQUARE:
        for c in range(0, LANES, SQUARE):  # no more channels at a time than a processor fetches ahead
            for square in range((cells + SQUARE - 1) // SQUARE):
                cell = min(square * SQUARE, cells - SQUARE)  # the last may overlap: same numbers twice
                start = (which * channels + channel + c) * cells + cell
                rank_square(features, start, cells, infinity, merged, block, cell * LANES + c, LANES)
    else:
        few = np.empty(LANES, features.dtype)
        for cell in range(cells):
            for c in range(LANES):
                source = min(channel + c, channels - 1)
                if last:
                    few[c] = features[(which * cells + cell) * channels + source]
                else:
                    few[c] = features[(which * channels + source) * cells + cell]
            rank_lanes(few, 0, infinity, merged, block, cell * LANES)


@inner
def tabulate_squares(block: Array, squares: Array, height: int, width: int) -> None:
    """squares[y, x, channel]: the maximum of 2×2 cells from (y, x) on; at the border, the last cell again."""
    for y in range(height):
        row, below = y * width, min(y + 1, height - 1) * width
        for x in range(width):
            right = min(x + 1, width - 1)
            top_left, top_right = (row + x) * LANES, (row + right) * LANES
            low_left, low_right = (below + x) * LANES, (below + right) * LANES
            larger_of_four(block, top_left, top_right, low_left, low_right, squares, top_left)


@inner
def turn_level(pooled: Array, first: int, count: int, target: Array, to: int) -> None:
    """pooled[bin, channel] as ordered integers → target[channel, bin] as the floats' bits; count is n²."""
    if count == 1:
        unrank_lanes(pooled, first, target, to)
        return
    squares = count // SQUARE
    for channel in range(0, LANES, SQUARE):
        here, there = first + channel, to + channel * count
        for square in range(squares):
            bin_ = square * SQUARE
            unrank_square(pooled, here + bin_ * LANES, LANES, target, there + bin_, count)
        for bin_ in range(squares * SQUARE, count, 4):
            bin_ = min(bin_, count - 4)  # the last four may overlap: same numbers twice
            unrank_four_rows(pooled, here + bin_ * LANES, LANES, target, there + bin_, count)
