"""The gradient of pyramid pooling on the CPU, compiled by numba.

A task is 64 channels of one map, all its windows in order: it finds every bin's first maximum anew, so
the forward pass keeps nothing. No two tasks add to the same cell, and sums have one order on any
number of threads.
"""

import numba as nb
import numpy as np

from sppnet.ops.blocks import Array, compiled, compiled_parallel, lay_out
from sppnet.ops.lanes import LANES, copy_lanes, fill_lanes, keep_earlier, keep_larger


@compiled_parallel
def pool_gradient(
    grad: Array, features: Array, last: bool, infinity: int, cells: Array, order: Array, starts: Array,
    plan: Array, spans: Array, result: Array,
) -> None:  # fmt: skip
    """grad (n · c × bins) flat → result (b, c, h, w), which begins as zeros."""
    batch, channels, height, width = result.shape
    blocks = (channels + LANES - 1) // LANES
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange(batch * blocks):
        which, channel = task // blocks, task % blocks * LANES
        if starts[which] == starts[which + 1]:
            continue
        block = np.empty(height * width * LANES, features.dtype)
        lay_out(block, features, last, (channels, height, width), which, channel, infinity)
        total = np.zeros(height * width * LANES, grad.dtype)
        best = np.empty(bins * LANES, features.dtype)
        places = np.empty(bins * LANES, features.dtype)
        present = min(LANES, channels - channel)
        for index in range(starts[which], starts[which + 1]):
            window = order[index]
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                if source < 0:
                    _find_winners(block, width, cells[window], spans[0, row], n, best, places, first * LANES)
                else:
                    m, fine = plan[source, 0], plan[source, 1]
                    _merge_winners(best, places, m, fine * LANES, n, first * LANES)
                start = (window * bins + first) * channels + channel * n * n
                _add_level(grad, start, n * n, places, first * LANES, present, total)
        for c in range(present):
            for cell in range(height * width):
                result[which, channel + c, cell // width, cell % width] = total[cell * LANES + c]


@compiled
def _find_winners(
    block: Array, width: int, window: Array, spans: Array, n: int, best: Array, places: Array, target: int
) -> None:
    """For each of n×n bins and each channel the first maximum, by rows, and its cell y·w + x."""
    x0, y0 = window[1], window[2]
    across, down = spans[window[3] - x0], spans[window[4] - y0]
    for i in range(n):
        for j in range(n):
            to = target + (i * n + j) * LANES
            cell = (y0 + down[i, 0]) * width + x0 + across[j, 0]
            copy_lanes(block, cell * LANES, best, to)
            fill_lanes(places, to, cell)
            for y in range(y0 + down[i, 0], y0 + down[i, 1] + 1):
                for x in range(x0 + across[j, 0], x0 + across[j, 1] + 1):
                    keep_larger(block, (y * width + x) * LANES, best, places, to, y * width + x)


@compiled
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


@compiled
def _add_level(
    grad: Array, start: int, count: int, places: Array, first: int, present: int, total: Array
) -> None:
    """total[cell, channel] += grad[channel, bin] at every bin's winner."""
    for channel in range(present):
        for bin_ in range(count):
            cell = np.int64(places[first + bin_ * LANES + channel])
            total[cell * LANES + channel] += grad[start + channel * count + bin_]
