"""Images and vectors dealt to folds; the C of linear SVMs, chosen by how well they label what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.arrays import Array, Ints
from sppnet.errors import ConfigError, DataError
from sppnet.progress import NullProgress, Progress
from sppnet.rng import Stream, generator
from sppnet.svm import gram as gram_
from sppnet.svm.gram import checked_gram, gram_matrix
from sppnet.svm.linear_svm import solve_by_gram, solve_by_rows, weigh
from sppnet.svm.objective import FitOptions
from sppnet.svm.svm_inputs import Vectors, as_rows, as_signs, check_sides
from sppnet.torch_defaults import one_thread

C_VALUES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What `choose_C` tries."""


@dataclass(frozen=True)
class ChosenC:
    """What `choose_C` found."""

    C: float
    accuracy: dict[float, float]
    """Share of held-out vectors whose own class scored highest, for each value tried."""


def choose_C(
    vectors: Vectors,
    labels: Tensor | npt.NDArray[np.integer],
    values: Sequence[float] = C_VALUES,
    *,
    folds: int = 5,
    seed: int = 0,
    tolerance: float = 1e-2,
    gram: Tensor | None = None,
    progress: Progress | None = None,
) -> ChosenC:
    """The C that labels held-out vectors best; of equally good ones the smallest.

    Every class is dealt out evenly to `folds` parts, or as many as there are vectors to hold out, if that
    is less; each is held out once. A class of one vector is never held out. tolerance, gram: as of `fit_svm`,
    whose other options have their defaults. progress: told of every fit, and of fewer folds.
    """
    rows = as_rows(vectors)
    names, signs = as_signs(labels, len(rows), None)
    if len(names) < 2 or np.ndim(labels) != 1:
        raise DataError("to choose C give labels (n,) of two classes or more")
    check_sides(names, signs)
    tried = sorted(set(values))
    options = [FitOptions(C, tolerance=tolerance, seed=seed) for C in tried]
    if not options:
        raise ConfigError("give one value of C or more to choose from")
    if gram is None and len(rows) <= gram_.GRAM_ROWS:  # it serves every fit
        gram = gram_matrix(torch.from_numpy(rows))
    table = checked_gram(gram, len(rows))
    parts = _deal(signs.argmax(axis=0), folds, seed)
    dealt = int(parts.max()) + 1
    progress = progress or NullProgress()
    progress.begin("choosing C", dealt * len(options))
    right = np.zeros(len(options), np.int64)
    for part in range(dealt):
        for index, option in enumerate(options):
            right[index] += _count_right(rows, table, signs, parts == part, option)
            progress.advance()
    accuracy = right / np.count_nonzero(parts >= 0)
    best = tried[int(accuracy.argmax())]
    few = f", in {dealt} folds for want of images" if dealt < folds else ""
    progress.advance(0, note=f"C = {best:g}{few}")
    return ChosenC(best, dict(zip(tried, accuracy.tolist(), strict=True)))


def deal_folds(images: int, folds: int, seed: int) -> Ints:
    """(images,) the fold of each image, equally many in each; empty for fewer than two folds or images."""
    if min(folds, images) < 2:
        return np.zeros(0, np.int64)
    return generator(seed, Stream.FOLDS).permutation(images) % folds


def first_folds(fold_of: Ints, held_out: int | None = None) -> list[int]:
    """The first folds, as many as hold `held_out` images; all for None. fold_of: (n,), of `deal_folds`."""
    sizes = np.bincount(fold_of)
    before = np.cumsum(sizes) - sizes
    return [fold for fold in range(len(sizes)) if held_out is None or before[fold] < held_out]


def _deal(labels: Array, folds: int, seed: int) -> Array:
    """(n,) the fold that holds each vector out: every class dealt round; −1 for a class of one."""
    if folds < 2:
        raise ConfigError(f"folds must be 2 or more; got {folds}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    dealt = order[np.bincount(labels)[labels[order]] > 1]
    if len(dealt) == 0:
        raise DataError("no class has 2 vectors, so none can be held out to choose C; give C")
    parts = np.full(len(labels), -1)
    parts[dealt] = np.arange(len(dealt)) % min(folds, len(dealt))
    return parts


def _count_right(rows: Array, gram: Array | None, signs: Array, held_out: Array, options: FitOptions) -> int:
    """How many held-out vectors score highest for their class, with SVMs fitted to the others."""
    used = np.where(held_out, 0, signs).astype(np.int8)
    dual = np.zeros(used.shape)
    if gram is None:
        _, weights, biases = solve_by_rows(rows, used, options, dual, NullProgress())
        table = rows
    else:
        solve_by_gram(gram, used, options, dual, NullProgress())
        weights, biases = weigh(None, used, dual, options.intercept_scaling)
        table = gram
    with one_thread():
        scores = torch.addmm(biases, torch.from_numpy(table[held_out]), weights.T).numpy()
    return int((scores.argmax(axis=1) == signs.argmax(axis=0)[held_out]).sum())
