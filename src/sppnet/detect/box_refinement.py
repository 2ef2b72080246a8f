"""A second correction of boxes, of those that are found: one regression for all classes.

The first one (`box_regression`) must bring any proposal that overlaps an object by half on to it. Boxes that
are left after suppression and voting lie nearer, by errors that are alike for all classes. So this one
learns on windows drawn close about the objects, which are as many as are wanted, and pools finer bins at the
few boxes that are found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sppnet.arrays import Floats
from sppnet.boxes import clip_boxes, decode_boxes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import BoxMapping, ScaleRule
from sppnet.heads.ridge import BoxRegressor, fit_boxes, mean_length_scale
from sppnet.progress import Progress, track
from sppnet.rng import Stream, generator
from sppnet.threads import ordered_map

MAX_WINDOWS = 4000
"""That are learned from: the time grows with their square, and is some ten seconds then. Half as many where a
time is given, which lost a point of COCO's mAP."""
MAX_OF_OBJECT = 24
MAX_IMAGES = 600
"""Whose maps are read for that."""

PASSES = 2
"""So often it is applied. COCO's mAP of 94 VOC photographs: 26.1 without, 28.3 by one pass, 29.0 by two."""

AT_ONCE = 500
"""Boxes that are pooled together: 43 MB of 21,600 numbers each."""

SHIFT, GROWTH = 0.06, 0.09
"""Standard deviations of drawn windows: of the centre, in sides of the object; of the logarithm of sides."""

EVERY = ("",)
"""The one class of this regression."""


@dataclass(frozen=True, eq=False)
class BoxRefiner:
    """Corrects boxes that are found."""

    regressor: BoxRegressor
    """Of one class that stands for all."""
    levels: tuple[int, ...]
    rule: BoxMapping
    scale_rule: ScaleRule

    def __call__(self, maps: FeatureMaps, boxes: Floats) -> Floats:
        """boxes (n, 4) of an image corrected, and clipped to it."""
        refined = boxes.copy()
        for start in range(0, len(boxes), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            for _ in range(PASSES):
                vectors = pool_windows(maps, refined[some], self.levels, self.rule, self.scale_rule)
                deltas = self.regressor.deltas(vectors, np.zeros(len(vectors), np.int64))
                refined[some] = clip_boxes(decode_boxes(refined[some], deltas), maps.size_hw)
        return refined

    @property
    def length(self) -> int:
        """Numbers of a vector."""
        return self.regressor.weight.shape[2]

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        return {"weight": self.regressor.weight[0], "bias": self.regressor.bias[0]}

    @staticmethod
    def read(tensors: Mapping[str, Tensor], config: DetectorConfig) -> "BoxRefiner | None":
        """The inverse of `tensors`; None where there are none. Raises what a damaged file leads to."""
        if not tensors or config.refine_levels is None:
            return None
        weight, bias = tensors["weight"].float()[None], tensors["bias"].float()[None]
        regressor = BoxRegressor(weight, bias, EVERY)
        return BoxRefiner(regressor, config.refine_levels, config.box_mapping, config.scale_rule)


def pool_windows(
    maps: FeatureMaps, boxes: Floats, levels: tuple[int, ...], rule: BoxMapping, scale_rule: ScaleRule
) -> Tensor:
    """(n, c × bins) float32 of boxes (n, 4), each at its best scale."""
    return maps.pool(boxes, levels, rule, maps.choose_scales(boxes, scale_rule)).float()


@dataclass(frozen=True, eq=False)
class _DrawnWindows:
    """Windows about the objects of an image."""

    vectors: Floats
    """(n, c × bins)"""
    boxes: Floats
    """(n, 4)"""
    targets: Floats
    """(n, 4)"""


def learn_refinement(photos: TrainingImages, config: DetectorConfig, progress: Progress) -> BoxRefiner | None:
    """A regression on windows drawn about the objects; None without objects."""
    assert config.refine_levels is not None
    levels, rule, scale_rule = config.refine_levels, config.box_mapping, config.scale_rule
    limit = MAX_WINDOWS if config.time is None else MAX_WINDOWS // 2
    chosen, count = choose_images(photos, config.seed, limit)

    def draw(index: int) -> _DrawnWindows:
        photo, rng = photos.photo(index), generator(config.seed, Stream.REFINED_WINDOWS, index)
        targets = np.repeat(_objects(photos, index), count, axis=0)[:limit]
        boxes = draw_windows(targets, photo.size_hw, rng)
        vectors = pool_windows(photo.maps, boxes, levels, rule, scale_rule)
        return _DrawnWindows(vectors.numpy(), boxes, targets)

    drawn = list(track(ordered_map(draw, chosen), "box refinement", len(chosen), progress))
    if not drawn:
        return None
    vectors, boxes, targets = (
        np.concatenate([getattr(one, name) for one in drawn])[:limit]
        for name in ("vectors", "boxes", "targets")
    )
    scale = mean_length_scale(vectors)
    vectors *= np.float32(scale)
    labels = np.zeros(len(boxes), np.int64)
    fitted = fit_boxes(vectors, boxes, targets, labels, EVERY, alpha=config.ridge_alpha)
    return BoxRefiner(BoxRegressor(fitted.weight * scale, fitted.bias, EVERY), levels, rule, scale_rule)


def choose_images(photos: TrainingImages, seed: int, limit: int) -> tuple[list[int], int]:
    """Images that are learned from, in an order drawn at random, and how many windows an object gives, so
    that there are `limit` windows or a few more."""
    order = generator(seed, Stream.REFINED_WINDOWS).permutation(len(photos)).tolist()
    objects = {index: found for index in order if (found := len(_objects(photos, index)))}
    count = min(MAX_OF_OBJECT, max(1, limit // max(1, sum(objects.values()))))
    enough = np.searchsorted(np.cumsum([*objects.values()]) * count, limit) + 1
    return list(objects)[: min(int(enough), MAX_IMAGES)], count


def _objects(photos: TrainingImages, index: int) -> Floats:
    """(n, 4) objects of an image that teach."""
    truth = photos.truth(index)
    return truth.boxes[~(truth.difficult | truth.crowd)]


def draw_windows(targets: Floats, size_hw: tuple[int, int], rng: np.random.Generator) -> Floats:
    """(n, 4) a window near each of the boxes (n, 4), within the image."""
    deltas = rng.normal(0, [SHIFT, SHIFT, GROWTH, GROWTH], (len(targets), 4))
    return clip_boxes(decode_boxes(targets, deltas), size_hw)
