"""Platt scaling: from a detection's score to the probability that it is right (Platt, 1999)."""

from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Doubles, Flags

PRIOR_STRENGTH = 0.1
"""Precision of the Gaussian prior on slope and intercept. F1 on 239 VOC photographs never seen, five classes
learned from 94, at the thresholds of `best_f1_score`: 0.01 and 0.1 37.4, 1 36.5, one slope for all classes
34.4; the best threshold of each class gives 40.1."""

MAX_ITER, TOLERANCE = 50, 1e-6
MAX_STEP = 3.0
"""Newton's method can overshoot where all scores of one side lie apart from the other's."""


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
    x, start = (scores - prior.mean) / prior.deviation, np.array([prior.slope, prior.intercept])
    inputs, theta = np.stack([x, np.ones_like(x)]), start.copy()
    for _ in range(MAX_ITER):
        p = 0.5 * (1 + np.tanh(0.5 * (theta @ inputs)))
        gradient = inputs @ (p - right) + PRIOR_STRENGTH * (theta - start)
        hessian = (inputs * (p * (1 - p))) @ inputs.T + PRIOR_STRENGTH * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step * (MAX_STEP / max(float(np.abs(step).max()), MAX_STEP))
        if np.abs(step).max() < TOLERANCE:
            break
    if theta[0] <= 0:
        return prior
    return PlattScaling(prior.mean, prior.deviation, float(theta[0]), float(theta[1]))


def best_f1_score(scores: Doubles, platt: PlattScaling, objects: int) -> float:
    """The score from which on detections have the best expected F1, of `objects` there are to find.

    scores: (n,) falling, n ≥ 1. Halfway to the next lower score, so that it holds on other images too.
    """
    expected_right = np.cumsum(platt(scores))
    f1 = 2 * expected_right / (np.arange(1, len(scores) + 1) + objects)
    best = int(f1.argmax())
    return float(scores[best : best + 2].mean())
