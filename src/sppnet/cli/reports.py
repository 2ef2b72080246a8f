"""Where reports go, and what they are told of the command."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.classify.classifier import Classifier
    from sppnet.classify.train import TrainingResult
    from sppnet.detect.train import DetectorTraining
    from sppnet.metrics.classification import ClassificationResult
    from sppnet.metrics.coco import CocoResult
    from sppnet.metrics.detection import DetectionResult

TRAINING, EVALUATION = "report.html", "evaluation.html"

Seconds = Mapping[str, float]


def report_training(result: "TrainingResult", seconds: Seconds) -> None:
    """A classifier's report.html, in its run folder."""
    from sppnet.classify.run import RunFolder
    from sppnet.report.classification import read_epochs, stage_times, training_page

    run = RunFolder(result.model.parent)
    epochs = read_epochs(run.metrics)
    html = training_page(
        _name(run.root), _command(), _config(run.config), result.validation, epochs,
        stage_times(epochs, seconds), result.skipped,
    )  # fmt: skip
    _write(run.root / TRAINING, html)


def report_evaluation(
    file: Path | None,
    model: Path,
    classifier: "Classifier",
    asked: Mapping[str, Any],
    result: "ClassificationResult",
    seconds: Seconds,
) -> None:
    """asked: what the command said of data and views; the classifier's own defaults fill the rest."""
    from sppnet.report.classification import evaluation_page

    how = {"model": model, **vars(classifier.testing), **asked}
    if result.skipped:
        how["left out"] = len(result.skipped)
    html = evaluation_page(_name(model), _command(), how, result, seconds)
    _write(file or model.parent / EVALUATION, html, by_default=file is None)


def report_detector_training(result: "DetectorTraining") -> None:
    """A detector's report.html, in its run folder."""
    from sppnet.detect.run import DetectorRun
    from sppnet.report.detection import training_page

    run = DetectorRun(result.model.parent)
    stage = run.load_stage("tuning")
    html = training_page(
        _name(run.root), _command(), _config(run.config), result.detector.classes, result.images,
        [] if stage is None else stage[0].get("rows", []), result.seconds, result.skipped,
    )  # fmt: skip
    _write(run.root / TRAINING, html)


def report_detector_evaluation(
    file: Path | None,
    models: Sequence[Path],
    asked: Mapping[str, Any],
    result: "DetectionResult | CocoResult",
    seconds: Seconds,
) -> None:
    """Beside the first of the models, unless a file is named."""
    from sppnet.report.detection import evaluation_page

    how = {"model": [str(model) for model in models], **asked}
    html = evaluation_page(" and ".join(map(_name, models)), _command(), how, result, seconds)
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
        notes.print(f"report: {file}", soft_wrap=True, markup=False)


def _command() -> str:
    return shlex.join(["sppnet", *sys.argv[1:]])


def _config(path: Path) -> dict[str, Any]:
    import json

    return dict(json.loads(path.read_text()))


def _name(path: Path) -> str:
    """Two parts say more than "best.safetensors"."""
    return "/".join(path.resolve().parts[-2:])
