"""Vectors whose numbers weigh alike, and what was learned on them put back to the vectors as they come."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.heads.ridge import BoxRegressor
from sppnet.svm.linear_svm import LinearSVM

MIN_DEVIATION = 1e-3
"""A number that varies less says nothing, and is not blown up."""


@dataclass(frozen=True, eq=False)
class Standardisation:
    """vector → (vector − mean) · factor."""

    mean: Tensor
    """(d,) float32."""
    factor: Tensor
    """(d,) float32."""

    @staticmethod
    def of(vectors: Tensor, parts: Sequence[int]) -> "Standardisation":
        """Of a sample (n, d). parts: lengths of parts that weigh alike, whatever their lengths; d in all."""
        deviation, mean = torch.std_mean(vectors.double(), dim=0, correction=0)
        lengths = torch.repeat_interleave(torch.tensor(parts), torch.tensor(parts))
        factor = (parts[0] / lengths).sqrt() / (deviation + MIN_DEVIATION)
        return Standardisation(mean.float(), factor.float())

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, d) → (n, d)"""
        return (vectors - self.mean) * self.factor

    def unfold_svm(self, svm: LinearSVM) -> LinearSVM:
        """The SVM that gives vectors as they come the scores that `svm` gives standardised ones."""
        weight, bias = self._unfold(svm.weight, svm.bias)
        return LinearSVM(weight, bias, svm.classes, svm.fit)

    def unfold_regressor(self, regressor: BoxRegressor) -> BoxRegressor:
        """The box regression that corrects by vectors as they come as `regressor` by standardised ones."""
        return BoxRegressor(*self._unfold(regressor.weight, regressor.bias), regressor.classes)

    def _unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """weight (…, d), bias (…)."""
        plain = weight.double() * self.factor
        return plain.float(), (bias.double() - plain @ self.mean.double()).float()
