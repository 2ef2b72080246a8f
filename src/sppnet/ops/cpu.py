"""Pyramid pooling on the CPU, compiled by numba: parallel, and exact.

A task is 64 channels of one map. It lays the map out channels-last, so that the channels are one
vector, and tables the maxima of 1 and 2 cells down and across: a bin of up to 4×4 cells then takes
four reads. Levels that divide a finer one are maxima of its bins and never read the map. A window's
numbers are gathered in a small array, turned from bins-major to channels-major there, and written
once. Windows come sorted, so those on the same cells follow one another and are pooled once.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from sppnet.geometry.grid import count_bins
from sppnet.ops import memory
from sppnet.ops.blocks import (
    BITS,
    POWERS,
    Array,
    compiled,
    compiled_parallel,
    fill_table,
    flat_bits,
    infinity_bits,
    lay_out,
    plan_array,
    span_table,
)
from sppnet.ops.cpu_gradient import pool_gradient
from sppnet.ops.definition import accumulator
from sppnet.ops.lanes import (
    LANES,
    SQUARE,
    absorb,
    absorb_four,
    larger_of_four,
    prefetch_for_writing,
    unrank_four_rows,
    unrank_lanes,
    unrank_square,
)

WINDOWS_PER_TABLE = 8
"""On fewer windows of a map the table is not worth its making, and bins are read cell by cell."""

_lock = threading.Lock()


@contextmanager
def kernel_running() -> Iterator[None]:
    """Around every call of a numba kernel that may be parallel.

    Not every threading layer of numba may be entered by two threads at once; and the first launch
    sets the number of OpenMP threads for torch too, which would change how torch splits its sums.
    """
    with _lock:
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w) float, cells (n, 5) → (n, c × bins)."""
    batch, channels, height, width = features.shape
    vectors = memory.empty((len(cells), channels * count_bins(levels)), features.dtype)
    windows = cells.contiguous().numpy()  # another layout would be compiled anew
    bits, last = flat_bits(features)
    order, starts = _sorted(windows, batch)
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
            span_table(levels, max(height, width)),
            _count_parts(batch, channels),
            vectors.view(BITS[features.dtype]).view(-1).numpy(),
        )
    return vectors


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    kind = accumulator(features.dtype)
    result = torch.zeros(features.shape, dtype=kind)
    windows = cells.contiguous().numpy()
    bits, last = flat_bits(features.to(kind))
    order, starts = _grouped(windows, len(features))
    with kernel_running():
        pool_gradient(
            grad.detach().to(kind).flatten().numpy(),
            bits,
            last,
            infinity_bits(kind),
            windows,
            order,
            starts,
            plan_array(levels),
            span_table(levels, max(features.shape[2:])),
            result.numpy(),
        )
    return result.to(features.dtype)


def _count_parts(batch: int, channels: int) -> int:
    """Into how many parts to split the windows of each map, so that all cores have work."""
    blocks = (channels + LANES - 1) // LANES
    return max(1, nb.get_num_threads() // max(1, batch * blocks))


def _grouped(cells: Array, batch: int) -> tuple[Array, Array]:
    """Window numbers sorted by map, in order within a map, and where each map's begin (batch + 1)."""
    return np.argsort(cells[:, 0], kind="stable"), _starts(cells, batch)


def _sorted(cells: Array, batch: int) -> tuple[Array, Array]:
    """As `_grouped`, those on the same cells one after another."""
    return np.lexsort(cells[:, ::-1].T), _starts(cells, batch)


def _starts(cells: Array, batch: int) -> Array:
    return np.concatenate([[0], np.cumsum(np.bincount(cells[:, 0], minlength=batch))])


@compiled_parallel
def _pool(
    features: Array, last: bool, shape: tuple[int, int, int], infinity: int, cells: Array, order: Array,
    starts: Array, plan: Array, spans: Array, parts: int, vectors: Array,
) -> None:  # fmt: skip
    channels, height, width = shape
    batch = len(starts) - 1
    blocks = (channels + LANES - 1) // LANES
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks * parts):
        which, channel = task // (blocks * parts), task // parts % blocks * LANES
        windows = order[starts[which] : starts[which + 1]]
        windows = windows[task % parts * len(windows) // parts : (task % parts + 1) * len(windows) // parts]
        if len(windows) == 0:
            continue
        powers = POWERS if len(windows) >= WINDOWS_PER_TABLE else 1
        table = np.empty(powers * powers * height * width * LANES, features.dtype)
        lay_out(table, features, last, shape, which, channel, infinity)
        fill_table(table, powers, height, width)
        pooled = np.empty(bins * LANES, features.dtype)
        turned = np.empty(bins * LANES, features.dtype)
        places = np.empty(6 * plan[:, 0].max(), np.int64)
        before = -1
        for window in windows:
            place = window * bins * channels  # of the window's vector
            if before < 0 or not _same_cells(cells, before, window):
                for row in range(len(plan)):
                    n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                    ahead = place + first * channels + channel * n * n
                    if source < 0:
                        _place_bins(cells, window, spans[powers - 1, row], n, height, width, powers, places)
                        _pool_level(table, width, places, n, pooled, first * LANES, vectors, ahead)
                    else:
                        m, fine = plan[source, 0], plan[source, 1]
                        _merge_level(pooled, m, fine * LANES, n, first * LANES, vectors, ahead)
            before = window
            for row in range(len(plan)):
                count, first = plan[row, 0] * plan[row, 0], plan[row, 1]
                to = place + first * channels + channel * count
                if channel + LANES <= channels:
                    _turn_level(pooled, first * LANES, count, vectors, to)
                else:  # the numbers of channels that are not there stay behind
                    _turn_level(pooled, first * LANES, count, turned, 0)
                    vectors[to : to + count * (channels - channel)] = turned[: count * (channels - channel)]


@compiled
def _same_cells(cells: Array, one: int, other: int) -> Any:
    mine, yours = cells[one], cells[other]
    return (mine[1] == yours[1]) & (mine[2] == yours[2]) & (mine[3] == yours[3]) & (mine[4] == yours[4])


@compiled
def _place_bins(
    cells: Array, window: int, spans: Array, n: int, height: int, width: int, powers: int, places: Array
) -> None:
    """places[axis, bin]: offsets in the table of a bin's first and last span, and the step between spans."""
    for axis in range(2):
        low, high = cells[window, 2 - axis], cells[window, 4 - axis]
        line = LANES if axis else width * LANES
        plane = height * width * LANES * (1 if axis else powers)
        for i in range(n):
            first, last, power = spans[high - low, i, 0], spans[high - low, i, 1], spans[high - low, i, 2]
            place = 3 * (axis * n + i)
            places[place] = power * plane + (low + first) * line
            places[place + 1] = power * plane + (low + last) * line
            places[place + 2] = line << power


@compiled
def _pool_level(
    table: Array, width: int, places: Array, n: int, pooled: Array, target: int, vectors: Array, ahead: int
) -> None:
    """The n×n bins of a window, from the table; meanwhile the memory from vectors[ahead] on is fetched."""
    for i in range(n):
        top, bottom, down = places[3 * i], places[3 * i + 1], places[3 * i + 2]
        for j in range(n):
            left, right, across = places[3 * (n + j)], places[3 * (n + j) + 1], places[3 * (n + j) + 2]
            to = (i * n + j) * LANES
            prefetch_for_writing(vectors, ahead + to)
            larger_of_four(table, top + left, top + right, bottom + left, bottom + right, pooled, target + to)
            if bottom - top > down or right - left > across:  # the four leave cells between them
                _absorb_rectangle(table, top, bottom, down, left, right, across, pooled, target + to)


@compiled
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


@compiled
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


@compiled
def _turn_level(pooled: Array, first: int, count: int, target: Array, to: int) -> None:
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
