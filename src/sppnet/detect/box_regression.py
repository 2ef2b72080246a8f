"""Box regression of a detector: which windows learn, and towards which object (paper section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages, match_objects
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.errors import DataError
from sppnet.heads.ridge import BoxRegressor, fit_boxes, mean_length_scale
from sppnet.progress import Progress, track
from sppnet.rng import Stream, generator
from sppnet.threads import ordered_map

REGRESSED = 0.5
"""Windows that overlap an object as much learn to correct their box."""

MAX_OF_CLASS = 2000
"""Windows that a class learns from, about: the time grows with their square. Where there are more, the
regularisation is less by the same factor, so that it counts as beside all of them: 137 raccoons, AP 96.0 from
all 17,000 windows, from 4,000, and 95.9 from 2,000; 89.3 from 4,000 as strongly regularised as 17,000."""
MIN_OF_IMAGE, MAX_OF_IMAGE = 4, 64
"""Windows of a class that an image gives at least and at most, where it has as many."""


@dataclass(frozen=True, eq=False)
class RegressionSamples:
    """Windows of one photograph, and where they should have been."""

    vectors: Floats
    """(n, c × bins), as pooled."""
    boxes: Floats
    """(n, 4)"""
    targets: Floats
    """(n, 4)"""
    labels: Ints
    """(n,)"""
    near: Ints
    """(k,) how many there were to draw from, MAX_OF_IMAGE of a class at most."""


def learn_boxes(
    photos: TrainingImages,
    proposals: Sequence[Floats],
    roi_extractor: RoIFeatureExtractor,
    config: DetectorConfig,
    progress: Progress,
    held_out: Ints | None = None,
) -> tuple[BoxRegressor, BoxRegressor]:
    """A regression a class on the pooled vectors of proposals near objects, and one without photographs.

    held_out: those that the second has not seen; without any both are one.
    Raises DataError if no proposal is near an object.
    """

    limits = _limits(photos)

    def draw(index: int) -> RegressionSamples | None:
        return draw_regression_samples(photos, index, proposals[index], roi_extractor, limits, config.seed)

    every = list(track(ordered_map(draw, range(len(photos))), "box regression", len(photos), progress))
    regressor = _fit_samples(every, photos.classes, config)
    if held_out is None or not len(held_out):
        return regressor, regressor
    seen = np.flatnonzero(~np.isin(photos.photograph_of, held_out)).tolist()
    return regressor, _fit_samples([every[index] for index in seen], photos.classes, config)


def _fit_samples(
    every: Sequence[RegressionSamples | None], classes: tuple[str, ...], config: DetectorConfig
) -> BoxRegressor:
    """A regression a class. Raises DataError if there is no sample."""
    samples = [sample for sample in every if sample is not None]
    if not samples:
        raise DataError(
            "no proposal overlaps an object by half; propose more windows (--max-proposals), or others "
            "(--proposals learned)"
        )
    rows = np.concatenate([sample.vectors for sample in samples])
    scale = mean_length_scale(rows)
    rows *= np.float32(scale)
    boxes, targets, labels = (
        np.concatenate([getattr(sample, name) for sample in samples])
        for name in ("boxes", "targets", "labels")
    )
    near = np.sum([sample.near for sample in samples], axis=0)
    drawn = np.bincount(labels, minlength=len(classes)) / np.maximum(near, 1)
    fitted = fit_boxes(rows, boxes, targets, labels, classes, alpha=config.ridge_alpha * drawn)
    return BoxRegressor(fitted.weight * scale, fitted.bias, fitted.classes)


def _limits(photos: TrainingImages) -> Ints:
    """(k,) how many windows of each class an image gives at most."""
    with_class = np.zeros(len(photos.classes), np.int64)
    for truth in photos.images.truths:
        with_class[np.unique(truth.labels)] += len(photos) // len(photos.images)
    limits: Ints = np.clip(MAX_OF_CLASS // np.maximum(with_class, 1), MIN_OF_IMAGE, MAX_OF_IMAGE)
    return limits


def draw_regression_samples(
    photos: TrainingImages,
    index: int,
    proposed: Floats,
    roi_extractor: RoIFeatureExtractor,
    limits: Ints,
    seed: int,
) -> RegressionSamples | None:
    """Some of the proposals near objects of an image; None if there are none. limits: (k,) of each class."""
    truth = photos.truth(index)
    iou, nearest = match_objects(proposed, truth)
    near = generator(seed, Stream.REGRESSED_WINDOWS, index).permutation(np.flatnonzero(iou >= REGRESSED))
    if not len(near):
        return None
    labels = truth.labels[nearest[near]]
    chosen = np.sort(np.concatenate([near[labels == one][: limits[one]] for one in np.unique(labels)]))
    boxes, objects = proposed[chosen], nearest[chosen]
    vectors = roi_extractor(photos.photo(index), boxes).take_pooled(np.arange(len(boxes)))
    counts = np.bincount(labels, minlength=len(limits)).clip(max=MAX_OF_IMAGE)
    return RegressionSamples(vectors.numpy(), boxes, truth.boxes[objects], truth.labels[objects], counts)
