"""What a server does with an image: convolve it once, and answer as often as asked.

Both kinds of model are asked in the same way. Images are convolved in sizes of a coarse raster: the longer
side is stretched to a multiple of 32 pixels, by 2 % at most at a scale of 688, so that torch meets few
sizes and its memory stays flat. Boxes are always in pixels of the image as it was sent, upright.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats
from sppnet.classify.classifier import Classifier
from sppnet.classify.views import probabilities
from sppnet.data.image import ImageArray, read_header, read_image
from sppnet.data.transforms import shorter_size
from sppnet.detect.detector import Detector
from sppnet.detect.roi_features import HeadRoIFeatureExtractor, SppRoIFeatureExtractor
from sppnet.errors import ConfigError
from sppnet.features.detector_extractor import AnyExtractor, DetectorExtractor
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.features.maps import FeatureMaps, RoIs
from sppnet.serve.feature_cache import FeatureCache
from sppnet.serve.limits import Refusal

RASTER_PX = 32
MAX_CLASSES = 10
"""That are told of a window."""


class Stopwatch:
    """Milliseconds of each stage."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self.ms[name] = round((perf_counter() - started) * 1e3, 2)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of an image."""

    top: int = 5
    """Classes, of a classifier."""
    min_score: float = 0.0
    overlap: float | None = None
    """Of a detector: neighbours of a class that overlap more are suppressed; None for the model's."""


BOUNDS = {"top": (1, 1000), "min_score": (-1e6, 1e6), "overlap": (0, 1)}
"""Of the fields of a question; those of a whole number are whole."""
ASKED = {"classify": ("top",), "detect": ("min_score", "overlap")}
"""What each kind of work is asked."""


def read_fields(question: Question, fields: Mapping[str, str], work: str, place: str = "form") -> Question:
    """The question with what fields of a form, or of the address, say instead.

    Raises Refusal for other names and numbers.
    """
    numbers: dict[str, Any] = {}
    for name, text in fields.items():
        if name not in ASKED[work]:
            known = f"{', '.join(ASKED[work])}{', and files' if place == 'form' else ''}"
            raise Refusal(422, f"the {place} has a field {name!r}; /v1/{work} knows {known}")
        low, high = BOUNDS[name]
        try:
            numbers[name] = (int if isinstance(low, int) and high > 1 else float)(text)
        except ValueError:
            numbers[name] = math.nan
        if not low <= numbers[name] <= high:
            raise Refusal(422, f"{name} must be a number from {low:g} to {high:g}; got {text!r}")
    return replace(question, **numbers)


class Model(Protocol):
    """What a Predictor needs of a classifier or a detector."""

    kind: str
    kind_of_work: str
    classes: tuple[str, ...]
    levels: tuple[int, ...]
    extractor: AnyExtractor

    def describe(self) -> dict[str, Any]: ...
    def convolve(self, image: ImageArray) -> FeatureMaps: ...
    def answer(self, photo: LazyImage, question: Question, watch: Stopwatch) -> dict[str, Any]: ...
    def windows(self, maps: FeatureMaps, boxes: Floats) -> RoIs: ...
    def score(self, maps: FeatureMaps, boxes: Floats) -> tuple[Tensor, Floats | None]: ...


class Predictor:
    """A model, and the images it has seen lately. For one thread."""

    def __init__(self, model: Model, cache: FeatureCache, max_pixels: int) -> None:
        self.model, self.cache, self.max_pixels = model, cache, max_pixels

    def warm_up(self) -> None:
        """Compile what compiles when it is first used, so that no user waits for it."""
        image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
        maps = replace(self.model.convolve(image), size_hw=(96, 128))
        photo = LazyImage.from_maps(maps, image, self.model.extractor)
        self.model.answer(photo, Question(), Stopwatch())
        with torch.inference_mode():
            self.model.score(photo.maps, np.array([[8, 8, 90, 90]], np.float32))

    def look(self, content: bytes, question: Question) -> dict[str, Any]:
        """What the model says of an image file. Raises ImageError, and Refusal of one too large."""
        watch, key = Stopwatch(), hashlib.sha256(content).hexdigest()[:32]
        photo = self._photo(content, key, watch)
        height, width = photo.maps.size_hw
        found = self.model.answer(photo, question, watch)
        return {"id": key, "width": width, "height": height, **found, "ms": watch.ms}

    def score_windows(self, key: str, boxes: Floats) -> dict[str, Any]:
        """What the model says of windows (n, 4) of an image it has seen."""
        maps, watch = self.cache.get(key), Stopwatch()
        if maps is None:
            raise Refusal(404, f"no image is kept as {key!r} any more; send it again")
        with watch.stage("pool and score"), torch.inference_mode():
            scores, moved = self.model.score(maps, boxes)
        areas = covered(maps, self.model.windows(maps, boxes))
        rows = [
            {"box": box, **area, **_ranked(self.model.classes, row), "moved": None if moved is None else end}
            for box, area, row, end in zip(
                boxes.tolist(),
                areas,
                scores,
                boxes.tolist() if moved is None else moved.tolist(),
                strict=True,
            )
        ]
        return {"windows": rows, "levels": list(self.model.levels), "ms": watch.ms}

    def _photo(self, content: bytes, key: str, watch: Stopwatch) -> LazyImage:
        """Decoded and convolved, unless it was so lately."""
        maps, image = self.cache.get(key), None
        if maps is None:
            with watch.stage("read"):
                self._check_size(content)
                image = read_image(content, self.max_pixels)
            with watch.stage("convolve"):
                maps = replace(self.model.convolve(image), size_hw=(image.shape[0], image.shape[1]))
            self.cache.put(key, maps)
        return LazyImage.from_maps(maps, content, self.model.extractor, image)

    def _check_size(self, content: bytes) -> None:
        height, width = read_header(content).size_hw
        if height * width > self.max_pixels:
            size = f"{width}×{height} pixels"
            raise Refusal(413, f"the image has {size}; {self.max_pixels:,} are taken at most: scale it down")


def raster_size(size_hw: tuple[int, int], scale_px: int) -> tuple[int, int]:
    """(height, width) at a scale, the longer side a multiple of RASTER_PX."""
    height, width = shorter_size(size_hw, scale_px)
    longer = max(scale_px, (max(height, width) + RASTER_PX // 2) // RASTER_PX * RASTER_PX)
    return (longer, scale_px) if height > width else (scale_px, longer)


def covered(maps: FeatureMaps, windows: RoIs) -> list[dict[str, Any]]:
    """For each box the cells it is pooled from, and the part of the image about their centres."""
    described = []
    for which, *cells in windows.cells[windows.roi_of_box, :5].tolist():  # of the finest tap
        area = maps.cells_to_boxes(which, np.array(cells))
        described.append({"cells": cells, "area": area.round(2).tolist(), "scale_px": maps.scales_px[which]})
    return described


def _ranked(classes: tuple[str, ...], scores: Tensor) -> dict[str, Any]:
    best = scores.topk(min(MAX_CLASSES, len(classes)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"top": [{"label": classes[i], "score": round(score, 5)} for i, score in pairs]}


# --- the two kinds -------------------------------------------------------------------------------


class ServedClassifier:
    """Shows a classifier the whole image, whatever views it is tested with; a square one if it warps."""

    kind, kind_of_work = "classifier", "classify"

    def __init__(self, classifier: Classifier) -> None:
        self.network, self.testing = classifier.network.eval(), classifier.testing
        self.classes, self.levels = classifier.classes, classifier.network.pyramid.levels
        self.extractor: AnyExtractor = FeatureExtractor(self.network.trunk)

    def describe(self) -> dict[str, Any]:
        kind = "probability" if self.network.head_kind == "fc" else "margin"
        return {"score": kind, "levels": list(self.levels), "trunk": self.network.trunk.name}

    def convolve(self, image: ImageArray) -> FeatureMaps:
        side = self.network.size or self.testing.size_px
        warped = self.network.fixed or self.testing.views == "warp"
        size_hw = (
            (side, side) if warped else raster_size((image.shape[0], image.shape[1]), self.testing.whole_px)
        )
        return self.extractor(image, [size_hw])

    def answer(self, photo: LazyImage, question: Question, watch: Stopwatch) -> dict[str, Any]:
        with watch.stage("pool and score"), torch.inference_mode():
            features = photo.maps.maps[0][None].to(self.extractor.device, torch.float32)
            scores = self._judge(self.network.pyramid(features))[0]
        best = _ranked(self.classes, scores)["top"][: question.top]
        return {**best[0], "top": best}

    def windows(self, maps: FeatureMaps, boxes: Floats) -> RoIs:
        return maps.windows(boxes)

    def score(self, maps: FeatureMaps, boxes: Floats) -> tuple[Tensor, None]:
        vectors = maps.pool(boxes, self.levels).to(self.extractor.device, torch.float32)
        return self._judge(vectors), None

    def _judge(self, vectors: Tensor) -> Tensor:
        return probabilities(self.network, self.network.head(vectors)).cpu()


class ServedDetector:
    """A detector whose stages are timed, and whose overlap is asked for."""

    kind, kind_of_work = "detector", "detect"

    def __init__(self, detector: Detector) -> None:
        if not isinstance(detector.roi_extractor, SppRoIFeatureExtractor | HeadRoIFeatureExtractor):
            raise ConfigError(
                "a detector by the R-CNN method convolves every window by itself and is too slow to serve; "
                "train one with --method spp"
            )
        self.detector, self.classes, self.levels = detector, detector.classes, detector.config.levels
        self.extractor, self.roi_extractor = detector.extractor, detector.roi_extractor

    def describe(self) -> dict[str, Any]:
        config = self.detector.config
        described = {"score": "margin", "overlap": config.nms_iou, "scales_px": list(self.extractor.scales)}
        return {**described, "levels": list(self.levels), "trunk": self.detector.parts.trunk.name}

    def convolve(self, image: ImageArray) -> FeatureMaps:
        if isinstance(self.extractor, DetectorExtractor):
            return self.extractor(image)
        scales = self.detector.config.scales
        largest_hw = raster_size((image.shape[0], image.shape[1]), max(scales))
        return self.detector.extractor(image, [shorter_size(largest_hw, scale_px) for scale_px in scales])

    def answer(self, photo: LazyImage, question: Question, watch: Stopwatch) -> dict[str, Any]:
        detector, size_hw = self.detector, photo.maps.size_hw
        with watch.stage("propose"):
            boxes = detector.proposer(photo).boxes
        with watch.stage("pool and score"):
            vectors = detector.roi_extractor(photo, boxes)
            candidates = detector.score_and_refine(boxes, vectors, size_hw, question.min_score)
        with watch.stage("suppress"):
            found = detector.postprocess(photo, [candidates], question.overlap, question.min_score)
            found = detector.add_probabilities(found)
        return {"proposals": len(boxes), **found.to_json()}

    def windows(self, maps: FeatureMaps, boxes: Floats) -> RoIs:
        return self.roi_extractor.windows(maps, boxes)

    def score(self, maps: FeatureMaps, boxes: Floats) -> tuple[Tensor, Floats]:
        photo = LazyImage.from_maps(maps, b"", self.detector.extractor)
        vectors = self.detector.roi_extractor(photo, boxes)
        scores = self.detector.parts.svm.scores(vectors.distinct)[torch.from_numpy(vectors.roi_of_box)]
        pooled, best = vectors.take_pooled(np.arange(len(boxes))), scores.argmax(1).numpy()
        return scores, self.detector.parts.regressor.apply(pooled, boxes, best, maps.size_hw)
