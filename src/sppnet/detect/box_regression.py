"""Box regression of a detector: which windows learn, and towards which object (paper section 4.1)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sppnet.arrays import Floats, Ints
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages, match_objects
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.errors import DataError
from sppnet.heads.ridge import BoxRegressor, fit_boxes, mean_length_scale
from sppnet.progress import Progress, track
from sppnet.rng import Stream, generator
from sppnet.threads import ordered_map

logger = logging.getLogger(__name__)

REGRESSED = 0.5
"""Windows that overlap an object as much learn to correct their box."""

MAX_OF_CLASS = 2000
"""Windows that a class learns from, about: the time grows with their square. Where there are more, the
regularisation is less by the same factor, so that it counts as beside all of them: 137 raccoons, AP 96.0 from
all 17,000 windows, from 4,000, and 95.9 from 2,000; 89.3 from 4,000 as strongly regularised as 17,000."""
MIN_OF_IMAGE, MAX_OF_IMAGE = 4, 64
"""Windows of a class that an image gives at least and at most, where it has as many."""


FEW_OBJECTS = 20
"""Of as many it may happen that no proposal is near one; of more it means that the proposals are wrong."""


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
    Raises DataError if no proposal is near one of many objects.
    """

    limits = _limits(photos)

    def draw(index: int) -> RegressionSamples | None:
        return draw_regression_samples(photos, index, proposals[index], roi_extractor, limits, config.seed)

    every = list(track(ordered_map(draw, range(len(photos))), "box regression", len(photos), progress))
    if not any(every):
        every = _own_boxes(photos, roi_extractor, limits, config.seed)
    seen = np.flatnonzero(~np.isin(photos.photograph_of, held_out if held_out is not None else []))
    rest = [sample for index in seen if (sample := every[index])]
    samples = [sample for sample in every if sample]
    regressor = _fit_samples(samples, photos.classes, config)
    # Of few photographs those that are held out may be the only ones with a sample.
    if len(rest) in (0, len(samples)):
        return regressor, regressor
    return regressor, _fit_samples(rest, photos.classes, config)


def _own_boxes(
    photos: TrainingImages, roi_extractor: RoIFeatureExtractor, limits: Ints, seed: int
) -> list[RegressionSamples | None]:
    """Objects in the place of proposals: what learns from them leaves boxes as they are.

    Raises DataError where there are many objects, and so nothing wrong but the proposals.
    """
    truths = [photos.truth(index).boxes for index in range(len(photos))]
    if sum(map(len, photos.images.truths)) > FEW_OBJECTS:
        raise DataError(
            "no proposal overlaps an object by half; propose more windows (--max-proposals), or others "
            "(--proposals)"
        )
    logger.warning(
        "no proposal overlaps an object by half, so boxes are left as they were proposed; train on more "
        "photographs, or propose more windows (--max-proposals)"
    )
    return [
        draw_regression_samples(photos, index, boxes, roi_extractor, limits, seed)
        for index, boxes in enumerate(truths)
    ]


def _fit_samples(
    samples: Sequence[RegressionSamples], classes: tuple[str, ...], config: DetectorConfig
) -> BoxRegressor:
    """A regression a class."""
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


def regressor_tensors(regressor: BoxRegressor, judged: BoxRegressor) -> dict[str, Tensor]:
    """What a file holds of the two of `learn_boxes`."""
    tensors = {"weight": regressor.weight, "bias": regressor.bias}
    if judged is not regressor:
        tensors |= {"judged.weight": judged.weight, "judged.bias": judged.bias}
    return tensors


def read_regressors(
    tensors: Mapping[str, Tensor], classes: tuple[str, ...]
) -> tuple[BoxRegressor, BoxRegressor]:
    """The inverse of `regressor_tensors`."""
    regressor = BoxRegressor(tensors["weight"], tensors["bias"], classes)
    if "judged.weight" not in tensors:
        return regressor, regressor
    return regressor, BoxRegressor(tensors["judged.weight"], tensors["judged.bias"], classes)
