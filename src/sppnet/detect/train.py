"""From annotated photographs to a detector file, and from a detector to one that knows more classes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet import __version__
from sppnet.data.detection_dataset import AnnotatedImages, default_split, open_annotated
from sppnet.detect.components import DetectorComponents, vector_length
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.known_classes import append_kept, find_known_classes
from sppnet.detect.run_folder import DetectorRun
from sppnet.detect.stages import TrainingStages
from sppnet.detect.trunk_trial import TrunkTrial, try_trunks
from sppnet.errors import ConfigError, DataError, did_you_mean
from sppnet.metrics.recall import recall_curve
from sppnet.progress import NullProgress, Progress
from sppnet.run_lock import lock_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorTraining:
    """What a run left behind."""

    model: Path
    detector: Detector
    images: int
    """That were trained on."""
    skipped: tuple[str, ...]
    """Why images were left out."""
    seconds: dict[str, float]
    """Of every stage, in their order."""
    objects: dict[str, int]
    """Of every class, in those images; difficult ones and crowds, which teach nothing, are not counted."""
    recall: float
    """Of the windows proposed there: the share of objects that one of them overlaps by half."""
    report: Path | None = None
    """The page that tells of the run, if one was written."""
    problems: tuple[str, ...] = ()
    """What was odd in the annotations, a sentence each."""
    trials: tuple[TrunkTrial, ...] = ()
    """Of the trunks that were tried, if there was a choice."""
    vector_trials: tuple[Mapping[str, Any], ...] = ()
    """Of vectors that were tried by cross-validation, if there was a choice: vectors, map, images."""
    joint: Mapping[str, Any] = field(default_factory=dict)
    """Of joint training, if any: steps, done; on held_out photographs frozen_map and joint_map."""


def train_detector(
    data: str | Path | AnnotatedImages,
    out: str | Path,
    config: DetectorConfig | None = None,
    *,
    split: str | None = None,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> DetectorTraining:
    """Train a detector on a VOC, COCO or YOLO data set, or on images opened already.

    out: the run folder (see `DetectorRun`). split: by default trainval, else train, else everything.
    resume: go on with the run there, at the stage it was in. cache: folder of feature maps.
    Raises DataError, ModelError or ConfigError for what cannot be trained; damaged images are left out.
    """
    config, run = config or DetectorConfig(), DetectorRun(Path(out))
    run.check(resume)
    images = _opened(data, split)
    images = _leave_empty_classes(_without(images, config.keep))
    config, trials = _choose_trunk(images, config, run.read_trunk() if resume else None, cache, progress)
    stages = TrainingStages(images, config, run, cache, progress or NullProgress())  # refuses a wrong trunk
    with lock_run(run.root):
        run.start(config, {"data": str(images.root), "split": split, "images": len(images)}, resume)
        return replace(_finish(stages, None), trials=trials)


def add_classes(
    detector: Detector,
    data: str | Path | AnnotatedImages,
    out: str | Path,
    classes: Sequence[str] | None = None,
    *,
    split: str | None = None,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> DetectorTraining:
    """A detector that knows more classes; those it knew keep their SVMs and box regression bit for bit.

    Trunk, proposals and fc layers stay as they are, so this takes seconds where feature maps are cached.
    classes: which to add; by default all of the data set that the detector does not know. Objects of other
    classes are background. Everything else as in `train_detector`.
    """
    run = DetectorRun(Path(out))
    run.check(resume)
    images = _opened(data, split)
    chosen = _choose_added(images, detector.classes, classes)
    images = _leave_empty_classes(images.of_classes(chosen))
    base = _with_pyramid(detector.parts, chosen)
    stages = TrainingStages(images, base.config, run, cache, progress or NullProgress(), base)
    begun = {"data": str(images.root), "split": split, "images": len(images), "added": list(images.classes)}
    with lock_run(run.root):
        run.start(base.config, begun, resume)
        return _finish(stages, base)


def _choose_trunk(
    images: AnnotatedImages,
    config: DetectorConfig,
    chosen: str | None,
    cache: Path | None,
    progress: Progress | None,
) -> tuple[DetectorConfig, tuple[TrunkTrial, ...]]:
    """The configuration with one trunk: the one `chosen` before, or the best of those that it lists."""
    of_name = {one.trunk: one for one in config.candidates}
    if chosen in of_name:
        return of_name[chosen], ()
    if len(of_name) == 1:
        return config.candidates[0], ()
    trials = try_trunks(images, config, cache, progress)
    best = max(trials, key=lambda one: one.map)
    logger.info("trunk %s: %.1f %%, the best of %d", best.trunk, 100 * best.map, len(trials))
    return of_name[best.trunk], tuple(trials)


def _opened(data: str | Path | AnnotatedImages, split: str | None) -> AnnotatedImages:
    return data if isinstance(data, AnnotatedImages) else open_annotated(data, split or default_split(data))


def _finish(stages: TrainingStages, base: DetectorComponents | None) -> DetectorTraining:
    """All stages, and the model file: with the classes of `base`, if it is given, or those that are kept."""
    parts, proposals = stages.train()
    whole = append_kept(parts) if base is None else base.joined(parts)
    detector = Detector(whole, extractor=stages.photos.extractor)
    run, images, seconds = stages.run, stages.photos.images, stages.store.seconds
    trained = {"sppnet": __version__, "images": len(images), "seconds": seconds}
    detector.save(run.model, trained)
    count = parts.config.max_proposals
    recall = recall_curve(proposals[: len(images)], images.truths, (count,), (0.5,)).at(count, 0.5)
    objects = images.counts(plain=True)
    joint, svm = run.load_stage("joint"), run.load_stage("svm")
    tried = () if svm is None else tuple(svm[0].get("tried", ()))
    return DetectorTraining(
        run.model, detector, len(images), stages.skipped, seconds, objects, recall, problems=images.problems,
        vector_trials=tried, joint={} if joint is None else joint[0],
    )  # fmt: skip


def _without(images: AnnotatedImages, kept: tuple[str, ...]) -> AnnotatedImages:
    """Without the classes that the trunk's network is to find by itself."""
    if not set(kept) & set(images.classes):
        return images
    return images.of_classes(tuple(name for name in images.classes if name not in kept))


def _leave_empty_classes(images: AnnotatedImages) -> AnnotatedImages:
    """Without the classes of which nothing can be learned: those that have difficult objects at most."""
    counts = images.counts(plain=True)
    found = tuple(name for name, count in counts.items() if count)
    if not found:
        raise DataError(f"no object is marked in the {len(images)} images to train on; choose another split")
    if found == images.classes:
        return images
    without = ", ".join(name for name, count in counts.items() if not count)
    logger.warning("no objects of %s in the %d images; trained without", without, len(images))
    return images.of_classes(found)


def _choose_added(
    images: AnnotatedImages, known: tuple[str, ...], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes to add, checked."""
    chosen = tuple(dict.fromkeys(classes or [name for name in images.classes if name not in known]))
    for name in chosen:
        if name in known:
            raise ConfigError(
                f"the detector knows {name} already; add other classes, or train a new detector"
            )
        if name not in images.classes:
            marked = ", ".join(images.classes)
            raise ConfigError(
                f"the data set marks no {name}, it marks {marked}: {did_you_mean(name, images.classes)}"
            )
    if not chosen:
        raise ConfigError(f"the detector knows all classes of the data set: {', '.join(images.classes)}")
    return chosen


def _with_pyramid(parts: DetectorComponents, classes: tuple[str, ...]) -> DetectorComponents:
    """For classes unknown to the trunk's network: with the pyramid beside its head's vectors, if it lacks.

    The classes that are there weigh it with 0.
    """
    known = find_known_classes(classes, parts.trunk)
    if parts.config.vectors != "head" or len(known) == len(classes):
        return parts
    config = replace(parts.config, vectors="both")
    more = vector_length(config, parts.trunk) - parts.svm.weight.shape[1]

    def widened(weight: Tensor) -> Tensor:
        return torch.nn.functional.pad(weight, (0, more))

    svm = replace(parts.svm, weight=widened(parts.svm.weight))
    regressor = replace(parts.regressor, weight=widened(parts.regressor.weight))
    return replace(parts, config=config, svm=svm, regressor=regressor)
