"""What a step of joint training learns on: photographs, and windows of each; functions of seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Flags, Floats, Ints
from sppnet.boxes import box_iou, clip_boxes, encode_boxes
from sppnet.detect.joint.augmentation import Sample
from sppnet.rng import Stream, generator
from sppnet.structures import GroundTruth

WINDOWS = 128
"""Windows of a photograph and step."""
POSITIVE_SHARE, POSITIVE_IOU = 0.25, 0.5
"""As in Fast R-CNN."""
JITTERED, JITTER = 4, 0.12
"""Boxes near every object beside the proposals, each side moved by this share of it at most."""


class BatchOrder:
    """Which photographs a step is of, all wide or all high, each once an epoch.

    flat: (n,) whether each is at least as wide as high. Photographs that fill no batch are repeated in it.
    """

    def __init__(self, flat: Flags, batch: int, seed: int) -> None:
        groups = [np.flatnonzero(flat), np.flatnonzero(~flat)]
        self.groups = [group for group in groups if len(group)]
        self.batch, self.seed = batch, seed
        self.steps_per_epoch = sum(-(-len(group) // batch) for group in self.groups)

    def photographs(self, step: int) -> Ints:
        """(batch,) indices."""
        epoch, part = divmod(step, self.steps_per_epoch)
        rng = generator(self.seed, Stream.JOINT_ORDER, epoch)
        batches: list[Ints] = []
        for group in self.groups:
            count = -(-len(group) // self.batch) * self.batch
            batches.extend(np.resize(rng.permutation(group), count).reshape(-1, self.batch))
        return batches[int(rng.permutation(len(batches))[part])]


@dataclass(frozen=True, eq=False)
class SampledWindows:
    """Windows of one image that the window head learns on: those of objects first."""

    boxes: Floats
    """(n, 4)"""
    labels: Ints
    """(n,) of classes; their number stands for background."""
    deltas: Floats
    """(p, 4) of the windows of objects, to these."""


def draw_windows(sample: Sample, classes: int, rng: np.random.Generator) -> SampledWindows:
    """Objects' own boxes, some near them, and proposals; windows on difficult objects are neither."""
    truth = sample.truth
    plain = truth[~truth.difficult]
    boxes = np.concatenate([plain.boxes, _jittered(plain, sample.pixels.shape[:2], rng), sample.proposals])
    shared = box_iou(boxes, plain.boxes) if len(plain) else np.zeros((len(boxes), 1), np.float32)
    touched = box_iou(boxes, truth.boxes).max(axis=1, initial=0) if len(truth) else shared[:, 0]
    positive = rng.permutation(np.flatnonzero(shared.max(axis=1) >= POSITIVE_IOU))
    positive = positive[: round(WINDOWS * POSITIVE_SHARE)]
    negative = rng.permutation(np.flatnonzero(touched < POSITIVE_IOU))[: WINDOWS - len(positive)]
    nearest = shared[positive].argmax(axis=1)
    labels = np.full(len(positive) + len(negative), classes, np.int64)
    if not len(positive):
        return SampledWindows(boxes[negative], labels, np.empty((0, 4), np.float32))
    labels[: len(positive)] = plain.labels[nearest]
    deltas = encode_boxes(boxes[positive], plain.boxes[nearest]).astype(np.float32)
    return SampledWindows(boxes[np.concatenate([positive, negative])], labels, deltas)


def _jittered(truth: GroundTruth, size_hw: Sequence[int], rng: np.random.Generator) -> Floats:
    """(JITTERED · n, 4) boxes near the objects'."""
    boxes = np.repeat(truth.boxes, JITTERED, axis=0)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.uniform(-JITTER, JITTER, boxes.shape) * sides
    return clip_boxes(moved.astype(np.float32), (size_hw[0], size_hw[1]))
