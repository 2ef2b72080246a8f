"""A class that a network knows already: its own score, corrected by what the user's photographs say.

The model is logistic: P(right) = 1 / (1 + exp(−(w·x + slope·s + bias))), s the network's own score. Only w is
drawn to zero, so few photographs leave the network's order nearly as it was; it is fitted on the boxes that
the network itself would show, right ones and wrong ones, which is what average precision is about. (An SVM on
all windows ranks them worse than the untrained network: it spends its weights on windows that never show.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.arrays import Flags
from sppnet.errors import DataError
from sppnet.torch_defaults import one_thread

MAX_ITER, TOLERANCE, HALVINGS = 30, 1e-6, 20

MIN_CURVATURE = 1e-4
"""Of what the network is sure, most boxes, the objective bends less: a step is found without them."""


@dataclass(frozen=True, eq=False)
class Rescoring:
    """score = weight · vector + slope · own score + bias."""

    weight: Tensor
    """(d,) float32."""
    slope: float
    bias: float

    def __call__(self, vectors: Tensor, own_scores: Tensor) -> Tensor:
        """(n, d) and (n,) → (n,)"""
        return vectors @ self.weight + self.slope * own_scores + self.bias


UNCHANGED = 1.0, 0.0
"""Slope and bias that leave the network's score as it is."""


def fit_rescoring(
    vectors: Tensor, own_scores: Tensor, right: Flags, *, C: float = 3e-3, start: Rescoring | None = None
) -> Rescoring:
    """The minimum of ½‖w‖² + C Σ log loss, by Newton's method.

    vectors: (n, d) float32, for a mean length of about 20. own_scores: (n,) of the network. right: (n,).
    Where all are right, or all wrong, the network's score stays as it is. Raises DataError for vectors that
    are not finite.
    """
    d = vectors.shape[1]
    if not (right.any() and not right.all()):
        return Rescoring(torch.zeros(d), *UNCHANGED)
    if not (torch.isfinite(vectors).all() and torch.isfinite(own_scores).all()):
        raise DataError("vectors hold NaN or infinity; check the images or the network they came from")
    rows = torch.cat([vectors, own_scores[:, None], torch.ones(len(vectors), 1)], 1)
    with one_thread():
        theta = _minimise(rows, torch.from_numpy(right).float(), C, _first(d, start))
    return Rescoring(theta[:d].float(), float(theta[d]), float(theta[d + 1]))


def _first(d: int, start: Rescoring | None) -> Tensor:
    if start is None:
        return torch.cat([torch.zeros(d), torch.tensor(UNCHANGED)]).double()
    return torch.cat([start.weight, torch.tensor([start.slope, start.bias])]).double()


def _minimise(rows: Tensor, right: Tensor, C: float, theta: Tensor) -> Tensor:
    """theta (d + 2,) float64: products of rows are in float32, sums that decide in float64."""
    ridge = torch.ones_like(theta)
    ridge[-2:] = 1e-6  # slope and bias are free
    objective, logits = _objective(rows, right, C, ridge, theta)
    for _ in range(MAX_ITER):
        probability = torch.sigmoid(logits)
        gradient = C * (rows.T @ (probability - right)).double() + ridge * theta
        curvature = probability * (1 - probability)
        bent = curvature > MIN_CURVATURE
        near = rows[bent]
        hessian = C * ((near * curvature[bent, None]).T @ near).double() + torch.diag(ridge)
        step = torch.linalg.solve(hessian, gradient)
        for _ in range(HALVINGS):
            there, logits_there = _objective(rows, right, C, ridge, theta - step)
            if there <= objective:
                break
            step = step / 2
        else:
            return theta  # as low as float32 can tell
        gained, theta, objective, logits = objective - there, theta - step, there, logits_there
        if gained <= TOLERANCE * objective:
            break
    return theta


def _objective(rows: Tensor, right: Tensor, C: float, ridge: Tensor, theta: Tensor) -> tuple[float, Tensor]:
    """Its value, and the logits (n,)."""
    logits = rows @ theta.float()
    losses = torch.nn.functional.softplus(logits) - right * logits
    return float(C * losses.double().sum() + 0.5 * (ridge * theta * theta).sum()), logits
