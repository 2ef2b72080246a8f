"""Box algebra: checks, area and overlap, matching, box regression's coding, clipping.

Boxes are (n, 4) xyxy in pixels, half-open: widths are x1 − x0, without the 1 that boxes of whole pixels
need. Suppression is compiled, and so in `ops.nms`.
"""

import math

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Array, Doubles, Floats, Ints, Reals, array_of
from sppnet.errors import DataError, GeometryError

MAX_LOG_SCALE = 1000 / 16
"""A window's sides grow or shrink by this factor at most: more is a mistake, and exp of it may overflow."""


def check_boxes(boxes: npt.ArrayLike) -> Floats:
    """(n, 4) float32, read-only; raises DataError unless every box is finite and not empty."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite then
        array = np.array(array_of(boxes), dtype=np.float32)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise DataError(f"boxes must have shape (n, 4), xyxy; got {array.shape}")
    good = np.isfinite(array).all(axis=1) & (array[:, 2] > array[:, 0]) & (array[:, 3] > array[:, 1])
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"a box needs x0 < x1 and y0 < y1, all finite; box {first} is {array[first].tolist()}"
        )
    array.setflags(write=False)
    return array


def box_area(boxes: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Array:
    """(n, 4) → (n,) in square pixels."""
    array = np.asarray(boxes, dtype).reshape(-1, 4)
    result: Array = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    return result


def box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Array:
    """(n, 4) and (m, 4) → (n, m) intersection over union, computed in `dtype`."""
    a, b = (np.asarray(array, dtype).reshape(-1, 4) for array in (boxes, others))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = box_area(a, dtype)[:, None] + box_area(b, dtype)[None, :] - shared
    result: Array = np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(dtype)
    return result


def match_boxes(
    boxes: npt.ArrayLike, others: npt.ArrayLike, dtype: npt.DTypeLike = np.float32
) -> tuple[Array, Ints]:
    """(n,) IoU of each box with the one of `others` it overlaps most, and its index: the first of equals.

    An index is −1 where there are no others.
    """
    shared = box_iou(boxes, others, dtype)
    if not shared.shape[1]:
        return np.zeros(len(shared), dtype), np.full(len(shared), -1)
    best = shared.argmax(axis=1)
    return shared[np.arange(len(shared)), best], best


def to_xywh(boxes: Reals) -> Doubles:
    """xyxy → x0, y0, width, height, as COCO has them."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return np.concatenate([low, high - low], axis=1)


def mirror_boxes(boxes: Floats, width: int) -> Floats:
    """Boxes (n, 4) of an image of this width, where its mirror image has them."""
    mirrored = boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return mirrored


# --- box regression (paper section 4.1, as in R-CNN) ----------------------------------------------


def encode_boxes(boxes: npt.ArrayLike, targets: npt.ArrayLike) -> Doubles:
    """(n, 4) and (n, 4) → deltas (n, 4): (Δcx/w, Δcy/h, log w'/w, log h'/h) from each box to its target.

    Raises GeometryError for boxes that are empty or not finite.
    """
    centres, sides = _centres_and_sides("boxes", boxes)
    target_centres, target_sides = _centres_and_sides("targets", targets)
    if len(centres) != len(target_centres):
        raise GeometryError(f"{len(centres)} boxes need as many targets; got {len(target_centres)}")
    return np.hstack([(target_centres - centres) / sides, np.log(target_sides / sides)])


def decode_boxes(boxes: npt.ArrayLike, deltas: npt.ArrayLike) -> Floats:
    """The inverse of `encode_boxes`; sides change by a factor of MAX_LOG_SCALE at most.

    The boxes may reach beyond the image. Raises GeometryError for empty boxes and deltas of another shape.
    """
    centres, sides = _centres_and_sides("boxes", boxes)
    moves = np.asarray(deltas, np.float64)
    if moves.shape != (len(centres), 4):
        raise GeometryError(f"{len(centres)} boxes need deltas ({len(centres)}, 4); got {moves.shape}")
    if not np.isfinite(moves).all():
        raise GeometryError("deltas must be finite; got NaN or infinity: check the vectors they came from")
    centres = centres + moves[:, :2] * sides
    max_log = math.log(MAX_LOG_SCALE)
    half = 0.5 * sides * np.exp(np.clip(moves[:, 2:], -max_log, max_log))
    with np.errstate(over="ignore"):  # what float32 cannot hold lies beyond any image
        return np.hstack([centres - half, centres + half]).astype(np.float32)


def clip_boxes(boxes: Floats, size_hw: tuple[int, int]) -> Floats:
    """Boxes cut to an image; none becomes narrower or lower than a pixel.

    One that lies outside becomes a row or column of pixels at the nearest border.
    """
    height, width = size_hw
    if min(size_hw) < 1:
        raise GeometryError(f"an image must be 1×1 pixels or more; got size_hw={size_hw}")
    size = np.array([width, height], np.float32)
    low = np.clip(boxes[:, :2], 0, size - 1)
    high = np.clip(boxes[:, 2:], low + 1, size)
    return np.hstack([low, high])


def _centres_and_sides(name: str, boxes: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """(n, 2) and (n, 2), x before y."""
    array = np.asarray(boxes, np.float64)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise GeometryError(f"{name} must have shape (n, 4), xyxy; got {array.shape}")
    low, high = array[:, :2], array[:, 2:]
    good = np.isfinite(array).all(axis=1) & (high > low).all(axis=1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise GeometryError(f"{name} must be finite and not empty; number {first} is {array[first].tolist()}")
    return (low + high) / 2, high - low
