"""From a detection's score to the probability that it is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Doubles, Floats, Ints
from sppnet.errors import ModelError
from sppnet.svm.platt import PlattScaling

NAMES = "probabilities.slopes", "probabilities.intercepts"
"""In a file."""

MIN_KEPT_PROBABILITY = 0.3
"""Of a class that is kept as it is: the default threshold, which is that of YOLOX's own demonstration."""

LOGIT_SHARE = 0.25
"""Factor of log odds, so that scores spread about as margins of SVMs do, which share their limits."""


@dataclass(frozen=True, eq=False)
class ScoreProbabilities:
    """Platt scaling of every class: log-odds = slope · score + intercept.

    Fitted to photographs that the scores had not been trained on (`detect.calibration`); NaN for a class
    of which none were held out.
    """

    slopes: Doubles
    """(k,)"""
    intercepts: Doubles
    """(k,) log-odds at a score of 0, the default threshold."""

    @staticmethod
    def unknown(count: int) -> "ScoreProbabilities":
        """Of so many classes; every probability is NaN."""
        return ScoreProbabilities(np.full(count, np.nan), np.full(count, np.nan))

    @staticmethod
    def of(scalings: Sequence[PlattScaling], thresholds: Doubles) -> "ScoreProbabilities":
        """Of scores from which the thresholds (k,) were taken after the scalings had been fitted."""
        slopes = np.array([one.slope / one.deviation for one in scalings])
        means = np.array([one.mean for one in scalings])
        intercepts = np.array([one.intercept for one in scalings]) + slopes * (thresholds - means)
        return ScoreProbabilities(slopes, intercepts)

    @staticmethod
    def read(tensors: Mapping[str, Tensor], count: int) -> "ScoreProbabilities | None":
        """The inverse of `tensors`, from those of a file, for so many classes; None of a file without them.

        Raises ModelError.
        """
        if not all(name in tensors for name in NAMES):
            return None
        both = [tensors[name].numpy().astype(np.float64) for name in NAMES]
        if any(one.shape != (count,) or np.isinf(one).any() for one in both):
            raise ModelError(f"probabilities must be {count} slopes and intercepts, finite or NaN")
        return ScoreProbabilities(*both)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of them."""
        both = self.slopes, self.intercepts
        return {name: torch.from_numpy(values) for name, values in zip(NAMES, both, strict=True)}

    def __call__(self, scores: Floats, labels: Ints) -> Floats:
        """(n,) scores and labels → (n,) probabilities."""
        logits = self.slopes[labels] * scores + self.intercepts[labels]
        probabilities: Floats = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
        return probabilities

    def joined(self, others: "ScoreProbabilities") -> "ScoreProbabilities":
        """The classes of both."""
        return ScoreProbabilities(
            np.concatenate([self.slopes, others.slopes]), np.concatenate([self.intercepts, others.intercepts])
        )


def kept_probabilities(scores: Floats) -> Floats:
    """(n,) scores of kept classes → the probabilities that the network itself gives (`append_kept`)."""
    probabilities: Floats = np.exp(np.minimum(np.log(MIN_KEPT_PROBABILITY) + scores / LOGIT_SHARE, 0))
    return probabilities
