"""Evaluation as one asks for it: the figures, and a page that tells of them if one is named."""

from pathlib import Path
from typing import Any

from sppnet.classify.classifier import Classifier
from sppnet.classify.evaluate import evaluate as judge_classifier
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.data.folder import ImageFolder
from sppnet.detect.detector import Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.detect.evaluate import Metric, match_classes
from sppnet.detect.evaluate import evaluate_detector as judge_detector
from sppnet.features.cache import MapCache
from sppnet.metrics.classification import ClassificationResult
from sppnet.metrics.coco import CocoResult
from sppnet.metrics.detection import DetectionResult
from sppnet.nn.model_file import write_file
from sppnet.progress import Progress, Timed
from sppnet.report import classification, detection
from sppnet.report.page import Name, in_python, name_of
from sppnet.torch_defaults import own_defaults


@own_defaults()
def evaluate(
    classifier: Classifier,
    folder: ImageFolder,
    progress: Progress | None = None,
    *,
    report: str | Path | None = None,
    **overrides: Any,
) -> ClassificationResult:
    """Accuracy on a folder, whose classes must be the classifier's.

    report: a file for the page that tells of it.
    how: fields of `Testing`, as views="10".
    Images that cannot be read are left out and named in the result. Raises DataError for classes that the
    model was not trained on, OSError for a page that cannot be written.
    """
    watch = Timed(progress)
    result = judge_classifier(classifier, folder, watch, **overrides)
    if report is not None:
        shown = {"data": folder.root, **classifier.testing.asked(**overrides).in_words()}
        said = in_python("sppnet.evaluate", Name("classifier"), Name("folder"), report=report, **overrides)
        html = classification.evaluation_page(name_of(Path(report)), said, shown, result, watch.seconds)
        write_file(Path(report), html.encode("utf-8", "replace"))
    return result


@own_defaults()
def evaluate_detector(
    detector: Detector | Ensemble,
    images: AnnotatedImages,
    metric: Metric = "voc07",
    progress: Progress | None = None,
    cache: MapCache | None = None,
    *,
    report: str | Path | None = None,
) -> DetectionResult | CocoResult:
    """Average precision of what the detector finds, by name of class.

    metric: "voc07", the mean precision at eleven recalls; "voc", the area under the curve (VOC 2010 on);
    "coco", the mean over ten overlaps.
    cache: of the detector's own feature maps; an ensemble has none.
    report: a file for the page that tells of it.
    Images that cannot be read are left out and named; objects of classes that the detector does not know are
    left out and counted. Raises ConfigError for another metric, DataError where no image can be read or no
    object is of a class that it knows, MissingExtraError where "coco" lacks its package, OSError for a page
    that cannot be written.
    """
    watch, images = Timed(progress), match_classes(images, detector.classes)
    result = judge_detector(detector, images, metric, watch, cache)
    if report is not None:
        shown = {"data": images.root, "metric": metric}
        said = in_python("sppnet.evaluate_detector", Name("detector"), Name("images"), metric, report=report)
        html = detection.evaluation_page(
            name_of(Path(report)), said, shown, result, watch.seconds, images.problems
        )
        write_file(Path(report), html.encode("utf-8", "replace"))
    return result
