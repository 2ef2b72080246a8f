"""Fits of a labelling session: SVMs from their last dual variables, box regression by the same Gram."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array, Doubles, Floats, Ints
from sppnet.heads.ridge import BoxRegressor
from sppnet.label.examples import NO_CLASS, Examples, iou_of_deltas
from sppnet.svm.linear_svm import LinearSVM, fit_svm
from sppnet.torch_defaults import one_thread

MAX_REGRESSED = 600
"""Windows that the regression of a class stands on, the newest: its time grows with their third power."""

MIN_REGRESSED = 10
"""A class with fewer moves its boxes as all classes together do."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How closely SVMs and box regression are fitted."""

    C: float = 1e-3
    class_weight: float = 2.0
    intercept_scaling: float = 10.0
    tolerance: float = 1e-2
    ridge_alpha: float = 1000.0


def fit_classes(
    examples: Examples,
    before: LinearSVM | None,
    classes: Sequence[str],
    only: Sequence[int],
    config: FitConfig,
) -> LinearSVM:
    """SVMs of the classes numbered `only`, from their last dual variables; the others stay bit for bit.

    before: the SVMs of fewer or as many classes. A class without positives or negatives has a bias of −inf.
    """
    weight = torch.zeros(len(classes), examples.vectors.shape[1])
    bias = torch.full((len(classes),), -torch.inf)
    if before is not None:
        weight[: len(before.weight)], bias[: len(before.bias)] = before.weight, before.bias
    signs = examples.signs[: examples.count]
    able = [k for k in only if (signs[:, k] > 0).any() and (signs[:, k] < 0).any()]
    if able:
        svm = fit_svm(
            examples.vectors[: examples.count],
            np.ascontiguousarray(signs[:, able]),
            C=config.C,
            class_weight=config.class_weight,
            intercept_scaling=config.intercept_scaling,
            tolerance=config.tolerance,
            classes=[classes[k] for k in able],
            start=examples.dual[: examples.count, able],
            gram=torch.from_numpy(examples.gram_of(slice(0, examples.count))),
        )
        assert svm.fit is not None
        examples.dual[: examples.count, able] = svm.fit.dual
        weight[able], bias[able] = svm.weight * examples.scale, svm.bias
    return LinearSVM(weight, bias, tuple(classes))


@dataclass(frozen=True, eq=False)
class BoxQuality:
    """How well a window is expected to fit an object of its class: ridge regression of their IoU."""

    weight: Tensor
    """(k, d) float32."""
    bias: Tensor
    """(k,) float32."""

    def __call__(self, vectors: Tensor, labels: Ints) -> Floats:
        """(n, d) and (n,) → (n,) expected IoU."""
        every = torch.addmm(self.bias, vectors, self.weight.T).numpy()
        expected: Floats = every[np.arange(len(labels)), labels]
        return expected


def fit_regression(
    examples: Examples, classes: Sequence[str], config: FitConfig
) -> tuple[BoxRegressor, BoxQuality]:
    """The ridge regressions of boxes (as `heads.ridge`) and of their IoU, by the windows' own Gram matrix."""
    weight, bias = torch.zeros(len(classes), 5, examples.vectors.shape[1]), torch.zeros(len(classes), 5)
    labels = examples.labels[: examples.count]
    shared: tuple[Tensor, Tensor] | None = None
    for label in range(len(classes)):
        own = np.flatnonzero(labels == label)
        if len(own) >= MIN_REGRESSED:
            weight[label], bias[label] = solve_regression(examples, own[-MAX_REGRESSED:], config)
        elif (labels != NO_CLASS).any():
            shared = shared or solve_regression(
                examples, np.flatnonzero(labels != NO_CLASS)[-MAX_REGRESSED:], config
            )
            weight[label], bias[label] = shared
    weight *= examples.scale
    boxes = BoxRegressor(weight[:, :4].contiguous(), bias[:, :4].contiguous(), tuple(classes))
    return boxes, BoxQuality(weight[:, 4].contiguous(), bias[:, 4].contiguous())


def solve_regression(examples: Examples, rows: Ints, config: FitConfig) -> tuple[Tensor, Tensor]:
    """Weights (5, d) and biases (5,) of some windows; the bias is regularised like any weight."""
    deltas = examples.deltas[rows]
    targets: Doubles = np.column_stack([deltas, iou_of_deltas(deltas)])
    mean = targets.mean(axis=0)
    system: Array = examples.gram_of(rows).astype(np.float64) + 1
    system[np.diag_indices(len(rows))] += config.ridge_alpha
    with one_thread():
        factor = torch.linalg.cholesky(torch.from_numpy(system))
        solved = torch.cholesky_solve(torch.from_numpy(targets - mean), factor)
        weight = solved.float().T @ torch.from_numpy(examples.vectors[rows])
    return weight, (torch.from_numpy(mean) + solved.sum(0)).float()
