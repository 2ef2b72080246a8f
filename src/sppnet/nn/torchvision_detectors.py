"""torchvision's detection networks as trunks: maps before their heads, and the boxes of these heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection.image_list import ImageList

from sppnet.arrays import Array
from sppnet.errors import ConfigError, ModelError
from sppnet.nn.detector_names import COCO, TORCHVISION_DETECTORS
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.head_output import HeadOutput, VectorLayout
from sppnet.nn.networks import ParametersOnMeta
from sppnet.nn.pretrained import published_file, published_weights
from sppnet.nn.receptive_field import derive_grids
from sppnet.nn.torchvision_heads import head_layout, read_head
from sppnet.nn.trunks import Rgb, Tap, Weights
from sppnet.nn.weights import load_weights, read_weights, under_prefix

STRIDES = 8, 32
"""Of the first and the last map that is pooled: finer ones take most of the memory, and of coarser ones a
window has a cell or two."""

WITHOUT_EPSILON = (
    "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn",
)  # fmt: skip
"""Their published batch norms add nothing to the variance (torchvision's `overwrite_eps`)."""

LAST_LAYERS = (
    "roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias",
    "head.classification_head.module_list.0.bias", "head.classification_head.module_list.0.1.bias",
)  # fmt: skip
"""Parameters whose length says how many classes weights are for."""

MAX_CATEGORIES = 10_000
PLACEHOLDER = "N/A"
"""Name of a category that COCO left out."""


class TorchvisionDetector(DetectorTrunk):
    """A detection network of torchvision, frozen; it runs on the device that it is on."""

    def __init__(self, name: str, network: nn.Module, categories: int) -> None:
        """categories: the network's, with its background, which is the first."""
        super().__init__()
        self.name, self.categories, self.network = name, categories, network.eval().requires_grad_(False)
        self.columns, self.known_classes = _classes(name, categories)
        how: Any = network.transform
        self.size_px = int(how.fixed_size[0] if how.fixed_size else how.min_size[-1])
        self._mean, self._std = _rgb(how.image_mean), _rgb(how.image_std)
        self.used, self.taps = _taps(network.backbone)
        self._running: tuple[nn.Module, ...] = ()  # a tuple, since it is no part of what is saved
        self._layout = head_layout(network, len(self.known_classes))

    @classmethod
    def load(cls, name: str, weights: Weights | None) -> Self:
        """The network of this name; weights: "coco", a file of a state dict, or tensors by name."""
        if weights is None or weights == "imagenet":
            raise ConfigError(
                f"{name} was trained as a whole: give --weights coco (downloaded once), or a file with its "
                f"state dict; got {weights}"
            )
        state = _state(name, weights)
        categories = _count_categories(name, state)
        network = _network(name, categories)
        state = under_prefix(state, network.state_dict().keys())
        trunk = cls(name, network, categories)
        load_weights(trunk.network, state, known=_all_names(name))
        return trunk

    @classmethod
    def restore(cls, spec: dict[str, Any], state: dict[str, Tensor]) -> Self:
        """The trunk that has this `spec` and this state dict; raises ModelError."""
        name, categories = str(spec["name"]), spec["categories"]
        if name not in TORCHVISION_DETECTORS or type(categories) is not int:
            raise ModelError(f"no detection network {name!r} with {categories!r} categories is known")
        trunk = cls(name, _network(name, categories), categories)
        load_weights(trunk, state)
        return trunk

    @property
    def layout(self) -> VectorLayout:
        return self._layout

    @property
    def proposals_source(self) -> str:
        """Where the boxes of its own come from, in words."""
        if hasattr(self.network, "roi_heads"):
            return "of the region proposal network, each moved as its likeliest class asks"
        locations: Any = self.network.anchor_generator
        counts = ",".join(map(str, dict.fromkeys(locations.num_anchors_per_location())))
        return f"anchors of the head, {counts} a cell, decoded"

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "categories": self.categories}

    @property
    def mean(self) -> Rgb:
        return self._mean

    @property
    def std(self) -> Rgb:
        return self._std

    def fit_size(self, size_hw: tuple[int, int], scale_px: int) -> tuple[int, int]:
        """scale_px: the shorter side, unless the longer one becomes too long; SSDs take squares."""
        how: Any = self.network.transform
        if how.fixed_size:
            return scale_px, scale_px
        shorter, longer = min(size_hw), max(size_hw)
        limit = scale_px * how.max_size // how.min_size[-1]
        over, under = (scale_px, shorter) if scale_px * longer <= limit * shorter else (limit, longer)
        height, width = (max(1, side * over // under) for side in size_hw)
        return height, width

    @torch.inference_mode()
    def look(self, image: Array) -> HeadOutput:
        network = self._running_network()
        device = next(network.parameters()).device
        pixels = torch.from_numpy(self.prepare(image)).to(device, memory_format=torch.channels_last)
        maps = network.backbone(pixels)
        images = ImageList(pixels, [(image.shape[0], image.shape[1])])
        output = read_head(network, images, maps, torch.tensor(self.columns, device=device))
        kept = list(maps.values())
        tensors = tuple(kept[index][0].cpu() for index in self.used)
        return replace(output, maps=tensors)

    def _running_network(self) -> Any:
        """A copy that is faster, and whose weights lie alike wherever they came from: so do its results."""
        device = next(self.network.parameters()).device
        if not self._running or next(self._running[0].parameters()).device != device:
            self._running = (fuse_conv_bn(self.network).to(memory_format=torch.channels_last),)
        return self._running[0]

    def prepare(self, image: Array) -> Array:
        """(h, w, 3) uint8 RGB → (1, 3, h', w') float32: normalised, then padded with zeros."""
        how: Any = self.network.transform
        height, width = (-(side // -how.size_divisible) * how.size_divisible for side in image.shape[:2])
        padded = np.zeros((1, 3, height, width), np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = (image / np.float32(255) - mean) / std
        padded[0, :, : image.shape[0], : image.shape[1]] = pixels.transpose(2, 0, 1)
        return padded


def _network(name: str, categories: int) -> nn.Module:
    """Without values, and without what makes masks and keypoints."""
    if not 2 <= categories <= MAX_CATEGORIES:
        raise ModelError(f"{name} has 2 to {MAX_CATEGORIES} categories; got {categories}")
    network = _whole(name, categories)
    for part in ("mask", "keypoint"):
        for kind in ("roi_pool", "head", "predictor"):
            if getattr(getattr(network, "roi_heads", None), f"{part}_{kind}", None) is not None:
                setattr(network.roi_heads, f"{part}_{kind}", None)
    if name in WITHOUT_EPSILON:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return network


def _whole(name: str, categories: int) -> nn.Module:
    with ParametersOnMeta():
        network: nn.Module = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=categories
        )
    return network


def _all_names(name: str) -> set[str]:
    return set(_whole(name, len(_published(name).meta["categories"])).state_dict())


def _published(name: str) -> Any:
    return models.get_model_weights(name).DEFAULT


def weights_file(name: str, weights: str | Path) -> Path:
    """The file of published weights in torch's cache, or the file given."""
    return published_file(_published(name).url) if weights == COCO else Path(weights)


def _state(name: str, weights: Weights) -> dict[str, Tensor]:
    if weights == COCO:
        return published_weights(_published(name).url)
    if isinstance(weights, str | Path):
        return read_weights(weights)
    return {key: tensor.detach().clone() for key, tensor in weights.items()}


def _count_categories(name: str, state: dict[str, Tensor]) -> int:
    """How many categories these weights tell apart, with the background."""
    published = len(_published(name).meta["categories"])
    own = _whole(name, published).state_dict()
    layer = next(key for key in LAST_LAYERS if key in own)
    found = next((tensor for key, tensor in state.items() if key.endswith(layer)), None)
    if found is None:
        raise ModelError(f"these weights lack {layer}; are they for another network than {name}?")
    categories: int = found.numel() * published // own[layer].numel()
    return categories


def _classes(name: str, categories: int) -> tuple[list[int], tuple[str, ...]]:
    """The outputs that stand for classes, and the names of these."""
    names = _published(name).meta["categories"]
    if len(names) != categories:
        names = ["", *(f"class {number}" for number in range(1, categories))]
    columns = [index for index, one in enumerate(names) if index and one != PLACEHOLDER]
    return columns, tuple(names[index] for index in columns)


def _taps(backbone: Any) -> tuple[list[int], tuple[Tap, ...]]:
    """Which of the backbone's maps are pooled, and what they are.

    A feature pyramid's maps have the grids of those that it stands on.
    """
    grids = derive_grids(_Tuple(getattr(backbone, "body", backbone)))
    used = [index for index, (grid, _) in enumerate(grids) if STRIDES[0] <= grid.stride <= STRIDES[1]]
    pyramid = hasattr(backbone, "fpn")
    channels = [backbone.out_channels if pyramid else grids[index][1] for index in used]
    return used, tuple(Tap(grids[index][0], count) for index, count in zip(used, channels, strict=True))


class _Tuple(nn.Module):
    """A module whose maps come by name, as one that gives them in a tuple."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(images).values())


def _rgb(values: Any) -> Rgb:
    red, green, blue = map(float, values)
    return red, green, blue
