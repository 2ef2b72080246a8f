"""Box regression of a detector: which windows learn, and towards which object (paper section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.detect.config import DetectorConfig
from sppnet.detect.examples import TrainingPhotos, match_boxes
from sppnet.detect.vectors import Vectoriser
from sppnet.errors import DataError
from sppnet.learn.ridge import BoxRegressor, fit_boxes, mean_length_scale
from sppnet.progress import Progress, counted
from sppnet.threads import in_order

REGRESSED = 0.5
"""Windows that overlap an object as much learn to correct their box."""

REGRESSED_PER_IMAGE = 64
"""At most: more of the same objects add little."""

CHOICE_STREAM = 7
"""Keeps the draw of windows apart from other draws of the same seed."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Windows of one photograph, and where they should have been."""

    vectors: Floats
    """(n, c × bins), as pooled."""
    boxes: Floats
    """(n, 4)"""
    targets: Floats
    """(n, 4)"""
    labels: Ints
    """(n,)"""


def learn_boxes(
    photos: TrainingPhotos,
    proposals: Sequence[Floats],
    vectoriser: Vectoriser,
    config: DetectorConfig,
    progress: Progress,
) -> BoxRegressor:
    """A regression a class on the pooled vectors of proposals near objects.

    Raises DataError if no proposal is near one.
    """

    def draw(index: int) -> Lesson | None:
        return draw_lesson(photos, index, proposals[index], vectoriser, config.seed)

    every = counted(in_order(draw, range(len(photos))), "box regression", len(photos), progress)
    lessons = [lesson for lesson in every if lesson is not None]
    if not lessons:
        raise DataError("no proposal overlaps an object by half; propose more windows (--most)")
    rows = np.concatenate([lesson.vectors for lesson in lessons])
    scale = mean_length_scale(rows)
    rows *= np.float32(scale)
    boxes, targets, labels = (
        np.concatenate([getattr(lesson, name) for lesson in lessons])
        for name in ("boxes", "targets", "labels")
    )
    fitted = fit_boxes(rows, boxes, targets, labels, photos.classes, alpha=config.alpha)
    return BoxRegressor(fitted.weight * scale, fitted.bias, fitted.classes)


def draw_lesson(
    photos: TrainingPhotos, index: int, proposed: Floats, vectoriser: Vectoriser, seed: int
) -> Lesson | None:
    """Some of the proposals near objects of a photograph; None if there are none."""
    truth = photos.truth(index)
    overlap, nearest = match_boxes(proposed, truth)
    chosen = np.flatnonzero(overlap >= REGRESSED)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(CHOICE_STREAM, index)))
    chosen = np.sort(rng.permutation(chosen)[:REGRESSED_PER_IMAGE])
    if not len(chosen):
        return None
    boxes, objects = proposed[chosen], nearest[chosen]
    vectors = vectoriser(photos.photo(index), boxes).take_pooled(np.arange(len(boxes)))
    return Lesson(vectors.numpy(), boxes, truth.boxes[objects], truth.labels[objects])
