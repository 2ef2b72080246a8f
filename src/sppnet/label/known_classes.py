"""Classes that a detector's network knows by name: its own scores, corrected by what was confirmed."""

from collections.abc import Sequence

import numpy as np
import torch

from sppnet.detect.known_classes import (
    KnownClass,
    ShownBoxes,
    find_known_classes,
    judge_shown,
    write_rescoring,
)
from sppnet.features.maps import FeatureMaps
from sppnet.heads.rescoring import Rescoring
from sppnet.heads.standardisation import Standardisation
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.structures import GroundTruth
from sppnet.svm.linear_svm import LinearSVM

MIN_RESCORED = 10
"""Right boxes of a class, and wrong ones, below which the network's scores stay as they are."""


class KnownClasses:
    """What the network would show of them on every confirmed photograph."""

    def __init__(self, trunk: DetectorTrunk, standard: Standardisation) -> None:
        """standard: of vectors whose first numbers are the head's."""
        self.trunk, self.standard = trunk, standard
        self._shown: dict[tuple[str, int], ShownBoxes] = {}
        self._fits: dict[str, Rescoring] = {}

    def learn(self, photo: int, maps: FeatureMaps, truth: GroundTruth, classes: Sequence[str]) -> None:
        """From a confirmed photograph; one that was confirmed before is learned anew."""
        for one in find_known_classes(classes, self.trunk):
            self._shown[classes[one.label], photo] = judge_shown([maps], [truth], one, tuple(classes))

    def rescore(self, svm: LinearSVM, only: Sequence[int]) -> LinearSVM:
        """The SVMs, of which those of known classes numbered `only` score as the network does."""
        known = [one for one in find_known_classes(svm.classes, self.trunk) if one.label in only]
        if not known:
            return svm
        rescored = LinearSVM(svm.weight.clone(), svm.bias.clone(), svm.classes, svm.fit)
        for one in known:
            self._rescore(rescored, one)
        return rescored

    def _rescore(self, svm: LinearSVM, one: KnownClass) -> None:
        name = svm.classes[one.label]
        parts = [shown for (known, _), shown in self._shown.items() if known == name]
        if not any(part.right.any() for part in parts):
            return
        shown = ShownBoxes(
            torch.cat([part.vectors for part in parts]),
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.photographs for part in parts]),
        )
        enough = min(shown.right.sum(), (~shown.right).sum()) >= MIN_RESCORED
        used = np.full(len(shown.right), enough)
        start = self._fits.get(name) if enough else None
        self._fits[name] = write_rescoring(svm, one, shown, used, self.standard, start)
