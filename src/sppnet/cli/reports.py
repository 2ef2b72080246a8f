"""Where reports go, and what they are told of the command."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.classify.classifier import Classifier
    from sppnet.metrics.classification import ClassificationResult
    from sppnet.metrics.coco import CocoResult
    from sppnet.metrics.detection import DetectionResult

EVALUATION = "evaluation.html"

Seconds = Mapping[str, float]


def tell_report(page: Path | None) -> None:
    """Where a training's page lies; of a page that could not be written a warning has told."""
    from sppnet.cli.output import notes

    if page is not None:
        notes.print(f"report: {page}", soft_wrap=True, markup=False)


def report_evaluation(
    file: Path | None,
    model: Path,
    classifier: "Classifier",
    asked: Mapping[str, Any],
    views: Mapping[str, Any],
    result: "ClassificationResult",
    seconds: Seconds,
) -> None:
    """views: what the command said of them; the classifier's own defaults fill the rest."""
    from sppnet.report.classification import evaluation_page
    from sppnet.report.page import name_of

    shown = classifier.testing.asked(**views).in_words()
    settings = {"model": model, **asked, **shown}
    if result.found > result.images:
        settings["images used"] = f"{result.images:,} of {result.found:,}"
    html = evaluation_page(name_of(model), command(), settings, result, seconds)
    _write(file or model.parent / EVALUATION, html, by_default=file is None)


def report_detector_evaluation(
    file: Path | None,
    models: Sequence[Path],
    asked: Mapping[str, Any],
    result: "DetectionResult | CocoResult",
    seconds: Seconds,
    problems: Sequence[str] = (),
) -> None:
    """Beside the first of the models, unless a file is named."""
    from sppnet.report.detection import evaluation_page
    from sppnet.report.page import name_of

    settings = {"model": [str(model) for model in models], **asked}
    html = evaluation_page(" and ".join(map(name_of, models)), command(), settings, result, seconds, problems)
    _write(file or models[0].parent / EVALUATION, html, by_default=file is None)


def _write(file: Path, html: str, by_default: bool = False) -> None:
    """A place nobody named may be read-only; the figures were printed, so that is no error."""
    from sppnet.cli.output import notes
    from sppnet.nn.model_file import write_file

    try:
        write_file(file, html.encode("utf-8", "replace"))
    except OSError as error:
        if not by_default:
            raise
        notes.print(
            f"no report: {file}: {error.strerror}; name a --report FILE", soft_wrap=True, markup=False
        )
    else:
        tell_report(file)


def command() -> str:
    """What was typed."""
    return shlex.join(["sppnet", *sys.argv[1:]])
