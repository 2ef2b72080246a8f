"""The windows that the SVMs and the box regression of a labelling session learn from: few, and bounded.

Their inner products are kept too: a photograph that is confirmed adds some rows to the Gram matrix, and
a fit then reads numbers and no vectors. That is what makes a fit take a fraction of a second.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array, Doubles, Flags, Floats, Ints, Signs
from sppnet.boxes import encode_boxes
from sppnet.errors import DataError
from sppnet.svm.gram import gram_matrix
from sppnet.svm.vector_store import NORM
from sppnet.torch_defaults import one_thread

NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows of one photograph, and what each is an example of."""

    vectors: Tensor
    """(n, d) float32."""
    signs: Signs
    """(n, k): 1 positive, −1 negative, 0 not used for the class."""
    labels: Ints
    """(n,) the class of the object a window learns to move to; NO_CLASS for none."""
    deltas: Doubles
    """(n, 4) to that object."""

    def __len__(self) -> int:
        return len(self.signs)

    def take(self, rows: Ints) -> "LabelledWindows":
        return LabelledWindows(
            self.vectors[torch.from_numpy(rows)], self.signs[rows], self.labels[rows], self.deltas[rows]
        )


class Examples:
    """At most `limit` windows, with their Gram matrix, signs and dual variables."""

    def __init__(self, length: int, limit: int) -> None:
        self.limit, self.scale = limit, 1.0
        self.vectors = np.empty((limit, length), np.float32)  # the system gives pages as they fill
        self.gram = np.empty((limit, limit), np.float32)
        self.signs = np.zeros((limit, 0), np.int8)
        self.dual = np.zeros((limit, 0))
        self.labels = np.full(limit, NO_CLASS)
        self.deltas = np.zeros((limit, 4))
        self.photos = np.zeros(limit, np.int64)
        self.count = 0

    def __len__(self) -> int:
        return self.count

    @property
    def classes(self) -> int:
        return self.signs.shape[1]

    def add_classes(self, count: int) -> None:
        """Until there are `count`; whatever is here already is no object of a new class."""
        new = count - self.classes
        if new > 0:
            self.signs = np.hstack([self.signs, np.full((self.limit, new), -1, np.int8)])
            self.dual = np.hstack([self.dual, np.zeros((self.limit, new))])

    def add(self, photo: int, windows: LabelledWindows) -> None:
        """Takes in windows of a photograph; the easiest negatives leave where there is no room.

        Raises DataError for more windows than there can be at all.
        """
        if len(windows) > self.limit:
            raise DataError(f"{self.limit} windows are kept at most; got {len(windows)} of one photograph")
        if not self.count:
            lengths = windows.vectors.norm(dim=1)
            self.scale = NORM / float(lengths.mean()) if float(lengths.max()) > 0 else 1.0
        self._make_room(len(windows))
        here = slice(self.count, self.count + len(windows))
        self.vectors[here] = windows.vectors.numpy() * np.float32(self.scale)
        self.signs[here], self.labels[here] = windows.signs, windows.labels
        self.deltas[here], self.photos[here], self.dual[here] = windows.deltas, photo, 0
        self._extend_gram(here)
        self.count = here.stop

    def drop(self, gone: Flags) -> None:
        """Without the windows marked in `gone` (count,)."""
        if not gone.any():
            return
        kept = np.flatnonzero(~gone)
        for array in (self.vectors, self.signs, self.dual, self.labels, self.deltas, self.photos):
            array[: len(kept)] = array[kept]
        self.gram[: len(kept), : len(kept)] = self.gram[np.ix_(kept, kept)]
        self.count = len(kept)

    def gram_of(self, rows: Ints | slice) -> Array:
        """(m, m) inner products of some of the windows."""
        part = self.gram[rows, rows] if isinstance(rows, slice) else self.gram[np.ix_(rows, rows)]
        return np.ascontiguousarray(part)

    def _extend_gram(self, here: slice) -> None:
        with one_thread():
            new = torch.from_numpy(self.vectors[here])
            strip = (new @ torch.from_numpy(self.vectors[: here.stop]).T).numpy()
        self.gram[here, : here.stop] = strip
        self.gram[: here.stop, here] = strip.T
        self.gram[here, here] = gram_matrix(new).numpy()  # symmetric to the last bit

    def _make_room(self, wanted: int) -> None:
        """Drops an eighth of what is full: those that SVMs stand on least, of equal ones the oldest first."""
        if self.count + wanted <= self.limit:
            return
        order = np.argsort(self.dual[: self.count].max(axis=1, initial=0), kind="stable")
        gone = np.zeros(self.count, np.bool_)
        gone[order[: max(self.count + wanted - self.limit, self.limit // 8)]] = True
        self.drop(gone)


def regression_targets(boxes: Floats, objects: Floats, nearest: Ints) -> Doubles:
    """(n, 4) deltas from boxes to their nearest objects; 0 where there is none."""
    deltas = np.zeros((len(boxes), 4))
    some = np.flatnonzero(nearest >= 0)
    if len(some):
        deltas[some] = encode_boxes(boxes[some], objects[nearest[some]])
    return deltas


def iou_of_deltas(deltas: Doubles) -> Doubles:
    """(n, 4) → (n,) IoU of a box and the object that its deltas lead to."""
    side = np.exp(deltas[:, 2:])
    low, high = deltas[:, :2] - side / 2, deltas[:, :2] + side / 2
    both = np.prod(np.maximum(np.minimum(high, 0.5) - np.maximum(low, -0.5), 0), axis=1)
    iou: Doubles = both / (1 + np.prod(side, axis=1) - both)
    return iou
