"""Whether a cut network still says what the whole file says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sppnet.arrays import Array
from sppnet.errors import ModelError
from sppnet.nn.onnx_cells import decode_distances
from sppnet.nn.onnx_file import parse_model, read_bytes
from sppnet.nn.onnx_head_outputs import integrate, sigmoid
from sppnet.nn.onnx_session import open_session, run_session
from sppnet.nn.onnx_trunk import OnnxTrunk

TOLERANCE = 1e-3
"""Two runs of one network may differ by this share, since the whole one is optimised otherwise."""


def compare_with_file(trunk: OnnxTrunk, path: str | Path, image: Array) -> float | None:
    """The largest difference between the cut network and the file's own output on an image.

    image: (h, w, 3) uint8 RGB, at most the file's size. Of YOLOX raw boxes are compared, as it gives them,
    (1, cells, 5 + classes); of other heads boxes in pixels and class scores. None where the file gives
    something else. Raises ModelError for a difference that is no rounding.
    """
    side = trunk.graph.size_px
    padded = np.full((side, side, 3), trunk.convention.fill, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    images = trunk.prepare(padded)
    content = read_bytes(Path(path))
    parse_model(content, str(path))
    outputs = run_session(open_session(content), images)
    if trunk.graph.family == "yolox":
        got = _as_yolox(trunk, images)
        expected = outputs[0][0] if outputs[0].shape == (1, *got.shape) else None
    else:
        got, expected = _boxes_and_scores(trunk, images), _own_boxes_and_scores(trunk, outputs)
    if expected is None:
        return None
    difference = float(np.abs(expected - got).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"{path}: the network without its last steps differs from the file's own output by "
            f"{difference:.3g}"
        )
    return difference


def _as_yolox(trunk: OnnxTrunk, images: Array) -> Array:
    """(cells, 5 + classes): boxes as the network gives them, sigmoids of objectness and classes."""
    rows = []
    for _, _, _, logits, boxes, objectness in trunk.run(images):
        probabilities = 1 / (1 + np.exp(-np.concatenate([objectness, logits])))
        rows.append(np.concatenate([boxes, probabilities]).reshape(5 + len(logits), -1).T)
    return np.concatenate(rows)


def _boxes_and_scores(trunk: OnnxTrunk, images: Array) -> Array:
    """(cells, 4 + classes): boxes in pixels, and the network's own scores."""
    levels = trunk.run(images)
    logits = np.concatenate([level[3].reshape(len(level[3]), -1).T for level in levels])
    scores = sigmoid(logits)
    if trunk.graph.has_objectness:
        scores *= sigmoid(np.concatenate([level[5].reshape(-1, 1) for level in levels]))
    return np.concatenate([trunk.decode(levels), scores], 1)


def _own_boxes_and_scores(trunk: OnnxTrunk, outputs: Sequence[Array]) -> Array | None:
    """The same of the file's outputs; None where they are other ones than `onnx_heads` reads."""
    classes, family = trunk.layout.classes, trunk.graph.family
    if family in ("nanodet", "picodet"):
        return _of_distributions(trunk, outputs)
    width = classes + (5 if family == "yolov5" else 4)
    rows = next((one[0] for one in outputs if one.ndim == 3 and width in one.shape[1:]), None)
    if rows is None:
        return None
    rows = rows if rows.shape[1] == width else rows.T
    centres, halves, scores = rows[:, :2], rows[:, 2:4] / 2, rows[:, -classes:]
    if family == "yolov5":
        scores = scores * rows[:, 4:5]
    return np.concatenate([centres - halves, centres + halves, scores], 1)


def _of_distributions(trunk: OnnxTrunk, outputs: Sequence[Array]) -> Array | None:
    """Of class scores and distributions, joined or a tensor for each stride."""
    classes, side, parts = trunk.layout.classes, trunk.size_px, []
    counts = [-(side // -level.stride) for level in trunk.graph.levels]
    joined = [one[0] for one in outputs if one.shape[:2] == (1, sum(count**2 for count in counts))]
    ends = np.cumsum([count**2 for count in counts])
    for index, count in enumerate(counts):
        if joined:
            rows = joined[0][ends[index] - count**2 : ends[index]]
        else:
            some = [one.reshape(one.shape[1], -1).T if one.ndim == 4 else one[0] for one in outputs]
            some = [one for one in some if len(one) == count**2]
            some.sort(key=lambda one: one.shape[1] != classes)
            rows = np.concatenate(some, 1)
        numbers = rows[:, classes:].T.reshape(-1, count, count)
        if len(numbers) % 4:
            return None
        parts.append((rows[:, :classes], integrate(numbers, len(numbers) // 4)))
    levels = [(*[boxes] * 5,) for _, boxes in parts]
    strides = [level.stride for level in trunk.graph.levels]
    scores = np.concatenate([scores for scores, _ in parts])
    return np.concatenate([decode_distances(levels, strides, trunk.graph.centre), scores], 1)
