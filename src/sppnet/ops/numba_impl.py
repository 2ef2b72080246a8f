"""Pyramid pooling on the CPU, compiled by numba: parallel, and exact.

A task is 64 channels of one map. It lays the map out channels-last, so that the channels are one
vector, and tables the maxima of squares of 2×2 cells: a bin of up to 4×4 cells then takes four reads.
(Tables of 1×2, 2×1 or 4×4 cells save reads too, but then the cache overflows.) Levels that divide a
finer one are maxima of its bins and never read the map. A window's numbers are gathered in a small
array, turned from bins-major to channels-major there, and written once. Windows come sorted, so those
on the same cells follow one another and are pooled once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.geometry.grid import count_bins
from sppnet.jit import compiled_parallel, inner, kernel_running, nb, thread_count
from sppnet.ops import buffer_pool
from sppnet.ops.blocks import (
    BITS,
    aligned,
    edge_table,
    flat_bits,
    infinity_bits,
    lay_out,
    plan_array,
    tabulate_squares,
    turn_level,
)
from sppnet.ops.numba_backward import pool_gradient
from sppnet.ops.numba_ties import holds_ties, may_be_ties, settle_ties
from sppnet.ops.reference import accumulator
from sppnet.ops.simd import (
    LANES,
    absorb,
    absorb_four,
    larger_of_four,
    prefetch_for_writing,
)

WINDOWS_PER_TABLE = 8
"""On fewer windows of a map the table is not worth its making, and bins are read cell by cell."""


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w) float, cells (n, 5) → (n, c × bins)."""
    vectors = _empty_vectors(len(cells), features.shape[1], features.dtype, levels)
    windows = cells.contiguous().numpy()  # another layout would be compiled anew
    _pool_into(vectors, features, windows, *_sorted(windows, len(features)), levels)
    return vectors


def pool_maps(maps: Sequence[Tensor], cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """maps (c, h, w) of one dtype and any sizes, cells (n, 5) with the map's index first → (n, c × bins)."""
    vectors = _empty_vectors(len(cells), len(maps[0]), maps[0].dtype, levels)
    windows = cells.contiguous().numpy()
    order, starts = _sorted(windows, len(maps))
    for features, start, end in zip(maps, starts[:-1], starts[1:], strict=True):
        if start < end:
            _pool_into(vectors, features[None], windows, order[start:end], np.array([0, end - start]), levels)
    return vectors


def _empty_vectors(count: int, channels: int, dtype: torch.dtype, levels: tuple[int, ...]) -> Tensor:
    return buffer_pool.empty((count, channels * count_bins(levels)), dtype)


def _pool_into(
    vectors: Tensor, features: Tensor, windows: Array, order: Array, starts: Array, levels: tuple[int, ...]
) -> None:
    """Those rows of the vectors whose windows are listed in `order`, map after map."""
    batch, channels, height, width = features.shape
    bits, last = flat_bits(features)
    with kernel_running():
        _pool(
            bits,
            last,
            (channels, height, width),
            infinity_bits(features.dtype),
            windows,
            order,
            starts,
            plan_array(levels),
            edge_table(levels, max(height, width)),
            _count_parts(batch, channels),
            vectors.view(BITS[features.dtype]).view(-1).numpy(),
        )


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    _, channels, height, width = features.shape
    kind = accumulator(features.dtype)
    result = buffer_pool.empty(tuple(features.shape), kind)
    windows = cells.contiguous().numpy()
    bits, last = flat_bits(features.to(kind))
    order, starts = _grouped(windows, len(features))
    with kernel_running():
        pool_gradient(
            grad.detach().to(kind).contiguous().view(-1).numpy(),
            bits,
            last,
            (channels, height, width),
            infinity_bits(kind),
            windows,
            order,
            starts,
            plan_array(levels),
            edge_table(levels, max(height, width)),
            result.view(-1).numpy(),
        )
    return result.to(features.dtype)


def _count_parts(batch: int, channels: int) -> int:
    """Into how many parts to split the windows of each map, so that all cores have work."""
    blocks = (channels + LANES - 1) // LANES
    return max(1, thread_count() // max(1, batch * blocks))


def _grouped(cells: Array, batch: int) -> tuple[Array, Array]:
    """Window numbers sorted by map, in order within a map, and where each map's begin (batch + 1)."""
    return np.argsort(cells[:, 0], kind="stable"), _starts(cells, batch)


def _sorted(cells: Array, batch: int) -> tuple[Array, Array]:
    """As `_grouped`, those on the same cells one after another."""
    numbers = cells[:, 0]
    for column in cells.T[1:]:  # all of a window in one number: sorted in a third of lexsort's time
        numbers = numbers * (column.max(initial=0) + 1) + column
    return np.argsort(numbers, kind="stable"), _starts(cells, batch)


def _starts(cells: Array, batch: int) -> Array:
    return np.concatenate([[0], np.cumsum(np.bincount(cells[:, 0], minlength=batch))])


@compiled_parallel
def _pool(
    features: Array, last: bool, shape: tuple[int, int, int], infinity: int, cells: Array, order: Array,
    starts: Array, plan: Array, edges: Array, parts: int, vectors: Array,
) -> None:  # fmt: skip
    batch, blocks = len(starts) - 1, (shape[0] + LANES - 1) // LANES
    for task in nb.prange(batch * blocks * parts):
        which, channel, part = task // (blocks * parts), task // parts % blocks * LANES, task % parts
        listed = order[starts[which] : starts[which + 1]]
        windows = listed[part * len(listed) // parts : (part + 1) * len(listed) // parts]
        if len(windows) > 0:
            _pool_lanes(
                features, last, shape, infinity, cells, windows, which, channel, plan, edges, vectors,
            )  # fmt: skip


@inner
def _pool_lanes(
    features: Array, last: bool, shape: tuple[int, int, int], infinity: int, cells: Array, windows: Array,
    which: int, channel: int, plan: Array, edges: Array, vectors: Array,
) -> None:  # fmt: skip
    """The windows of one map, in the channels from `channel` on that fill a vector."""
    channels, height, width = shape
    bins = (plan[:, 0] * plan[:, 0]).sum()
    size = height * width * LANES
    tabled = len(windows) >= WINDOWS_PER_TABLE
    table = aligned(2 * size if tabled else size, features)  # cells, then squares
    lay_out(table, features, last, shape, which, channel, infinity, 0)
    if tabled:
        tabulate_squares(table, table[size:], height, width)
    pooled, turned = aligned(bins * LANES, features), aligned(bins * LANES, features)
    before = -1
    searched = tabled  # of few windows the bins are looked at first
    tied = searched and holds_ties(table, size, infinity)
    for window in windows:
        place = window * bins * channels  # of the window's vector
        if before < 0 or not _same_cells(cells, before, window):
            squares, line = size if tabled else 0, width * LANES
            _pool_window(
                table, squares, line, cells[window], plan, edges, channel, place, channels, pooled, vectors
            )
            if not searched and may_be_ties(pooled, bins * LANES, infinity):
                searched, tied = True, holds_ties(table, size, infinity)
            if tied:
                settle_ties(
                    features, last, shape, which, channel, infinity, cells[window], plan, edges,
                    table, pooled,
                )  # fmt: skip
        before = window
        _write_window(pooled, turned, plan, channel, channels, place, vectors)


@inner
def _pool_window(
    table: Array, squares: int, line: int, window: Array, plan: Array, edges: Array, channel: int, place: int,
    channels: int, pooled: Array, vectors: Array,
) -> None:  # fmt: skip
    """All levels of a window, bins-major. place: where its vector begins, which is fetched meanwhile."""
    for row in range(len(plan)):
        n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
        ahead = place + first * channels + channel * n * n
        if source < 0:
            x0, y0 = window[1], window[2]
            across, down = edges[row, window[3] - x0], edges[row, window[4] - y0]
            corner = y0 * line + x0 * LANES
            _pool_level(table, squares, corner, line, down, across, n, pooled, first * LANES, vectors, ahead)
        else:
            m, fine = plan[source, 0], plan[source, 1]
            _merge_level(pooled, m, fine * LANES, n, first * LANES, vectors, ahead)


@inner
def _write_window(
    pooled: Array, turned: Array, plan: Array, channel: int, channels: int, place: int, vectors: Array
) -> None:
    """A window's bins into its vector, channels-major."""
    for row in range(len(plan)):
        count, first = plan[row, 0] * plan[row, 0], plan[row, 1]
        to = place + first * channels + channel * count
        if channel + LANES <= channels:
            turn_level(pooled, first * LANES, count, vectors, to)
        else:  # the numbers of channels that are not there stay behind
            turn_level(pooled, first * LANES, count, turned, 0)
            for number in range(count * (channels - channel)):  # a slice takes seconds more to compile
                vectors[to + number] = turned[number]


@inner
def _same_cells(cells: Array, one: int, other: int) -> Any:
    mine, yours = cells[one], cells[other]
    return (mine[1] == yours[1]) & (mine[2] == yours[2]) & (mine[3] == yours[3]) & (mine[4] == yours[4])


@inner
def _pool_level(
    table: Array, squares: int, corner: int, line: int, down: Array, across: Array, n: int, pooled: Array,
    target: int, vectors: Array, ahead: int,
) -> None:  # fmt: skip
    """The n×n bins of a window whose first cell is table[corner], from spans of one cell or of a square.

    squares: where those begin in the table, 0 if there are none. down, across: the edges of the bins.
    Meanwhile the memory from vectors[ahead] on is fetched.
    """
    for i in range(n):
        height = down[i, 1] - down[i, 0]
        for j in range(n):
            width = across[j, 1] - across[j, 0]
            side = 2 if squares > 0 and min(height, width) >= 2 else 1
            start = corner if side == 1 else squares + corner
            top, bottom = start + down[i, 0] * line, start + (down[i, 1] - side) * line
            left, right = across[j, 0] * LANES, (across[j, 1] - side) * LANES
            to = (i * n + j) * LANES
            prefetch_for_writing(vectors, ahead + to)
            larger_of_four(table, top + left, top + right, bottom + left, bottom + right, pooled, target + to)
            if max(height, width) > 2 * side:  # the four leave cells between them
                _absorb_rectangle(
                    table, top, bottom, side * line, left, right, side * LANES, pooled, target + to
                )


@inner
def _absorb_rectangle(
    table: Array, top: int, bottom: int, down: int, left: int, right: int, across: int, pooled: Array, to: int
) -> None:
    """Spans every `down` and `across` from (top, left) to (bottom, right), into pooled[to]."""
    y = top
    while y < bottom + down:
        x = left
        while x < right + across:
            absorb(table, min(y, bottom) + min(x, right), pooled, to)
            x += across
        y += down


@inner
def _merge_level(pooled: Array, m: int, source: int, n: int, target: int, vectors: Array, ahead: int) -> None:
    """The n×n bins as maxima of the m×m bins, n dividing m; memory is fetched as in _pool_level."""
    factor, line = m // n, m * LANES
    for i in range(n):
        for j in range(n):
            corner, to = source + (i * m + j) * factor * LANES, target + (i * n + j) * LANES
            prefetch_for_writing(vectors, ahead + (i * n + j) * LANES)
            larger_of_four(pooled, corner, corner + LANES, corner + line, corner + line + LANES, pooled, to)
            for down in range(0, factor - 1, 2):
                for across in range(2 if down == 0 else 0, factor - 1, 2):
                    cell = corner + down * line + across * LANES
                    absorb_four(pooled, cell, cell + LANES, cell + line, cell + line + LANES, pooled, to)
            if factor % 2:  # the last row and the last column are left
                edge = (factor - 1) * LANES
                for k in range(factor):
                    absorb(pooled, corner + (factor - 1) * line + k * LANES, pooled, to)
                    absorb(pooled, corner + k * line + edge, pooled, to)
