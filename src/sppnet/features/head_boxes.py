"""What a detector's head says of a photograph: boxes that may hold an object, and a vector for each.

For each cell, anchor or proposal the head has a box, whether there is an object, the probability of each
class, and the features that its last layers saw. The likeliest boxes, without near copies, are proposals;
their vectors are what linear SVMs learn new classes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Array, Floats, Ints
from sppnet.boxes import clip_boxes
from sppnet.nn.head_output import LOG_SHARE as LOG_SHARE
from sppnet.nn.head_output import HeadOutput
from sppnet.nn.head_output import VectorLayout as VectorLayout
from sppnet.ops.nms import nms

MAX_CANDIDATES = 1500
"""The likeliest boxes, among which near copies are suppressed."""
MAX_BOXES = 300
LARGEST = float(np.finfo(np.float16).max)
FAR_PX = 1e6
"""Beyond it a box is nowhere."""
COPY_IOU = 0.85
"""IoU above which of two boxes the likelier one stays, whatever their classes."""
OWN_NMS_IOU = 0.5
"""IoU above which the network itself, of two boxes of a class, would show the likelier one only."""


@dataclass(frozen=True, eq=False)
class HeadBoxes:
    """The boxes of a photograph, the likeliest object first."""

    boxes: Floats
    """(n, 4) xyxy in pixels of the photograph."""
    vectors: Floats
    """(n, d) as `VectorLayout` tells."""


def choose_boxes(output: HeadOutput, ratio: Array, size_hw: tuple[int, int]) -> HeadBoxes:
    """The boxes of an image that are kept.

    ratio: (4,) pixels of the network's image a pixel of the photograph, for x, y, x, y. size_hw: of the
    photograph.
    """
    order = np.argsort(-output.objectness, kind="stable")[:MAX_CANDIDATES]
    found = clip_boxes((output.boxes[order] / ratio).clip(-FAR_PX, FAR_PX).astype(np.float32), size_hw)
    kept: Ints = nms(found, output.objectness[order], COPY_IOU, MAX_BOXES)
    return HeadBoxes(found[kept], _rounded(output.vectors(order[kept])))


def join_boxes(several: Sequence[HeadBoxes], layout: VectorLayout) -> HeadBoxes:
    """The boxes of a photograph that went through the network at several scales."""
    if len(several) == 1:
        return several[0]
    boxes = np.concatenate([one.boxes for one in several])
    vectors = np.concatenate([one.vectors for one in several])
    kept = nms(boxes, vectors[:, layout.objectness], COPY_IOU, MAX_BOXES)
    return HeadBoxes(boxes[kept], vectors[kept])


def _rounded(vectors: Array) -> Floats:
    """As the cache keeps them, in half precision."""
    return vectors.clip(-LARGEST, LARGEST).astype(np.float16).astype(np.float32)
