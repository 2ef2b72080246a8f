"""Linear SVMs, one against the rest for every class, on plain vectors.

The objective of each class is liblinear's: ½‖w‖² + Σ cost_i · loss_i, where w includes the weight of a
constant feature (`bias_multiplier`), the loss is max(0, 1 − y·score) or its square, and the cost is C,
times `positive_weight` for positives. It is solved in the dual by coordinate descent (Hsieh et al.,
ICML 2008) with shrinking, as liblinear does; scikit-learn's LinearSVC, which wraps that, copies the
vectors to float64 and solves one class after another on one thread. Here classes run side by side,
each alone and in an order of its own, so that the answer does not depend on the number of threads.

A sweep reads rows. Where vectors are many these are the vectors; where they are few they are rows of
the Gram matrix, (n, n) inner products made once: then looking at a row costs one number, and only a
change costs n of them.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numba as nb
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.errors import ConfigError, DataError
from sppnet.learn.descent import solve, squares_of

# Two threads must not enter some of numba's threading layers at once: one lock for all kernels.
from sppnet.ops.cpu import kernel_running

Loss = Literal["squared_hinge", "hinge"]
Array = npt.NDArray[Any]
Vectors = Tensor | npt.NDArray[np.floating]
Progress = Callable[[int, int], None]

GRAM_ROWS = 16_384
"""More vectors than this have no Gram matrix made for them: 1 GiB."""

GRAM_ROWS_PER_CLASS = 400
"""Making the Gram matrix pays from as few vectors, or as many classes, as this. On 12,800 dimensions and two
cores, Gram matrix or vectors: 5 classes, 2,000 vectors 2.0 or 3.1 s; 4,000, 4.4 or 3.5; 20 classes, 4,000
vectors 4.0 or 6.6 s (hinge, C = 0.001, vectors of length 20; machine shared)."""

GRAM_BLOCK = 256
"""Rows of the Gram matrix made at once; of every block only what is on or above the diagonal."""

CLASSES_PER_THREAD = 4
"""Classes solved between two calls of `progress`, a thread."""

C_VALUES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""What `choose_C` tries."""


@dataclass(frozen=True, eq=False, repr=False)
class FitRecord:
    """How a fit went, and where another may begin."""

    dual: Array
    """(n, k) float64 dual variables; 0 where a vector is not used, or beyond the margin."""
    objective: Array
    """(k,) value of each class's objective."""
    gap: Array
    """(k,) by how much each objective may exceed the least possible, as a share of it."""
    sweeps: Array
    """(k,) passes over the vectors."""

    def __repr__(self) -> str:
        return f"FitRecord(at most {self.gap.max():.1e} above the optimum, {self.sweeps.max()} sweeps)"


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


@dataclass(frozen=True)
class ChosenC:
    """What `choose_C` found."""

    C: float
    accuracy: dict[float, float]
    """Share of held-out vectors whose own class scored highest, for each value tried."""


def fit_svm(
    vectors: Vectors,
    targets: Tensor | npt.NDArray[np.integer],
    *,
    C: float = 1.0,
    loss: Loss = "squared_hinge",
    positive_weight: float | Sequence[float] = 1.0,
    bias_multiplier: float = 1.0,
    tolerance: float = 1e-3,
    max_sweeps: int = 1000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    start: Array | None = None,
    gram: Tensor | None = None,
    progress: Progress | None = None,
) -> LinearSVM:
    """One SVM a class, each against the rest.

    vectors: (n, d); float32 on the CPU is used as it is, anything else becomes it.
    targets: (n,) labels from 0, or (n, k) of 1, −1, and 0 where a vector is not used for a class.
    positive_weight: multiplies C for positives; one number, or one a class.
    bias_multiplier: the constant feature. The greater, the less the bias is regularised.
    tolerance: a class is done when its objective provably lies within this share of the optimum.
    max_sweeps: passes over the vectors; a class that needs more is left there, with a RuntimeWarning.
    classes: names, for errors and for the result; by default "0", "1", …
    start: (m, k) `fit.dual` of an earlier fit whose vectors are the first m of these.
    gram: `gram_matrix(vectors)`, if it is at hand; by default it is made where that is the faster way.
    progress: called with (classes done, classes in all), on the calling thread.
    Raises DataError for vectors that are not finite, and for a class without positives or negatives.
    """
    options = _Options(C, loss, positive_weight, bias_multiplier, tolerance, max_sweeps, seed)
    rows = _as_rows(vectors)
    names, signs = _as_signs(targets, len(rows), classes)
    _check_sides(names, signs)
    if gram is None and len(rows) <= min(rows.shape[1], GRAM_ROWS, GRAM_ROWS_PER_CLASS * len(names)):
        gram = gram_matrix(torch.from_numpy(rows))
    table = _checked_gram(gram, len(rows))
    record = _solve_all(rows, table, signs, options, _first_dual(start, signs), progress)
    _warn_unless_done(names, record, options)
    weight, bias = _weigh(rows, signs, record.dual, options.bias_multiplier)
    return LinearSVM(weight, bias, names, record)


def gram_matrix(vectors: Vectors) -> Tensor:
    """(n, d) → (n, n) inner products, float32; the same bits on any number of threads."""
    rows = torch.from_numpy(_as_rows(vectors))
    gram = torch.empty((len(rows), len(rows)))
    with _one_thread():
        for start in range(0, len(rows), GRAM_BLOCK):
            stop = min(start + GRAM_BLOCK, len(rows))
            strip = rows[start:stop] @ rows[start:].T
            gram[start:stop, start:] = strip
            gram[start:, start:stop] = strip.T
    return gram


def choose_C(
    vectors: Vectors,
    labels: Tensor | npt.NDArray[np.integer],
    values: Sequence[float] = C_VALUES,
    *,
    folds: int = 5,
    seed: int = 0,
    loss: Loss = "squared_hinge",
    positive_weight: float | Sequence[float] = 1.0,
    bias_multiplier: float = 1.0,
    tolerance: float = 1e-2,
    max_sweeps: int = 1000,
    gram: Tensor | None = None,
    progress: Progress | None = None,
) -> ChosenC:
    """The C that labels held-out vectors best; of equally good ones the smallest.

    Every class is dealt out evenly to `folds` parts, each of which is held out once. A class of one
    vector is never held out. The other parameters are those of `fit_svm`; progress counts fits.
    """
    rows = _as_rows(vectors)
    names, signs = _as_signs(labels, len(rows), None)
    if len(names) < 2 or np.ndim(labels) != 1:
        raise DataError("to choose C give labels (n,) of two classes or more")
    _check_sides(names, signs)
    tried = sorted(set(values))
    options = [
        _Options(C, loss, positive_weight, bias_multiplier, tolerance, max_sweeps, seed) for C in tried
    ]
    if not options:
        raise ConfigError("give one value of C or more to choose from")
    if gram is None and len(rows) <= GRAM_ROWS:  # it serves every fit
        gram = gram_matrix(torch.from_numpy(rows))
    table = _checked_gram(gram, len(rows))
    parts = _deal(signs.argmax(axis=0), folds, seed)
    right = np.zeros(len(options), np.int64)
    for part in range(folds):
        for index, option in enumerate(options):
            right[index] += _count_right(rows, table, signs, parts == part, option)
            if progress is not None:
                progress(part * len(options) + index + 1, folds * len(options))
    accuracy = right / np.count_nonzero(parts >= 0)
    return ChosenC(tried[int(accuracy.argmax())], dict(zip(tried, accuracy.tolist(), strict=True)))


# --- what comes in -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    """What `fit_svm` was asked for."""

    C: float
    loss: Loss
    positive_weight: float | Sequence[float]
    bias_multiplier: float
    tolerance: float
    max_sweeps: int
    seed: int

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ConfigError(f"the loss is {' or '.join(get_args(Loss))}; got {self.loss!r}")
        above_zero = {"C": self.C, "positive_weight": self.positive_weight, "tolerance": self.tolerance}
        for name, value in above_zero.items():
            numbers = np.asarray(value, dtype=np.float64)
            if not (np.isfinite(numbers).all() and (numbers > 0).all()):
                raise ConfigError(f"{name} must be above 0; got {value!r}")
        if not (np.isfinite(self.bias_multiplier) and self.bias_multiplier >= 0):
            raise ConfigError(f"bias_multiplier must be 0 (no bias) or more; got {self.bias_multiplier!r}")
        if self.max_sweeps < 1:
            raise ConfigError(f"max_sweeps must be 1 or more; got {self.max_sweeps}")

    def costs(self, k: int) -> Array:
        """(k, 2): of a negative and of a positive of each class."""
        weights = np.asarray(self.positive_weight, dtype=np.float64)
        if weights.shape not in ((), (k,)):
            raise ConfigError(f"positive_weight is one number or {k}, one a class; got {weights.shape}")
        return self.C * np.stack([np.ones(k), np.broadcast_to(weights, k)], axis=1)


def _as_rows(vectors: Vectors) -> Array:
    """(n, d) float32 in one piece, all finite; not a copy where it was that already."""
    tensor = torch.as_tensor(vectors).detach()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise DataError(f"vectors must have shape (n, d), neither of them 0; got {tuple(tensor.shape)}")
    rows: Array = tensor.to("cpu", torch.float32).contiguous().numpy()
    with kernel_running():
        squares = squares_of(rows)
    if len(bad := np.flatnonzero(~np.isfinite(squares))):
        raise DataError(
            f"{len(bad)} of {len(rows)} vectors hold NaN or infinity (the first is vector {bad[0]}); "
            "check the images or the network they came from"
        )
    return rows


def _as_signs(targets: Any, n: int, classes: Sequence[str] | None) -> tuple[tuple[str, ...], Array]:
    """Names, and (k, n) int8 of 1, −1 and 0."""
    given = torch.as_tensor(targets).cpu().numpy()
    if given.ndim not in (1, 2) or len(given) != n:
        raise DataError(f"{n} vectors need targets of shape ({n},) or ({n}, classes); got {given.shape}")
    if given.ndim == 1:
        signs = _signs_of_labels(given, len(classes) if classes is not None else None)
    elif np.isin(given, (-1, 0, 1)).all():
        signs = np.ascontiguousarray(given.T.astype(np.int8))
    else:
        raise DataError("a matrix of targets holds 1, −1, and 0 for what is not used; got other numbers")
    names = tuple(str(i) for i in range(len(signs))) if classes is None else tuple(classes)
    if len(names) != len(signs):
        raise DataError(f"targets of {len(signs)} classes need as many names; got {len(names)}")
    return names, signs


def _signs_of_labels(labels: Array, k: int | None) -> Array:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers; got {labels.dtype}")
    k = int(labels.max()) + 1 if k is None else k
    if labels.min() < 0 or labels.max() >= k:
        raise DataError(f"labels must be 0..{k - 1}; got {labels.min()}..{labels.max()}")
    return np.where(labels == np.arange(k)[:, None], 1, -1).astype(np.int8)


def _check_sides(names: tuple[str, ...], signs: Array) -> None:
    for side, word in ((1, "positives"), (-1, "negatives")):
        lacking = [name for name, row in zip(names, signs, strict=True) if not (row == side).any()]
        if lacking:
            raise DataError(
                f"no {word} for {len(lacking)} of {len(names)} classes: {', '.join(lacking[:10])}"
                f"{', …' if len(lacking) > 10 else ''}. Add some, or leave the classes out"
            )


def _checked_gram(gram: Tensor | None, n: int) -> Array | None:
    if gram is None:
        return None
    if gram.shape != (n, n) or gram.dtype != torch.float32:
        raise DataError(f"the Gram matrix must be ({n}, {n}) float32; got {tuple(gram.shape)} {gram.dtype}")
    return gram.cpu().contiguous().numpy()


def _first_dual(start: Array | None, signs: Array) -> Array:
    """(k, n) float64 to begin at: `start`, with 0 for vectors that came later or are not used now."""
    k, n = signs.shape
    dual = np.zeros((k, n))
    if start is not None:
        given = np.asarray(start, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != k or len(given) > n or not np.isfinite(given).all():
            raise DataError(f"start must be finite, of shape (up to {n}, {k}); got {given.shape}")
        dual[:, : len(given)] = given.T
    return np.where(signs != 0, dual, 0.0)


# --- solving -------------------------------------------------------------------------------------


def _solve_all(
    rows: Array,
    gram: Array | None,
    signs: Array,
    options: _Options,
    dual: Array,
    progress: Progress | None = None,
) -> FitRecord:
    """dual (k, n) to begin at; it is written over."""
    k = len(signs)
    costs, report = options.costs(k), np.zeros((k, 3))
    if gram is None:
        with kernel_running():
            table, squares = rows, squares_of(rows)
    else:
        table, squares = gram, gram.diagonal().astype(np.float64)
    batch = CLASSES_PER_THREAD * nb.get_num_threads()
    for first in range(0, k, batch):
        part = slice(first, first + batch)
        with kernel_running():
            solve(
                table,
                gram is not None,
                squares,
                signs[part],
                costs[part],
                options.loss == "squared_hinge",
                options.bias_multiplier,
                dual[part],
                (options.seed * 1_000_003 + first) % (1 << 62),
                options.tolerance,
                options.max_sweeps,
                report[part],
            )
        if progress is not None:
            progress(min(first + batch, k), k)
    return FitRecord(dual.T, report[:, 0], report[:, 1], report[:, 2].astype(np.int64))


def _warn_unless_done(names: tuple[str, ...], record: FitRecord, options: _Options) -> None:
    far = np.flatnonzero(record.gap > options.tolerance)
    if len(far):
        warnings.warn(
            f"{len(far)} of {len(names)} SVMs were left after {options.max_sweeps} sweeps, up to "
            f"{record.gap.max():.1%} above their optimum: {', '.join(names[i] for i in far[:5])}. "
            "Raise max_sweeps, lower C, or bring the vectors to a length near 1",
            RuntimeWarning,
            stacklevel=3,
        )


def _weigh(rows: Array, signs: Array, dual: Array, bias_multiplier: float) -> tuple[Tensor, Tensor]:
    """Weights (k, d) and biases (k,) of dual variables (n, k)."""
    shares = dual.T * signs
    with _one_thread():
        weight = torch.mm(torch.from_numpy(shares.astype(np.float32)), torch.from_numpy(rows))
    return weight, torch.from_numpy((shares.sum(axis=1) * bias_multiplier**2).astype(np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread: on several, it may split a sum among them, and its last bits change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- choosing C ----------------------------------------------------------------------------------


def _deal(labels: Array, folds: int, seed: int) -> Array:
    """(n,) the fold that holds each vector out: every class dealt round; −1 for a class of one."""
    if not 2 <= folds <= len(labels):
        raise ConfigError(f"folds must be 2 to the number of vectors, {len(labels)}; got {folds}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    dealt = order[np.bincount(labels)[labels[order]] > 1]
    if len(dealt) == 0:
        raise DataError("no class has 2 vectors, so none can be held out to choose C; give C")
    parts = np.full(len(labels), -1)
    parts[dealt] = np.arange(len(dealt)) % folds
    return parts


def _count_right(rows: Array, gram: Array | None, signs: Array, held: Array, options: _Options) -> int:
    """How many held-out vectors score highest for their class, with SVMs fitted to the others."""
    used = np.where(held, 0, signs).astype(np.int8)
    record = _solve_all(rows, gram, used, options, np.zeros(used.shape))
    if gram is None:
        weights, biases = _weigh(rows, used, record.dual, options.bias_multiplier)
        table = rows
    else:
        shares = record.dual.T * used
        weights = torch.from_numpy(shares.astype(np.float32))
        biases = torch.from_numpy((shares.sum(axis=1) * options.bias_multiplier**2).astype(np.float32))
        table = gram
    with _one_thread():
        scores = torch.addmm(biases, torch.from_numpy(table[held]), weights.T).numpy()
    return int((scores.argmax(axis=1) == signs.argmax(axis=0)[held]).sum())
