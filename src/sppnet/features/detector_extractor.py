"""From an image to what a detector's frozen network makes of it: maps at its strides, and its own boxes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sppnet.data.image import ImageArray
from sppnet.data.transforms import resize_to
from sppnet.errors import ConfigError, ModelError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.head_boxes import LARGEST, HeadBoxes, choose_boxes, join_boxes
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.nn.any_trunk import AnyTrunk
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.engines import Engine


class DetectorExtractor:
    """A frozen detector that gives feature maps, each with the boxes of its head.

    scales: at which an image goes through the network, as `DetectorTrunk.fit_size` takes them; its boxes are
    those of all.
    """

    def __init__(self, trunk: DetectorTrunk, scales: Sequence[int] | None = None) -> None:
        self.trunk, self.scales = trunk, tuple(scales or (trunk.size_px,))
        self.trunk.check_scales(self.scales)
        self.device = torch.device("cpu")
        """Where the maps are; the trunk knows where it computes them."""
        self.engine_name = "torch"
        """The trunk has its own, of which there is one."""

    def at(self, scales: Sequence[int]) -> "DetectorExtractor":
        """The same network at other scales."""
        return DetectorExtractor(self.trunk, scales)

    def __call__(self, image: ImageArray, sizes_hw: Sequence[tuple[int, int]] | None = None) -> FeatureMaps:
        """image: (h, w, 3) uint8 RGB. sizes_hw: what it is resized to for each map, instead of the scales."""
        size_hw = image.shape[0], image.shape[1]
        found: list[tuple[Tensor, ...]] = []
        heads: list[HeadBoxes] = []
        sizes = list(sizes_hw or [self.trunk.fit_size(size_hw, scale_px) for scale_px in self.scales])
        for wanted_hw in sizes:
            output = self.trunk.look(resize_to(image, wanted_hw))
            ratio_xy = np.array([wanted_hw[1] / size_hw[1], wanted_hw[0] / size_hw[0]] * 2, np.float32)
            if self.trunk.has_head:
                heads.append(choose_boxes(output, ratio_xy, size_hw))
            found.append(tuple(one.clamp(-LARGEST, LARGEST).half() for one in output.maps))
            self._refuse_infinite(found[-1], heads[-1:])
        taps = zip(zip(*found, strict=True), self.trunk.taps, strict=True)
        maps = FeatureMaps(size_hw, tuple(sizes), tuple(TapMaps(one, tap.grid) for one, tap in taps))
        if not heads:
            return maps
        return replace(maps, head=join_boxes(heads, self.trunk.layout))

    def _refuse_infinite(self, maps: Sequence[Tensor], heads: Sequence[HeadBoxes]) -> None:
        """Raises ModelError for numbers that nothing can be learned on."""
        arrays = [array for head in heads for array in (head.boxes, head.vectors)]
        numbers = [*maps, *map(torch.from_numpy, arrays)]
        # What is not finite stays so in a sum.
        if not all(bool(one.sum(dtype=torch.float32).isfinite()) for one in numbers):
            raise ModelError(
                f"{self.trunk.name} gives numbers that are not finite: the file is damaged, or expects other "
                "pixels (--trunk-input)"
            )

    def with_gradients(self, image: ImageArray) -> FeatureMaps:
        """Refused: what was learned on the boxes of the head would stand on another head."""
        raise ConfigError(
            f"{self.trunk.name} stays as it is: a detector's network is not fine-tuned; give --finetune none"
        )


AnyExtractor = FeatureExtractor | DetectorExtractor


def make_extractor(trunk: AnyTrunk, scales: Sequence[int], engine: Engine = "auto") -> AnyExtractor:
    """What makes feature maps with a trunk. scales: in pixels; none for what a detector's network was made
    for."""
    if isinstance(trunk, DetectorTrunk):
        return DetectorExtractor(trunk, scales)
    return FeatureExtractor(trunk, scales, engine)
