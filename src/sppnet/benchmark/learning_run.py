"""One training of a number of seconds and its test, in a process of its own: what `learn` compares.

`python -m sppnet.benchmark.learning_run JOB` prints the measurement as JSON; JOB is a `LearningJob` as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sppnet.benchmark.finetuned_peers import RECIPES, FinetunedPeer, finetune_peer
from sppnet.benchmark.photographs import spread
from sppnet.benchmark.subprocess_runner import peak_bytes
from sppnet.data.detection_dataset import AnnotatedImages, open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import train_detector
from sppnet.errors import ImageError
from sppnet.metrics.detection import evaluate_detections
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress
from sppnet.structures import Detections
from sppnet.threads import ordered_attempts

IOUS = tuple(float(iou) for iou in np.linspace(0.5, 0.95, 10).round(2))
RUN, MAPS = "run", "maps"
"""Folders of a job."""
TIMED = 24
"""Test photographs that are timed, one at a time."""


@dataclass(frozen=True, kw_only=True)
class LearningJob:
    """What is trained on what, and for how long."""

    data: str
    split: str
    test_split: str
    learner: str
    """A name of ours or of a peer."""
    trunk: str
    weights: str | None
    seconds: float | None
    """None for a training that takes the time it needs."""
    seed: int
    out: str
    """Folder of the run."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a job gave."""

    map: float
    """VOC 2007, 11 points, of the test photographs."""
    map_50_95: float
    """Area under the curve, the mean over IoUs from 0.5 to 0.95, which moves in smaller steps."""
    train_s: float
    """From the names of the files to a detector."""
    detect_s: float
    """From a file to boxes, the median of some photographs."""
    peak_bytes: int
    """Most memory that the process held in training."""


def measure(job: LearningJob) -> Learned:
    """Train, test and time."""
    images, tested = (open_annotated(job.data, split) for split in (job.split, job.test_split))
    began = time.perf_counter()
    find = _train(job, images)
    train_s, held = time.perf_counter() - began, peak_bytes()
    every = partial(find, min_score=find.least_score) if isinstance(find, Detector) else find
    found = list(ordered_attempts(every, tested.paths))
    read = [place for place, one in enumerate(found) if not isinstance(one, ImageError)]
    judged = (
        [one for one in found if not isinstance(one, ImageError)],
        [tested.truths[place] for place in read],
        tested.classes,
    )
    times = [_seconds(find, tested.paths[read[index]]) for index in spread(len(read), TIMED)]
    return Learned(
        map=evaluate_detections(*judged).map,
        map_50_95=float(np.mean([evaluate_detections(*judged, "voc", iou).map for iou in IOUS])),
        train_s=train_s, detect_s=float(np.median(times)), peak_bytes=held,
    )  # fmt: skip


def _train(job: LearningJob, images: AnnotatedImages) -> Detector | FinetunedPeer:
    if job.learner in RECIPES:
        assert job.seconds is not None
        trunk = load_trunk(job.trunk, weights=job.weights)
        return finetune_peer(job.learner, trunk, images, job.seconds, job.seed, NullProgress())
    limit = None if job.seconds is None else f"{job.seconds:g}s"
    config = DetectorConfig(trunk=job.trunk, weights=job.weights, time=limit, seed=job.seed)
    cache = Path(job.out) / MAPS  # of its own, so that nothing is convolved already
    return train_detector(images, Path(job.out) / RUN, config, cache=cache).detector


def _seconds(find: Callable[[Path], Detections], path: Path) -> float:
    began = time.perf_counter()
    find(path)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(asdict(measure(LearningJob(**json.loads(sys.argv[1]))))))
