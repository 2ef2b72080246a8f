"""Graph segmentation: pixels joined into regions along the weakest edges first.

Felzenszwalb & Huttenlocher, IJCV 2004, as selective search begins with it (paper-spec §6.1). Every pixel
has an edge to each of its 8 neighbours, weighted by the distance of their colours after smoothing. In
order of weight an edge joins two regions unless it is heavier than the heaviest edge within either of
them, plus k / pixels of that one. Then regions under the least size join a neighbour, in the same order.

Weights are counted in 1/64 of a grey level: so many are no more than a counting sort can order in one
pass, and equal ones have an order (right, down, two diagonals; then by rows), which makes the regions
the same on every call. Edges once sorted serve any k.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.arrays import Array
from sppnet.errors import ConfigError
from sppnet.jit import compiled, inner

SIGMA = 0.8
"""Of the smoothing, in pixels."""

UNITS = 64
"""Weights are whole multiples of 1/64 of a grey level."""

_HEAVIEST = math.ceil(255 * math.sqrt(3) * UNITS)
_NO_EDGE = _HEAVIEST + 1


@dataclass(frozen=True, eq=False)
class SortedEdges:
    """The edges between the pixels of one image, lightest first."""

    edges: Array
    """(m,) uint32, 4 · pixel + direction: right, down, down and right, down and left."""
    starts: Array
    """(weights + 1,) int64: edges of weight w are edges[starts[w] : starts[w + 1]]."""
    size_hw: tuple[int, int]


def smooth(planes: Array) -> Array:
    """Planes (c, h, w) float32 convolved with a Gaussian; the border pixel continues outside."""
    offsets = np.arange(math.ceil(4 * SIGMA) + 1)
    half = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    half /= 2 * half.sum() - half[0]
    smoothed = np.empty_like(planes)
    _smooth(planes, half.astype(np.float32), smoothed)
    return smoothed


def sort_edges(smoothed: Array) -> SortedEdges:
    """The edges of three smoothed planes (3, h, w), values 0..255."""
    _, height, width = smoothed.shape
    weights = np.full((4, height * width), _NO_EDGE, np.uint16)
    _weigh(smoothed, weights)
    edges, starts = _sort(weights)
    return SortedEdges(edges, starts, (height, width))


def join_edges(sorted_edges: SortedEdges, k: float, min_size: int) -> tuple[Array, int]:
    """Regions as labels (h, w) int32, numbered in order of their first pixel, and how many there are.

    k: the larger, the larger the regions.
    min_size: pixels; the whole image is one region if it has fewer.
    """
    if not k >= 0:
        raise ConfigError(f"k of a segmentation must be at least 0; got {k}")
    height, width = sorted_edges.size_hw
    labels = np.empty(height * width, np.int32)
    count = _join(sorted_edges.edges, sorted_edges.starts, width, float(k * UNITS), min_size, labels)
    return labels.reshape(height, width), int(count)


# --- compiled ------------------------------------------------------------------------------------


@compiled
def _smooth(planes: Array, half: Array, smoothed: Array) -> None:
    channels, height, width = planes.shape
    reach = len(half) - 1
    padded = np.empty(width + 2 * reach, np.float32)
    column = np.empty(width, np.float32)
    for c in range(channels):
        for y in range(height):
            for x in range(width):  # as assignments of arrays these loops take seconds to compile
                column[x] = half[0] * planes[c, y, x]
            for i in range(1, reach + 1):
                above, below = planes[c, max(y - i, 0)], planes[c, min(y + i, height - 1)]
                for x in range(width):
                    column[x] += half[i] * (above[x] + below[x])
            row = smoothed[c, y]
            for x in range(width):
                row[x] = half[0] * column[x]
                padded[reach + x] = column[x]
            for x in range(reach):
                padded[x], padded[reach + width + x] = column[0], column[width - 1]
            for i in range(1, reach + 1):
                left, right = padded[reach - i :], padded[reach + i :]
                for x in range(width):
                    row[x] += half[i] * (left[x] + right[x])


@compiled
def _weigh(smoothed: Array, weights: Array) -> None:
    """weights[direction, pixel], where the edge exists."""
    _, height, width = smoothed.shape
    for direction in range(4):
        down = 0 if direction == 0 else 1
        across = (1, 0, 1, -1)[direction]
        first, last = max(-across, 0), width - max(across, 0)
        for y in range(height - down):
            row = weights[direction, y * width : (y + 1) * width]
            here, there = smoothed[:, y], smoothed[:, y + down]
            for x in range(first, last):
                a = here[0, x] - there[0, x + across]
                b = here[1, x] - there[1, x + across]
                c = here[2, x] - there[2, x + across]
                distance = np.sqrt(a * a + b * b + c * c)
                row[x] = np.uint16(distance * np.float32(UNITS) + np.float32(0.5))


@compiled
def _sort(weights: Array) -> tuple[Array, Array]:
    """A counting sort; stable."""
    directions, pixels = weights.shape
    starts = np.zeros(_NO_EDGE + 2, np.int64)
    for direction in range(directions):
        for pixel in range(pixels):
            starts[weights[direction, pixel] + 1] += 1
    for weight in range(_NO_EDGE + 1):
        starts[weight + 1] += starts[weight]
    edges = np.empty(starts[_NO_EDGE], np.uint32)
    places = starts.copy()
    for direction in range(directions):
        for pixel in range(pixels):
            weight = weights[direction, pixel]
            if weight != _NO_EDGE:
                edges[places[weight]] = 4 * pixel + direction
                places[weight] += 1
    return edges, starts[: _NO_EDGE + 1]


@compiled
def _join(edges: Array, starts: Array, width: int, k: float, min_size: int, labels: Array) -> int:
    """Every pixel knows its region's name, so that to look at an edge costs two reads; see _unite."""
    pixels = len(labels)
    names = np.arange(pixels).astype(np.uint32)
    following = np.arange(pixels).astype(np.uint32)
    sizes = np.ones(pixels, np.uint32)
    limits = np.full(pixels, k, np.float32)
    steps = np.array([1, width, width + 1, width - 1], np.uint64)
    # An edge within a region stays within: the second pass needs to see only the refused ones.
    refused = np.empty(len(edges), np.uint32)
    count = 0
    for weight in range(len(starts) - 1):
        for i in range(starts[weight], starts[weight + 1]):
            pixel = np.uint64(edges[i] >> np.uint32(2))
            a = np.uint64(names[pixel])
            b = np.uint64(names[pixel + steps[edges[i] & np.uint32(3)]])
            if a == b:
                continue
            if weight <= limits[a] and weight <= limits[b]:
                root = _unite(names, following, sizes, a, b)
                limits[root] = weight + k / sizes[root]
            else:
                refused[count] = edges[i]
                count += 1
    for i in range(count):
        pixel = np.uint64(refused[i] >> np.uint32(2))
        a = np.uint64(names[pixel])
        b = np.uint64(names[pixel + steps[refused[i] & np.uint32(3)]])
        if a != b and min(sizes[a], sizes[b]) < min_size:
            _unite(names, following, sizes, a, b)
    return _number(names, labels)


@inner
def _unite(names: Array, following: Array, sizes: Array, a: Any, b: Any) -> Any:
    """The pixels of the smaller region take the larger one's name; each region is a ring of pixels.

    A pixel is renamed a few times in all. At 406×500 pixels this took 13 ms, trees of parents 23.
    """
    root, other = (a, b) if sizes[a] >= sizes[b] else (b, a)
    pixel: Any = other
    for _ in range(sizes[other]):
        names[pixel] = root
        pixel = np.uint64(following[pixel])
    following[root], following[other] = following[other], following[root]
    sizes[root] += sizes[other]
    return root


@inner
def _number(names: Array, labels: Array) -> int:
    """Labels from 0, in order of each region's first pixel."""
    numbers = np.full(len(names), -1, np.int32)
    count = 0
    for pixel in range(len(names)):
        name = names[pixel]
        if numbers[name] < 0:
            numbers[name] = count
            count += 1
        labels[pixel] = numbers[name]
    return count
