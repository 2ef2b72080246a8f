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

OWN_NMS_IOU = 0.5
"""IoU above which the network itself, of two boxes of a class, would show the likelier one only."""

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

    def likeliest(self, vectors: Array) -> Ints:
        """(n, d) vectors → (n,) the class of the network that each most likely is."""
        labels: Ints = vectors[:, self.first_class : self.objectness].argmax(axis=1)
        return labels

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
    boxes = np.concatenate(
        [_boxes(level[4], stride) for level, stride in zip(levels, trunk.strides, strict=True)]
    )
    objectness = np.concatenate([level[5].ravel() for level in levels])
    order = np.argsort(-objectness, kind="stable")[:MAX_CELLS]
    found = clip_boxes((boxes[order] / ratio).astype(np.float32), size_hw)
    kept: Ints = nms(found, objectness[order], COPY_IOU, MAX_BOXES)
    cells = order[kept]
    return HeadBoxes(found[kept], _rounded(_vectors(levels, cells, boxes[cells])))


def join_boxes(several: Sequence[HeadBoxes], layout: "VectorLayout") -> HeadBoxes:
    """The boxes of a photograph that went through the network at several scales."""
    if len(several) == 1:
        return several[0]
    boxes = np.concatenate([one.boxes for one in several])
    vectors = np.concatenate([one.vectors for one in several])
    kept = nms(boxes, vectors[:, layout.objectness], COPY_IOU, MAX_BOXES)
    return HeadBoxes(boxes[kept], vectors[kept])


def _rounded(vectors: Array) -> Floats:
    """As the cache keeps them, in half precision."""
    return vectors.astype(np.float16).astype(np.float32)


def _boxes(numbers: Array, stride: int) -> Array:
    """(4, h, w) as the head gives them → (h·w, 4) xyxy in the network's pixels."""
    height, width = numbers.shape[1:]
    rows, columns = np.divmod(np.arange(height * width), width)
    dx, dy, log_width, log_height = numbers.reshape(4, -1)
    centres = np.stack([columns + dx, rows + dy], 1) * stride
    halves = np.exp(np.stack([log_width, log_height], 1).clip(-10, 8)) * (stride / 2)
    return np.concatenate([centres - halves, centres + halves], 1)


def _vectors(levels: Sequence[tuple[Array, ...]], cells: Ints, boxes: Array) -> Array:
    """(n, d) of cells numbered through all levels; boxes: (n, 4) theirs, in the network's pixels."""
    counts = [level[5].size for level in levels]
    level_of = np.searchsorted(np.cumsum(counts), cells, side="right")
    parts = []
    for index, (level, first) in enumerate(zip(levels, np.cumsum(counts) - counts, strict=True)):
        chosen = cells[level_of == index] - first
        _, class_features, box_features, logits, _, objectness = (
            part.reshape(len(part), -1)[:, chosen].T for part in level
        )
        log = _log_probabilities(np.concatenate([logits, objectness], 1))
        at_level = np.tile(np.eye(len(levels), dtype=np.float32)[index], (len(chosen), 1))
        parts.append(np.concatenate([class_features, box_features, log, at_level], 1))
    place = np.argsort(np.argsort(level_of, kind="stable"), kind="stable")
    sizes = np.log(np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 1)) - 3
    return np.concatenate([np.concatenate(parts)[place], sizes], 1)


def _log_probabilities(logits: Array) -> Array:
    scaled: Array = -LOG_SHARE * np.log1p(np.exp(-logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)))
    return scaled
