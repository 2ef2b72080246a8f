"""One joint training: planned by time or steps, saved on the way, and kept only where it helped."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats, Ints
from sppnet.detect.box_refinement import MAX_IMAGES
from sppnet.detect.components import DetectorComponents
from sppnet.detect.joint.held_out import HeldOut
from sppnet.detect.joint.network import JointNetwork
from sppnet.detect.joint.photographs import JointPhotographs
from sppnet.detect.joint.plan import MIN_LEFT, TRIED, Deadline, plan_steps
from sppnet.detect.joint.trainer import JointTrainer
from sppnet.detect.label_assignment import TrainingImages
from sppnet.heads.ridge import BoxRegressor, mean_length_scale
from sppnet.progress import Progress
from sppnet.svm.linear_svm import LinearSVM

logger = logging.getLogger(__name__)

SAVE_EVERY = 50
"""Steps."""
TOLD_EVERY = 10
MEASURED, PER_IMAGE = 20, 50
"""Photographs, and windows of each, on which the length of vectors is measured."""


Save = Callable[[dict[str, Any], Mapping[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class JointStart:
    """What joint training begins with."""

    parts: DetectorComponents
    """The frozen solution."""
    folds: tuple[LinearSVM, ...]
    """The SVMs that did not see the photographs held out; none where nothing is."""
    regressor: BoxRegressor
    """The box regression that did not."""
    held_out: Ints
    """(n,) photographs that decide whether joint training helped."""
    photos: TrainingImages
    proposals: list[Floats]
    """Of every photograph."""

    @property
    def judged(self) -> DetectorComponents:
        """The frozen solution as it is without those photographs."""
        return replace(self.parts, svm=self.folds[0], regressor=self.regressor)


@dataclass(frozen=True, eq=False)
class JointResult:
    """What joint training left behind."""

    parts: DetectorComponents | None
    """What was learned, kept or not; None where no step fitted the time, or nothing could judge it."""
    record: dict[str, Any]
    """Steps; on the held-out photographs mean average precision of both, and F1 of each class; whether the
    parts are to be kept, which they are where they do better there."""


class JointTraining:
    """One joint training; saved: what an earlier process left, header and tensors, if it was stopped."""

    def __init__(
        self,
        start: JointStart,
        deadline: Deadline | None,
        save: Save,
        saved: tuple[dict[str, Any], dict[str, Tensor]] | None,
        progress: Progress,
    ) -> None:
        self.start, self.deadline, self.save, self.saved = start, deadline, save, saved
        self.progress, self.config = progress, start.parts.config
        self.held_out = start.held_out

    def train(self) -> JointResult:
        """The jointly trained detector, or none where it is no better."""
        if not len(self.held_out):
            logger.warning("too few photographs to judge joint training by: the frozen solution stays")
            return JointResult(None, {"steps": 0})
        steps, done = self._plan()
        if not steps:
            logger.info("no time is left for joint training: the frozen solution stays")
            return JointResult(None, {"steps": 0})
        trainer = self._trainer(steps)
        if self.saved is not None:
            trainer.load(self.saved[1], done)
        else:  # what was planned holds for a run that is stopped and resumed
            self._keep_so_far(trainer)
        self._run(trainer)
        return self._judge(trainer)

    def _plan(self) -> tuple[int, int]:
        """Steps in all, and how many are done already."""
        if self.saved is not None:
            return int(self.saved[0]["steps"]), int(self.saved[0]["done"])
        if self.config.joint_steps is not None:
            return self.config.joint_steps, 0
        assert self.deadline is not None
        if self.deadline.left < MIN_LEFT:
            return 0, 0
        return plan_steps(self.deadline.left, self._seconds_per_step(), self._passes_after()), 0

    def _passes_after(self) -> int:
        """Of photographs: those held out, by two detectors and once more to calibrate; box refinement's."""
        refined = 0 if self.config.refine_levels is None else min(len(self.start.photos), MAX_IMAGES)
        return 3 * len(self.held_out) + refined

    def _seconds_per_step(self) -> float:
        """Of a few steps of a network that is thrown away."""
        trainer = self._trainer(1000)
        steps = trainer.run()
        next(steps)
        began = time.perf_counter()
        for _ in range(TRIED):
            next(steps)
        steps.close()
        return (time.perf_counter() - began) / TRIED

    def _trainer(self, steps: int) -> JointTrainer:
        count, size = len(self.start.photos.images), self.config.joint_size
        kept = np.setdiff1d(np.arange(count), self.held_out)
        photographs = JointPhotographs(self.start.photos, self.start.proposals, size)
        network = JointNetwork(self.start.judged, self._vector_scale())
        return JointTrainer(
            network, photographs, kept, steps, self.config.seed, self.config.method == "faster"
        )

    def _vector_scale(self) -> float:
        """What makes pooled vectors about 20 long."""
        start, config, rows = self.start, self.config, []
        count = len(start.photos.images)
        for index in range(0, count, -(-count // MEASURED)):
            boxes = start.proposals[index][:: max(1, len(start.proposals[index]) // PER_IMAGE)]
            maps = start.photos.photo(index).maps
            rows.append(maps.pool(boxes, config.levels, config.box_mapping).float())
        return mean_length_scale(torch.cat(rows))

    def _run(self, trainer: JointTrainer) -> None:
        """The steps, until they end, the deadline comes, or a person wants no more."""
        self.progress.begin("joint training", trainer.steps)
        self.progress.advance(trainer.done)
        try:
            for loss in trainer.run():
                told = trainer.done % TOLD_EVERY == 0
                self.progress.advance(note=f"loss {loss.total.item():.2f}" if told else "")
                if trainer.done % SAVE_EVERY == 0 and trainer.done < trainer.steps:
                    self._keep_so_far(trainer)
                if self.deadline is not None and self.deadline.left < 0:
                    logger.warning("time is up after %d of %d steps", trainer.done, trainer.steps)
                    break
        except KeyboardInterrupt:
            logger.warning("ended after %d of %d steps, as asked for", trainer.done, trainer.steps)

    def _keep_so_far(self, trainer: JointTrainer) -> None:
        self.save({"steps": trainer.steps, "done": trainer.done}, trainer.state())

    def _judge(self, trainer: JointTrainer) -> JointResult:
        joint = trainer.take_averaged().components((self.config.joint_size,))
        photos, chosen = self.start.photos, self.held_out
        before = HeldOut.of(self.start.judged, photos, chosen).measure_map(self.progress)
        judge = HeldOut.of(joint, photos, chosen)
        after = judge.measure_map(self.progress)
        record: dict[str, Any] = {
            "steps": trainer.steps, "done": trainer.done, "held_out": len(chosen),
            "frozen_map": before, "joint_map": after,
        }  # fmt: skip
        self.progress.advance(0, note=f"held-out mAP {after:.1%}, frozen {before:.1%}")
        if after <= before:
            logger.warning("joint training did not help (held-out mAP %.1f %%, frozen %.1f %%): the frozen "
                           "solution stays", 100 * after, 100 * before)  # fmt: skip
            return JointResult(joint, record | {"kept": False})
        found = judge.calibrate(self.progress)
        bias = joint.svm.bias - torch.from_numpy(found.thresholds).to(joint.svm.bias)
        record |= {"kept": True, "f1": found.f1}
        svm = replace(joint.svm, bias=bias)
        return JointResult(replace(joint, svm=svm, probabilities=found.probabilities), record)
