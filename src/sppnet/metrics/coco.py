"""Average precision as COCO counts it, by faster-coco-eval (the extra "coco").

That package is pycocotools' rules in C++, held to its numbers by its own tests; it is released more
often, is several times faster and prints nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sppnet.arrays import Doubles
from sppnet.boxes import box_area, to_xywh
from sppnet.errors import MissingExtraError
from sppnet.metrics.detection import EvaluatedImage, check_lists
from sppnet.structures import Detections, GroundTruth


@dataclass(frozen=True)
class CocoResult:
    """How well objects were found, over overlaps of 0.50, 0.55, …, 0.95."""

    map: float
    map50: float
    """At an overlap of 0.5 alone, as `map75` at 0.75."""
    map75: float
    per_class: dict[str, float | None]
    """Over all ten overlaps; None for a class without objects to find."""
    per_class50: dict[str, float | None]
    images: int
    skipped: tuple[str, ...] = ()
    """Images that could not be read and were left out."""
    photos: tuple[EvaluatedImage, ...] = field(default=(), repr=False)
    """As in `DetectionResult`."""

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": "coco",
            "map": self.map,
            "map50": self.map50,
            "map75": self.map75,
            "per_class": self.per_class,
            "per_class50": self.per_class50,
            "images": self.images,
            "skipped": list(self.skipped),
        }


def evaluate_coco(
    found: Sequence[Detections],
    truths: Sequence[GroundTruth],
    classes: Sequence[str],
    skipped: Sequence[str] = (),
) -> CocoResult:
    """found, truths: one an image, in the same order, both with labels of `classes`.

    The 100 surest detections of each class and image count. What lies in a crowd is ignored, and an
    object marked difficult counts as one. Raises MissingExtraError, and DataError as `evaluate_detections`.
    """
    names = check_lists(found, truths, classes)
    precision = _precision(found, truths, len(names))
    ranges = [precision, precision[:1], precision[5:6]]
    overall, at50, at75 = (_means(part, names) for part in ranges)
    return CocoResult(_mean(overall), _mean(at50), _mean(at75), overall, at50, len(truths), tuple(skipped))


def _precision(found: Sequence[Detections], truths: Sequence[GroundTruth], k: int) -> Doubles:
    """(overlaps, recalls, k), −1 for a class without objects."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", "coco") from error
    images = [{"id": image} for image in range(len(truths))]
    categories = [{"id": label} for label in range(k)]
    sides = [
        COCO({"images": images, "categories": categories, "annotations": list(_numbered(entries))})
        for entries in (_objects(truths), _detections(found))
    ]
    judge = COCOeval_faster(*sides, iouType="bbox")
    judge.evaluate()
    judge.accumulate()
    # Of the areas the first is all sizes; of the numbers of detections the last is 100.
    precision: Doubles = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]
    return precision


def _objects(truths: Sequence[GroundTruth]) -> Iterator[dict[str, Any]]:
    for image, truth in enumerate(truths):
        crowds = (truth.crowd | truth.difficult).tolist()
        for entry, crowd in zip(_entries(image, truth), crowds, strict=True):
            yield {**entry, "iscrowd": int(crowd)}


def _detections(found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for image, detections in enumerate(found):
        for entry, score in zip(_entries(image, detections), detections.scores.tolist(), strict=True):
            yield {**entry, "score": score, "iscrowd": 0}


def _entries(image: int, of: GroundTruth | Detections) -> Iterator[dict[str, Any]]:
    columns = to_xywh(of.boxes).tolist(), of.labels.tolist(), box_area(of.boxes).tolist()
    for box, label, area in zip(*columns, strict=True):
        yield {"image_id": image, "category_id": label, "bbox": box, "area": area}


def _numbered(entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    # From 1: the rules take 0 for "no match".
    return ({**entry, "id": number} for number, entry in enumerate(entries, 1))


def _means(precision: Doubles, names: tuple[str, ...]) -> dict[str, float | None]:
    return {
        name: float(precision[:, :, label].mean()) if (precision[:, :, label] >= 0).all() else None
        for label, name in enumerate(names)
    }


def _mean(per_class: dict[str, float | None]) -> float:
    return float(np.mean([value for value in per_class.values() if value is not None]))
