"""Bins whose maximum is not one number: zeros of both signs, and NaN, as `adaptive_max_pool2d` settles them.

Of equal numbers torch keeps the first, so of 0 and −0 as well, and of several NaN the last. Integers in the
order of the floats say neither: where a map holds such numbers, the bins in question are read again.
"""

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import inner
from sppnet.ops.simd import LANES

BFLOAT16_INFINITY, BFLOAT16_NAN = 0x7F80, 0x7FC0
"""torch turns every NaN of this type into one, at least in contiguous maps."""


@inner
def holds_ties(block: Array, size: int, infinity: int) -> bool:
    """Whether the first `size` numbers of a block of cells have −0 or NaN among them."""
    minus_zero, largest = False, block[0]
    for i in range(size):
        minus_zero |= block[i] == -1
        largest = max(largest, block[i])
    return minus_zero or largest > infinity


@inner
def may_be_ties(pooled: Array, size: int, infinity: int) -> bool:
    """Whether a bin's maximum is 0 or NaN: for any other number every cell's order says all."""
    zero, largest = False, pooled[0]
    for i in range(size):
        zero |= pooled[i] == 0
        largest = max(largest, pooled[i])
    return zero or largest > infinity


@inner
def settle_ties(
    features: Array, last: bool, shape: tuple[int, int, int], which: int, channel: int, infinity: int,
    window: Array, plan: Array, edges: Array, block: Array, pooled: Array,
) -> None:  # fmt: skip
    """Puts torch's choice into the pooled bins (bin, channel) of a window that are 0 or NaN."""
    channels, height, width = shape
    x0, y0 = window[1], window[2]
    for row in range(len(plan)):
        n, first = plan[row, 0], plan[row, 1]
        across, down = edges[row, window[3] - x0], edges[row, window[4] - y0]
        for i in range(n):
            for j in range(n):
                to = (first + i * n + j) * LANES
                top, bottom = y0 + down[i, 0], y0 + down[i, 1]
                left, right = x0 + across[j, 0], x0 + across[j, 1]
                for c in range(min(LANES, channels - channel)):
                    if pooled[to + c] == 0:
                        pooled[to + c] = _first_zero(block, c, width, top, bottom, left, right)
                    elif pooled[to + c] > infinity:
                        cell = _last_nan(block, c, width, top, bottom, left, right, infinity)
                        plane = which * height * width
                        if last:
                            place = (plane + cell) * channels + channel + c
                        else:
                            place = plane * channels + (channel + c) * height * width + cell
                        pooled[to + c] = _ordered(features[place], infinity)


@inner
def _first_zero(block: Array, c: int, width: int, top: int, bottom: int, left: int, right: int) -> int:
    for y in range(top, bottom):
        for x in range(left, right):
            number = block[(y * width + x) * LANES + c]
            if number == 0 or number == -1:
                return number
    return block[0]  # never: the maximum of the bin is a zero


@inner
def _last_nan(
    block: Array, c: int, width: int, top: int, bottom: int, left: int, right: int, infinity: int
) -> int:
    cell = 0
    for y in range(top, bottom):
        for x in range(left, right):
            if block[(y * width + x) * LANES + c] > infinity:
                cell = y * width + x
    return cell


@inner
def _ordered(bits: int, infinity: int) -> int:
    """The bits of NaN as `simd` unranks them: all but the sign turned, if it is negative."""
    if infinity == BFLOAT16_INFINITY:
        return np.int64(BFLOAT16_NAN)
    wide = np.int64(bits)
    if wide >= 0:
        return wide
    largest = 0x7FFF if infinity < 0x7FFF else 0x7FFFFFFF if infinity < 0x7FFFFFFF else 0x7FFFFFFFFFFFFFFF
    return wide ^ np.int64(largest)
