"""Box regression: a linear correction of a window towards its object (paper section 4.1).

A window is told how far to move, in its own widths and heights, and by what factor to grow, in logarithms,
from its vector; one ridge regression a class. The released code whitens the four targets first. Ridge
commutes with any linear map of its targets, so this changes no prediction; here they are whitened where
it matters only, to weigh the four against each other when alpha is chosen.

The system that is solved is the smaller of two: n×n, inner products of windows, or d×d, of features.
It is made of pieces in float32 that are summed in float64, so the vectors are never copied whole.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.arrays import Array, Doubles, Floats, Ints
from sppnet.errors import ConfigError, DataError
from sppnet.heads.box_coder import clip_boxes
from sppnet.heads.box_coder import decode_boxes as decode_boxes
from sppnet.heads.box_coder import encode_boxes as encode_boxes
from sppnet.svm.gram import gram_matrix, one_thread
from sppnet.svm.svm_inputs import Vectors

MIN_WINDOWS = 10
"""A class with fewer has its boxes left alone: they would say more about one object than about the class."""

DEFAULT_ALPHA = 1000.0
ALPHAS = tuple(float(alpha) for alpha in np.geomspace(1, 1e6, 13))
"""What is tried where alpha is to be chosen; made for vectors of mean length 20."""

PIECE = 1024  # columns or rows whose products are summed in float32
WHITENING_FLOOR = 1e-3  # added to the variances of the targets, as in the released code


def mean_length_scale(vectors: Vectors, mean_length: float = 20.0) -> float:
    """By what to multiply vectors (n, d) so that their mean length is 20, which C and alpha are made for.

    A sample of vectors will do; the released detector takes 200 windows of 200 images (spp_feature_stats.m).
    """
    rows = _as_rows(vectors)
    lengths = [np.linalg.norm(rows[part].astype(np.float64), axis=1) for part in _pieces(len(rows))]
    mean = float(np.concatenate(lengths).mean())
    if mean == 0:
        raise DataError(f"all {len(rows)} vectors are 0; check where they come from")
    return mean_length / mean


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """For every class, a linear map from vectors to deltas."""

    weight: Tensor
    """(k, 4, d) float32."""
    bias: Tensor
    """(k, 4) float32."""
    classes: tuple[str, ...]
    alphas: tuple[float, ...] = field(default=(), compare=False)
    """Of each class, infinite for one with too few windows; empty for a regressor read from a file."""

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
    alpha: float | None = DEFAULT_ALPHA,
    regularise_bias: bool = True,
    groups: npt.ArrayLike | None = None,
) -> BoxRegressor:
    """A ridge regression a class, from the vectors of windows to their objects' boxes.

    vectors: (n, d) of the proposals; make their mean length 20 (see `mean_length_scale`).
    proposals, targets, labels: (n, 4) windows, (n, 4) and (n,) the object each overlaps (IoU ≥ 0.5).
    alpha: what the squared weights count against the squared errors; the paper's released code has 4,000,
        R-CNN's 1,000. None chooses one of ALPHAS for each class, by the error on windows left out: this
        takes an eigendecomposition of the system, ten times as long as its solution.
    regularise_bias: by default, as in the released code. It matters little, since the mean of the targets
        is taken off before; with False this is the ridge regression of textbooks.
    groups: (n,) integers; windows of one group, say their image, are left out together. Those of one object
        are alike: on photographs of VOC the IoU with the object rose from 0.664 to 0.711 with alpha 1,000,
        to 0.721 with one chosen by images, and only to 0.701 with one chosen by windows.
    Takes 20·min(n, d)² bytes for a class of n windows. Raises DataError for vectors that do not fit or are
    not finite, GeometryError for empty boxes.
    """
    rows, chosen = _as_rows(vectors), _as_labels(labels, len(classes))
    deltas = encode_boxes(proposals, targets)
    dealt = np.arange(len(rows)) if groups is None else np.asarray(groups)
    if not len(rows) == len(deltas) == len(chosen) == len(dealt):
        got = f"{len(rows)} vectors, {len(deltas)} boxes, {len(chosen)} labels, {len(dealt)} groups"
        raise DataError(f"every vector needs a box, a label and a group; got {got}")
    if alpha is not None and not 0 < alpha < math.inf:
        raise ConfigError(f"alpha must be above 0, or None to choose one; got {alpha}")
    weight, bias = torch.zeros(len(classes), 4, rows.shape[1]), torch.zeros(len(classes), 4)
    alphas = [math.inf] * len(classes)
    for label in range(len(classes)):
        own = np.flatnonzero(chosen == label)
        if len(own) >= MIN_WINDOWS:
            windows = _Windows(rows, own, None if regularise_bias else _mean(rows, own))
            weight[label], bias[label], alphas[label] = _fit_class(windows, deltas[own], alpha, dealt[own])
    return BoxRegressor(weight, bias, tuple(classes), tuple(alphas))


# --- one class -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Windows:
    """The matrix Z (n, z) of one class: its vectors and a column of ones, or its vectors less their mean."""

    vectors: Array
    """(N, d) of all classes."""
    own: Array
    """(n,) indices of this class's."""
    mean: Array | None
    """(d,) float32; None where the bias is a weight like others, of a column of ones."""

    def rows(self, part: slice) -> Array:
        """Some rows of Z, (m, z) float32."""
        some = self.vectors[self.own[part]]
        return np.pad(some, ((0, 0), (0, 1)), constant_values=1) if self.mean is None else some - self.mean

    def project(self, values: Doubles) -> Doubles:
        """(n, 4) → Z'·values, (z, 4)."""
        total = np.zeros((self.vectors.shape[1] + (self.mean is None), values.shape[1]))
        for part in _pieces(len(self.own)):
            total += _product(self.rows(part).T, values[part])
        return total

    def times(self, values: Doubles) -> Doubles:
        """(z, m) → Z·values, (n, m)."""
        return np.concatenate([_product(self.rows(part), values) for part in _pieces(len(self.own))])

    def is_wide(self) -> bool:
        return bool(len(self.own) < self.vectors.shape[1])

    def system(self) -> Tensor:
        """Z·Z' (n, n) where that is the smaller, else Z'·Z (z, z); float64."""
        if not self.is_wide():
            return _summed(gram_matrix(self.rows(part).T) for part in _pieces(len(self.own)))
        gram = _summed(gram_matrix(self._columns(part)) for part in _pieces(self.vectors.shape[1]))
        return gram.add_(1) if self.mean is None else gram

    def _columns(self, part: slice) -> Array:
        some: Array = self.vectors[:, part][self.own]
        return some if self.mean is None else some - self.mean[part]


def _fit_class(
    windows: _Windows, deltas: Doubles, alpha: float | None, groups: Array
) -> tuple[Tensor, Tensor, float]:
    """Weights (4, d), biases (4,), and the alpha they were found with."""
    mean = deltas.mean(axis=0)
    targets, system = deltas - mean, windows.system()
    with one_thread():
        if alpha is None:
            alpha = _choose_alpha(windows, system, targets, groups)
        if windows.is_wide():
            solution = windows.project(_solve(system, alpha, targets))
        else:
            solution = _solve(system, alpha, windows.project(targets))
        if windows.mean is None:
            solution, bias = solution[:-1], mean + solution[-1]
        else:
            bias = mean - _product(windows.mean[None], solution)[0]
    return torch.from_numpy(solution.T.copy()), torch.from_numpy(bias), alpha


def _solve(system: Tensor, alpha: float, right: Doubles) -> Doubles:
    """(system + alpha·identity)⁻¹ · right; writes over the system."""
    system.diagonal().add_(alpha)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise DataError(f"alpha={alpha:g} is too small for vectors of this length; raise it")
    solved: Doubles = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
    return solved


def _choose_alpha(windows: _Windows, system: Tensor, targets: Doubles, groups: Array) -> float:
    """The one of ALPHAS with the least error on groups left out, without fitting any anew.

    The residuals R of a fit to all become those of a fit without group g by M⁻¹R, where M is the block
    of g in (identity − hat matrix) (Cook and Weisberg 1982, section 2.2).
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    if len(members) < 2:
        return DEFAULT_ALPHA
    values, vectors = (part.numpy() for part in torch.linalg.eigh(system))
    values = np.maximum(values, 0)
    scores = vectors * np.sqrt(values) if windows.is_wide() else windows.times(vectors)
    white = targets @ _whitening(targets)
    constant = 0.0 if windows.mean is None else 1 / len(white)
    errors = [_error_left_out(scores / np.sqrt(values + alpha), white, constant, members) for alpha in ALPHAS]
    return ALPHAS[int(np.argmin(errors))]


def _error_left_out(scores: Doubles, targets: Doubles, constant: float, members: list[Array]) -> float:
    """scores (n, r): the hat matrix is scores·scores' + constant."""
    residuals = targets - _product(scores, _product(scores.T, targets))
    total = 0.0
    for group in members:
        block = np.eye(len(group)) - _product(scores[group], scores[group].T) - constant
        total += float((np.linalg.solve(block, residuals[group]) ** 2).sum())
    return total


def _whitening(targets: Doubles) -> Doubles:
    """(4, 4) that makes the targets' covariance nearly the identity (spp_train_bbox_regressor.m)."""
    variances, axes = np.linalg.eigh(targets.T @ targets / len(targets))
    whitening: Doubles = axes / np.sqrt(variances + WHITENING_FLOOR) @ axes.T
    return whitening


def _product(a: Array, b: Array) -> Doubles:
    """a·b in float64, by torch, whose number of threads can be held."""
    left, right = (torch.from_numpy(np.ascontiguousarray(array, np.float64)) for array in (a, b))
    product: Doubles = torch.mm(left, right).numpy()
    return product


def _mean(vectors: Array, own: Array) -> Array:
    total = sum(vectors[own[part]].sum(axis=0, dtype=np.float64) for part in _pieces(len(own)))
    return (total / len(own)).astype(np.float32)  # type: ignore[no-any-return]


def _summed(pieces: Iterator[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, pieces, next(pieces).double())


def _pieces(length: int) -> list[slice]:
    return [slice(start, min(start + PIECE, length)) for start in range(0, length, PIECE)]


def _as_rows(vectors: Vectors) -> Array:
    """(n, d) float32, all finite; not a copy where it was that already."""
    tensor = torch.as_tensor(vectors).detach()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise DataError(f"vectors must have shape (n, d), neither of them 0; got {tuple(tensor.shape)}")
    rows: Array = tensor.to("cpu", torch.float32).numpy()
    for part in _pieces(len(rows)):
        finite = np.isfinite(rows[part]).all(axis=1)
        if not finite.all():
            raise DataError(f"vector {part.start + finite.argmin()} holds NaN or infinity; check its image")
    return rows


def _as_labels(labels: npt.ArrayLike, k: int) -> Ints:
    array = np.asarray(labels) if np.size(labels) else np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not ((array >= 0) & (array < k)).all():
        raise DataError(f"labels must be a row of integers 0..{k - 1}; got {array} {array.dtype}")
    return array.astype(np.int64)
