"""Calibration of scores: 0 becomes the threshold of the best F1 on photographs that were not trained on.

SVMs of few objects among thousands of windows stay below 0 nearly everywhere, and a detector that shows what
scores above 0 would show nothing. On their own training photographs they are too sure, so scores are
taken from models that were fitted without those photographs. Each class is moved by one number, which
changes neither its order nor its average precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Doubles, Floats, Ints
from sppnet.detect.cross_validation import Fold
from sppnet.detect.label_assignment import TrainingImages, training_boxes
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.detect.roi_features import RoIFeatures
from sppnet.metrics.detection import Curve, evaluate_detections
from sppnet.progress import Progress, track
from sppnet.structures import Detections, GroundTruth
from sppnet.svm.platt import PlattScaling, best_f1_score, fit_platt
from sppnet.threads import ordered_map


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the folds' photographs told."""

    thresholds: Doubles
    """(k,) the score of each class from which on detections count as found."""
    f1: dict[str, float]
    """Of each class with objects there, at its threshold."""
    probabilities: ScoreProbabilities
    """Of the scores less the thresholds."""


def choose_thresholds(
    folds: Sequence[Fold], photos: TrainingImages, proposals: Sequence[Floats], progress: Progress
) -> Calibration:
    """The score of each class from which on detections have the best F1 on the folds' photographs.

    F1, the harmonic mean of precision and recall, is estimated from each detection's probability to be
    right (`fit_platt`), which is steadier than counting where objects are few. A class without detections
    or objects there takes the threshold of all classes together; 0 where there is nothing to judge.
    """
    work = [(fold, index) for fold in folds for index in fold.photos.tolist()]

    def find(one: tuple[Fold, int]) -> tuple[Detections, GroundTruth]:
        fold, index = one
        photo, truth, boxes = photos.photo(index), photos.truth(index), proposals[index]
        stored = fold.roi_extractor(photo, training_boxes(truth, boxes))  # as mining asked for them
        vectors = RoIFeatures(stored.distinct, stored.pooled, stored.roi_of_box[len(truth.boxes) :])
        scored = fold.detector.score_and_refine(boxes, vectors, photo.size_hw, fold.detector.least_score)
        return fold.detector.postprocess(photo, [scored]), truth

    judged = list(track(ordered_map(find, work), "calibrating scores", len(work), progress))
    truths = [truth for _, truth in judged]
    plain = [truth.labels[~(truth.difficult | truth.crowd)] for truth in truths]
    labels = np.concatenate([np.empty(0, np.int64), *plain])
    if not len(labels):
        count = len(photos.classes)
        return Calibration(np.zeros(count), {}, ScoreProbabilities.unknown(count))
    curves = evaluate_detections([found for found, _ in judged], truths, photos.classes).curves
    objects = np.bincount(labels, minlength=len(photos.classes))
    scalings = fit_classes(list(curves.values()))
    thresholds = thresholds_of(list(curves.values()), scalings, objects)
    each = zip(curves.items(), thresholds, objects, strict=True)
    f1 = {name: curve.f1_from(score) for (name, curve), score, count in each if count}
    return Calibration(thresholds, f1, ScoreProbabilities.of(scalings.each, thresholds))


@dataclass(frozen=True)
class ClassScalings:
    """Platt scaling of every class."""

    common: PlattScaling
    """Of the detections of all classes; the prior of each."""
    each: tuple[PlattScaling, ...]


def fit_classes(curves: Sequence[Curve]) -> ClassScalings:
    """A class without detections has the scaling of all together."""
    if not any(len(curve.scores) for curve in curves):
        return ClassScalings(PlattScaling(), (PlattScaling(),) * len(curves))
    together = np.concatenate([curve.scores for curve in curves])
    common = fit_platt(together, np.concatenate([curve.is_right for curve in curves]))
    each = [fit_platt(one.scores, one.is_right, common) if len(one.scores) else common for one in curves]
    return ClassScalings(common, tuple(each))


def thresholds_of(curves: Sequence[Curve], scalings: ClassScalings, objects: Ints) -> Doubles:
    """(k,) thresholds of classes; objects: (k,) how many of each there are to find."""
    together = np.sort(np.concatenate([curve.scores for curve in curves]))[::-1]
    if not len(together):
        return np.zeros(len(curves))
    common = best_f1_score(together, scalings.common, int(objects.sum()))
    return np.array(
        [
            best_f1_score(curve.scores, scaling, int(count)) if len(curve.scores) and count else common
            for curve, scaling, count in zip(curves, scalings.each, objects, strict=True)
        ]
    )
