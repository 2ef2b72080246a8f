"""What a network is shown of an image when it is tested (paper sections 3.1.4, 3.1.5 and 4.4)."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from sppnet.data import transforms
from sppnet.data.image import ImageArray
from sppnet.errors import ConfigError
from sppnet.geometry.grid import VIEW_PX, boxes_to_cells, scale_of_views, view_boxes
from sppnet.nn.network import SPPNet

Views = Literal["crop", "full", "warp", "10", "96"]

SCALES_96 = (224, 256, 300, 360, 448, 560)
"""Shorter sides of the 96 views, of 224 pixels: 9 positions and their mirror images each, at 224 only 3."""


def check_views(views: str) -> Views:
    """Raises ConfigError for views there are not."""
    if views not in get_args(Views):
        raise ConfigError(f"views are {', '.join(get_args(Views))}; got {views!r}")
    return views  # type: ignore[return-value]


def score_images(
    network: SPPNet,
    images: Sequence[ImageArray],
    views: Views,
    scale_px: int | Sequence[int] = transforms.SCALE_PX,
    size_px: int = VIEW_PX,
) -> Tensor:
    """Images (h, w, 3) uint8 → (n, num_classes): means over the views of the softmax, or of the SVMs' scores.

    scale_px: shorter side for "crop", "full" and "10", or several, whose scores are averaged; "96" has its
        own six.
    size_px: side of a view. What it shows is that of 224 pixels at `scale_px`: "crop" is cut so and resized,
        and for "10" and "96" the whole image is resized.
    """
    if not isinstance(scale_px, int):
        every = [score_images(network, images, views, scale, size_px) for scale in scale_px]
        return torch.stack(every).mean(0)
    if views in ("10", "96"):
        return torch.stack([_score_many_views(network, image, views, scale_px, size_px) for image in images])
    one = cast(transforms.ViewRule, views)
    shown = [transforms.test_view(image, one, scale_px=scale_px, size_px=size_px) for image in images]
    if views == "full":  # each has its own size
        return torch.cat([probabilities(network, network(_as_batch(network, [view]))) for view in shown])
    return probabilities(network, network(_as_batch(network, shown)))


def _score_many_views(
    network: SPPNet, image: ImageArray, views: Views, scale_px: int, size_px: int
) -> Tensor:
    scales, positions = ((scale_px,), 5) if views == "10" else (SCALES_96, 9)
    if network.fixed:
        scores = [_score_crops(network, image, scale, positions) for scale in scales]
    else:
        scores = [_score_windows(network, image, scale, positions, size_px) for scale in scales]
    return probabilities(network, torch.cat(scores)).mean(0)


def probabilities(network: SPPNet, scores: Tensor) -> Tensor:
    """What is averaged over views: softmax, but for SVMs the scores themselves."""
    return scores.softmax(1) if network.head_kind == "fc" else scores


def _score_windows(network: SPPNet, image: ImageArray, scale_px: int, positions: int, size_px: int) -> Tensor:
    """The scaled image and its mirror image are convolved once each, and every view pooled from the maps."""
    scaled = transforms.resize_shorter(image, scale_of_views(scale_px, size_px))
    features = network.trunk(_as_batch(network, [scaled, scaled[:, ::-1]]))
    boxes = np.array(view_boxes(scaled.shape[:2], positions, size_px))
    height, width = features.shape[-2:]
    cells = torch.from_numpy(boxes_to_cells(boxes, network.trunk.grid, (height, width)))
    scores: Tensor = network.head(network.pyramid(features, [cells, cells]))
    return scores


def _score_crops(network: SPPNet, image: ImageArray, scale_px: int, positions: int) -> Tensor:
    """For a network of one input size every view is cut from the image, resized and convolved by itself."""
    scaled = transforms.resize_shorter(image, scale_px)
    crops = [transforms.crop(scaled, box) for box in view_boxes(scaled.shape[:2], positions)]
    side = network.size or VIEW_PX
    crops = [transforms.resize_to(crop, (side, side)) for crop in crops]
    scores: Tensor = network(_as_batch(network, [*crops, *(crop[:, ::-1] for crop in crops)]))
    return scores


def _as_batch(network: SPPNet, images: list[ImageArray]) -> Tensor:
    """Images of one size → (b, 3, h, w), normalised, on the network's device."""
    trunk = network.trunk
    tensors = [transforms.to_tensor(image, trunk.mean, trunk.std) for image in images]
    return torch.stack(tensors).to(next(network.parameters()).device)
