"""Pyramid pooling on the CPU, compiled by numba: parallel, and exact.

Forward. A task is 32 channels of one map. It lays the map out channels-last, so that 16 channels
are one vector, and tables the maxima of 1 and 2 cells down and across: a bin of up to 4×4 cells
then takes four reads. Levels that divide a finer one are
maxima of its bins and never read the map. A window's numbers are gathered in a small array, turned
from bins-major to channels-major there, and written once. Every array is flat, with offsets
counted by hand: views cost more here than the work on them.

Numbers are compared as integers of the same order (`lanes`), so 16-, 32- and 64-bit floats share
one kernel, and NaN, made the largest integer, wins as it does in torch.

Backward. A task is one channel of one map, all its windows in order: no two tasks add to the same
cell, and sums have one order on any number of threads.
"""

import threading
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
    larger_of_four,
    larger_of_two,
    prefetch_for_writing,
    write_four_bins,
)
from sppnet.ops.plan import filling_order, plan_levels

BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

UNITS = 2
"""Vectors of 16 channels in a task, and so the share of the table that should stay in the cache."""

BLOCK = UNITS * LANES

POWERS = 2
"""Powers of two tabled along each axis. On 2,000 windows of a 42×56×256 map, with (UNITS, POWERS):
(2, 2) took 13.6 ms, (2, 3) 14.4, (4, 2) 13.4, (4, 3) 14.4; without fetching ahead 17 to 19."""

WINDOWS_PER_TABLE = 8
"""On fewer windows of a map the table is not worth its making, and bins are read cell by cell."""

Array = npt.NDArray[Any]

_lock = threading.Lock()  # not every threading layer of numba may be entered by two threads at once

_compiled = nb.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)
_compiled_parallel = nb.njit(parallel=True, nogil=True, boundscheck=False, error_model="numpy", cache=True)


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w) float, cells (n, 5) → (n, c × bins)."""
    channels = features.shape[1]
    vectors = memory.empty((len(cells), channels * count_bins(levels)), features.dtype)
    bits = BITS[features.dtype]
    order, starts = _group_by_map(cells, features.shape[0])
    with _lock:
        _pool(
            features.detach().view(bits).numpy(),
            _infinity(features.dtype),
            cells.contiguous().numpy(),  # another layout would be compiled anew
            order,
            starts,
            _plan_array(levels),
            vectors.view(bits).view(-1).numpy(),
        )
    return vectors


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (n, c × bins) → gradient of features (b, c, h, w)."""
    kind = accumulator(features.dtype)
    result = torch.zeros(features.shape, dtype=kind)
    order, starts = _group_by_map(cells, features.shape[0])
    with _lock:
        _pool_backward(
            grad.detach().to(kind).flatten().numpy(),
            features.detach().to(kind).contiguous().flatten(2).numpy(),
            cells.contiguous().numpy(),  # another layout would be compiled anew
            order,
            starts,
            _plan_array(levels),
            features.shape[3],
            result.flatten(2).numpy(),
        )
    return result.to(features.dtype)


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
    features: Array, infinity: int, cells: Array, order: Array, starts: Array, plan: Array, vectors: Array
) -> None:
    batch, channels, height, width = features.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks):
        which, channel = task // blocks, task % blocks * BLOCK
        count = starts[which + 1] - starts[which]
        if count == 0:
            continue
        powers = POWERS if count >= WINDOWS_PER_TABLE else 1
        table = np.empty(powers * powers * height * width * BLOCK, features.dtype)
        _lay_out(table, features, which, channel, infinity)
        _fill_table(table, powers, height, width)
        pooled = np.empty(bins * BLOCK, features.dtype)
        turned = np.empty(bins * BLOCK, features.dtype)
        spans = np.empty(6 * plan[:, 0].max(), np.int64)
        for index in range(starts[which], starts[which + 1]):
            window = order[index]
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
                ordered = number ^ ((number >> (bits - 1)) & largest)
                table[(y * width + x) * BLOCK + c] = largest if (number & largest) > infinity else ordered


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
    """pooled[bin, channel] as ordered integers → target[channel, bin] as the floats' bits."""
    bits = pooled.itemsize * 8
    largest = (1 << (bits - 1)) - 1
    fours = count // 4
    for unit in range(UNITS):
        here, there = first + unit * LANES, to + unit * LANES * count
        for four in range(fours):
            write_four_bins(pooled, here + 4 * four * BLOCK, BLOCK, target, there + 4 * four, count)
        for bin_ in range(4 * fours, count):
            for channel in range(LANES):
                number = np.int64(pooled[here + bin_ * BLOCK + channel])
                target[there + channel * count + bin_] = number ^ ((number >> (bits - 1)) & largest)


# --- backward ------------------------------------------------------------------------------------


@_compiled_parallel
def _pool_backward(
    grad: Array,
    features: Array,
    cells: Array,
    order: Array,
    starts: Array,
    plan: Array,
    width: int,
    result: Array,
) -> None:
    batch, channels, _ = features.shape
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * channels):
        which, channel = task // channels, task % channels
        part, total = features[which, channel], result[which, channel]
        winners = np.empty(bins, np.int64)
        spans = np.empty(6 * plan[:, 0].max(), np.int64)
        for index in range(starts[which], starts[which + 1]):
            window = order[index]
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                if source < 0:
                    _find_spans(cells, window, n, 1, spans)
                    _find_winners(part, width, spans, n, winners, first)
                else:
                    _merge_winners(part, plan[source, 0], plan[source, 1], n, winners, first)
                start = (window * bins + first) * channels + channel * n * n
                for bin_ in range(n * n):
                    total[winners[first + bin_]] += grad[start + bin_]


@_compiled
def _beats(a: float, b: float) -> bool:
    """Larger, or the first NaN. No branch, nor where it is used to choose: processors guess those of random
    numbers wrong (128 windows of a 42×56×256 map took 80 ms on one thread, and take 46)."""
    return (not a <= b) & (b == b)


@_compiled
def _find_winners(part: Array, width: int, spans: Array, n: int, winners: Array, target: int) -> None:
    """For each of n×n bins the flat cell y·w + x of its first maximum, by rows."""
    for i in range(n):
        top, bottom = spans[3 * i], spans[3 * i + 1] + 1
        for j in range(n):
            left, right = spans[3 * (n + j)], spans[3 * (n + j) + 1] + 1
            best = top * width + left
            number = part[best]
            for y in range(top, bottom):
                for cell in range(y * width + left, y * width + right):
                    other = part[cell]
                    beats = _beats(other, number)
                    best = cell if beats else best
                    number = other if beats else number
            winners[target + i * n + j] = best


@_compiled
def _merge_winners(part: Array, m: int, source: int, n: int, winners: Array, target: int) -> None:
    """First maxima of n×n bins out of those of m×m bins: of equal ones the earliest cell."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner = source + (i * m + j) * factor
            best = winners[corner]
            for down in range(factor):
                for across in range(factor):
                    other = winners[corner + down * m + across]
                    a, b = part[other], part[best]
                    if _beats(a, b) or (not _beats(b, a) and other < best):
                        best = other
            winners[target + i * n + j] = best
