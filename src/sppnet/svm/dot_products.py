"""Sums of products over some columns of one row, or of four at once, compiled: the arithmetic of `blocks`.

Four rows share what is read of the other factor: so a product costs less than a read.
rows (n, d) float32      table (k, d)      columns low … high − 1
"""

from typing import Any

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import inner_sum


@inner_sum
def dot_one(rows: Array, i: int, table: Array, k: int, low: int, high: int) -> Any:
    row, weights = rows[i, low:high], table[k, low:high]
    total = np.float32(0)
    for x in range(high - low):  # from 0: an index that may be negative would not be vectorised
        total += row[x] * weights[x]
    return total


@inner_sum
def add_one(rows: Array, i: int, step: float, change: Array, k: int, low: int, high: int) -> None:
    row, sums = rows[i, low:high], change[k, low:high]
    for x in range(high - low):
        sums[x] += step * row[x]


@inner_sum
def dot_four(rows: Array, i: int, j: int, m: int, o: int, table: Array, k: int, low: int, high: int) -> Any:
    p, q, r, s = rows[i, low:high], rows[j, low:high], rows[m, low:high], rows[o, low:high]
    weights = table[k, low:high]
    a = b = c = d = np.float32(0)
    for x in range(high - low):
        a += p[x] * weights[x]
        b += q[x] * weights[x]
        c += r[x] * weights[x]
        d += s[x] * weights[x]
    return a, b, c, d


@inner_sum
def dot_four_exactly(
    rows: Array, i: int, j: int, m: int, o: int, table: Array, k: int, low: int, high: int
) -> Any:
    p, q, r, s = rows[i, low:high], rows[j, low:high], rows[m, low:high], rows[o, low:high]
    weights = table[k, low:high]
    a = b = c = d = 0.0
    for x in range(high - low):
        a += np.float64(p[x]) * weights[x]
        b += np.float64(q[x]) * weights[x]
        c += np.float64(r[x]) * weights[x]
        d += np.float64(s[x]) * weights[x]
    return a, b, c, d


@inner_sum
def add_four(rows: Array, picks: Array, steps: Array, change: Array, k: int, low: int, high: int) -> None:
    p, q = rows[picks[0], low:high], rows[picks[1], low:high]
    r, s = rows[picks[2], low:high], rows[picks[3], low:high]
    a, b, c, d = steps[0], steps[1], steps[2], steps[3]
    sums = change[k, low:high]
    for x in range(high - low):
        sums[x] += a * p[x] + b * q[x] + c * r[x] + d * s[x]
