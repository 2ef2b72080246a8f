"""Pyramid pooling of whole maps on the CPU, compiled by numba.

A task is some of the planes: one channel of one map each, as it lies in memory. Bins of a row of bins
share their rows: so the maxima of every column over those rows are taken first, whole vectors at a
time, and the bins from them. Every plane is read once from memory, level after level from the cache.

Backward, the same again; then only columns whose maximum is that of the bin are searched for its first
cell. Gradients add up in the order of levels, rows and columns, on any number of threads.
"""

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
from torch import Tensor

from sppnet.geometry.grid import bin_edges, count_bins
from sppnet.ops import memory
from sppnet.ops.cpu import kernel_running
from sppnet.ops.plan import filling_order, plan_levels

Array = npt.NDArray[Any]

PLANES = 64
"""In a task."""

_compiled = nb.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)
_compiled_parallel = nb.njit(parallel=True, nogil=True, boundscheck=False, error_model="numpy", cache=True)


def pool(features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """features (b, c, h, w) → (b, c × bins); `cells` are those of the whole maps, and not looked at."""
    batch, channels = features.shape[:2]
    vectors = memory.empty((batch, channels * count_bins(levels)), features.dtype)
    plan, edges = _arrays(levels, features.shape[2], features.shape[3])
    with kernel_running():
        _pool(features.detach().numpy(), plan, edges, vectors.numpy())
    return vectors


def pool_backward(grad: Tensor, features: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """grad (b, c × bins) → gradient of features (b, c, h, w)."""
    result = memory.empty(tuple(features.shape), features.dtype)
    plan, edges = _arrays(levels, features.shape[2], features.shape[3])
    with kernel_running():
        _pool_backward(
            grad.detach().contiguous().numpy(),
            features.detach().numpy(),
            plan,
            edges,
            result.view(-1, features.shape[2] * features.shape[3]).numpy(),
        )
    return result


def _arrays(levels: tuple[int, ...], height: int, width: int) -> tuple[Array, Array]:
    """plan: a row (n, bins before, row of the source or −1) a level, finest first, then the levels' order.

    edges (levels, 2, n, 2): first cell and end of every bin, down and across, in the plan's order.
    """
    plans = plan_levels(levels)
    order = filling_order(plans)
    plan = np.zeros((len(levels), 4), np.int64)
    edges = np.zeros((len(levels), 2, max(levels), 2), np.int64)
    for row, index in enumerate(order):
        level = plans[index]
        source = -1 if level.source is None else order.index(level.source)
        plan[row, :3] = level.n, level.first_bin, source
        plan[index, 3] = row
        for axis, size in enumerate((height, width)):
            edges[row, axis, : level.n] = bin_edges(size, level.n)
    return plan, edges


# --- forward -------------------------------------------------------------------------------------


@_compiled_parallel
def _pool(features: Array, plan: Array, edges: Array, vectors: Array) -> None:
    batch, channels, _, width = features.shape
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange((batch * channels + PLANES - 1) // PLANES):
        columns = np.empty(width, features.dtype)
        best = np.empty(bins, features.dtype)
        for index in range(task * PLANES, min((task + 1) * PLANES, batch * channels)):
            plane, channel = features[index // channels, index % channels], index % channels
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                if source < 0:
                    _pool_level(plane, edges, row, n, columns, best, first)
                else:
                    _merge_level(best, plan[source, 1], plan[source, 0], first, n)
                start = first * channels + channel * n * n
                for bin_ in range(n * n):
                    vectors[index // channels, start + bin_] = best[first + bin_]


@_compiled
def _pool_level(
    plane: Array, edges: Array, row: int, n: int, columns: Array, best: Array, first: int
) -> None:
    """The bins of a level that reads the map, into best[first], …"""
    for i in range(n):
        _fold_rows(plane, edges[row, 0, i, 0], edges[row, 0, i, 1], columns)
        for j in range(n):
            best[first + i * n + j] = _largest(columns, edges[row, 1, j, 0], edges[row, 1, j, 1])


@_compiled
def _fold_rows(plane: Array, top: int, bottom: int, columns: Array) -> None:
    """The maximum of every column over rows top … bottom − 1; NaN is the largest."""
    above = plane[top]
    for x in range(len(columns)):
        columns[x] = above[x]
    for y in range(top + 1, bottom):
        row = plane[y]
        for x in range(len(columns)):
            columns[x] = _larger(row[x], columns[x])


@_compiled
def _larger(number: Any, most: Any) -> Any:
    return number if (number > most) | (number != number) else most


@_compiled
def _largest(columns: Array, left: int, right: int) -> Any:
    most = columns[left]
    for x in range(left + 1, right):
        most = _larger(columns[x], most)
    return most


@_compiled
def _merge_level(best: Array, fine: int, m: int, first: int, n: int) -> None:
    """The n×n bins from best[first] on as maxima of the m×m bins from best[fine] on, n dividing m."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner = fine + (i * m + j) * factor
            most = best[corner]
            for down in range(factor):
                for across in range(factor):
                    most = _larger(best[corner + down * m + across], most)
            best[first + i * n + j] = most


# --- backward ------------------------------------------------------------------------------------


@_compiled_parallel
def _pool_backward(grad: Array, features: Array, plan: Array, edges: Array, result: Array) -> None:
    batch, channels, _, width = features.shape
    bins = (plan[:, 0] * plan[:, 0]).sum()
    for task in nb.prange((batch * channels + PLANES - 1) // PLANES):
        columns, best = np.empty(width, features.dtype), np.empty(bins, features.dtype)
        places = np.empty(bins, np.int64)
        for index in range(task * PLANES, min((task + 1) * PLANES, batch * channels)):
            which, channel = index // channels, index % channels
            plane, target = features[which, channel], result[index]
            for cell in range(len(target)):
                target[cell] = 0
            for row in range(len(plan)):
                n, first, source = plan[row, 0], plan[row, 1], plan[row, 2]
                if source < 0:
                    _find_level(plane, edges, row, n, columns, best, places, first)
                else:
                    _find_merged(best, places, plan[source, 1], plan[source, 0], first, n)
            for level in range(len(plan)):
                n, first = plan[plan[level, 3], 0], plan[plan[level, 3], 1]
                start = first * channels + channel * n * n
                for bin_ in range(n * n):
                    target[places[first + bin_]] += grad[which, start + bin_]


@_compiled
def _find_level(
    plane: Array, edges: Array, row: int, n: int, columns: Array, best: Array, places: Array, first: int
) -> None:
    """As `_pool_level`, with the flat cell of each bin's first maximum, by rows."""
    for i in range(n):
        top, bottom = edges[row, 0, i, 0], edges[row, 0, i, 1]
        _fold_rows(plane, top, bottom, columns)
        for j in range(n):
            left, right = edges[row, 1, j, 0], edges[row, 1, j, 1]
            most = _largest(columns, left, right)
            best[first + i * n + j] = most
            places[first + i * n + j] = _first_cell(plane, columns, most, top, bottom, left, right)


@_compiled
def _first_cell(
    plane: Array, columns: Array, most: float, top: int, bottom: int, left: int, right: int
) -> int:
    """The first cell by rows that holds `most`, the maximum of the rectangle."""
    row, column = bottom, left
    for x in range(left, right):
        if _same(columns[x], most):
            y = top
            while y < row and not _same(plane[y, x], most):
                y += 1
            if y < row:
                row, column = y, x
    return int(row * plane.shape[1] + column)


@_compiled
def _same(a: float, b: float) -> bool:
    return (a == b) | ((a != a) & (b != b))


@_compiled
def _find_merged(best: Array, places: Array, fine: int, m: int, first: int, n: int) -> None:
    """As `_merge_level`; of equal maxima the one whose cell comes first."""
    factor = m // n
    for i in range(n):
        for j in range(n):
            corner = fine + (i * m + j) * factor
            most, place = best[corner], places[corner]
            for down in range(factor):
                for across in range(factor):
                    number = best[corner + down * m + across]
                    where = places[corner + down * m + across]
                    if (number > most) | ((number != number) & (most == most)):
                        most, place = number, where
                    elif _same(number, most) and where < place:
                        place = where
            best[first + i * n + j], places[first + i * n + j] = most, place
