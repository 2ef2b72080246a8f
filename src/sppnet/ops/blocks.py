"""What the CPU kernels read: a map in blocks of 64 channels, and where the bins of every size begin and end.

A block is laid out channels-last, as integers in the order of the floats (`lanes`), so 16-, 32- and
64-bit floats share one kernel, and NaN, made the largest integer, wins as it does in torch. Every
array is flat, with offsets counted by hand: views cost more here than the work on them.
"""

from functools import lru_cache
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.geometry.grid import bin_edges
from sppnet.ops.lanes import LANES, SQUARE, larger_of_two, rank_lanes, rank_square
from sppnet.ops.plan import filling_order, plan_levels

BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

POWERS = 2
"""Powers of two tabled along each axis: 3 is no faster than 2, and doubles the table."""

STEPS = 3
"""Numbers that say where a bin lies along an axis: where its first span of 2^power cells begins, where
its last does, and the power."""

SIZES_AT_ONCE = 64
"""Sizes of windows are tabled in so many steps, so that most maps share a table."""

Array = npt.NDArray[Any]

compiled = nb.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)
compiled_parallel = nb.njit(parallel=True, nogil=True, boundscheck=False, error_model="numpy", cache=True)


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


def span_table(levels: tuple[int, ...], longest: int) -> Array:
    """Where bins lie: (powers, rows of the plan, size, bin, STEPS) int64, for sizes up to `longest` at least.

    Index 0 is for maps without a table of maxima, where every span is one cell.
    """
    return _span_table(levels, -(-longest // SIZES_AT_ONCE) * SIZES_AT_ONCE)


@lru_cache(maxsize=32)
def _span_table(levels: tuple[int, ...], longest: int) -> Array:
    plan = plan_array(levels)
    table = np.zeros((POWERS, len(plan), longest + 1, plan[:, 0].max(), STEPS), np.int64)
    for row, n in enumerate(plan[:, 0].tolist()):
        edges = np.array([bin_edges(size, n) for size in range(1, longest + 1)])
        cells = edges[..., 1] - edges[..., 0]
        for powers in range(1, POWERS + 1):
            power = np.minimum(np.frexp(cells)[1] - 1, powers - 1)
            steps = np.stack([edges[..., 0], edges[..., 1] - (1 << power), power], -1)
            table[powers - 1, row, 1:, :n] = steps
    return table


# --- compiled ------------------------------------------------------------------------------------


@compiled
def lay_out(
    block: Array, features: Array, last: bool, shape: tuple[int, int, int], which: int, channel: int,
    infinity: int,
) -> None:  # fmt: skip
    """64 channels of a map from `channel` on → block[y, x, channel], as ordered integers.

    shape: channels, height, width. Where the map has no more channels, the last again: those numbers
    are never written out.
    """
    channels, height, width = shape
    cells = height * width
    whole = channel + LANES <= channels
    if last and whole:
        for cell in range(cells):
            rank_lanes(features, (which * cells + cell) * channels + channel, infinity, block, cell * LANES)
    elif whole and cells >= SQUARE:
        for square in range((cells + SQUARE - 1) // SQUARE):
            cell = min(square * SQUARE, cells - SQUARE)  # the last may overlap: same numbers twice
            for c in range(0, LANES, SQUARE):
                start = (which * channels + channel + c) * cells + cell
                rank_square(features, start, cells, infinity, block, cell * LANES + c, LANES)
    else:
        few = np.empty(LANES, features.dtype)
        for cell in range(cells):
            for c in range(LANES):
                source = min(channel + c, channels - 1)
                if last:
                    few[c] = features[(which * cells + cell) * channels + source]
                else:
                    few[c] = features[(which * channels + source) * cells + cell]
            rank_lanes(few, 0, infinity, block, cell * LANES)


@compiled
def fill_table(table: Array, powers: int, height: int, width: int) -> None:
    """table[a, b, y, x, channel]: maxima of 2^a × 2^b cells, from those of half as many."""
    plane = height * width * LANES
    for a in range(powers):
        here = a * powers * plane
        if a > 0:
            _double_spans(table, here - powers * plane, here, height, width, 1 << (a - 1), 0)
        for b in range(1, powers):
            here += plane
            _double_spans(table, here - plane, here, height, width, 0, 1 << (b - 1))


@compiled
def _double_spans(
    table: Array, source: int, target: int, height: int, width: int, down: int, across: int
) -> None:
    """target[y, x] = max(source[y, x], source[y + down, x + across]); at the border, the last cell again."""
    for y in range(height):
        row, other_row = y * width, min(y + down, height - 1) * width
        for x in range(width):
            here, other = (row + x) * LANES, (other_row + min(x + across, width - 1)) * LANES
            larger_of_two(table, source + here, source + other, table, target + here)
