"""From an image to its feature maps: the trunk made ready, and run once a scale."""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from sppnet.data.image import ImageArray
from sppnet.data.transforms import resize_to, shorter_size, to_tensor
from sppnet.errors import ConfigError
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.nn.engines import AnyEngine, Engine, engine_of
from sppnet.nn.fusion import fuse_conv_bn as fuse_conv_bn
from sppnet.nn.trunks import Trunk, as_maps

PAPER_SCALES = (480, 576, 688, 864, 1200)
"""Shorter sides of the paper's five scales (section 4.1); its single scale is 688."""


class FeatureExtractor:
    """A frozen trunk that makes feature maps, on the device the trunk is on; the maps come to the CPU.

    Batch norms are folded into the convolutions before them, where one follows the other in a
    Sequential: half the memory traffic, the same function. Maps are kept in half precision, whose
    rounding keeps the order of numbers, so pooling chooses the same cells. engine: see `engine_of`.
    """

    def __init__(self, trunk: Trunk, scales: Sequence[int] = (688,), engine: Engine = "auto") -> None:
        self.trunk, self.scales = trunk, _checked(scales)
        self.body = fuse_conv_bn(trunk.body).to(memory_format=torch.channels_last)
        self.device = next(trunk.parameters()).device
        self.engine: AnyEngine = engine_of(trunk, self.body, engine)
        self.engine_name: str = self.engine.name

    def at(self, scales: Sequence[int]) -> "FeatureExtractor":
        """The same trunk at other scales; nothing is made ready anew."""
        other = copy(self)
        other.scales = _checked(scales)
        return other

    @torch.inference_mode()
    def __call__(self, image: ImageArray, sizes_hw: Sequence[tuple[int, int]] | None = None) -> FeatureMaps:
        """image: (h, w, 3) uint8 RGB. sizes_hw: what it is resized to for each map, instead of the scales."""
        maps = self._convolve(self.engine, image, sizes_hw)
        taps = tuple(TapMaps(tuple(one.half() for one in tap.maps), tap.grid) for tap in maps.taps)
        return FeatureMaps(maps.size_hw, maps.sizes_hw, taps)

    def with_gradients(self, image: ImageArray) -> FeatureMaps:
        """The maps as the trunk gives them now, float32; batch norms keep their statistics."""
        body = self.trunk.eval().body
        return self._convolve(lambda images: as_maps(body(images.to(self.device))), image, None)

    def _convolve(
        self,
        convolve: Callable[[Tensor], tuple[Tensor, ...]],
        image: ImageArray,
        sizes_hw: Sequence[tuple[int, int]] | None,
    ) -> FeatureMaps:
        size_hw = image.shape[0], image.shape[1]
        found: list[tuple[Tensor, ...]] = []
        sizes = []
        for wanted_hw in sizes_hw or [shorter_size(size_hw, scale_px) for scale_px in self.scales]:
            resized = resize_to(image, wanted_hw)
            maps = convolve(to_tensor(resized, self.trunk.mean, self.trunk.std)[None])
            found.append(tuple(features[0].cpu().contiguous() for features in maps))
            sizes.append((resized.shape[0], resized.shape[1]))
        taps = zip(zip(*found, strict=True), self.trunk.taps, strict=True)
        return FeatureMaps(size_hw, tuple(sizes), tuple(TapMaps(maps, tap.grid) for maps, tap in taps))


def _checked(scales: Sequence[int]) -> tuple[int, ...]:
    if not scales or min(scales) < 32:
        raise ConfigError(f"scales must be one or more sizes of 32 pixels or more; got {tuple(scales)}")
    return tuple(scales)
