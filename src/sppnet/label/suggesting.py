"""From the candidates of a photograph to the boxes that are suggested, and to what it teaches."""

from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Doubles, Floats, Ints
from sppnet.boxes import box_area, box_iou
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.detect.roi_features import RoIFeatureExtractor, RoIFeatures
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.ridge import BoxRegressor
from sppnet.ops.nms import nms
from sppnet.svm.linear_svm import LinearSVM

MAX_REFINED = 40
"""Candidates of a class whose boxes are corrected, pooled again and judged again."""

PASSES = 2
"""Corrections of a box."""

MIN_SCORE = -1.2
"""Below this a box is no suggestion whatever the threshold: it is not corrected either."""


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


def score_photo(
    candidates: Candidates,
    svm: LinearSVM,
    regressor: BoxRegressor,
    roi_extractor: RoIFeatureExtractor,
    config: SuggestConfig,
) -> ScoredBoxes:
    """The boxes of every class, corrected and thinned, the surest first; down to MIN_SCORE."""
    scores = svm.scores(candidates.features.distinct).numpy()[candidates.features.roi_of_box]
    rows, labels = [], []
    for label in range(scores.shape[1]):
        own = np.flatnonzero(scores[:, label] >= MIN_SCORE)
        own = own[nms(candidates.boxes[own], scores[own, label], 0.75, MAX_REFINED)]
        rows.append(own)
        labels.append(np.full(len(own), label))
    row, own_label = np.concatenate(rows), np.concatenate(labels)
    found = ScoredBoxes(candidates.boxes[row], scores[row, own_label], own_label)
    if not len(row):
        return found
    pooled = candidates.features.take_pooled(row)
    everything = [found]
    for _ in range(PASSES):
        boxes = regressor.apply(pooled, found.boxes, own_label, candidates.size_hw)
        vectors = roi_extractor(candidates.photo, boxes)
        judged = svm.scores(vectors.distinct).numpy()[vectors.roi_of_box]
        found = ScoredBoxes(boxes, judged[np.arange(len(own_label)), own_label], own_label)
        pooled = vectors.take_pooled(np.arange(len(boxes)))
        everything.append(found)
    return select_suggestions(ScoredBoxes.joined(everything[1:]), config)


def select_suggestions(scored: ScoredBoxes, config: SuggestConfig) -> ScoredBoxes:
    """One box an object: neighbours vote, what is inside another goes, an object has one class."""
    kept = []
    for label in np.unique(scored.labels):
        own = scored.take(np.flatnonzero(scored.labels == label))
        stay = nms(own.boxes, own.scores, config.nms_iou, config.max_shown)
        stay = stay[_not_inside(own.boxes[stay], config.inside)]
        kept.append(ScoredBoxes(_voted(own, stay, config), own.scores[stay], own.labels[stay]))
    every = ScoredBoxes.joined(kept)
    every = every.take(nms(every.boxes, every.scores, 0.7, config.max_shown))
    return every.take(np.argsort(-every.scores, kind="stable"))


def _voted(own: ScoredBoxes, stay: Ints, config: SuggestConfig) -> Floats:
    iou = box_iou(own.boxes[stay], own.boxes)
    lead = own.scores[None] - own.scores[stay, None]
    weights: Doubles = np.where(
        iou >= config.voting_iou, np.exp(2 * np.minimum(lead, 0), dtype=np.float64), 0
    )
    mean: Floats = (weights @ own.boxes / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return mean


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
