"""The windows of the training photographs, and what each of them is an example of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sppnet.arrays import Floats, Ints, Signs
from sppnet.boxes import box_iou, match_boxes, mirror_boxes
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.config import DetectorConfig
from sppnet.features.cache import MapCache
from sppnet.features.detector_extractor import AnyExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.ops.nms import nms
from sppnet.structures import GroundTruth


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The photographs that could be read, with their objects."""

    images: AnnotatedImages
    extractor: AnyExtractor
    cache: MapCache | None
    mirrored: bool = False
    """Whether the mirror image of every photograph follows, behind the photographs, in their order."""
    vectors: Path | None = None
    """Folder in which R-CNN's vectors of their windows are kept."""

    def __len__(self) -> int:
        """Photographs and mirror images."""
        return len(self.images) * (2 if self.mirrored else 1)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def photograph_of(self) -> Ints:
        """(n,) the photograph that each is, or is the mirror image of."""
        return np.arange(len(self)) % max(1, len(self.images))

    def photo(self, index: int) -> LazyImage:
        mirrored, index = divmod(index, len(self.images))
        return LazyImage(self.images.paths[index], self.extractor, self.cache, mirrored=bool(mirrored))

    def truth(self, index: int) -> GroundTruth:
        mirrored, index = divmod(index, len(self.images))
        truth = self.images.truths[index]
        return replace(truth, boxes=self.mirror(index, truth.boxes)) if mirrored else truth

    def take(self, photographs: Sequence[int]) -> "TrainingImages":
        """Some of the photographs, with their mirror images."""
        return replace(self, images=self.images.take(photographs))

    def with_mirrors(self, photographs: Sequence[int]) -> list[int]:
        """Indices of photographs, and then of their mirror images."""
        behind = [index + len(self.images) for index in photographs] if self.mirrored else []
        return [*photographs, *behind]

    def mirror(self, index: int, boxes: Floats) -> Floats:
        """Boxes (n, 4) of a photograph where its mirror image has them."""
        return mirror_boxes(boxes, self.photo(index).size_hw[1])


def training_boxes(truth: GroundTruth, proposals: Floats) -> Floats:
    """(m + n, 4): the objects' own boxes, then the proposals."""
    return np.concatenate([truth.boxes, proposals])


def assign_labels(boxes: Floats, truth: GroundTruth, classes: int, config: DetectorConfig) -> Signs:
    """(n, k) of 1, −1, 0: what each of `training_boxes` is to each class (paper section 4.1).

    Positive: an object's own box, and what overlaps the object by `config.positive_iou` or more. Negative:
    what overlaps no object of the class by `config.negative_iou` or more. Difficult objects and crowds, and
    what overlaps them, are not used for their class.
    """
    signs = np.full((len(boxes), classes), -1, np.int8)
    if not len(truth):
        return signs
    shared = box_iou(boxes, truth.boxes)
    plain = ~(truth.difficult | truth.crowd)
    for label in range(classes):
        own = truth.labels == label
        if own.any():
            signs[shared[:, own].max(axis=1) >= config.negative_iou, label] = 0
        if (own & plain).any():
            signs[shared[:, own & plain].max(axis=1) >= config.positive_iou, label] = 1
    # The boxes of the objects themselves stand first: positive whatever the rounding of an overlap of 1.
    for index in np.flatnonzero(plain):
        signs[index, truth.labels[index]] = 1
    return signs


def assign_distinct_labels(
    boxes: Floats, of_box: Ints, truth: GroundTruth, classes: int, config: DetectorConfig
) -> Signs:
    """(u, k) as `assign_labels` gives, one for each distinct vector of the boxes; of_box: (n,) which it is.

    Boxes on the same cells are one example. Of negatives that overlap by more than `config.negative_nms`
    the first is kept.
    """
    first = np.unique(of_box, return_index=True)[1]  # a box of each vector
    signs = _merge_signs(assign_labels(boxes, truth, classes, config), of_box, len(first))
    order = np.argsort(first)  # as the boxes stand, the best first
    signs[order] = _drop_near_duplicates(signs[order], boxes[first[order]], config.negative_nms)
    return signs


def _merge_signs(signs: Signs, of_box: Ints, count: int) -> Signs:
    """(u, k) signs of distinct vectors: positive if a box of it is, else unused if one is."""
    merged = np.full((count, signs.shape[1]), -1, np.int8)
    unused, positive = np.zeros(merged.shape, bool), np.zeros(merged.shape, bool)
    np.logical_or.at(unused, of_box, signs == 0)
    np.logical_or.at(positive, of_box, signs == 1)
    merged[unused] = 0
    merged[positive] = 1
    return merged


def _drop_near_duplicates(signs: Signs, boxes: Floats, iou_threshold: float) -> Signs:
    """Without negatives whose IoU with an earlier one of the class exceeds the threshold (paper section 4.1).

    The paper does not say which of two stays.
    """
    if iou_threshold >= 1:
        return signs
    thinned = signs.copy()
    for label in range(signs.shape[1]):
        negative = np.flatnonzero(signs[:, label] < 0)
        kept = nms(boxes[negative], np.zeros(len(negative)), iou_threshold, len(negative))
        thinned[np.delete(negative, kept), label] = 0
    return thinned


def match_objects(boxes: Floats, truth: GroundTruth) -> tuple[Floats, Ints]:
    """(n,) overlap of each box with the plain object it overlaps most, and that object's index or −1."""
    plain = np.flatnonzero(~(truth.difficult | truth.crowd))
    shared, nearest = match_boxes(boxes, truth.boxes[plain])
    return shared, np.append(plain, -1)[nearest]


def joined_boxes(several: Sequence[Floats]) -> tuple[Floats, Ints]:
    """The boxes of all images in one array, and how many each has."""
    counts = np.array([len(boxes) for boxes in several], np.int64)
    return np.concatenate([np.empty((0, 4), np.float32), *several]), counts


def split_boxes(boxes: Floats, counts: Ints) -> list[Floats]:
    """The inverse of `joined_boxes`."""
    return np.split(boxes, np.cumsum(counts)[:-1])
