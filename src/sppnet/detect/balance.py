"""Where a score of 0 lies: at the detections that a person would want to see.

SVMs of few objects among thousands of windows are sure of nothing: all their scores lie below 0, and a
detector that shows what scores above it shows nothing. So each class moves by one number, which
changes no order and no average precision.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sppnet.arrays import Floats
from sppnet.detect.detector import LEAST_SCORE, Detector
from sppnet.detect.examples import TrainingPhotos, training_boxes
from sppnet.detect.vectors import BoxVectors, Vectoriser
from sppnet.learn.svm import LinearSVM
from sppnet.metrics.detection import Curve, judge_detections
from sppnet.progress import Progress, counted
from sppnet.structures import Detections
from sppnet.threads import in_order

PHOTOGRAPHS = 128
"""Of the training's, at most, spread over all of them."""


def balance_scores(
    detector: Detector,
    photos: TrainingPhotos,
    proposals: Sequence[Floats],
    vectoriser: Vectoriser,
    progress: Progress,
) -> LinearSVM:
    """The detector's SVMs, those raised that are too careful: 0 is where F1 is best, if that is below 0.

    F1 is the harmonic mean of precision and recall on the training photographs. There SVMs are surer than
    elsewhere, so none is lowered.
    """

    def find(index: int) -> Detections:
        photo, truth = photos.photo(index), photos.truth(index)
        found = vectoriser(photo, training_boxes(truth, proposals[index]))
        own = found.of_box[len(truth.boxes) :]  # not the objects' own boxes
        vectors = BoxVectors(found.distinct, found.pooled, own)
        return detector.select([detector.judge(proposals[index], vectors, photo.size_hw, LEAST_SCORE)])

    chosen = choose_photographs(photos)
    if not chosen:
        return detector.parts.svm
    found = list(counted(in_order(find, chosen), "balancing scores", len(chosen), progress))
    truths = [photos.truth(index) for index in chosen]
    curves = judge_detections(found, truths, photos.classes).curves
    zeros = [min(0.0, best_score(curves[name])) for name in photos.classes]
    svm = detector.parts.svm
    return replace(svm, bias=svm.bias - torch.tensor(zeros, dtype=svm.bias.dtype))


def choose_photographs(photos: TrainingPhotos) -> list[int]:
    """Indices of those with an object to find, at most PHOTOGRAPHS of them, spread over all."""
    truths = [photos.truth(index) for index in range(len(photos))]
    able = [index for index, truth in enumerate(truths) if not (truth.difficult | truth.crowd).all()]
    places = np.linspace(0, len(able) - 1, min(len(able), PHOTOGRAPHS)).round().astype(int).tolist()
    return [able[place] for place in places]


def best_score(curve: Curve) -> float:
    """The score from which on detections have the best F1; 0 where none is right."""
    both = curve.precision + curve.recall
    quality = 2 * curve.precision * curve.recall / np.maximum(both, np.finfo(float).tiny)
    return float(curve.scores[quality.argmax()]) if quality.any() else 0.0
