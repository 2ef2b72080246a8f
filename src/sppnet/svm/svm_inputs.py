"""What an SVM learns from: vectors in one piece, and a sign for every vector and class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array, Reals
from sppnet.errors import DataError
from sppnet.jit import kernel_running
from sppnet.svm.gram_descent import squares_of

Vectors = Tensor | Reals


def as_rows(vectors: Vectors) -> Array:
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


def as_signs(targets: Any, n: int, classes: Sequence[str] | None) -> tuple[tuple[str, ...], Array]:
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


def check_sides(names: tuple[str, ...], signs: Array) -> None:
    for side, word in ((1, "positives"), (-1, "negatives")):
        lacking = [name for name, row in zip(names, signs, strict=True) if not (row == side).any()]
        if lacking:
            raise DataError(
                f"no {word} for {len(lacking)} of {len(names)} classes: {', '.join(lacking[:10])}"
                f"{', …' if len(lacking) > 10 else ''}. Add some, or leave the classes out"
            )


def first_dual(start: Array | None, signs: Array) -> Array:
    """(k, n) float64 to begin at: `start`, with 0 for vectors that came later or are not used now."""
    k, n = signs.shape
    dual = np.zeros((k, n))
    if start is not None:
        given = np.asarray(start, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != k or len(given) > n or not np.isfinite(given).all():
            raise DataError(f"start must be finite, of shape (up to {n}, {k}); got {given.shape}")
        dual[:, : len(given)] = given.T
    return np.where(signs != 0, dual, 0.0)
