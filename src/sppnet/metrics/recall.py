"""How many objects proposals find: the share that one of the first n boxes of an image covers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Doubles, Floats
from sppnet.boxes import box_iou
from sppnet.errors import ConfigError, DataError
from sppnet.structures import GroundTruth

COUNTS = (500, 1000, 2000)
IOUS = (0.5, 0.7)


@dataclass(frozen=True, eq=False)
class RecallCurve:
    """Recall at some numbers of boxes an image, and at some overlaps."""

    counts: tuple[int, ...]
    ious: tuple[float, ...]
    recall: Doubles
    """(counts, ious) fractions of 1."""
    objects: int
    boxes_per_image: float
    """Mean of what there was to choose from."""

    def at(self, count: int, iou: float) -> float:
        """One number of the table."""
        return float(self.recall[self.counts.index(count), self.ious.index(iou)])


def recall_curve(
    boxes: Sequence[npt.ArrayLike],
    truths: Sequence[GroundTruth],
    counts: Sequence[int] = COUNTS,
    ious: Sequence[float] = IOUS,
) -> RecallCurve:
    """Recall of the first n boxes of every image, the best first, for each n of `counts`.

    boxes: (n, 4) an image.     truths: as many. Difficult objects and crowds are not asked for.
    An object is found where intersection over union with a box is at least the one asked for.
    Raises DataError if there are no objects, or not a truth for each image.
    """
    _check(counts, ious)
    if len(boxes) != len(truths):
        raise DataError(f"boxes of {len(boxes)} images need as many truths; got {len(truths)}")
    arrays = [np.asarray(array, np.float32).reshape(-1, 4) for array in boxes]
    best = [_best_overlaps(array, truth, counts) for array, truth in zip(arrays, truths, strict=True)]
    found = np.concatenate(best) if best else np.empty((0, len(counts)))
    if len(found) == 0:
        raise DataError("no image has an object that is neither difficult nor a crowd; recall needs one")
    recall = (found[:, :, None] >= np.asarray(ious, np.float32)).mean(axis=0)
    mean = float(np.mean([len(array) for array in arrays]))
    return RecallCurve(tuple(counts), tuple(ious), recall, len(found), mean)


def _best_overlaps(boxes: Floats, truth: GroundTruth, counts: Sequence[int]) -> Floats:
    """(objects, counts) the largest overlap of each object with the first boxes."""
    asked = truth[~(truth.difficult | truth.crowd)]
    shared = box_iou(asked.boxes, boxes)
    columns = [shared[:, :count].max(axis=1, initial=0) for count in counts]
    return np.stack(columns, axis=1)


def _check(counts: Sequence[int], ious: Sequence[float]) -> None:
    if not counts or min(counts) < 1:
        raise ConfigError(f"counts must be 1 box or more; got {list(counts)}")
    if not ious or not all(0 < iou <= 1 for iou in ious):
        raise ConfigError(f"ious must lie above 0, up to 1; got {list(ious)}")
