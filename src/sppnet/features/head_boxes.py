"""What a detector's head says of a photograph: boxes that may hold an object, and a vector for each.

For each cell the head has a box, whether there is an object, a logit a class, and the features that its last
convolutions saw. The likeliest boxes, without near copies, are proposals; their vectors are what linear SVMs
learn new classes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Array, Floats, Ints
from sppnet.boxes import clip_boxes
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.ops.nms import nms

MAX_CELLS = 1500
"""The likeliest cells, among which near copies are suppressed."""
MAX_BOXES = 300
COPY_IOU = 0.85
"""IoU above which of two boxes the likelier one stays, whatever their classes."""

LOGIT_LIMIT = 12.0
"""Beyond it a probability is 0 or 1 for all that matters."""
LOG_SHARE = 0.25
"""Factor of logarithms of probabilities in a vector, so that they weigh like its other numbers."""


@dataclass(frozen=True, eq=False)
class HeadBoxes:
    """The boxes of a photograph, the likeliest object first."""

    boxes: Floats
    """(n, 4) xyxy in pixels of the photograph."""
    vectors: Floats
    """(n, d) as `VectorLayout` tells."""


@dataclass(frozen=True)
class VectorLayout:
    """Which numbers of a vector are what, in their order."""

    class_features: int
    box_features: int
    classes: int
    levels: int

    @staticmethod
    def of(trunk: OnnxTrunk) -> "VectorLayout":
        _, class_features, box_features, classes, *_ = trunk.graph.channels[0]
        return VectorLayout(class_features, box_features, classes, len(trunk.taps))

    @property
    def first_class(self) -> int:
        """Where the logarithms of the class probabilities begin."""
        return self.class_features + self.box_features

    @property
    def objectness(self) -> int:
        return self.first_class + self.classes

    @property
    def length(self) -> int:
        """With the level as one number each, and the logarithms of half the width and height."""
        return self.objectness + 1 + self.levels + 2


def read_head(
    trunk: OnnxTrunk, levels: Sequence[tuple[Array, ...]], ratio: Array, size_hw: tuple[int, int]
) -> HeadBoxes:
    """The boxes of an image.

    levels: as `OnnxTrunk.run` gives them. ratio: (4,) pixels of the network's image a pixel of the
    photograph, for x, y, x, y. size_hw: of the photograph.
    """
    cells = [_level_cells(index, trunk.strides, level) for index, level in enumerate(levels)]
    boxes, objectness, vectors = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    order = np.argsort(-objectness, kind="stable")[:MAX_CELLS]
    return _without_copies(
        clip_boxes((boxes[order] / ratio).astype(np.float32), size_hw), objectness[order], vectors[order]
    )


def join_boxes(several: Sequence[HeadBoxes], layout: "VectorLayout") -> HeadBoxes:
    """The boxes of a photograph that went through the network at several scales."""
    if len(several) == 1:
        return several[0]
    boxes = np.concatenate([one.boxes for one in several])
    vectors = np.concatenate([one.vectors for one in several])
    return _without_copies(boxes, vectors[:, layout.objectness], vectors)


def _without_copies(boxes: Floats, objectness: Array, vectors: Floats) -> HeadBoxes:
    kept: Ints = nms(boxes, objectness, COPY_IOU, MAX_BOXES)
    halves = vectors[kept].astype(np.float16)  # as the cache keeps them
    return HeadBoxes(boxes[kept], halves.astype(np.float32))


def _level_cells(
    index: int, strides: tuple[int, ...], level: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    """Boxes (n, 4) in the network's pixels, logits of objectness (n,), vectors (n, d) of a level's cells."""
    _, class_features, box_features, logits, boxes, objectness = map(_rows, level)
    height, width = level[4].shape[1:]
    rows, columns = np.divmod(np.arange(height * width), width)
    centres = (boxes[:, :2] + np.stack([columns, rows], 1)) * strides[index]
    halves = np.exp(boxes[:, 2:].clip(-10, 8)) * (strides[index] / 2)
    at_level = np.zeros((len(boxes), len(strides)), np.float32)
    at_level[:, index] = 1
    vectors = np.concatenate(
        [
            class_features, box_features, _log_probabilities(logits), _log_probabilities(objectness),
            at_level, np.log(np.maximum(halves, 1)) - 3,
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    return np.concatenate([centres - halves, centres + halves], 1), objectness[:, 0], vectors


def _rows(array: Array) -> Array:
    """(c, h, w) → (h·w, c)."""
    rows: Array = array.reshape(len(array), -1).T
    return rows


def _log_probabilities(logits: Array) -> Array:
    scaled: Array = -LOG_SHARE * np.log1p(np.exp(-logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)))
    return scaled
