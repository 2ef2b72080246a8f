"""Whether probabilities are what they say: of those around 0.7, are seven of ten right?"""

from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Doubles, Flags, Ints

BINS = 10
LEAST = 0.1
"""Detections below this probability are most of all, and nobody is shown them."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Detections by probability, in bins of equal width that hold any."""

    predicted: Doubles
    """(b,) the mean probability."""
    observed: Doubles
    """(b,) the share that is right."""
    counts: Ints
    """(b,) of detections."""


def reliability(probabilities: Doubles, is_right: Flags, least: float = LEAST) -> Reliability:
    """(n,) probabilities, and which of them came true; those below `least` are left out."""
    shown = probabilities >= least
    odds, right = probabilities[shown], is_right[shown]
    bins = np.minimum((odds * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    held = counts > 0
    means = [np.bincount(bins, values, BINS)[held] / counts[held] for values in (odds, right)]
    return Reliability(means[0], means[1], counts[held])


def expected_calibration_error(probabilities: Doubles, is_right: Flags, least: float = LEAST) -> float | None:
    """Mean distance of predicted from observed, weighted by counts (Guo et al. 2017); None without any."""
    found = reliability(probabilities, is_right, least)
    if not len(found.counts):
        return None
    return float(np.average(np.abs(found.predicted - found.observed), weights=found.counts))
