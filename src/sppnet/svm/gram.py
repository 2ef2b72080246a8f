"""The Gram matrix of vectors: (n, n) inner products, the same bits on any number of threads."""

import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.errors import DataError
from sppnet.svm.svm_inputs import Vectors, as_rows
from sppnet.threads import ordered_map
from sppnet.torch_defaults import one_thread

GRAM_ROWS = 16_384
"""More vectors than this have no Gram matrix made for them: 1 GiB."""

GRAM_ROWS_PER_CLASS = 100
"""Making the Gram matrix pays from as few vectors, or as many classes, as this. 2,000 vectors of 12,800
numbers, processor seconds by Gram matrix and by vectors: 5 classes 0.62 and 0.37, 20 classes 0.79 and
1.42; but the matrix is made on one thread, and vectors use all."""

GRAM_BLOCK = 256
"""Rows of the Gram matrix made at once; of every block only what is on or above the diagonal."""


def pays(n: int, d: int, k: int) -> bool:
    """Whether k classes of n vectors are solved sooner with a Gram matrix, its making included."""
    return n <= min(d, GRAM_ROWS, GRAM_ROWS_PER_CLASS * k)


def gram_matrix(vectors: Vectors) -> Tensor:
    """(n, d) → (n, n) inner products, float32; the same bits on any number of threads."""
    rows = torch.from_numpy(as_rows(vectors))
    gram = torch.empty((len(rows), len(rows)))

    def fill(start: int) -> None:
        stop = min(start + GRAM_BLOCK, len(rows))
        strip = rows[start:stop] @ rows[start:].T
        gram[start:stop, start:] = strip
        gram[start:, start:stop] = strip.T

    with one_thread():  # of torch, a strip; strips are made beside each other
        for _ in ordered_map(fill, range(0, len(rows), GRAM_BLOCK)):
            pass
    return gram


def checked_gram(gram: Tensor | None, n: int) -> Array | None:
    if gram is None:
        return None
    if gram.shape != (n, n) or gram.dtype != torch.float32:
        raise DataError(f"the Gram matrix must be ({n}, {n}) float32; got {tuple(gram.shape)} {gram.dtype}")
    return gram.cpu().contiguous().numpy()
