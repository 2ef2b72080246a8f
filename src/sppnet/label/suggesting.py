"""From the candidates of a photograph to the boxes that are suggested, and to what it teaches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats, Ints
from sppnet.boxes import box_area
from sppnet.detect.postprocess import ScoredBoxes, vote_boxes
from sppnet.detect.roi_features import RoIFeatureExtractor, RoIFeatures
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.ridge import BoxRegressor
from sppnet.label.fitting import BoxQuality
from sppnet.ops.nms import nms
from sppnet.svm.linear_svm import LinearSVM

MAX_REFINED = 40
"""Candidates of a class whose boxes are corrected, pooled again and judged again."""

PASSES = 2
"""Corrections of a box."""

MIN_SCORE = -1.2
"""Below this a box is no suggestion whatever the threshold: it is not corrected either."""

COPY_IOU = 0.75
"""Of two candidates of a class that overlap more the surer one is corrected."""

QUALITY_SHARE, USUAL_IOU = 4.0, 0.7
"""Score for each unit of IoU that a box is expected to have beyond the usual: an SVM tells objects from the
rest, but hardly a tight box from a loose one."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may be an object in a photograph, before anything is known of classes."""

    photo: LazyImage
    boxes: Floats
    """(n, 4)"""
    features: RoIFeatures
    size_hw: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SuggestConfig:
    """Which of the scored boxes are shown."""

    nms_iou: float = 0.45
    voting_iou: float = 0.6
    inside: float = 0.8
    """Of two boxes of a class the less sure one goes if this share of the smaller lies in the other."""
    max_shown: int = 60


@dataclass(frozen=True, eq=False)
class Learned:
    """What judges and corrects boxes."""

    svm: LinearSVM
    regressor: BoxRegressor
    quality: BoxQuality
    roi_extractor: RoIFeatureExtractor

    def correct(
        self, before: ScoredBoxes, vectors: Tensor, candidates: Candidates
    ) -> tuple[ScoredBoxes, Tensor]:
        """The boxes moved by the regression and judged where they now lie, and their vectors there."""
        labels = before.labels
        boxes = self.regressor.apply(vectors, before.boxes, labels, candidates.size_hw)
        features = self.roi_extractor(candidates.photo, boxes)
        scores = self.svm.scores(features.distinct).numpy()[features.roi_of_box, labels]
        moved = vectors_of(features, np.arange(len(boxes)))
        scores = scores + QUALITY_SHARE * (self.quality(moved, labels) - USUAL_IOU)
        return ScoredBoxes(boxes, scores.astype(np.float32), labels), moved


def score_photo(candidates: Candidates, learned: Learned, config: SuggestConfig) -> ScoredBoxes:
    """The boxes of every class, corrected and thinned, the surest first."""
    boxes, rows = _likeliest(candidates, learned.svm)
    vectors, passes = vectors_of(candidates.features, rows), []
    for _ in range(PASSES if len(boxes.boxes) else 0):
        boxes, vectors = learned.correct(boxes, vectors, candidates)
        passes.append(boxes)
    return select_suggestions(ScoredBoxes.joined(passes), config)


def _likeliest(candidates: Candidates, svm: LinearSVM) -> tuple[ScoredBoxes, Ints]:
    """Candidates of each class that score MIN_SCORE or more, without near copies, and their numbers."""
    scores = svm.scores(candidates.features.distinct).numpy()[candidates.features.roi_of_box]
    rows, labels = [], []
    for label in range(scores.shape[1]):
        own = np.flatnonzero(scores[:, label] >= MIN_SCORE)
        own = own[nms(candidates.boxes[own], scores[own, label], COPY_IOU, MAX_REFINED)]
        rows.append(own)
        labels.append(np.full(len(own), label))
    row, label_of = np.concatenate(rows), np.concatenate(labels)
    return ScoredBoxes(candidates.boxes[row], scores[row, label_of], label_of), row


def vectors_of(features: RoIFeatures, boxes: Ints) -> Tensor:
    """(m, d) those that SVMs judge: box regression stands on the same here, whose Gram matrix is at hand."""
    return features.distinct[torch.from_numpy(features.roi_of_box[boxes])]


def select_suggestions(scored: ScoredBoxes, config: SuggestConfig) -> ScoredBoxes:
    """One box an object: neighbours vote, what is inside another goes, an object has one class."""
    kept = []
    for label in np.unique(scored.labels):
        own = scored.take(np.flatnonzero(scored.labels == label))
        stay = _stay(own, config)
        kept.append(
            ScoredBoxes(vote_boxes(own, stay, config.voting_iou, np.inf), own.scores[stay], own.labels[stay])
        )
    every = ScoredBoxes.joined(kept)
    every = every.take(nms(every.boxes, every.scores, 0.7, config.max_shown))
    return every.take(np.argsort(-every.scores, kind="stable"))


def without_copies(scored: ScoredBoxes, config: SuggestConfig) -> ScoredBoxes:
    """Suggestions whose boxes were moved: of those that came to lie on one another the surest stays."""
    kept = [np.empty(0, np.int64)]
    for label in np.unique(scored.labels):
        own = np.flatnonzero(scored.labels == label)
        kept.append(own[_stay(scored.take(own), config)])
    return scored.take(np.sort(np.concatenate(kept)))


def _stay(own: ScoredBoxes, config: SuggestConfig) -> Ints:
    """Indices of boxes of one class without neighbours, and without those inside others; the surest first."""
    stay = nms(own.boxes, own.scores, config.nms_iou, config.max_shown)
    return stay[_not_inside(own.boxes[stay], config.inside)]


def _not_inside(boxes: Floats, share: float) -> Ints:
    """Indices of those of which no surer one covers `share`, or lies so far within; the surest come first."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = np.maximum(np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low, 0)
    areas = box_area(boxes)
    covered = sides[..., 0] * sides[..., 1] / np.minimum(areas[:, None], areas[None])
    kept: list[int] = []
    for index in range(len(boxes)):
        if not (covered[index, kept] > share).any():
            kept.append(index)
    return np.array(kept, np.int64)
