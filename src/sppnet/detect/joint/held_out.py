"""Photographs that decide whether joint training helped: neither the SVMs nor the joint training saw them."""

from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.detect.calibration import Calibration, choose_thresholds
from sppnet.detect.components import DetectorComponents
from sppnet.detect.cross_validation import Fold
from sppnet.detect.detector import Detector
from sppnet.detect.label_assignment import TrainingImages
from sppnet.features.cache import MapCache, recipe_of
from sppnet.metrics.detection import evaluate_detections
from sppnet.progress import Progress, track
from sppnet.rng import Stream, generator
from sppnet.structures import Detections
from sppnet.svm.mining import MinedSVMs
from sppnet.threads import ordered_map

SHARE, MAX_IMAGES = 0.1, 48
"""Of the photographs that are held out, and how many suffice."""
MIN_IMAGES = 4
"""Fewer decide nothing."""

IOUS = (0.5, 0.6, 0.7, 0.8)
"""Overlaps of a right detection: over several the mean moves in smaller steps than at 0.5 alone."""


def hold_out(mined: MinedSVMs, photos: TrainingImages, seed: int) -> Ints:
    """(n,) some photographs of the first fold; none where that gives too few."""
    if not mined.folds:
        return np.empty(0, np.int64)
    count = len(photos.images)
    fold = np.flatnonzero(mined.fold_of[:count] == 0)
    drawn = generator(seed, Stream.JOINT_HELD_OUT).permutation(fold)
    chosen = np.sort(drawn[: min(MAX_IMAGES, max(MIN_IMAGES, round(SHARE * count)))])
    marked = sum(photos.images.take(chosen).counts(plain=True).values())
    return chosen if len(chosen) >= MIN_IMAGES and marked else np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A detector and the photographs that judge it."""

    detector: Detector
    photos: TrainingImages
    chosen: Ints

    @staticmethod
    def of(parts: DetectorComponents, photos: TrainingImages, chosen: Ints) -> "HeldOut":
        """photos: all, whose cache keeps the maps of the detector too."""
        detector = Detector(parts, str(photos.extractor.device))
        recipe = recipe_of(detector.extractor)
        cache = None if photos.cache is None else MapCache(recipe, photos.cache.root)
        return HeldOut(detector, TrainingImages(photos.images, detector.extractor, cache), chosen)

    def measure_map(self, progress: Progress) -> float:
        """Mean average precision by area under the curve, the mean over IOUS."""

        def detect(index: int) -> Detections:
            return self.detector.detect(self.photos.photo(index))

        indices = self.chosen.tolist()
        found = list(track(ordered_map(detect, indices), "judging joint training", len(indices), progress))
        truths = [self.photos.truth(index) for index in indices]
        maps = [evaluate_detections(found, truths, self.photos.classes, "voc", iou).map for iou in IOUS]
        return float(np.mean(maps))

    def calibrate(self, progress: Progress) -> Calibration:
        """Thresholds of the best F1."""
        proposals: list[Floats] = [np.empty((0, 4), np.float32)] * len(self.photos)
        for index in self.chosen.tolist():
            proposals[index] = self.detector.proposer(self.photos.photo(index)).boxes
        fold = Fold(self.detector, self.detector.roi_extractor, self.chosen)
        return choose_thresholds([fold], self.photos, proposals, progress)
