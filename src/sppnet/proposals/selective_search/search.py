"""Selective search: boxes that may hold an object, from grouping the regions of an image many ways.

Uijlings et al., IJCV 2013; the settings are those of SPP-net's code (paper-spec §6.1). Every strategy is
a colour space, a k of the segmentation and a similarity. Its regions, small ones first, are united until
one is left, and the box of each on the way is a proposal. Strategies share what they have in common:
the planes and sorted edges of a colour space, the described regions of a colour space and k.

Work is spread over threads, not over a parallel kernel's: they may be called from any thread and
process. Nothing depends on their number.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sppnet.arrays import Array, Floats
from sppnet.data.image import ImageSource, read_image
from sppnet.errors import ConfigError, did_you_mean
from sppnet.jit import jit, thread_count
from sppnet.proposals.selective_search.colour import ColourSpace, to_planes
from sppnet.proposals.selective_search.grouping import Similarity, group
from sppnet.proposals.selective_search.regions import code_pixels, describe
from sppnet.proposals.selective_search.segmentation import SortedEdges, join_edges, smooth, sort_edges

Mode = Literal["fast", "quality"]

MIN_SIDE = 20
"""Pixels; of the paper's code."""

REPEATED = 0.8
"""Boxes that overlap another by more come late. Recall at IoU 0.5 (0.7) of 500, 1,000 and 2,000 boxes, on 100
test images of VOC 2007's bus, car, cat, person and train: 86.1 (60.2), 93.1 (64.9), 94.8 (68.4) %; without
this 77.5 (55.8), 89.6 (64.5), 94.8 (69.3); in a random order 80.6 (54.4), 88.1 (65.0), 94.0 (69.1)."""


@dataclass(frozen=True)
class Strategies:
    """All combinations of these."""

    spaces: tuple[ColourSpace, ...]
    ks: tuple[int, ...]
    similarities: tuple[Similarity, ...]


_ALL = Similarity(colour=True, texture=True, size=True, fill=True)
_NO_COLOUR = Similarity(texture=True, size=True, fill=True)

STRATEGIES: dict[Mode, Strategies] = {
    "fast": Strategies(("hsv", "lab"), (50, 100), (_ALL, _NO_COLOUR)),
    "quality": Strategies(
        ("hsv", "lab", "rgi", "h", "i"),
        (50, 100, 150, 300),
        (_ALL, _NO_COLOUR, Similarity(fill=True), Similarity(size=True)),
    ),
}


def selective_search(
    image: ImageSource,
    mode: Mode = "fast",
    *,
    min_side: int = MIN_SIDE,
    max_proposals: int | None = None,
) -> Floats:
    """Proposals of an image, the best first → (n, 4) float32.

    image: whatever `read_image` takes; usually (h, w, 3) uint8 RGB. It is not resized.
    mode: "fast", 8 strategies and the paper's choice, or "quality", 80.
    min_side: boxes narrower or lower than this many pixels are left out.
    most: no more boxes than this, of those `rank` puts first.
    The same boxes in the same order on any number of threads. Raises ConfigError for another mode.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode must be fast or quality; got {mode!r}: {did_you_mean(mode, get_args(Mode))}")
    if min_side < 0 or (max_proposals is not None and max_proposals < 0):
        raise ConfigError(
            f"min_side and max_proposals must be at least 0; got {min_side} and {max_proposals}"
        )
    return rank(group_all(read_image(image), STRATEGIES[mode]), min_side)[:max_proposals]


def group_all(image: Array, strategies: Strategies) -> list[Array]:
    """The boxes of every strategy: a list of (2n − 1, 4) int32, each in the order of their making."""
    with ThreadPoolExecutor(thread_count()) as threads:
        prepared = list(threads.map(lambda space: _Prepared.of(image, space), strategies.spaces))
        tasks = [(space, k) for space in prepared for k in strategies.ks]
        found = list(threads.map(lambda task: _group_one(task[0], task[1], strategies.similarities), tasks))
    return [boxes for several in found for boxes in several]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image in one colour space, for any k."""

    edges: SortedEdges
    codes: Array

    @staticmethod
    def of(image: Array, space: ColourSpace) -> "_Prepared":
        planes = to_planes(image, space)
        smoothed = smooth(planes)
        return _Prepared(sort_edges(smoothed), code_pixels(planes, smoothed))


def _group_one(prepared: _Prepared, k: int, similarities: Sequence[Similarity]) -> list[Array]:
    """For one colour space and k the boxes of each similarity. The least region has k pixels, too."""
    regions = describe(*join_edges(prepared.edges, k, min_size=k), prepared.codes)
    return [group(regions, similarity) for similarity in similarities]


def rank(found: Iterable[Array], min_side: int = 0) -> Floats:
    """Lists of boxes in the order of their making → each box once, the best first.

    Unions made late come first, and every list has its turn; but a box that overlaps a better one by
    more than REPEATED waits until all others had theirs. The paper draws the order at random, late
    unions rather first.
    """
    lists = list(found)
    places = np.concatenate([np.arange(len(boxes))[::-1] for boxes in lists])
    boxes = np.concatenate(lists)[np.argsort(places, kind="stable")]
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= min_side]
    boxes = _without_copies(boxes).astype(np.float32)
    repeated = np.zeros(len(boxes), np.float32)
    _find_repeated(np.ascontiguousarray(boxes.T), REPEATED, repeated)
    ranked: Floats = boxes[np.argsort(repeated, kind="stable")]
    return ranked


def _without_copies(boxes: Array) -> Array:
    """Each box where it comes first."""
    order = np.lexsort(boxes.T)  # stable
    new = np.ones(len(boxes), np.bool_)
    new[1:] = (boxes[order[1:]] != boxes[order[:-1]]).any(axis=1)
    return boxes[np.sort(order[new])]


@jit(fastmath={"nnan", "nsz"})
def _find_repeated(sides: Array, max_proposals: float, repeated: Array) -> None:
    """Sets 1 for boxes that overlap an earlier one, itself 0, by more than `max_proposals`.

    sides: (4, n).     repeated: (n,). All float32, as only one type is done several at a time.
    """
    none, share = np.float32(0), np.float32(max_proposals)
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    for i in range(len(repeated)):
        if repeated[i] > 0:
            continue
        x0, y0, x1, y1, area = sides[0, i], sides[1, i], sides[2, i], sides[3, i], areas[i]
        lefts, tops, rights, bottoms = sides[0, i:], sides[1, i:], sides[2, i:], sides[3, i:]
        others, marks = areas[i:], repeated[i:]
        for j in range(1, len(marks)):
            width = max(min(x1, rights[j]) - max(x0, lefts[j]), none)
            height = max(min(y1, bottoms[j]) - max(y0, tops[j]), none)
            shared = width * height
            marks[j] = max(marks[j], np.float32(shared > share * (area + others[j] - shared)))
