"""From an image to what a detector's frozen network makes of it: maps at its strides, and its own boxes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sppnet.data.image import ImageArray
from sppnet.data.transforms import resize_to
from sppnet.errors import ConfigError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.head_boxes import HeadBoxes, VectorLayout, join_boxes, read_head
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.nn.onnx_trunk import AnyTrunk, OnnxTrunk


class OnnxExtractor:
    """A frozen detector that gives feature maps, each with the boxes of its head.

    scales: longer sides, in pixels, at which an image goes through the network; its boxes are those of all.
    """

    def __init__(self, trunk: OnnxTrunk, scales: Sequence[int] | None = None) -> None:
        self.trunk, self.scales = trunk, tuple(scales or (trunk.graph.size_px,))
        self.layout = VectorLayout.of(trunk)
        self.device = torch.device("cpu")
        largest = trunk.graph.size_px
        if not trunk.graph.dynamic and max(self.scales) > largest:
            raise ConfigError(
                f"{trunk.name} takes images of up to {largest} pixels a side; got scales {self.scales}"
            )
        if min(self.scales) < 32:
            raise ConfigError(f"scales must be sizes of 32 pixels or more; got {self.scales}")

    def __call__(self, image: ImageArray, sizes_hw: Sequence[tuple[int, int]] | None = None) -> FeatureMaps:
        """image: (h, w, 3) uint8 RGB. sizes_hw: what it is resized to for each map, instead of the scales."""
        size_hw = image.shape[0], image.shape[1]
        found: list[tuple[Tensor, ...]] = []
        heads: list[HeadBoxes] = []
        sizes = list(sizes_hw or [longer_size(size_hw, scale_px) for scale_px in self.scales])
        for wanted_hw in sizes:
            levels = self.trunk.run(self.trunk.prepare(resize_to(image, wanted_hw)))
            ratio_xy = np.array([wanted_hw[1] / size_hw[1], wanted_hw[0] / size_hw[0]] * 2, np.float32)
            heads.append(read_head(self.trunk, levels, ratio_xy, size_hw))
            found.append(tuple(torch.from_numpy(level[0]).half() for level in levels))
        taps = zip(zip(*found, strict=True), self.trunk.taps, strict=True)
        maps = FeatureMaps(size_hw, tuple(sizes), tuple(TapMaps(one, tap.grid) for one, tap in taps))
        return replace(maps, head=join_boxes(heads, self.layout))

    def with_gradients(self, image: ImageArray) -> FeatureMaps:
        """Refused: onnxruntime gives no gradients."""
        raise ConfigError(
            f"{self.trunk.name} stays as it is: an ONNX network is not fine-tuned; give --finetune none"
        )


AnyExtractor = FeatureExtractor | OnnxExtractor


def make_extractor(trunk: AnyTrunk, scales: Sequence[int]) -> AnyExtractor:
    """What makes feature maps with a trunk. scales: sides in pixels; none for an ONNX network's own size."""
    return OnnxExtractor(trunk, scales) if isinstance(trunk, OnnxTrunk) else FeatureExtractor(trunk, scales)


def longer_size(size_hw: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """(height, width) after resizing the longer side to `longer_px`; no side becomes less than a pixel."""
    longer = max(size_hw)
    height, width = (max(1, side * longer_px // longer) for side in size_hw)
    return height, width
