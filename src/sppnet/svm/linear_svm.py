"""Linear SVMs, one against the rest for every class, on plain vectors.

The objective of each class is liblinear's: ½‖w‖² + Σ cost_i · loss_i, where w includes the weight of a
constant feature (`intercept_scaling`), the loss is max(0, 1 − y·score) or its square, and the cost is C,
times `class_weight` for positives. It is solved in the dual by coordinate descent (Hsieh et al.,
ICML 2008) with shrinking, as liblinear does; scikit-learn's LinearSVC, which wraps that, copies the
vectors twice and solves one class after another on one thread. Here all classes descend together,
each as if it were alone, so that the answer does not depend on the number of threads.

A sweep reads rows of the vectors (`blocks`, `sweeps`); or where vectors are few, of the Gram matrix,
(n, n) inner products made once (`descent`): then looking at a row costs one number, and only a change
costs n of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.errors import ConfigError, DataError
from sppnet.jit import kernel_running, thread_count
from sppnet.progress import NullProgress, Progress
from sppnet.svm.gram import checked_gram, gram_matrix, pays
from sppnet.svm.gram_descent import solve
from sppnet.svm.objective import FitOptions, FitRecord, Loss
from sppnet.svm.row_descent import Fit
from sppnet.svm.svm_inputs import Vectors, as_rows, as_signs, check_sides, first_dual
from sppnet.torch_defaults import one_thread

CLASSES_PER_THREAD = 4
"""Classes solved on a Gram matrix between two steps of `progress`, a thread."""


@dataclass(frozen=True, eq=False)
class LinearSVM:
    """A weight vector and a bias for every class."""

    weight: Tensor
    """(k, d) float32."""
    bias: Tensor
    """(k,) float32."""
    classes: tuple[str, ...]
    fit: FitRecord | None = None
    """None for an SVM that was read from a file."""

    def __post_init__(self) -> None:
        k = len(self.classes)
        if self.weight.ndim != 2 or len(self.weight) != k or self.bias.shape != (k,):
            raise ConfigError(
                f"{k} classes need weights of shape ({k}, d) and biases of shape ({k},); "
                f"got {tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )

    def __repr__(self) -> str:
        return f"LinearSVM({len(self.classes)} classes, {self.weight.shape[1]} dimensions)"

    def scores(self, vectors: Vectors) -> Tensor:
        """(n, d) → (n, k): above 0 for the class, below for the rest."""
        rows = torch.as_tensor(vectors)
        if rows.ndim != 2 or rows.shape[1] != self.weight.shape[1]:
            raise DataError(f"vectors must have shape (n, {self.weight.shape[1]}); got {tuple(rows.shape)}")
        return torch.addmm(self.bias, rows.to(self.weight), self.weight.T)


def fit_svm(
    vectors: Vectors,
    targets: Tensor | npt.NDArray[np.integer],
    *,
    C: float = 1.0,
    loss: Loss = "squared_hinge",
    class_weight: float | Sequence[float] = 1.0,
    intercept_scaling: float = 1.0,
    tolerance: float = 1e-3,
    max_iter: int = 1000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    start: Array | None = None,
    gram: Tensor | None = None,
    progress: Progress | None = None,
) -> LinearSVM:
    """One SVM a class, each against the rest.

    vectors: (n, d); float32 on the CPU is used as it is, anything else becomes it.
    targets: (n,) labels from 0, or (n, k) of 1, −1, and 0 where a vector is not used for a class.
    class_weight: multiplies C for positives; one number, or one a class.
    intercept_scaling: the constant feature. The greater, the less the bias is regularised.
    tolerance: a class is done when its objective provably lies within this share of the optimum.
    max_iter: passes over the vectors; a class that needs more is left there, with a RuntimeWarning.
    classes: names, for errors and for the result; by default "0", "1", …
    start: (m, k) `fit.dual` of an earlier fit whose vectors are the first m of these.
    gram: `gram_matrix(vectors)`, if it is at hand; by default it is made where that is the faster way.
    progress: told of every class that is done.
    Raises DataError for vectors that are not finite, and for a class without positives or negatives.
    """
    options = FitOptions(C, loss, class_weight, intercept_scaling, tolerance, max_iter, seed)
    rows = as_rows(vectors)
    names, signs = as_signs(targets, len(rows), classes)
    check_sides(names, signs)
    if gram is None and pays(len(rows), rows.shape[1], len(names)):
        gram = gram_matrix(torch.from_numpy(rows))
    table, dual = checked_gram(gram, len(rows)), first_dual(start, signs)
    progress = progress or NullProgress()
    progress.begin("training SVMs", len(names))
    if table is None:
        record, weight, bias = solve_by_rows(rows, signs, options, dual, progress)
    else:
        record = solve_by_gram(table, signs, options, dual, progress)
        weight, bias = weigh(rows, signs, dual, intercept_scaling)
    _warn_unless_done(names, record, options)
    return LinearSVM(weight, bias, names, record)


def solve_by_rows(
    rows: Array, signs: Array, options: FitOptions, dual: Array, progress: Progress
) -> tuple[FitRecord, Tensor, Tensor]:
    """How it went, weights (k, d) and biases (k,); dual (k, n) to begin at is written over."""
    fit = Fit(rows, signs, options, dual)
    fit.run(progress)
    bias = fit.state.bias * options.intercept_scaling
    record = FitRecord(dual.T, fit.objective, fit.gap, fit.sweeps)
    return record, torch.from_numpy(fit.state.weights).float(), torch.from_numpy(bias).float()


def solve_by_gram(
    gram: Array, signs: Array, options: FitOptions, dual: Array, progress: Progress
) -> FitRecord:
    """How it went; dual (k, n) to begin at is written over, and `weigh` makes weights of it."""
    k = len(signs)
    costs, report = options.costs(k), np.zeros((k, 3))
    batch = CLASSES_PER_THREAD * thread_count()
    for first in range(0, k, batch):
        part = slice(first, first + batch)
        seed = (options.seed * 1_000_003 + first) % (1 << 62)
        squared = options.loss == "squared_hinge"
        with kernel_running():
            solve(
                gram, signs[part], costs[part], squared, options.intercept_scaling, dual[part], seed,
                options.tolerance, options.max_iter, report[part],
            )  # fmt: skip
        progress.advance(min(batch, k - first))
    return FitRecord(dual.T, report[:, 0], report[:, 1], report[:, 2].astype(np.int64))


def weigh(rows: Array | None, signs: Array, dual: Array, intercept_scaling: float) -> tuple[Tensor, Tensor]:
    """Weights (k, d) of dual variables (k, n), or without rows those of the Gram matrix; biases (k,)."""
    shares = dual * signs
    biases = torch.from_numpy((shares.sum(axis=1) * intercept_scaling**2).astype(np.float32))
    weights = torch.from_numpy(shares.astype(np.float32))
    if rows is None:
        return weights, biases
    with one_thread():
        return torch.mm(weights, torch.from_numpy(rows)), biases


def _warn_unless_done(names: tuple[str, ...], record: FitRecord, options: FitOptions) -> None:
    far = np.flatnonzero(record.gap > options.tolerance)
    if len(far):
        warnings.warn(
            f"{len(far)} of {len(names)} SVMs were left after {options.max_iter} sweeps, up to "
            f"{record.gap.max():.1%} above their optimum: {', '.join(names[i] for i in far[:5])}. "
            "Raise max_iter, lower C, or bring the vectors to a length near 1",
            RuntimeWarning,
            stacklevel=3,
        )
