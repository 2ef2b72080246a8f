"""What stands before and behind a detector's network in one graph: pixels, its own boxes, their vectors.

The same as `OnnxTrunk.prepare`, `choose_boxes` and `cell_vectors` compute, in ONNX's operators.
"""

from collections.abc import Sequence

import numpy as np

from sppnet.export.pooling import write_pool
from sppnet.features.head_boxes import COPY_IOU, LARGEST, MAX_BOXES, MAX_CANDIDATES
from sppnet.geometry.grid import RELEASED_SLACK_PX, SUBPIXELS, BoxMapping, CellGrid
from sppnet.nn.graph_writer import GraphWriter, Value
from sppnet.nn.head_output import LOG_SHARE, LOGIT_LIMIT
from sppnet.nn.onnx_graph import HeadLevel
from sppnet.nn.onnx_trunk import OnnxTrunk

FLOAT, FLOAT16, INT64, DOUBLE = 1, 10, 7, 11
"""Types as onnx.TensorProto numbers them."""


def write_pixels(op: GraphWriter, trunk: OnnxTrunk, pixels: Value) -> Value:
    """(h, w, 3) uint8 RGB → (1, 3, h', w') float32, padded on the right and at the bottom, and normalised."""
    how = trunk.convention
    planes = op.Cast(op.Transpose(pixels, perm=[2, 0, 1]), to=FLOAT)
    if how.bgr:
        planes = op.Gather(planes, op.ints(2, 1, 0), axis=0)
    size_hw = op.Shape(planes, start=1)
    if trunk.graph.dynamic:
        stride = op.ints(trunk.strides[-1])
        full = op.Mul(op.Div(op.Add(size_hw, op.ints(trunk.strides[-1] - 1)), stride), stride)
    else:
        full = op.ints(trunk.size_px, trunk.size_px)
    pads = op.Concat(op.ints(0, 0, 0, 0), op.Sub(full, size_hw), axis=0)
    planes = op.Pad(planes, pads, op.constant(how.fill))
    if (how.peak, how.mean, how.std) != (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        std = np.array(how.std)[:, None, None]
        planes = op.Mul(planes, op.constant(how.peak / 255 / std))
        planes = op.Sub(planes, op.constant(np.array(how.mean)[:, None, None] / std))
    return op.Unsqueeze(planes, op.ints(0))


def size_of(op: GraphWriter, image: Value) -> Value:
    """(h, w, …) → width and height, (2,) float32."""
    return op.Cast(op.Gather(op.Shape(image, start=0, end=2), op.ints(1, 0)), to=FLOAT)


# --- own boxes -------------------------------------------------------------------------------------


def write_own_boxes(op: GraphWriter, trunk: OnnxTrunk, size: Value, prefix: str) -> tuple[Value, Value]:
    """Boxes (n, 4) that the network finds by itself, in the image of `size`, and their vectors (n, d).

    prefix: of the names of what the network gives.
    """
    levels = [level.prefixed(prefix) for level in trunk.graph.levels]
    decoded = op.Concat(*(_decoded(op, trunk, level) for level in levels), axis=0)
    objectness = op.Concat(*(_flat(op, level.objectness, -1) for level in levels), axis=0)
    count = op.Min(op.Shape(objectness), op.ints(MAX_CANDIDATES))
    scores, order = op.two("TopK", objectness, count, axis=0)
    boxes = write_clipped(op, op.Gather(decoded, order, axis=0), size)
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, op.ints(0)), op.Unsqueeze(scores, op.ints(0, 1)), op.ints(MAX_BOXES),
        op.constant([COPY_IOU]),
    )  # fmt: skip
    kept = op.Gather(kept, op.constant(2, np.int64), axis=1)
    cells = op.Gather(order, kept)
    features = op.Concat(*(_columns(op, trunk, level, index) for index, level in enumerate(levels)), axis=1)
    vectors = op.Transpose(op.Gather(features, cells, axis=1), perm=[1, 0])
    sizes = _log_sizes(op, op.Gather(decoded, cells, axis=0))
    return op.Gather(boxes, kept, axis=0), write_rounded(op, op.Concat(vectors, sizes, axis=1))


def _flat(op: GraphWriter, tensor: Value, *shape: int) -> Value:
    """(1, c, h, w) → the shape, one number of which may be −1."""
    return op.Reshape(tensor, op.ints(*shape))


def _decoded(op: GraphWriter, trunk: OnnxTrunk, level: HeadLevel) -> Value:
    """(1, 4, h, w) as the head gives them → (h·w, 4) xyxy in pixels of the network's image."""
    first, zero = (op.constant(number, np.int64) for number in (1, 0))
    height, width = (op.Gather(op.Shape(level.boxes), op.constant(axis, np.int64)) for axis in (2, 3))
    cells = op.Range(zero, op.Mul(height, width), first)
    corner = [op.Unsqueeze(side, op.ints(0)) for side in (op.Mod(cells, width), op.Div(cells, width))]
    numbers = _flat(op, level.boxes, 4, -1)
    offset, size = (op.Slice(numbers, op.ints(2 * i), op.ints(2 * i + 2), op.ints(0)) for i in (0, 1))
    cell = op.Cast(op.Concat(*corner, axis=0), to=FLOAT)
    if trunk.graph.family == "yolox":
        centres = op.Add(cell, offset)
        halves = op.Mul(op.Exp(op.Clip(size, op.constant(-10), op.constant(8))), op.constant(0.5))
        both = op.Concat(op.Sub(centres, halves), op.Add(centres, halves), axis=0)
    else:
        point = op.Add(cell, op.constant(trunk.graph.centre))
        both = op.Concat(op.Sub(point, offset), op.Add(point, size), axis=0)
    return op.Transpose(op.Mul(both, op.constant(level.stride)), perm=[1, 0])


def _columns(op: GraphWriter, trunk: OnnxTrunk, level: HeadLevel, index: int) -> Value:
    """What vectors hold of every cell but its box: (d − 2, h·w)."""
    logits, objectness = (
        op.Mul(op.Softplus(op.Neg(_limited(op, one, LOGIT_LIMIT))), op.constant(-LOG_SHARE))
        for one in (level.logits, level.objectness)
    )
    if not trunk.graph.has_objectness:
        logits = op.Sub(logits, objectness)
    tensors = level.class_features, level.box_features, logits, objectness
    rows, levels = [_rows(op, one) for one in tensors if one], len(trunk.graph.levels)
    count = op.Shape(rows[0], start=1, end=2)
    which = op.constant(np.eye(levels)[index][:, None])
    at_level = op.Expand(which, op.Concat(op.ints(levels), count, axis=0))
    return op.Concat(*rows, at_level, axis=0)


def _limited(op: GraphWriter, numbers: Value, limit: float) -> Value:
    return op.Clip(numbers, op.constant(-limit), op.constant(limit))


def _rows(op: GraphWriter, tensor: Value) -> Value:
    """(1, c, h, w) → (c, h·w)"""
    channels = op.Shape(tensor, start=1, end=2)
    return op.Reshape(tensor, op.Concat(channels, op.ints(-1), axis=0))


def _log_sizes(op: GraphWriter, boxes: Value) -> Value:
    """As `head_output.log_sizes`."""
    low, high = halves_of(op, boxes)
    sides = op.Mul(op.Sub(high, low), op.constant(0.5))
    return op.Sub(op.Log(op.Max(sides, op.constant(1))), op.constant(3))


def halves_of(op: GraphWriter, boxes: Value) -> tuple[Value, Value]:
    """(…, 4) xyxy → (…, 2) and (…, 2)"""
    low, high = (op.Slice(boxes, op.ints(2 * i), op.ints(2 * i + 2), op.ints(-1)) for i in (0, 1))
    return low, high


def write_clipped(op: GraphWriter, boxes: Value, size: Value) -> Value:
    """`clip_boxes`: boxes (…, 4), size (2,) width and height."""
    one, zero = op.constant(1), op.constant(0)
    low, high = halves_of(op, boxes)
    low = op.Min(op.Max(low, zero), op.Sub(size, one))
    high = op.Min(op.Max(high, op.Add(low, one)), size)
    return op.Concat(low, high, axis=-1)


def write_rounded(op: GraphWriter, numbers: Value) -> Value:
    """Rounded to half precision, as the package keeps maps and vectors."""
    return op.Cast(op.Cast(_limited(op, numbers, LARGEST), to=FLOAT16), to=FLOAT)


# --- the pyramid -----------------------------------------------------------------------------------


def write_pyramid(
    op: GraphWriter, trunk: OnnxTrunk, boxes: Value, levels: Sequence[int], rule: BoxMapping, prefix: str
) -> Value:
    """boxes (n, 4) → (n, c × bins) pooled from the maps of all taps."""
    pooled = []
    for (_, level), tap in zip(trunk.map_levels, trunk.taps, strict=True):
        features = write_rounded(op, prefix + level.map)
        map_wh = op.Gather(op.Shape(features), op.ints(3, 2))
        pooled.append(write_pool(op, features, write_cells(op, boxes, tap.grid, map_wh, rule), levels))
    return op.Concat(*pooled, axis=1)


def write_cells(op: GraphWriter, boxes: Value, grid: CellGrid, map_wh: Value, rule: BoxMapping) -> Value:
    """`boxes_to_cells`: boxes (n, 4), map_wh (2,) int64 → (n, 5) int64, 0 and xyxy. Exact below 2^52."""

    def number(value: float) -> Value:
        return op.constant(value, np.float64)

    def floor_divided(numbers: Value, by: int) -> Value:
        return op.Floor(op.Div(numbers, number(by)))

    corners = op.Floor(op.Add(op.Mul(op.Cast(boxes, to=DOUBLE), number(SUBPIXELS)), number(0.5)))
    step = grid.stride * SUBPIXELS
    low, high = halves_of(op, op.Sub(corners, number(int(grid.center0 * SUBPIXELS))))
    if rule == "paper":
        first = op.Add(floor_divided(low, step), number(1))
        last = op.Sub(floor_divided(op.Add(high, number(step - 1)), step), number(1))
    else:
        slack = int(RELEASED_SLACK_PX * SUBPIXELS)
        first = floor_divided(op.Add(op.Mul(low, number(2)), number(2 * slack + step)), 2 * step)
        last = op.Sub(op.Mul(high, number(2)), number(2 * (SUBPIXELS + slack) - step + 1))
        last = floor_divided(last, 2 * step)
    middle = floor_divided(op.Add(first, last), 2)
    inverted = op.Greater(first, last)
    limit = op.Sub(op.Cast(map_wh, to=DOUBLE), number(1))
    low, high = (op.Min(op.Max(op.Where(inverted, middle, side), number(0)), limit) for side in (first, last))
    cells = op.Cast(op.Concat(low, op.Add(high, number(1)), axis=1), to=INT64)
    count = op.Shape(cells, start=0, end=1)
    which = op.Expand(op.ints(0), op.Concat(count, op.ints(1), axis=0))
    return op.Concat(which, cells, axis=1)
