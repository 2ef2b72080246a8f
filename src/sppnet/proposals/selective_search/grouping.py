"""Hierarchical grouping: the two most similar neighbours become one region, until one is left.

Uijlings et al., IJCV 2013, section 3 (paper-spec §6.1). The similarity of two neighbours is a sum of up to
four parts, each 0..1: colour and texture compare histograms by what they share; size favours small
regions, and fill those that fit into each other. A region's histograms are the means of its parts',
weighted by pixels, so no pixel is read twice.

The pairs wait in a heap. A pair of which a region has been united with another is dropped when it
comes up: that is cheaper than finding it in the heap.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import compiled, inner, jit
from sppnet.proposals.selective_search.regions import COLOURS, Regions

_ENTRY_BITS = 30
_LAST_ENTRY = (1 << _ENTRY_BITS) - 1

_PRECISION = 1 << 30
"""Similarities are compared in these parts of 1; the largest is 4."""


@dataclass(frozen=True)
class Similarity:
    """Which parts are summed."""

    colour: bool = False
    texture: bool = False
    size: bool = False
    fill: bool = False


def group(regions: Regions, similarity: Similarity) -> Array:
    """Boxes (2n − 1, 4) int32: of the n regions, then of each union in the order of their making.

    Of equally similar pairs the one that became neighbours first is united first.
    """
    n = len(regions.sizes)
    boxes, sizes = np.empty((2 * n - 1, 4), np.int32), np.empty(2 * n - 1, np.int64)
    boxes[:n], sizes[:n] = regions.boxes, regions.sizes
    flags = (similarity.colour, similarity.texture, similarity.size, similarity.fill)
    rows, parents = np.arange(2 * n - 1), np.arange(2 * n - 1)
    tree = (boxes, sizes, regions.histograms.copy(), rows, parents)
    _group(tree, regions.neighbours, flags, regions.pixels)
    return boxes


# --- compiled ------------------------------------------------------------------------------------
#
# tree: (boxes, sizes, histograms, rows, parents), for regions in order of their making. A union takes
#     over a row of the histograms; parents leads from a region to the union that holds it now.
# chains[region] is the first of the links to its neighbours, following[link] the next: link 2 · pair
#     leads from the first of a pair of neighbours to the second, 2 · pair + 1 back.


@compiled
def _group(tree: Any, neighbours: Array, flags: tuple[bool, ...], pixels: int) -> None:
    total = len(tree[0])
    n = (total + 1) // 2
    chains, following = _chain(neighbours, total)
    pairs = np.empty((8 * len(neighbours) + n, 2), np.int32)
    heap = np.empty(len(pairs), np.int64)
    seen = np.full(total, -1, np.int64)
    entries: Any = np.int64(0)  # every other type of an argument would be compiled anew
    used: Any = np.int64(0)
    for i in range(len(neighbours)):
        first, second = np.int64(neighbours[i, 0]), np.int64(neighbours[i, 1])
        used = _enter(first, second, entries, pairs, heap, used, tree, flags, pixels)
        entries += 1
    for union in range(n, total):
        a, b, used = _pop_living(heap, used, pairs, tree[4])
        _unite(a, b, union, tree)
        _join_chains(a, b, union, chains, following, neighbours, tree[4], seen)
        if entries + n > len(pairs):
            pairs, heap = np.concatenate((pairs, np.empty_like(pairs))), np.concatenate((heap, heap))
        link = chains[union]
        while link >= 0:
            other = _root(tree[4], neighbours[link >> 1, 1 - (link & 1)])
            used = _enter(other, union, entries, pairs, heap, used, tree, flags, pixels)
            entries += 1
            link = following[link]


@inner
def _unite(a: int, b: int, union: int, tree: Any) -> None:
    boxes, sizes, histograms, rows, parents = tree
    parents[a] = parents[b] = union
    for i in range(2):
        boxes[union, i] = min(boxes[a, i], boxes[b, i])
        boxes[union, i + 2] = max(boxes[a, i + 2], boxes[b, i + 2])
    sizes[union], rows[union] = sizes[a] + sizes[b], rows[a]
    share = np.float32(sizes[a] / sizes[union])
    mean, other = histograms[rows[a]], histograms[rows[b]]
    for i in range(len(mean)):
        mean[i] = share * mean[i] + (np.float32(1) - share) * other[i]


@inner
def _similarity(a: int, b: int, tree: Any, flags: tuple[bool, ...], pixels: int) -> float:
    boxes, sizes, histograms, rows, _ = tree
    first, second = histograms[rows[a]], histograms[rows[b]]
    both = sizes[a] + sizes[b]
    value = 0.0
    if flags[0]:
        value += _shared(first[:COLOURS], second[:COLOURS])
    if flags[1]:
        value += _shared(first[COLOURS:], second[COLOURS:])
    if flags[2]:
        value += 1 - both / pixels
    if flags[3]:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        value += 1 - (np.int64(width) * height - both) / pixels
    return value


@jit(fastmath={"reassoc", "contract", "nnan", "nsz"})
def _shared(first: Array, second: Array) -> Any:
    total = np.float32(0)
    for i in range(len(first)):
        total += min(first[i], second[i])
    return total


# --- neighbours ----------------------------------------------------------------------------------


@inner
def _chain(neighbours: Array, total: int) -> tuple[Array, Array]:
    chains = np.full(total, -1, np.int64)
    following = np.empty(2 * len(neighbours), np.int64)
    for link in range(2 * len(neighbours) - 1, -1, -1):
        region = neighbours[link >> 1, link & 1]
        following[link] = chains[region]
        chains[region] = link
    return chains, following


@inner
def _join_chains(
    a: int,
    b: int,
    union: int,
    chains: Array,
    following: Array,
    neighbours: Array,
    parents: Array,
    seen: Array,
) -> None:
    """The links of two regions become their union's: none to itself, and one to each neighbour."""
    last = np.int64(-1)
    for region in (a, b):
        link = chains[region]
        while link >= 0:
            other = _root(parents, neighbours[link >> 1, 1 - (link & 1)])
            after = following[link]
            if other != union and seen[other] != union:
                seen[other] = union
                if last < 0:
                    chains[union] = link
                else:
                    following[last] = link
                last = link
                following[link] = -1
            link = after


@inner
def _root(parents: Array, region: int) -> int:
    """The union that holds a region; the way there is halved."""
    while parents[region] != region:
        parents[region] = parents[parents[region]]
        region = parents[region]
    return region


# --- heap ----------------------------------------------------------------------------------------
#
# A key is the similarity, then the entry, earlier ones larger: one integer, so keys never tie.


@inner
def _enter(
    a: Any, b: Any, entry: int, pairs: Array, heap: Array, used: int, tree: Any, flags: tuple[bool, ...],
    pixels: int,
) -> int:  # fmt: skip
    """The number of keys, one more."""
    pairs[entry, 0], pairs[entry, 1] = a, b
    value = np.int64(_similarity(a, b, tree, flags, pixels) * _PRECISION)
    key = (value << _ENTRY_BITS) | (_LAST_ENTRY - entry)
    place = used
    while place > 0 and heap[(place - 1) >> 1] < key:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = key
    return used + 1


@inner
def _pop_living(heap: Array, used: int, pairs: Array, parents: Array) -> tuple[Any, Any, int]:
    """The most similar two that are regions still, and the number of keys left."""
    while True:
        pair = pairs[_LAST_ENTRY - (heap[0] & _LAST_ENTRY)]
        used -= 1
        _sink(heap, used, heap[used])
        if parents[pair[0]] == pair[0] and parents[pair[1]] == pair[1]:
            return np.int64(pair[0]), np.int64(pair[1]), used


@inner
def _sink(heap: Array, used: int, key: int) -> None:
    """Puts a key in the place of the first."""
    place, child = 0, 1
    while child < used:
        if child + 1 < used and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = key
