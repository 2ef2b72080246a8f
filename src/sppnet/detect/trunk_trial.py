"""Which of several trunks suits a data set: each is trained on half of some photographs, judged on the rest.

All trunks are frozen, so a trial costs the maps of those photographs, which stay in the cache, and fits of
SVMs. Cells, faces and cars want different trunks.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.config import JOINT, DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.run_folder import DetectorRun
from sppnet.detect.stages import TrainingStages
from sppnet.errors import DataError, ImageError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.lazy_image import LazyImage
from sppnet.metrics.detection import evaluate_detections
from sppnet.progress import NullProgress, Progress
from sppnet.rng import Stream, generator
from sppnet.structures import Detections, GroundTruth
from sppnet.threads import ordered_attempts

PHOTOGRAPHS = 90
"""That a trial looks at, at most: more would sharpen the comparison, and take longer."""


@dataclass(frozen=True)
class TrunkTrial:
    """How well a trunk did."""

    trunk: str
    map: float
    """Mean average precision on photographs that were held out."""
    images: int
    """Those."""
    seconds: float


def try_trunks(
    images: AnnotatedImages, config: DetectorConfig, cache: Path | None, progress: Progress | None = None
) -> list[TrunkTrial]:
    """Trials of the trunks that `config.trunk` lists, in its order; each photograph is held out once.

    Raises DataError where there are too few photographs for that.
    """
    progress = progress or NullProgress()
    halves = _halves(images, config.seed)
    trials = []
    progress.begin("trying trunks", len(config.candidates))
    for candidate in config.candidates:
        began = time.perf_counter()
        quick = _quick(candidate)
        judged = [one for fold in (0, 1) for one in _judge(halves[1 - fold], halves[fold], quick, cache)]
        found, truths = [one for one, _ in judged], [truth for _, truth in judged]
        reached = evaluate_detections(found, truths, images.classes).map
        seconds = round(time.perf_counter() - began, 1)
        trials.append(TrunkTrial(candidate.trunk, reached, len(judged), seconds))
        progress.advance(note=f"{candidate.trunk} {reached:.1%}")
    return trials


def _quick(config: DetectorConfig) -> DetectorConfig:
    """A trial's: without mirror images and joint training, which take most of the time."""
    if config.method not in JOINT:
        return replace(config, mirror=False)
    return replace(config, mirror=False, method="spp", time=None, joint_steps=None)


def _halves(images: AnnotatedImages, seed: int) -> list[AnnotatedImages]:
    """Two halves of at most PHOTOGRAPHS, with objects in both."""
    chosen = generator(seed, Stream.TRIALS).permutation(len(images))[:PHOTOGRAPHS]
    halves = [images.take(np.sort(chosen[start::2])) for start in (0, 1)]
    if not all(any(half.counts(plain=True).values()) for half in halves):
        raise DataError(
            f"{len(images)} photographs are too few to try trunks on: objects are needed in both halves; "
            "name one --trunk"
        )
    return halves


def _judge(
    seen: AnnotatedImages, held_out: AnnotatedImages, config: DetectorConfig, cache: Path | None
) -> list[tuple[Detections, GroundTruth]]:
    """What a detector that learned from some photographs finds on the others; without those damaged."""
    learned = tuple(name for name, count in seen.counts(plain=True).items() if count)
    with TemporaryDirectory(prefix="sppnet-trial-") as folder:
        run = DetectorRun(Path(folder))
        parts, _ = TrainingStages(seen.of_classes(learned), config, run, cache, NullProgress()).train()
    detector = Detector(parts)
    maps = MapCache(recipe_of(detector.extractor), cache)

    def detect(path: Path) -> Detections:
        found = detector.detect(LazyImage(path, detector.extractor, maps))
        labels = np.array([seen.classes.index(name) for name in found.names], np.int64)
        return Detections(found.boxes, found.scores, labels, seen.classes)

    every = zip(ordered_attempts(detect, held_out.paths), held_out.truths, strict=True)
    return [(found, truth) for found, truth in every if not isinstance(found, ImageError)]
