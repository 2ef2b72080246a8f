"""Classes of a trained detector: suggested as it finds them, before anything is confirmed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Ints
from sppnet.detect.detector import Detector
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.features.lazy_image import LazyImage

MIN_TRAINED_SCORE = -1.0
"""Margin of an SVM, below which a detection is no suggestion whatever the threshold."""


@dataclass(frozen=True, eq=False)
class TrainedClasses:
    """The detector whose trunk a session has. It learns nothing there: a training does that."""

    detector: Detector

    def labels(self, classes: Sequence[str]) -> Ints:
        """Which of the session's classes the detector knows by name."""
        return np.array(
            [index for index, name in enumerate(classes) if name in self.detector.classes], np.int64
        )

    def find(self, photo: LazyImage, classes: Sequence[str]) -> ScoredBoxes:
        """The detections of a photograph that are of the session's classes, numbered as there."""
        found = self.detector.detect(photo, MIN_TRAINED_SCORE)
        place = {name: index for index, name in enumerate(classes)}
        labels = np.array([place.get(name, -1) for name in found.classes], np.int64)[found.labels]
        every = ScoredBoxes(found.boxes, found.scores, labels)
        return every.take(np.flatnonzero(labels >= 0))
