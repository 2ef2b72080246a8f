"""From scored windows to detections: non-maximum suppression, and boxes averaged over their neighbours."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.boxes import box_iou
from sppnet.features.head_boxes import OWN_NMS_IOU
from sppnet.ops.nms import nms
from sppnet.structures import Detections

VOTE_MARGIN = 1.5
"""How far below a detection a window may score and still vote on its box."""

VOTE_SHARPNESS = 2.0
"""A vote weighs exp(this · the difference in score): 5 % at the margin."""

MAX_PER_CLASS = 100

COPY_IOU = 0.5
"""Of two detections of a class that overlap more after their boxes were corrected the surer one stays: both
cannot be right. At `nms_iou`, 94 VOC photographs lost 2 points of mAP and 137 raccoons 1.6 of COCO's."""


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """Scored windows of one image, before the last suppression."""

    boxes: Floats
    """(n, 4)"""
    scores: Floats
    """(n,)"""
    labels: Ints
    """(n,)"""

    @staticmethod
    def joined(several: Sequence["ScoredBoxes"]) -> "ScoredBoxes":
        return ScoredBoxes(
            np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for one in several)]),
            np.concatenate([np.empty(0, np.float32), *(one.scores for one in several)]),
            np.concatenate([np.empty(0, np.int64), *(one.labels for one in several)]),
        )

    def take(self, index: Ints) -> "ScoredBoxes":
        return ScoredBoxes(self.boxes[index], self.scores[index], self.labels[index])


def select_detections(
    candidates: ScoredBoxes,
    nms_iou: float,
    voting_iou: float,
    min_score: float,
    unchanged: Collection[int] = (),
) -> ScoredBoxes:
    """What stays of each class, at most MAX_PER_CLASS and at least `min_score`, the surest first.

    nms_iou: above which, of two of a class, the surer one stays. voting_iou: see `vote_boxes`. unchanged:
    classes of which that is done as their network does it.
    """
    found = []
    for label in np.unique(candidates.labels):
        own = candidates.take(np.flatnonzero(candidates.labels == label))
        iou, voting = (OWN_NMS_IOU, 1.0) if label in unchanged else (nms_iou, voting_iou)
        kept = nms(own.boxes, own.scores, iou, MAX_PER_CLASS)
        kept = kept[own.scores[kept] >= min_score]
        found.append(ScoredBoxes(vote_boxes(own, kept, voting), own.scores[kept], own.labels[kept]))
    every = ScoredBoxes.joined(found)
    return every.take(np.argsort(-every.scores, kind="stable"))


def vote_boxes(candidates: ScoredBoxes, kept: Ints, voting_iou: float, margin: float = VOTE_MARGIN) -> Floats:
    """(m, 4) the boxes of the kept candidates (m,), each averaged with its neighbours; all are of one class.

    Box voting (Gidaris and Komodakis 2015, section 4): the mean of all candidates that overlap by an IoU of
    `voting_iou` or more and score at most `margin` less, weighted by score. At 1 boxes stay as they are.
    """
    boxes, scores = candidates.boxes, candidates.scores
    if voting_iou >= 1 or not len(kept):
        return boxes[kept]
    lead = scores[None, :] - scores[kept, None]
    votes = (box_iou(boxes[kept], boxes) >= voting_iou) & (lead >= -margin)
    votes[np.arange(len(kept)), kept] = True
    weights = np.where(votes, np.exp(VOTE_SHARPNESS * np.minimum(lead, 0), dtype=np.float64), 0)
    mean: Floats = (weights @ boxes / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return mean


def without_copies(found: Detections, labels: Collection[int]) -> Detections:
    """Detections of which no two of a class in `labels` lie on one another by COPY_IOU."""
    kept = [np.flatnonzero(~np.isin(found.labels, list(labels)))]
    for label in np.intersect1d(found.labels, list(labels)):
        own = np.flatnonzero(found.labels == label)
        kept.append(own[nms(found.boxes[own], found.scores[own], COPY_IOU, len(own))])
    return found[np.sort(np.concatenate(kept))]
