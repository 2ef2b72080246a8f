"""Photographs zoomed, cut or bordered, mirrored and coloured at random, with their boxes."""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from sppnet.arrays import Array, Floats
from sppnet.boxes import mirror_boxes
from sppnet.data.image import ImageArray
from sppnet.structures import GroundTruth

ZOOM = (0.75, 1.3)
"""Factor of the scale; below 1 a border is added, above 1 a part is cut."""

MIN_OBJECT = 0.05
"""Share of an object's area below which it is gone; below MIN_PLAIN it counts as difficult."""
MIN_PLAIN = 0.4
MIN_PROPOSAL = 0.5
"""Share of a proposal's area that has to remain."""
MIN_SIDE = 4.0
"""Pixels."""

LIGHT, SATURATION, TINT = 0.2, 0.3, 8.0
"""Brightness and contrast, saturation: largest relative changes; tint: levels of a channel."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image to learn from."""

    pixels: ImageArray
    """(h, w, 3) RGB."""
    truth: GroundTruth
    proposals: Floats
    """(n, 4)"""


def augment(sample: Sample, canvas_hw: tuple[int, int], fill: Array, rng: np.random.Generator) -> Sample:
    """The sample on a canvas, whose shorter side the image's has at a zoom of 1.

    fill: (3,) the colour of borders.
    """
    height, width = sample.pixels.shape[:2]
    zoom = math.exp(rng.uniform(*np.log(ZOOM))) * min(canvas_hw) / min(height, width)
    scaled_hw = max(1, round(height * zoom)), max(1, round(width * zoom))
    top, left = (_offset(have, room, rng) for have, room in zip(scaled_hw, canvas_hw, strict=True))
    mirrored = rng.random() < 0.5
    pixels = _place(sample.pixels, scaled_hw, (top, left), canvas_hw, fill)
    ratio = np.array([scaled_hw[1] / width, scaled_hw[0] / height] * 2, np.float32)
    shift = np.array([left, top] * 2, np.float32)
    truth, proposals = sample.truth, sample.proposals
    boxes, shares = _clip(truth.boxes * ratio - shift, canvas_hw)
    seen, hidden = shares >= MIN_OBJECT, shares < MIN_PLAIN
    moved = replace(truth[seen], boxes=boxes[seen], difficult=(truth.difficult | hidden)[seen])
    proposed, kept = _clip(proposals * ratio - shift, canvas_hw)
    large = (proposed[:, 2:] - proposed[:, :2]).min(axis=1, initial=np.inf) >= MIN_SIDE
    proposed = proposed[(kept >= MIN_PROPOSAL) & large]
    if mirrored:
        pixels = pixels[:, ::-1]
        moved = replace(moved, boxes=mirror_boxes(moved.boxes, canvas_hw[1]))
        proposed = mirror_boxes(proposed, canvas_hw[1])
    return Sample(_recolour(pixels, rng), moved, proposed)


def _offset(have: int, room: int, rng: np.random.Generator) -> int:
    """Where the canvas begins in the scaled image; below 0 it has a border there."""
    return int(rng.integers(min(0, have - room), max(0, have - room) + 1))


def _place(
    pixels: ImageArray,
    scaled_hw: tuple[int, int],
    offset: tuple[int, int],
    canvas_hw: tuple[int, int],
    fill: Array,
) -> ImageArray:
    """The part of the scaled image that lies on the canvas; resampled once, and only that part."""
    canvas = np.empty((*canvas_hw, 3), np.uint8)
    canvas[:] = fill
    first = [max(0, one) for one in offset]
    end = [min(s, o + c) for s, o, c in zip(scaled_hw, offset, canvas_hw, strict=True)]
    ratio = [have / scaled for have, scaled in zip(pixels.shape[:2], scaled_hw, strict=True)]
    box = (first[1] * ratio[1], first[0] * ratio[0], end[1] * ratio[1], end[0] * ratio[0])
    part = Image.fromarray(pixels).resize(
        (end[1] - first[1], end[0] - first[0]), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    top, left = (f - o for f, o in zip(first, offset, strict=True))
    canvas[top : top + part.height, left : left + part.width] = np.asarray(part)
    return canvas


def _clip(boxes: Floats, size_hw: tuple[int, int]) -> tuple[Floats, Floats]:
    """Boxes within the canvas, and (n,) the share of its area that each keeps."""
    limits = np.array([size_hw[1], size_hw[0]] * 2, np.float32)
    clipped = boxes.clip(0, limits).astype(np.float32)
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    shares = (sides.prod(axis=1) / before.prod(axis=1).clip(1e-6)).astype(np.float32)
    return clipped, shares


def _recolour(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Brightness, contrast, saturation and tint, each at random."""
    light, contrast = 1 + LIGHT * rng.uniform(-1, 1, 2)
    colours = pixels.astype(np.float32) * np.float32(light)
    mean = colours.mean()
    colours = (colours - mean) * np.float32(contrast) + mean
    grey = colours.mean(axis=2, keepdims=True)
    colours = (colours - grey) * np.float32(1 + SATURATION * rng.uniform(-1, 1)) + grey
    colours += rng.uniform(-TINT, TINT, 3).astype(np.float32)
    return np.ascontiguousarray(colours.clip(0, 255).astype(np.uint8))
