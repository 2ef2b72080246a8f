"""Box regression: a linear correction of a window towards its object (paper section 4.1).

A window is told how far to move, in its own widths and heights, and by what factor to grow, in logarithms,
from its vector; one ridge regression a class. The released code whitens the four targets first. Ridge
commutes with any linear map of its targets, so this changes no prediction and is left out.

The system that is solved is the smaller of two: n×n, inner products of windows, or d×d, of features. The
first is made in float32 at once, whose errors are a millionth of alpha; the second of pieces that are summed
in float64, as there may be many more windows than features.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.arrays import Array, Doubles, Floats, Ints
from sppnet.boxes import clip_boxes, decode_boxes, encode_boxes
from sppnet.errors import ConfigError, DataError
from sppnet.svm.gram import gram_matrix
from sppnet.svm.svm_inputs import Vectors, as_rows
from sppnet.svm.vector_store import NORM
from sppnet.torch_defaults import one_thread

MIN_WINDOWS = 10
"""A class with fewer has its boxes left alone: they would say more about one object than about the class."""

DEFAULT_ALPHA = 1000.0

PIECE = 1024  # columns or rows whose products are summed in float32


def mean_length_scale(vectors: Vectors) -> float:
    """By what to multiply vectors (n, d) so that their mean length is 20, which C and alpha are made for.

    A sample of vectors will do; the released detector takes 200 windows of 200 images (spp_feature_stats.m).
    """
    rows = as_rows(vectors)
    lengths = [np.linalg.norm(rows[part].astype(np.float64), axis=1) for part in _pieces(len(rows))]
    mean = float(np.concatenate(lengths).mean())
    if mean == 0:
        raise DataError(f"all {len(rows)} vectors are 0; check where they come from")
    return NORM / mean


SHARED = 0.2
"""Share of the vectors from which on a class is applied to all of them."""


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """For every class, a linear map from vectors to deltas."""

    weight: Tensor
    """(k, 4, d) float32."""
    bias: Tensor
    """(k, 4) float32."""
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        k, d = len(self.classes), self.weight.shape[-1]
        if tuple(self.weight.shape) != (k, 4, d) or tuple(self.bias.shape) != (k, 4):
            raise ConfigError(
                f"{k} classes need weights of shape ({k}, 4, d) and biases of shape ({k}, 4); "
                f"got {tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )

    def __repr__(self) -> str:
        return f"BoxRegressor({len(self.classes)} classes, {self.weight.shape[-1]} dimensions)"

    def deltas(self, vectors: Vectors, labels: npt.ArrayLike) -> Doubles:
        """vectors (n, d), labels (n,) → (n, 4), each by the map of its class."""
        rows, chosen = torch.as_tensor(vectors).detach(), _as_labels(labels, len(self.classes))
        expected = (len(chosen), self.weight.shape[-1])
        if tuple(rows.shape) != expected:
            raise DataError(f"{len(chosen)} labels need vectors {expected}; got {tuple(rows.shape)}")
        result = np.zeros((len(chosen), 4))
        for label in np.unique(chosen):
            own = np.flatnonzero(chosen == label)
            part = rows[torch.from_numpy(own)].to(self.weight)
            result[own] = torch.addmm(self.bias[label], part, self.weight[label].T).cpu().numpy()
        return result

    def deltas_among(self, vectors: Tensor, rows: Ints, labels: Ints) -> Doubles:
        """As `deltas` of vectors[rows], where many boxes share vectors: vectors (u, d), rows and labels (n,).

        A class that corrects many of them is applied to all: a product with 4 columns takes less time than
        a copy of its rows.
        """
        result = np.zeros((len(rows), 4))
        counts = np.bincount(labels, minlength=len(self.classes))
        frequent = np.flatnonzero(counts > SHARED * len(vectors))
        place = np.full(len(self.classes), -1)
        place[frequent] = np.arange(len(frequent))
        shared = place[labels] >= 0
        if len(frequent):
            chosen = torch.from_numpy(frequent)
            weight = self.weight[chosen].flatten(0, 1)
            every = torch.addmm(self.bias[chosen].flatten(), vectors.to(weight), weight.T)
            every = every.view(len(vectors), len(frequent), 4)
            result[shared] = every.cpu().numpy()[rows[shared], place[labels[shared]]]
        if not shared.all():
            result[~shared] = self.deltas(vectors[torch.from_numpy(rows[~shared])], labels[~shared])
        return result

    def apply(
        self, vectors: Vectors, boxes: npt.ArrayLike, labels: npt.ArrayLike, size_hw: tuple[int, int]
    ) -> Floats:
        """boxes (n, 4) corrected and clipped to the image; none is narrower or lower than a pixel.

        vectors: (n, d) those of the boxes. labels: (n,). size_hw: of the image, in pixels.
        Raises DataError for shapes or labels that do not fit, GeometryError for empty boxes.
        """
        return clip_boxes(decode_boxes(boxes, self.deltas(vectors, labels)), size_hw)


def fit_boxes(
    vectors: Vectors,
    proposals: npt.ArrayLike,
    targets: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    *,
    alpha: npt.ArrayLike = DEFAULT_ALPHA,
) -> BoxRegressor:
    """A ridge regression a class, from the vectors of windows to their objects' boxes.

    vectors: (n, d) of the proposals; make their mean length 20 (see `mean_length_scale`).
    proposals, targets, labels: (n, 4) windows, (n, 4) and (n,) the object each overlaps (IoU ≥ 0.5).
    alpha: what the squared weights count against the squared errors, of all classes or (k,) of each; the
        paper's released code has 4,000, R-CNN's 1,000. The bias is regularised like any weight, as in the
        released code.
    Takes 20·min(n, d)² bytes for a class of n windows. Raises DataError for vectors that do not fit or are
    not finite, GeometryError for empty boxes.
    """
    rows, chosen = as_rows(vectors), _as_labels(labels, len(classes))
    deltas = encode_boxes(proposals, targets)
    if not len(rows) == len(deltas) == len(chosen):
        got = f"{len(rows)} vectors, {len(deltas)} boxes, {len(chosen)} labels"
        raise DataError(f"every vector needs a box and a label; got {got}")
    alphas = np.broadcast_to(np.asarray(alpha, np.float64), len(classes))
    own_of = [np.flatnonzero(chosen == label) for label in range(len(classes))]
    able = [label for label, own in enumerate(own_of) if len(own) >= MIN_WINDOWS]
    if not ((alphas[able] > 0) & np.isfinite(alphas[able])).all():
        raise ConfigError(f"alpha must be above 0; got {alpha!r}")
    weight, bias = torch.zeros(len(classes), 4, rows.shape[1]), torch.zeros(len(classes), 4)
    for label in able:
        own = own_of[label]
        with one_thread():
            weight[label], bias[label] = _fit_class(rows, own, deltas[own], float(alphas[label]))
    return BoxRegressor(weight, bias, tuple(classes))


# --- one class: Z (n, d + 1) are its vectors and a column of ones -----------------------------------


def _fit_class(vectors: Array, own: Array, deltas: Doubles, alpha: float) -> tuple[Tensor, Tensor]:
    """Weights (4, d) and biases (4,) of the class whose vectors are numbered `own`."""
    mean = deltas.mean(axis=0)
    targets, system = deltas - mean, _system(vectors, own)
    if _is_wide(vectors, own):
        solution = _project(vectors, own, _solve(system, alpha, targets))
    else:
        solution = _solve(system, alpha, _project(vectors, own, targets))
    return torch.from_numpy(solution[:-1].T.copy()), torch.from_numpy(mean + solution[-1])


def _is_wide(vectors: Array, own: Array) -> bool:
    return len(own) < int(vectors.shape[1])


def _system(vectors: Array, own: Array) -> Tensor:
    """Z·Z' (n, n) where that is the smaller, else Z'·Z (d + 1, d + 1); float64."""
    if not _is_wide(vectors, own):
        return _summed(gram_matrix(_with_ones(vectors, own[part]).T) for part in _pieces(len(own)))
    rows = vectors if len(own) == len(vectors) else vectors[own]  # `own` is in order
    return gram_matrix(rows).double().add_(1)


def _project(vectors: Array, own: Array, values: Doubles) -> Doubles:
    """(n, 4) → Z'·values, (d + 1, 4)."""
    total = np.zeros((vectors.shape[1] + 1, values.shape[1]))
    for part in _pieces(len(own)):
        rows, some = _with_ones(vectors, own[part]), values[part].astype(np.float32)
        total += torch.mm(torch.from_numpy(rows).T, torch.from_numpy(some)).numpy()
    return total


def _with_ones(vectors: Array, some: Array) -> Array:
    """Some rows of Z, (m, d + 1) float32."""
    return np.pad(vectors[some], ((0, 0), (0, 1)), constant_values=1)


def _solve(system: Tensor, alpha: float, right: Doubles) -> Doubles:
    """(system + alpha·identity)⁻¹ · right; writes over the system."""
    system.diagonal().add_(alpha)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise DataError(f"alpha={alpha:g} is too small for vectors of this length; raise it")
    solved: Doubles = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
    return solved


def _summed(pieces: Iterator[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, pieces, next(pieces).double())


def _pieces(length: int) -> list[slice]:
    return [slice(start, min(start + PIECE, length)) for start in range(0, length, PIECE)]


def _as_labels(labels: npt.ArrayLike, k: int) -> Ints:
    array = np.asarray(labels) if np.size(labels) else np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not ((array >= 0) & (array < k)).all():
        raise DataError(f"labels must be a row of integers 0..{k - 1}; got {array} {array.dtype}")
    return array.astype(np.int64)
