"""Regions of a segmentation, described for grouping: boxes, pixels, histograms and neighbours.

Uijlings et al., IJCV 2013, section 3.2 (paper-spec §6.1). The bins that a pixel counts in do not depend
on the segmentation: they are found once for all segmentations of the same planes.

n regions      histograms (n, 315) float32: 25 colour bins for each of 3 planes, then 10 texture bins for
each of 3 planes, 4 directions and 2 signs; each kind sums to 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.arrays import Array
from sppnet.jit import compiled, inner

COLOUR_BINS = 25
TEXTURE_BINS = 10

TEXTURE_RANGE = 128.0
"""Grey levels a pixel: no derivative reaches it, the diagonal ones apart, whose last bin has no end. On 160
training images of VOC 2007's 5 classes, recall at IoU 0.7 of all boxes: 24 gave 67.0 %, 64 68.4, 128 70.0."""

COLOURS = 3 * COLOUR_BINS
"""Where the texture bins begin."""
BINS = COLOURS + 3 * 4 * 2 * TEXTURE_BINS


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a segmentation, described."""

    boxes: Array
    """(n, 4) int32."""
    sizes: Array
    """(n,) int64 pixels."""
    histograms: Array
    """(n, 315) float32."""
    neighbours: Array
    """(m, 2) int32, each pair once, lower region first, in order."""
    pixels: int
    """Of the image."""


def code_pixels(planes: Array, smoothed: Array) -> Array:
    """Planes (3, h, w) float32, values 0..255, and the same smoothed → (h · w, 15) uint8 histogram bins.

    Texture is what the paper takes Gaussian derivatives in eight directions for: central differences
    of the smoothed planes in four, and their signs. (With σ 0.8 that is nearly σ 1.)
    """
    _, height, width = planes.shape
    codes = np.empty((height * width, 15), np.uint8)
    _code_pixels(planes, smoothed, TEXTURE_RANGE, codes)
    return codes


def describe(labels: Array, count: int, codes: Array) -> Regions:
    """The `count` regions of labels (h, w), each of which occurs."""
    sizes, boxes = np.zeros(count, np.int64), np.empty((count, 4), np.int32)
    counts = np.zeros((count, BINS), np.int32)
    _count(labels, codes, sizes, boxes, counts)
    histograms = np.empty((count, BINS), np.float32)
    _share(sizes, counts, histograms)
    return Regions(boxes, sizes, histograms, _find_neighbours(labels, count), labels.size)


# --- compiled ------------------------------------------------------------------------------------


@compiled
def _code_pixels(planes: Array, smoothed: Array, reach: float, codes: Array) -> None:
    _, height, width = planes.shape
    bins = np.float32(TEXTURE_BINS / reach)
    for c in range(3):
        for y in range(height):
            above, below = smoothed[c, max(y - 1, 0)], smoothed[c, min(y + 1, height - 1)]
            here = smoothed[c, y]
            for x in range(width):
                across = (here[min(x + 1, width - 1)] - here[max(x - 1, 0)]) * np.float32(0.5)
                down = (below[x] - above[x]) * np.float32(0.5)
                row = codes[y * width + x]
                row[c] = min(np.int32(planes[c, y, x] * np.float32(COLOUR_BINS / 256)), COLOUR_BINS - 1)
                row[3 + 4 * c] = _texture_bin(across, bins)
                row[4 + 4 * c] = _texture_bin((across + down) * np.float32(0.70710678), bins)
                row[5 + 4 * c] = _texture_bin(down, bins)
                row[6 + 4 * c] = _texture_bin((down - across) * np.float32(0.70710678), bins)


@inner
def _texture_bin(slope: Any, bins: Any) -> Any:
    """0..9 for a positive slope, 10..19 for a negative one."""
    size: Any = np.int32(abs(slope) * bins)
    size = size if size < TEXTURE_BINS else TEXTURE_BINS - 1
    return size if slope >= 0 else size + TEXTURE_BINS


@compiled
def _count(labels: Array, codes: Array, sizes: Array, boxes: Array, counts: Array) -> None:
    height, width = labels.shape
    boxes[:, :2], boxes[:, 2:] = max(height, width), 0
    for y in range(height):
        for x in range(width):
            region = np.uint64(labels[y, x])
            sizes[region] += 1
            box, row, code = boxes[region], counts[region], codes[y * width + x]
            box[0], box[1] = min(box[0], x), min(box[1], y)
            box[2], box[3] = max(box[2], x + 1), max(box[3], y + 1)
            for c in range(3):
                row[np.uint64(c * COLOUR_BINS + code[c])] += 1
            for t in range(12):
                row[np.uint64(COLOURS + t * 2 * TEXTURE_BINS + code[3 + t])] += 1


@compiled
def _share(sizes: Array, counts: Array, histograms: Array) -> None:
    """Counts as shares of their sums: a pixel counts once for each plane, direction and sign."""
    for region in range(len(sizes)):
        row, size = counts[region], sizes[region]
        for first in range(COLOURS, BINS, TEXTURE_BINS):
            # A slope that has one sign is 0 for the other: it belongs in the first bin there.
            row[first] += size - row[first : first + TEXTURE_BINS].sum()
        for i in range(COLOURS):
            histograms[region, i] = row[i] / (3 * size)
        for i in range(COLOURS, BINS):
            histograms[region, i] = row[i] / (24 * size)


def _find_neighbours(labels: Array, count: int) -> Array:
    """(m, 2) pairs of regions with pixels side by side or above each other."""
    keys = np.unique(_border_keys(labels, count))
    return np.stack([keys // count, keys % count], axis=1).astype(np.int32)


@compiled
def _border_keys(labels: Array, count: int) -> Array:
    """lower · count + higher of neighbouring pixels' regions, runs of the same shortened."""
    height, width = labels.shape
    keys = np.empty(2 * labels.size, np.int64)
    used = 0
    for down in range(2):
        last = np.int64(-1)
        for y in range(height - down):
            for x in range(width - 1 + down):
                a, b = labels[y, x], labels[y + down, x + 1 - down]
                if a != b:
                    key = np.int64(min(a, b)) * count + max(a, b)
                    if key != last:
                        keys[used] = key
                        used += 1
                    last = key
    return keys[:used].copy()
