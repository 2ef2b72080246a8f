"""What is exported: networks that take pixels as Pillow gives them, and give what people ask for."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.boxes import MAX_LOG_SCALE
from sppnet.classify.classifier import Classifier
from sppnet.classify.views import probabilities
from sppnet.detect.detector import Detector
from sppnet.detect.roi_features import SppRoIFeatureExtractor
from sppnet.errors import ModelError
from sppnet.features.extractor import FeatureExtractor, fuse_conv_bn
from sppnet.geometry.grid import RELEASED_SLACK_PX, SUBPIXELS, BoxMapping, CellGrid
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.trunks import Trunk, as_maps
from sppnet.ops.pooling import pyramid_pool


class Pixels(nn.Module):
    """(b, h, w, 3) uint8 RGB → (b, 3, h, w) normalised, as `to_tensor` computes it."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        std = np.asarray(trunk.std, np.float64)
        scale, offset = 1 / (255 * std), np.asarray(trunk.mean, np.float64) / std
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32).view(3, 1, 1))
        self.scale: Tensor
        self.offset: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float() * self.scale - self.offset


class PixelClassifier(nn.Module):
    """pixels (b, h, w, 3) uint8 → scores (b, classes): probabilities, or the margins of SVMs."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.network
        self.pixels = Pixels(self.network.trunk)
        self.body = fuse_conv_bn(self.network.trunk.body)

    def forward(self, pixels: Tensor) -> Tensor:
        vectors = self.network.pyramid(self.body(self.pixels(pixels)))
        return probabilities(self.network, self.network.head(vectors))


class PixelDetector(nn.Module):
    """pixels (h, w, 3) uint8 and boxes (n, 4) in them → scores (n, classes), boxes (n, classes, 4).

    The second are the boxes moved to where each class would have its object, clipped to the image.
    Raises ModelError for detectors that convolve every box by itself.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        roi_extractor, parts = detector.roi_extractor, detector.parts
        if not isinstance(roi_extractor, SppRoIFeatureExtractor):
            raise ModelError(
                "a detector by the R-CNN method convolves every box by itself and cannot be exported; "
                "train one with --method spp"
            )
        assert isinstance(parts.trunk, Trunk)
        assert isinstance(detector.extractor, FeatureExtractor)
        self.pixels, self.body = Pixels(parts.trunk), detector.extractor.body
        self.grids = [tap.grid for tap in parts.trunk.taps]
        self.rule, self.levels = roi_extractor.rule, roi_extractor.levels
        self.layers = roi_extractor.layers or nn.Identity()
        self.score_and_refine, self.move = _linear(parts.svm.weight, parts.svm.bias), _moves(parts.regressor)

    def forward(self, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        pooled = []
        for features, grid in zip(as_maps(self.body(self.pixels(pixels[None]))), self.grids, strict=True):
            cells = trace_cells(boxes, grid, _width_height(features, 2), self.rule)
            pooled.append(pyramid_pool(features, nn.functional.pad(cells, (1, 0)), self.levels))
        vectors = torch.cat(pooled, 1) if len(pooled) > 1 else pooled[0]
        deltas = self.move(vectors).unflatten(1, (-1, 4))
        size = _width_height(pixels, 0).to(boxes)
        return self.score_and_refine(self.layers(vectors)), _moved(boxes, deltas, size)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    return layer


def _moves(regressor: BoxRegressor) -> nn.Linear:
    """(n, d) → (n, classes × 4)"""
    return _linear(regressor.weight.flatten(0, 1), regressor.bias.flatten())


def _width_height(array: Tensor, axis: int) -> Tensor:
    return torch.stack([torch.scalar_tensor(array.shape[axis + i], dtype=torch.int64) for i in (1, 0)])


# --- boxes, in operations that can be exported ---------------------------------------------------


def trace_cells(boxes: Tensor, grid: CellGrid, map_wh: Tensor, rule: BoxMapping) -> Tensor:
    """`boxes_to_cells` in torch: boxes (n, 4) float → (n, 4) int64."""
    corners = torch.floor(boxes.double() * SUBPIXELS + 0.5).long()
    step, center0 = grid.stride * SUBPIXELS, int(grid.center0 * SUBPIXELS)
    low, high = corners[:, :2] - center0, corners[:, 2:] - center0
    if rule == "paper":
        first, last = _floor_divided(low, step) + 1, _floor_divided(high + step - 1, step) - 1
    else:
        slack = int(RELEASED_SLACK_PX * SUBPIXELS)
        first = _floor_divided(2 * (low + slack) + step, 2 * step)
        last = _floor_divided(2 * (high - SUBPIXELS - slack) + step - 1, 2 * step)
    middle = _floor_divided(first + last, 2)
    inverted = first > last
    zero = torch.zeros_like(map_wh)
    low, high = (
        torch.minimum(torch.maximum(torch.where(inverted, middle, side), zero), map_wh - 1)
        for side in (first, last)
    )
    return torch.cat([low, high + 1], 1)


def _floor_divided(numbers: Tensor, by: int) -> Tensor:
    """Exact below 2^52. The integer division of torch is exported as one of float32, which is not."""
    return torch.floor(numbers.double() / by).long()


def _moved(boxes: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """`decode_boxes` and `clip_boxes`: boxes (n, 4), deltas (n, k, 4), size (width, height) → (n, k, 4)."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    sides, most = high - low, math.log(MAX_LOG_SCALE)
    centres = (low + high) / 2 + deltas[..., :2] * sides
    half = 0.5 * sides * torch.exp(deltas[..., 2:].clamp(-most, most))
    low = torch.minimum(torch.relu(centres - half), size - 1)
    high = torch.minimum(torch.maximum(centres + half, low + 1), size)
    return torch.cat([low, high], -1)
