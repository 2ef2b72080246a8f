"""Whether the boxes that a trunk reads off a torchvision detector are those that torchvision gives itself."""

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sppnet.arrays import Array
from sppnet.errors import ModelError
from sppnet.nn.head_output import LOG_SHARE
from sppnet.nn.torchvision_detectors import TorchvisionDetector

BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-3
"""In pixels, and of probabilities: convolutions with batch norms folded into them round otherwise."""


@dataclass(frozen=True)
class BoxComparison:
    """Torchvision's detections of an image, and the trunk's boxes nearest to them."""

    boxes: int
    """Of torchvision, of classes that the trunk tells apart; 100 at most."""
    same: int
    """Of these, the trunk has."""
    pixels: float
    """By which the same boxes differ at most."""
    probability: float


def compare_with_torchvision(trunk: TorchvisionDetector, image: Array) -> BoxComparison:
    """image: (h, w, 3) uint8 RGB, of a size that `fit_size` gives.

    Raises ModelError where a network of one stage has other boxes. One of two stages moves every proposal for
    each of its classes, of which the trunk takes the likeliest; so some boxes of torchvision are not there.
    """
    found = _own_detections(trunk, image)
    output = trunk.look(image)
    limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    boxes, layout = output.boxes.clip(0, limit), trunk.layout
    compared, distances, gaps = 0, [], []
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        if label not in trunk.columns:
            continue
        compared += 1
        near = np.flatnonzero(np.abs(boxes - box).max(1) < BOX_TOLERANCE)
        if not len(near):
            continue
        vectors = output.vectors(near)
        log = vectors[:, layout.first_class + trunk.columns.index(label)] + vectors[:, layout.objectness]
        gap = np.abs(np.exp(log / LOG_SHARE) - score)
        best = int(gap.argmin())
        distances.append(float(np.abs(boxes[near[best]] - box).max()))
        gaps.append(float(gap[best]))
    two_stages = hasattr(trunk.network, "roi_heads")
    if max(gaps, default=0) > SCORE_TOLERANCE or (len(gaps) < compared and not two_stages):
        raise ModelError(
            f"{trunk.name}: {len(gaps)} of torchvision's {compared} boxes were found again, probabilities "
            f"differ by up to {max(gaps, default=0):.2g}; this version of torchvision decodes otherwise"
        )
    return BoxComparison(compared, len(gaps), max(distances, default=0.0), max(gaps, default=0.0))


@torch.inference_mode()
def _own_detections(trunk: TorchvisionDetector, image: Array) -> dict[str, Array]:
    """What the network itself gives, its own steps from pixels to boxes; the hundred surest."""
    network = _without_threshold(trunk.network)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).to(device) / 255
    (found,) = network([pixels])
    return {key: found[key].cpu().numpy() for key in ("boxes", "scores", "labels")}


def _without_threshold(network: Any) -> Any:
    """A copy, of the same layers, that shows what is unlikely too, and does not resize."""
    own = copy(network)
    own._modules = dict(network._modules)
    own.transform = copy(network.transform)
    own.transform.resize = lambda image, target=None: (image, target)
    chief = own
    if hasattr(network, "roi_heads"):
        chief = own.roi_heads = copy(network.roi_heads)
    chief.score_thresh, chief.detections_per_img = 0.0, 100
    return own
