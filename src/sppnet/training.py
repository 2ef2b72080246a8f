"""Training as one asks for it: the model, and the page that tells of it in the run folder."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sppnet.classify.config import TrainingConfig
from sppnet.classify.run_folder import RunFolder
from sppnet.classify.train import TrainingResult
from sppnet.classify.train import train as train_classifier
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.run_folder import DetectorRun
from sppnet.detect.train import DetectorTraining
from sppnet.detect.train import add_classes as add_classes_to
from sppnet.detect.train import train_detector as train_stages
from sppnet.nn.model_file import read_header, write_file
from sppnet.progress import Progress, Timed
from sppnet.report import classification, detection
from sppnet.report.page import Name, in_python, name_of
from sppnet.torch_defaults import own_defaults

PAGE = "report.html"

logger = logging.getLogger(__name__)


@own_defaults(training=True)
def train(
    data: str | Path,
    out: str | Path,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    report: bool = True,
    command: str | None = None,
) -> TrainingResult | None:
    """Train a classifier on a folder of class folders, or of train/ and val/ with those.

    out: the run folder, of one run at a time: best.safetensors, last.safetensors, metrics.csv, config.json
    and report.html.
    resume: go on with the run begun there.
    report: whether the page is written; where that fails a warning is logged.
    command: what the page says was asked for; by default this call.
    Under torchrun every process calls this, and all but the first return None; a group that torchrun
    started again goes on where the one before it stood. Raises ConfigError, DataError or ModelError for
    what cannot be trained; damaged images are left out.
    """
    config, watch = config or TrainingConfig(), Timed(progress)
    with _own_random_numbers():
        result = train_classifier(data, out, config, resume=resume, progress=watch)
    if result is None or not report:
        return result
    seconds, said = watch.seconds, command or in_python("sppnet.train", data, out, config, resume=resume)
    page = _leave_page(Path(out), lambda: _tell_classifier(result, said, seconds))
    return replace(result, report=page)


@own_defaults(training=True)
def train_detector(
    data: str | Path | AnnotatedImages,
    out: str | Path,
    config: DetectorConfig | None = None,
    *,
    split: str | None = None,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
    report: bool = True,
    command: str | None = None,
) -> DetectorTraining:
    """Train a detector on a VOC, COCO or YOLO data set, or on images opened already.

    out: the run folder, of one run at a time: detector.safetensors, config.json, times.json, report.html
    and a file a stage.
    split: by default trainval, else train, else everything.
    resume: go on with the run begun there, at the stage it was in.
    cache: folder of feature maps; by default one for all runs, of 16 GB at most.
    report: whether the page is written; where that fails a warning is logged.
    command: what the page says was asked for; by default this call.
    Raises DataError, ModelError or ConfigError for what cannot be trained; damaged images are left out.
    """
    config = config or DetectorConfig()
    with _own_random_numbers():
        result = train_stages(data, out, config, split=split, resume=resume, cache=cache, progress=progress)
    if not report:
        return result
    said = command or in_python(
        "sppnet.train_detector", Name("images") if isinstance(data, AnnotatedImages) else data, out, config,
        split=split, resume=resume, cache=cache,
    )  # fmt: skip
    return replace(result, report=_leave_page(Path(out), lambda: _tell_detector(result, said)))


@own_defaults(training=True)
def add_classes(
    model: str | Path,
    data: str | Path | AnnotatedImages,
    out: str | Path,
    classes: Sequence[str] | None = None,
    *,
    split: str | None = None,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
    report: bool = True,
    command: str | None = None,
) -> DetectorTraining:
    """Teach a trained detector more classes; what it knew stays bit for bit, and `model` is not changed.

    Trunk, proposals and fc layers are used as they are: SVMs and box regression of the new classes are all
    that is fitted, which takes seconds where feature maps are cached.
    model: a detector's file. data: photographs with objects of the new classes; those of other classes are
    background there.
    classes: which to add; by default all of the data set that the detector does not know.
    Everything else, and what is raised, as for `train_detector`.
    """
    detector = Detector.load(model)
    with _own_random_numbers():
        result = add_classes_to(
            detector, data, out, classes, split=split, resume=resume, cache=cache, progress=progress
        )
    if not report:
        return result
    shown = Name("images") if isinstance(data, AnnotatedImages) else str(data)
    said = command or f"sppnet.add_classes({str(model)!r}, {shown!r}, {str(out)!r}, {classes!r})"
    return replace(result, report=_leave_page(Path(out), lambda: _tell_detector(result, said)))


def _own_random_numbers() -> AbstractContextManager[None]:
    """Training sets the seeds of torch; afterwards they are the caller's again."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def _leave_page(root: Path, tell: Callable[[], str]) -> Path | None:
    """The page's file; None where it could not be made, for which no trained model is to be lost."""
    file = root / PAGE
    try:
        write_file(file, tell().encode("utf-8", "replace"))
    except Exception as error:  # whatever it is, the model is there
        logger.warning("no report: %s: %s", file, str(error) or type(error).__name__)
        return None
    return file


def _tell_classifier(result: TrainingResult, command: str, seconds: dict[str, float]) -> str:
    run = RunFolder(result.model.parent)
    epochs = classification.read_epochs(run.metrics)
    learned = read_header(result.model)["training"]["config"]  # with the C that was chosen, if one was
    config = {**_config(run.config), "C": learned["C"], "images": learned["images"]}
    return classification.training_page(
        name_of(run.root), command, config, result.validation, epochs,
        classification.stage_times(epochs, seconds), result.skipped, result.omitted, result.held_out,
    )  # fmt: skip


def _tell_detector(result: DetectorTraining, command: str) -> str:
    run = DetectorRun(result.model.parent)
    return detection.training_page(
        name_of(run.root), command, _config(run.config), result.objects, result.recall, result.images,
        _rows(run, "tuning", "rows"), _rows(run, "trunk", "rows"), _rows(run, "svm", "rounds"),
        result.seconds, result.skipped, result.problems, _f1_of(run),
        [asdict(one) for one in result.trials], result.joint, result.vector_trials,
    )  # fmt: skip


def _f1_of(run: DetectorRun) -> dict[str, float]:
    """Of each class on photographs that were held out, where scores were calibrated."""
    return dict(_stage(run, "joint").get("f1") or _stage(run, "scores").get("f1", {}))


def _rows(run: DetectorRun, stage: str, name: str) -> list[dict[str, Any]]:
    return list(_stage(run, stage).get(name, []))


def _stage(run: DetectorRun, name: str) -> dict[str, Any]:
    """What a stage recorded; nothing where it was not asked for, or is of an earlier version."""
    stored = run.load_stage(name)
    return {} if stored is None else stored[0]


def _config(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
