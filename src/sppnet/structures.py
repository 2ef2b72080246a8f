"""Boxes with what is known about them: what a person marked, and what a detector found.

Boxes are (n, 4) float32 xyxy in pixels, 0-based and half-open: a box of the whole image is
(0, 0, width, height). Labels count from 0 in the order of the class names; background is no class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sppnet.errors import DataError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of one image; empty arrays for an image without any."""

    boxes: Floats
    """(n, 4), none of them empty."""
    labels: Ints
    """(n,) indices of the classes."""
    difficult: Flags
    """(n,) objects that evaluation neither asks for nor counts as wrong (VOC)."""
    crowd: Flags
    """(n,) boxes around many objects (COCO); never trained on."""

    def __post_init__(self) -> None:
        boxes = check_boxes(self.boxes)
        n = len(boxes)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "labels", _column("labels", self.labels, np.int64, n))
        object.__setattr__(self, "difficult", _column("difficult", self.difficult, np.bool_, n))
        object.__setattr__(self, "crowd", _column("crowd", self.crowd, np.bool_, n))

    @staticmethod
    def of(boxes: npt.ArrayLike, labels: npt.ArrayLike) -> "GroundTruth":
        """Plain objects, none difficult, none a crowd."""
        n = len(np.reshape(labels, -1))
        return GroundTruth(
            np.reshape(np.asarray(boxes, np.float32), (n, 4)),
            np.reshape(np.asarray(labels, np.int64), n),
            np.zeros(n, np.bool_),
            np.zeros(n, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "GroundTruth":
        """Some of the objects: an integer, a slice, a mask or indices."""
        chosen = _rows(index)
        return GroundTruth(
            self.boxes[chosen], self.labels[chosen], self.difficult[chosen], self.crowd[chosen]
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image."""

    boxes: Floats
    """(n, 4)."""
    scores: Floats
    """(n,) the higher the surer."""
    labels: Ints
    """(n,) indices into `classes`."""
    classes: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        boxes = check_boxes(self.boxes)
        n = len(boxes)
        labels = _column("labels", self.labels, np.int64, n)
        if n and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(
                f"labels must be 0..{len(self.classes) - 1}; got {labels.min()}..{labels.max()}"
            )
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", _column("scores", self.scores, np.float32, n))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Detections":
        """Some of them: an integer, a slice, a mask or indices, as `found[found.scores > 0.5]`."""
        chosen = _rows(index)
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.classes)

    @property
    def names(self) -> list[str]:
        """The class of each."""
        return [self.classes[label] for label in self.labels]


def check_boxes(boxes: npt.ArrayLike) -> Floats:
    """(n, 4) float32, read-only; raises DataError unless every box is finite and not empty."""
    array = np.array(boxes, dtype=np.float32)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise DataError(f"boxes must have shape (n, 4), xyxy; got {array.shape}")
    good = np.isfinite(array).all(axis=1) & (array[:, 2] > array[:, 0]) & (array[:, 3] > array[:, 1])
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"a box needs x0 < x1 and y0 < y1, all finite; box {first} is {array[first].tolist()}"
        )
    array.setflags(write=False)
    return array


def overlaps(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """(n, 4) and (m, 4) → (n, m) intersection over union."""
    a, b = (np.asarray(array, np.float32).reshape(-1, 4) for array in (boxes, others))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    result: Floats = np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(np.float32)
    return result


def areas(boxes: npt.ArrayLike) -> Floats:
    """(n, 4) → (n,) in square pixels."""
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    result: Floats = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    return result


def _rows(index: Any) -> Any:
    """An index that keeps the first axis."""
    return [int(index)] if isinstance(index, int | np.integer) else index


def _column(name: str, values: Sequence[Any] | npt.NDArray[Any], kind: Any, n: int) -> Any:
    array = np.array(values, dtype=kind)
    if array.shape != (n,):
        raise DataError(f"{n} boxes need {name} of shape ({n},); got {array.shape}")
    array.setflags(write=False)
    return array
