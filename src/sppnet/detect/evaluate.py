"""How well a detector finds the objects of annotated images."""

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.detector import Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.errors import ConfigError, DataError, ImageError, MissingExtraError, did_you_mean, printable
from sppnet.features.cache import MapCache
from sppnet.features.lazy_image import LazyImage
from sppnet.metrics.coco import CocoResult, evaluate_coco
from sppnet.metrics.detection import DetectionResult, EvaluatedImage, evaluate_detections
from sppnet.progress import NullProgress, Progress, track
from sppnet.structures import Detections
from sppnet.threads import ordered_attempts

logger = logging.getLogger(__name__)

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
    out and named; objects of classes that the detector does not know too (see `match_classes`). Raises
    ConfigError for another metric, DataError where no image can be read or no object is of a class that
    the detector knows, MissingExtraError where "coco" lacks its package.
    """
    _check_metric(metric)
    images = match_classes(images, detector.classes)
    if not any((~(truth.difficult | truth.crowd)).any() for truth in images.truths):
        raise DataError(
            f"there is no object to find in the {len(images)} images of {images.root}, so nothing can be "
            "judged; mark objects in them, or choose another split"
        )
    detected = ordered_attempts(lambda path: _detect(detector, path, cache), images.paths)
    every = track(detected, "detecting", len(images), progress or NullProgress())
    photos, skipped = [], []
    for path, truth, found in zip(images.paths, images.truths, every, strict=True):
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


def match_classes(images: AnnotatedImages, classes: tuple[str, ...]) -> AnnotatedImages:
    """The images with the objects that count in `classes`, with labels of these.

    Objects of other classes are left out, and counted in one more problem. Raises DataError where none is
    left.
    """
    if images.classes == classes:
        return images
    counts = images.counts()
    unknown = {name: count for name, count in counts.items() if count and name not in classes}
    known = images.of_classes(classes)
    if not unknown:
        return known
    listed = ", ".join(f"{name} {count}" for name, count in unknown.items())
    if sum(unknown.values()) == sum(counts.values()):
        raise DataError(
            f"{images.root} marks only objects the model was not trained on: {listed} (it knows "
            f"{', '.join(classes)}); choose another data set, or train on these classes"
        )
    many = f"{sum(unknown.values())} objects are of {len(unknown)} classes"
    sentence = f"{many} that the model was not trained on and are left out: {listed}"
    logger.warning("%s: %s", images.root, printable(sentence))
    return replace(known, problems=(*known.problems, printable(sentence)))


def _detect(detector: Detector | Ensemble, path: Path, cache: MapCache | None) -> Detections:
    if isinstance(detector, Ensemble):
        return detector(path, min_score=detector.least_score)
    return detector.detect(LazyImage(path, detector.extractor, cache))


def _check_metric(metric: str) -> None:
    """Before the work, not after it."""
    if metric not in get_args(Metric):
        known = get_args(Metric)
        raise ConfigError(
            f"the metric must be one of {', '.join(known)}; got {metric!r}: {did_you_mean(metric, known)}"
        )
    if metric == "coco" and find_spec("faster_coco_eval") is None:
        raise MissingExtraError("faster-coco-eval", "coco")
