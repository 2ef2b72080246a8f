"""The gradient of pyramid pooling on the CPU, compiled by numba.

A task is 64 channels of one map, all its windows in order: it finds every bin's first maximum anew, so
the forward pass keeps nothing. Where they are is noted for some windows, in the order of the gradient,
and then added channel by channel: one channel's plane fits in the first cache. No two tasks add to the
same cell, and sums have one order on any number of threads.
"""

from sppnet.arrays import Array
from sppnet.jit import compiled_parallel, inner, nb
from sppnet.ops.blocks import aligned, lay_out, turn_level
from sppnet.ops.simd import LANES, add_at, copy_lanes, fill_lanes, keep_earlier, keep_larger

WINDOWS_AT_ONCE = 8
"""Whose winners are noted before they are added. 128 windows: 1 took 5.0 ms, 4 and 8 4.8, 16 5.3."""


@compiled_parallel
def pool_gradient(
    grad: Array, features: Array, last: bool, shape: tuple[int, int, int], infinity: int, cells: Array,
    order: Array, starts: Array, plan: Array, edges: Array, result: Array,
) -> None:  # fmt: skip
    """grad (n · c × bins) flat → result (b · c · h · w) flat; shape: channels, height, width."""
    channels, height, width = shape
    batch = len(starts) - 1
    blocks = (channels + LANES - 1) // LANES
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks):
        which, channel = task // blocks, task % blocks * LANES
        present = min(LANES, channels - channel)
        plane = (which * channels + channel) * height * width
        for cell in range(present * height * width):
            result[plane + cell] = 0
        if starts[which] == starts[which + 1]:
            continue
        block = aligned(height * width * LANES, features)
        lay_out(block, features, last, shape, which, channel, infinity, -1)
        best = aligned(bins * LANES, features)
        places = aligned(bins * LANES, features)
        winners = aligned(WINDOWS_AT_ONCE * bins * LANES, features)
        windows = order[starts[which] : starts[which + 1]]
        for begin in range(0, len(windows), WINDOWS_AT_ONCE):
            some = windows[begin : begin + WINDOWS_AT_ONCE]
            for index in range(len(some)):
                _find_all(block, width, cells[some[index]], plan, edges, best, places)
                for row in range(len(plan)):  # a cell's number is not negative, and stays as it is
                    count, first = plan[row, 0] * plan[row, 0], plan[row, 1] * LANES
                    turn_level(places, first, count, winners, index * bins * LANES + first)
            for c in range(present):
                place = plane + c * height * width
                _add_channel(grad, some, channels, channel, c, plan, bins, winners, result, place)


@inner
def _find_all(
    block: Array, width: int, window: Array, plan: Array, edges: Array, best: Array, places: Array
) -> None:
    """The first maxima of all bins of a window: what they are, and their cells."""
    for row in range(len(plan)):
        n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
        if source < 0:
            _find_winners(block, width, window, edges[row], n, best, places, first * LANES)
        else:
            m, fine = plan[source, 0], plan[source, 1]
            _merge_winners(best, places, m, fine * LANES, n, first * LANES)


@inner
def _find_winners(
    block: Array, width: int, window: Array, edges: Array, n: int, best: Array, places: Array, target: int
) -> None:
    """For each of n×n bins and each channel the first maximum, by rows, and its cell y·w + x."""
    x0, y0 = window[1], window[2]
    across, down = edges[window[3] - x0], edges[window[4] - y0]
    for i in range(n):
        for j in range(n):
            to = target + (i * n + j) * LANES
            cell = (y0 + down[i, 0]) * width + x0 + across[j, 0]
            copy_lanes(block, cell * LANES, best, to)
            fill_lanes(places, to, cell)
            for y in range(y0 + down[i, 0], y0 + down[i, 1]):
                for x in range(x0 + across[j, 0], x0 + across[j, 1]):
                    keep_larger(block, (y * width + x) * LANES, best, places, to, y * width + x)


@inner
def _merge_winners(best: Array, places: Array, m: int, source: int, n: int, target: int) -> None:
    """First maxima of n×n bins out of those of m×m bins, n dividing m: of equal ones the earliest cell."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner, to = source + (i * m + j) * factor * LANES, target + (i * n + j) * LANES
            copy_lanes(best, corner, best, to)
            copy_lanes(places, corner, places, to)
            for down in range(factor):
                for across in range(factor):
                    keep_earlier(best, places, corner + (down * m + across) * LANES, to)


@inner
def _add_channel(
    grad: Array, windows: Array, channels: int, channel: int, c: int, plan: Array, bins: int, winners: Array,
    result: Array, plane: int,
) -> None:  # fmt: skip
    """result[plane + cell] += grad[…, bin] at every bin's winner, for channel c of the block."""
    for index in range(len(windows)):
        for row in range(len(plan)):
            count, first = plan[row, 0] * plan[row, 0], plan[row, 1]
            start = (windows[index] * bins + first) * channels + (channel + c) * count
            noted = (index * bins + first) * LANES + c * count
            for bin_ in range(count):
                add_at(result, plane, winners, noted + bin_, grad, start + bin_)
