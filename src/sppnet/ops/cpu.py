"""Pyramid pooling on the CPU, compiled by numba: parallel, and exact.

Forward. A task is 64 channels of one map. It lays the map out channels-last, so that 16 channels
are one vector, and tables the maxima of 1 and 2 cells down and across: a bin of up to 4×4 cells
then takes four reads. Levels that divide a finer one are
maxima of its bins and never read the map. A window's numbers are gathered in a small array, turned
from bins-major to channels-major there, and written once. Every array is flat, with offsets
counted by hand: views cost more here than the work on them.

Numbers are compared as integers of the same order (`lanes`), so 16-, 32- and 64-bit floats share
one kernel, and NaN, made the largest integer, wins as it does in torch.

Backward. A task is again 64 channels of one map, all its windows in order: it finds every bin's first
maximum anew, so the forward pass keeps nothing. No two tasks add to the same cell, and sums have one
order on any number of threads.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.geometry.grid import count_bins
from sppnet.ops import memory
from sppnet.ops.definition import accumulator
from sppnet.ops.lanes import (
    LANES,
    absorb,
    copy_lanes,
    fill_lanes,
    keep_earlier,
    keep_larger,
    larger_of_four,
    larger_of_two,
    prefetch_for_writing,
    write_bin,
    write_four_bins,
)
from sppnet.ops.plan import filling_order, plan_levels

BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

UNITS = 4
"""Vectors of 16 channels in a task. 2,000 windows of a 42×56×256 map: 1 took 30 ms, 2 took 23, 4 took 18."""

BLOCK = UNITS * LANES

POWERS = 2
"""Powers of two tabled along each axis. Same windows: 3 is no faster than 2, and doubles the table."""

WINDOWS_PER_TABLE = 8
"""On fewer windows of a map the table is not worth its making, and bins are read cell by cell."""

Array = npt.NDArray[Any]

_lock = threading.Lock()

_compiled = nb.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)
_compiled_parallel = nb.njit(parallel=True, nogil=True, boundscheck=False, error_model="numpy", cache=True)


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
    channels = features.shape[1]
    vectors = memory.empty((len(cells), channels * count_bins(levels)), features.dtype)
    bits = BITS[features.dtype]
    order, starts = _group_by_map(cells, features.shape[0])
    with kernel_running():
        _pool(
            features.detach().view(bits).numpy(),
            _infinity(features.dtype),
            cells.contiguous().numpy(),  # another layout would be compiled anew
            order,
            starts,
            _plan_array(levels),
            _count_parts(features),
            vectors.view(bits).view(-1).numpy(),
        )
    return vectors


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    kind = accumulator(features.dtype)
    result = torch.zeros(features.shape, dtype=kind)
    order, starts = _group_by_map(cells, features.shape[0])
    with kernel_running():
        _pool_backward(
            grad.detach().to(kind).flatten().numpy(),
            features.detach().to(kind).view(BITS[kind]).numpy(),
            _infinity(kind),
            cells.contiguous().numpy(),  # another layout would be compiled anew
            order,
            starts,
            _plan_array(levels),
            result.numpy(),
        )
    return result.to(features.dtype)


def _count_parts(features: Tensor) -> int:
    """Into how many parts to split the windows of each map, so that all cores have work."""
    blocks = (features.shape[1] + BLOCK - 1) // BLOCK
    return max(1, nb.get_num_threads() // max(1, features.shape[0] * blocks))


def _infinity(dtype: torch.dtype) -> int:
    """The bits of +∞ as an integer: what exceeds them, sign aside, is NaN."""
    return int(torch.tensor(float("inf"), dtype=dtype).view(BITS[dtype]))


def _group_by_map(cells: Tensor, batch: int) -> tuple[Array, Array]:
    """Window numbers sorted by map, in order within a map, and where each map's begin (batch + 1)."""
    which = cells[:, 0].numpy()
    return np.argsort(which, kind="stable"), np.searchsorted(np.sort(which), np.arange(batch + 1))


def _plan_array(levels: tuple[int, ...]) -> Array:
    """A row (n, first bin, row of the source or −1) for each level, finest first."""
    plans = plan_levels(levels)
    order = filling_order(plans)
    rows = []
    for index in order:
        plan = plans[index]
        rows.append((plan.n, plan.first_bin, -1 if plan.source is None else order.index(plan.source)))
    return np.array(rows, dtype=np.int64)


# --- forward -------------------------------------------------------------------------------------


@_compiled_parallel
def _pool(
    features: Array, infinity: int, cells: Array, order: Array, starts: Array, plan: Array, parts: int,
    vectors: Array,
) -> None:  # fmt: skip
    batch, channels, height, width = features.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks * parts):
        which, channel = task // (blocks * parts), task // parts % blocks * BLOCK
        windows = order[starts[which] : starts[which + 1]]
        windows = windows[task % parts * len(windows) // parts : (task % parts + 1) * len(windows) // parts]
        count = len(windows)
        if count == 0:
            continue
        powers = POWERS if count >= WINDOWS_PER_TABLE else 1
        table = np.empty(powers * powers * height * width * BLOCK, features.dtype)
        _lay_out(table, features, which, channel, infinity)
        _fill_table(table, powers, height, width)
        pooled = np.empty(bins * BLOCK, features.dtype)
        turned = np.empty(bins * BLOCK, features.dtype)
        spans = np.empty(6 * plan[:, 0].max(), np.int64)
        for window in windows:
            place = window * bins * channels  # of the window's vector
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                ahead = place + first * channels + channel * n * n
                if source < 0:
                    _find_spans(cells, window, n, powers, spans)
                    _pool_level(table, powers, height, width, spans, n, pooled, first * BLOCK, vectors, ahead)
                else:
                    m, fine = plan[source, 0], plan[source, 1]
                    _merge_level(pooled, m, fine * BLOCK, n, first * BLOCK, vectors, ahead)
            for row in range(len(plan)):
                count, first = plan[row, 0] * plan[row, 0], plan[row, 1]
                to = place + first * channels + channel * count
                if channel + BLOCK <= channels:
                    _turn_level(pooled, first * BLOCK, count, vectors, to)
                else:  # the numbers of channels that are not there stay behind
                    _turn_level(pooled, first * BLOCK, count, turned, 0)
                    vectors[to : to + count * (channels - channel)] = turned[: count * (channels - channel)]


@_compiled
def _lay_out(table: Array, features: Array, which: int, channel: int, infinity: int) -> None:
    """A map's channels from `channel` on → table[y, x, channel], as ordered integers; NaN the largest.

    Where the map has no more channels, the last again: those numbers are never written out.
    """
    _, channels, height, width = features.shape
    bits = features.itemsize * 8
    largest = (1 << (bits - 1)) - 1
    for c in range(BLOCK):
        source = min(channel + c, channels - 1)
        for y in range(height):
            for x in range(width):
                number = np.int64(features[which, source, y, x])
                size = number & largest
                ordered = number ^ ((number >> (bits - 1)) & largest)
                if size == 0:  # −0 equals 0
                    ordered = size
                table[(y * width + x) * BLOCK + c] = largest if size > infinity else ordered


@_compiled
def _fill_table(table: Array, powers: int, height: int, width: int) -> None:
    """table[a, b, y, x, channel]: maxima of 2^a × 2^b cells, from those of half as many."""
    plane = height * width * BLOCK
    for a in range(powers):
        here = a * powers * plane
        if a > 0:
            _double_spans(table, here - powers * plane, here, height, width, 1 << (a - 1), 0)
        for b in range(1, powers):
            here += plane
            _double_spans(table, here - plane, here, height, width, 0, 1 << (b - 1))


@_compiled
def _double_spans(
    table: Array, source: int, target: int, height: int, width: int, down: int, across: int
) -> None:
    """target[y, x] = max(source[y, x], source[y + down, x + across]); at the border, the last cell again."""
    for y in range(height):
        row, other_row = y * width, min(y + down, height - 1) * width
        for x in range(width):
            here, other = (row + x) * BLOCK, (other_row + min(x + across, width - 1)) * BLOCK
            for unit in range(UNITS):
                lane = unit * LANES
                larger_of_two(table, source + here + lane, source + other + lane, table, target + here + lane)


@_compiled
def _find_spans(cells: Array, window: int, n: int, powers: int, spans: Array) -> None:
    """spans[axis, bin]: two spans of 2^power cells, from a bin's first cell and to its last; y, then x.

    Bin i begins at ⌊i·size/n⌋ and ends at ⌈(i+1)·size/n⌉, counted up without dividing.
    """
    for axis in range(2):
        low, high = cells[window, 2 - axis], cells[window, 4 - axis]
        whole, part = (high - low) // n, (high - low) % n
        edge, rest = low, 0  # ⌊i·size/n⌋ and its remainder
        for i in range(n):
            first = edge
            edge, rest = edge + whole, rest + part
            if rest >= n:
                edge, rest = edge + 1, rest - n
            end = edge + 1 if rest > 0 else edge
            power = 0
            while power < powers - 1 and 2 << power <= end - first:
                power += 1
            place = 3 * (axis * n + i)
            spans[place], spans[place + 1], spans[place + 2] = first, end - (1 << power), power


@_compiled
def _pool_level(
    table: Array, powers: int, height: int, width: int, spans: Array, n: int, pooled: Array, target: int,
    vectors: Array, ahead: int,
) -> None:  # fmt: skip
    """The n×n bins of a window, from the table; meanwhile the memory from vectors[ahead] on is fetched."""
    plane, line = height * width * BLOCK, width * BLOCK
    for i in range(n):
        top, bottom, a = spans[3 * i], spans[3 * i + 1], spans[3 * i + 2]
        for j in range(n):
            left, right, b = spans[3 * (n + j)], spans[3 * (n + j) + 1], spans[3 * (n + j) + 2]
            base, to = (a * powers + b) * plane, (i * n + j) * BLOCK
            p, q = base + top * line + left * BLOCK, base + top * line + right * BLOCK
            r, s = base + bottom * line + left * BLOCK, base + bottom * line + right * BLOCK
            for unit in range(UNITS):
                lane = unit * LANES
                prefetch_for_writing(vectors, ahead + to + lane)
                larger_of_four(table, p + lane, q + lane, r + lane, s + lane, pooled, target + to + lane)
            if bottom - top > 1 << a or right - left > 1 << b:  # the four leave cells between them
                _absorb_rectangle(
                    table, base, line, top, bottom, 1 << a, left, right, 1 << b, pooled, target + to
                )


@_compiled
def _absorb_rectangle(
    table: Array, base: int, line: int, top: int, bottom: int, down: int, left: int, right: int, across: int,
    pooled: Array, to: int,
) -> None:  # fmt: skip
    """Spans every `down` and `across` cells from (top, left) to (bottom, right), into pooled[to]."""
    y = top
    while y < bottom + down:
        row = base + min(y, bottom) * line
        x = left
        while x < right + across:
            cell = row + min(x, right) * BLOCK
            for unit in range(UNITS):
                absorb(table, cell + unit * LANES, pooled, to + unit * LANES)
            x += across
        y += down


@_compiled
def _merge_level(pooled: Array, m: int, source: int, n: int, target: int, vectors: Array, ahead: int) -> None:
    """The n×n bins as maxima of the m×m bins, n dividing m; memory is fetched as in _pool_level."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner, to = source + (i * m + j) * factor * BLOCK, (i * n + j) * BLOCK
            for unit in range(UNITS):
                prefetch_for_writing(vectors, ahead + to + unit * LANES)
                copy_lanes(pooled, corner + unit * LANES, pooled, target + to + unit * LANES)
            for down in range(factor):
                for across in range(factor):
                    cell = corner + (down * m + across) * BLOCK
                    for unit in range(UNITS):
                        absorb(pooled, cell + unit * LANES, pooled, target + to + unit * LANES)


@_compiled
def _turn_level(pooled: Array, first: int, count: int, target: Array, to: int) -> None:
    """pooled[bin, channel] as ordered integers → target[channel, bin] as the floats' bits; count is n²."""
    for unit in range(UNITS):
        here, there = first + unit * LANES, to + unit * LANES * count
        if count == 1:
            write_bin(pooled, here, target, there)
            continue
        for four in range((count + 3) // 4):
            bin_ = min(4 * four, count - 4)  # the last four may overlap: same numbers twice
            write_four_bins(pooled, here + bin_ * BLOCK, BLOCK, target, there + bin_, count)


# --- backward ------------------------------------------------------------------------------------


@_compiled_parallel
def _pool_backward(
    grad: Array, features: Array, infinity: int, cells: Array, order: Array, starts: Array, plan: Array,
    result: Array,
) -> None:  # fmt: skip
    batch, channels, height, width = features.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks):
        which, channel = task // blocks, task % blocks * BLOCK
        if starts[which] == starts[which + 1]:
            continue
        table = np.empty(height * width * BLOCK, features.dtype)
        _lay_out(table, features, which, channel, infinity)
        total = np.zeros(height * width * BLOCK, grad.dtype)
        best = np.empty(bins * BLOCK, features.dtype)
        places = np.empty(bins * BLOCK, features.dtype)
        spans = np.empty(6 * plan[:, 0].max(), np.int64)
        present = min(BLOCK, channels - channel)
        for index in range(starts[which], starts[which + 1]):
            window = order[index]
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                if source < 0:
                    _find_spans(cells, window, n, 1, spans)
                    _find_winners(table, width, spans, n, best, places, first * BLOCK)
                else:
                    m, fine = plan[source, 0], plan[source, 1]
                    _merge_winners(best, places, m, fine * BLOCK, n, first * BLOCK)
                start = (window * bins + first) * channels + channel * n * n
                _add_level(grad, start, n * n, places, first * BLOCK, present, total)
        for c in range(present):
            for cell in range(height * width):
                result[which, channel + c, cell // width, cell % width] = total[cell * BLOCK + c]


@_compiled
def _find_winners(
    table: Array, width: int, spans: Array, n: int, best: Array, places: Array, target: int
) -> None:
    """For each of n×n bins and each channel the first maximum, by rows, and its cell y·w + x."""
    for i in range(n):
        for j in range(n):
            to = target + (i * n + j) * BLOCK
            left, right = spans[3 * (n + j)], spans[3 * (n + j) + 1]
            cell = spans[3 * i] * width + left
            for unit in range(UNITS):
                copy_lanes(table, cell * BLOCK + unit * LANES, best, to + unit * LANES)
                fill_lanes(places, to + unit * LANES, cell)
            for y in range(spans[3 * i], spans[3 * i + 1] + 1):
                for x in range(left, right + 1):
                    cell = y * width + x
                    for unit in range(UNITS):
                        lane = unit * LANES
                        keep_larger(table, cell * BLOCK + lane, best, places, to + lane, cell)


@_compiled
def _merge_winners(best: Array, places: Array, m: int, source: int, n: int, target: int) -> None:
    """First maxima of n×n bins out of those of m×m bins, n dividing m: of equal ones the earliest cell."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner, to = source + (i * m + j) * factor * BLOCK, target + (i * n + j) * BLOCK
            for unit in range(UNITS):
                lane = unit * LANES
                copy_lanes(best, corner + lane, best, to + lane)
                copy_lanes(places, corner + lane, places, to + lane)
            for down in range(factor):
                for across in range(factor):
                    for unit in range(UNITS):
                        lane = unit * LANES
                        keep_earlier(best, places, corner + (down * m + across) * BLOCK + lane, to + lane)


@_compiled
def _add_level(
    grad: Array, start: int, count: int, places: Array, first: int, present: int, total: Array
) -> None:
    """total[cell, channel] += grad[channel, bin] at every bin's winner."""
    for channel in range(present):
        for bin_ in range(count):
            cell = np.int64(places[first + bin_ * BLOCK + channel])
            total[cell * BLOCK + channel] += grad[start + channel * count + bin_]
