"""Platt scaling: from a detection's score to the probability that it is right (Platt, 1999)."""

from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Doubles, Flags

PRIOR_STRENGTH = 0.1
"""Precision of the Gaussian prior on slope and intercept. By how many points F1 on photographs never seen is
below that of the best threshold of each class, the mean over four data sets (docs/results.md): 0.1, 1 and 5
1.9, 20 2.1. One threshold for all classes 2.5, each class's best on the judged photographs 2.2."""

MAX_ITER, TOLERANCE = 100, 1e-6
MIN_STEP = 1e-10
"""Below this share of Newton's step the fit is as good as floats tell."""


@dataclass(frozen=True)
class PlattScaling:
    """P(right | score) = 1 / (1 + exp(−(slope · (score − mean) / deviation + intercept)))."""

    mean: float = 0.0
    deviation: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, scores: Doubles) -> Doubles:
        """(n,) scores → (n,) probabilities."""
        logits = self.slope * (scores - self.mean) / self.deviation + self.intercept
        probabilities: Doubles = 0.5 * (1 + np.tanh(0.5 * logits))
        return probabilities


def fit_platt(scores: Doubles, right: Flags, prior: PlattScaling | None = None) -> PlattScaling:
    """Logistic regression of `right` (n,) on the scores (n,), drawn towards `prior` where data are few.

    Without a prior, scores are standardised by their own mean and deviation. A falling fit, which only
    noise can give, is replaced by the prior.
    """
    if prior is None:
        deviation = float(scores.std()) if len(scores) else 0.0
        prior = PlattScaling(float(scores.mean()) if len(scores) else 0.0, deviation or 1.0)
    x = (scores - prior.mean) / prior.deviation
    slope, intercept = _fit_logistic(np.stack([x, np.ones_like(x)]), right, prior)
    return PlattScaling(prior.mean, prior.deviation, slope, intercept) if slope > 0 else prior


def _fit_logistic(inputs: Doubles, right: Flags, prior: PlattScaling) -> tuple[float, float]:
    """Slope and intercept of least error, by Newton's method; inputs: (2, n).

    A whole step can overshoot, and then jump to and fro for ever, so it is halved until the error falls as
    it should (Lin, Lin and Weng, A note on Platt's probabilistic outputs, 2007).
    """
    start = np.array([prior.slope, prior.intercept])

    def error(theta: Doubles) -> float:
        logits = theta @ inputs
        losses = np.logaddexp(0, logits) - right * logits
        return float(losses.sum() + 0.5 * PRIOR_STRENGTH * np.square(theta - start).sum())

    theta, before = start, error(start)
    for _ in range(MAX_ITER):
        p = 0.5 * (1 + np.tanh(0.5 * (theta @ inputs)))
        gradient = inputs @ (p - right) + PRIOR_STRENGTH * (theta - start)
        hessian = (inputs * (p * (1 - p))) @ inputs.T + PRIOR_STRENGTH * np.eye(2)
        step, share = np.linalg.solve(hessian, gradient), 1.0
        while (after := error(theta - share * step)) > before - 1e-4 * share * (gradient @ step):
            share /= 2
            if share < MIN_STEP:
                return float(theta[0]), float(theta[1])
        theta, before = theta - share * step, after
        if np.abs(step).max() < TOLERANCE:
            break
    return float(theta[0]), float(theta[1])


def best_f1_score(scores: Doubles, platt: PlattScaling, objects: int) -> float:
    """The score from which on detections have the best expected F1, of `objects` there are to find.

    scores: (n,) falling, n ≥ 1. Halfway to the next lower score, so that it holds on other images too.
    """
    expected_right = np.cumsum(platt(scores))
    f1 = 2 * expected_right / (np.arange(1, len(scores) + 1) + objects)
    best = int(f1.argmax())
    return float(scores[best : best + 2].mean())
