"""Whether an exported file says what PyTorch says, on sizes that do not divide.

The reference is the way the package itself takes, not the network that was exported: so a fault in how
boxes are mapped to cells in the graph shows as well.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sppnet.arrays import Array, Floats
from sppnet.classify.classifier import Classifier
from sppnet.classify.views import probabilities
from sppnet.data.image import ImageArray
from sppnet.data.transforms import to_tensor
from sppnet.detect.detector import Detector
from sppnet.detect.roi_features import SppRoIFeatureExtractor
from sppnet.errors import ModelError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.trunks import as_maps
from sppnet.structures import Detections

Run = Callable[[dict[str, Array]], Sequence[Array]]

TOLERANCE = 1e-3
"""Of the largest number there is, or of 1: sums of other order differ by 1e-5, a cell off by 1e-1."""

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-2, 0.5
"""Of scores from 1 on a share; of boxes in pixels. The last digit of a number rounded to half precision may
differ."""

SHARE_FOUND = 0.95

TRIES = 3
BOXES = 60


def check_classifier(classifier: Classifier, run: Run) -> None:
    """Raises ModelError naming the first size whose scores differ."""
    network, rng = classifier.network.eval(), np.random.default_rng(0)
    trunk, scale = network.trunk, classifier.testing.shown_px
    assert network.size is not None or not network.fixed
    sizes = [(network.size or 0,) * 2] if network.fixed else odd_sizes(scale)
    for number, size_hw in enumerate(sizes, 1):
        images = [_photograph(rng, size_hw) for _ in range(number)]
        with torch.inference_mode():
            batch = torch.stack([to_tensor(image, trunk.mean, trunk.std) for image in images])
            expected = probabilities(network, network(batch)).numpy()
        (got,) = run({"pixels": np.stack(images)})
        _compare(f"the scores of {number} images of {size_hw[0]}×{size_hw[1]} pixels", expected, got)


def check_detector(detector: Detector, run: Run) -> None:
    """Raises ModelError naming the first size whose scores or boxes differ."""
    rng = np.random.default_rng(0)
    for size_hw in odd_sizes(min(detector.config.scales)):
        image, boxes = _photograph(rng, size_hw), draw_boxes(rng, size_hw, BOXES)
        scores, corrected = judged(detector, image, boxes)
        got_scores, got_corrected = run({"pixels": image, "boxes": boxes})
        _compare(f"the scores in {size_hw[0]}×{size_hw[1]} pixels", scores, got_scores)
        _compare(f"the boxes in {size_hw[0]}×{size_hw[1]} pixels", corrected, got_corrected)


def check_whole_detector(detector: Detector, run: Run) -> None:
    """Raises ModelError naming the first size at which other objects are found.

    Two boxes that overlap by the threshold of suppression, but for a rounding, may go either way: one of
    twenty may differ.
    """
    rng, trunk = np.random.default_rng(0), detector.parts.trunk
    assert isinstance(trunk, DetectorTrunk)
    (scale,) = detector.extractor.scales
    for size_hw in dict.fromkeys(trunk.fit_size(size_hw, scale) for size_hw in odd_sizes(scale)):
        image, inputs = _photograph(rng, size_hw), {}
        if detector.config.proposals != "trunk":
            inputs["windows"] = draw_boxes(rng, size_hw, BOXES)
        expected = find_among(detector, image, inputs.get("windows"))
        boxes, scores, labels, odds = run({"pixels": image, **inputs})
        got = Detections(boxes, scores, labels, detector.classes, odds)
        for one, other in ((expected, got), (got, expected)):
            share = share_found(one, other)
            if not share >= SHARE_FOUND:
                raise ModelError(
                    f"of {len(one)} objects in {size_hw[0]}×{size_hw[1]} pixels {share:.0%} are the same in "
                    "ONNX and PyTorch: the file is not written. Please report the model's header and the "
                    "versions `sppnet doctor` tells"
                )


def find_among(detector: Detector, image: ImageArray, windows: Floats | None) -> Detections:
    """What the detector finds with these windows (n, 4) in place of those that it would propose."""
    photo, boxes = LazyImage(image, detector.extractor), windows
    if boxes is None:
        return detector.detect(photo)
    if detector.config.proposals == "joined":
        assert photo.maps.head is not None
        boxes = np.concatenate([photo.maps.head.boxes, boxes])
    boxes = boxes[: detector.config.max_proposals]
    vectors, least = detector.roi_extractor(photo, boxes), detector.least_score
    scored = detector.score_and_refine(boxes, vectors, photo.size_hw, least)
    return detector.add_probabilities(detector.postprocess(photo, [scored], min_score=least))


def share_found(some: Detections, others: Detections) -> float:
    """Share of some detections that are among the others: class, score, probability and box."""
    if not len(some):
        return 1.0
    found = 0
    for label in np.unique(some.labels):
        one, other = some[some.labels == label], others[others.labels == label]
        near = np.abs(one.scores[:, None] - other.scores) < SCORE_TOLERANCE * np.maximum(
            1, np.abs(one.scores[:, None])
        )
        near &= np.abs(one.boxes[:, None] - other.boxes).max(2, initial=0) < BOX_TOLERANCE
        odds = np.abs(one.probabilities[:, None] - other.probabilities)
        near &= np.isnan(one.probabilities)[:, None] | (odds < SCORE_TOLERANCE)
        found += int(near.any(1).sum())
    return found / len(some)


def odd_sizes(scale_px: int) -> list[tuple[int, int]]:
    """Heights and widths about a scale that no stride divides, upright, flat and slim."""
    odd = scale_px | 1
    return [(odd, (odd * 4 // 3 + 5) | 1), ((odd * 3 // 2) | 1, odd + 2), (odd, (2 * odd + 7) | 1)][:TRIES]


@torch.inference_mode()
def judged(detector: Detector, image: ImageArray, boxes: Floats) -> tuple[Floats, Floats]:
    """What the detector says of boxes (n, 4), its maps unrounded: scores (n, k), boxes (n, k, 4)."""
    roi_extractor, parts = detector.roi_extractor, detector.parts
    assert isinstance(roi_extractor, SppRoIFeatureExtractor)
    assert isinstance(detector.extractor, FeatureExtractor)
    pixels = to_tensor(image, parts.trunk.mean, parts.trunk.std)[None]
    size_hw = image.shape[0], image.shape[1]
    every = zip(as_maps(detector.extractor.body(pixels)), parts.trunk.taps, strict=True)
    taps = tuple(TapMaps((features[0],), tap.grid) for features, tap in every)
    maps = FeatureMaps(size_hw, (size_hw,), taps)
    vectors = maps.pool(boxes, roi_extractor.levels, roi_extractor.rule)
    layers = roi_extractor.layers or torch.nn.Identity()
    moved = [
        parts.regressor.apply(vectors, boxes, np.full(len(boxes), label), size_hw)
        for label in range(len(detector.classes))
    ]
    return parts.svm.scores(layers(vectors)).numpy(), np.stack(moved, 1)


def draw_boxes(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> Floats:
    """(count, 4): the whole image, a pixel, one beyond the border, and any."""
    height, width = size_hw
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    boxes = np.hstack([corners[:, 0], corners[:, 1] + 1]).astype(np.float32)
    odd = [[0, 0, width, height], [7, 9, 8, 10], [-20, -30, width + 40, height / 2]]
    boxes[:3] = np.array(odd, np.float32)
    return boxes


def _photograph(rng: np.random.Generator, size_hw: tuple[int, int]) -> ImageArray:
    """Noise both coarse and fine, (h, w, 3)."""
    coarse = rng.integers(0, 200, (*((side + 31) // 32 for side in size_hw), 3))
    coarse = coarse.repeat(32, 0).repeat(32, 1)[: size_hw[0], : size_hw[1]]
    image: ImageArray = (coarse + rng.integers(0, 56, (*size_hw, 3))).astype(np.uint8)
    return image


def _compare(what: str, expected: Array, got: Array) -> None:
    if expected.shape != got.shape:
        raise ModelError(f"{what} have shape {got.shape} in ONNX, {expected.shape} in PyTorch: not written")
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0)))
    difference = float(np.abs(expected - got).max(initial=0))
    if not difference <= allowed:  # NaN fails too
        raise ModelError(
            f"{what} differ by {difference:.3g} between ONNX and PyTorch, where {allowed:.3g} is allowed: "
            "the file is not written. Please report the model's header and the versions `sppnet doctor` tells"
        )
