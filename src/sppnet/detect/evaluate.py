"""How well a detector finds the objects of annotated images."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.detector import MIN_SCORE, Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.errors import ConfigError, DataError, ImageError, MissingExtraError, did_you_mean
from sppnet.features.cache import MapCache
from sppnet.features.lazy_image import LazyImage
from sppnet.metrics.coco import CocoResult, evaluate_coco
from sppnet.metrics.detection import DetectionResult, EvaluatedImage, evaluate_detections
from sppnet.progress import NullProgress, Progress, track
from sppnet.structures import Detections, GroundTruth
from sppnet.threads import ordered_map

Metric = Literal["voc07", "voc", "coco"]


def evaluate_detector(
    detector: Detector | Ensemble,
    images: AnnotatedImages,
    metric: Metric = "voc07",
    progress: Progress | None = None,
    cache: MapCache | None = None,
) -> DetectionResult | CocoResult:
    """Average precision of what the detector finds, by name of class.

    metric: "voc07", the mean precision at eleven recalls; "voc", the area under the curve (VOC 2010 on);
    "coco", the mean over ten overlaps.
    cache: of the detector's own feature maps; an ensemble has none. Images that cannot be read are left
    out and named. Raises ConfigError for another metric, DataError for objects of a class the detector
    does not know and where no image can be read, MissingExtraError where "coco" lacks its package.
    """
    _check_metric(metric)
    truths = match_classes(images, detector.classes)
    detected = ordered_map(lambda path: _detect(detector, path, cache), images.paths)
    every = track(detected, "detecting", len(images), progress or NullProgress())
    photos, skipped = [], []
    for path, truth, found in zip(images.paths, truths, every, strict=True):
        if isinstance(found, ImageError):
            skipped.append(str(found))
        else:
            photos.append(EvaluatedImage(path, truth, found))
    if not photos:
        raise DataError(f"none of the {len(images)} images of {images.root} could be read")
    seen, known = [photo.found for photo in photos], [photo.truth for photo in photos]
    if metric == "coco":
        result: DetectionResult | CocoResult = evaluate_coco(seen, known, detector.classes, skipped)
    else:
        result = evaluate_detections(seen, known, detector.classes, metric, skipped=skipped)
    return replace(result, photos=tuple(photos))


def match_classes(images: AnnotatedImages, classes: tuple[str, ...]) -> tuple[GroundTruth, ...]:
    """The truths with labels that count in `classes`; raises DataError naming objects of other classes."""
    unknown = [name for name, count in images.counts().items() if count and name not in classes]
    if unknown:
        raise DataError(
            f"{images.root} marks objects the model was not trained on: {', '.join(unknown)} "
            f"(it knows {', '.join(classes)}); leave them out of classes.txt, or train on them"
        )
    # A class without objects is never looked up, so what stands for it does not matter.
    labels = np.array([classes.index(name) if name in classes else -1 for name in images.classes], np.int64)
    return tuple(
        GroundTruth(truth.boxes, labels[truth.labels], truth.difficult, truth.crowd)
        for truth in images.truths
    )


def _detect(detector: Detector | Ensemble, path: Path, cache: MapCache | None) -> Detections | ImageError:
    try:
        if isinstance(detector, Ensemble):
            return detector(path, min_score=MIN_SCORE)
        return detector.detect(LazyImage(path, detector.extractor, cache))
    except ImageError as error:
        return error


def _check_metric(metric: str) -> None:
    """Before the work, not after it."""
    if metric not in get_args(Metric):
        known = get_args(Metric)
        raise ConfigError(
            f"the metric must be one of {', '.join(known)}; got {metric!r}: {did_you_mean(metric, known)}"
        )
    if metric == "coco" and find_spec("faster_coco_eval") is None:
        raise MissingExtraError("faster-coco-eval", "coco")
