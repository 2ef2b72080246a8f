"""What every detector's network is as a trunk: maps at strides, boxes of its own, and a vector for each."""

from abc import abstractmethod
from typing import Any

from torch import nn

from sppnet.arrays import Array
from sppnet.errors import ConfigError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.head_output import HeadOutput, VectorLayout
from sppnet.nn.trunks import Rgb, Tap

MIN_SCALE = 32
"""In pixels: below it a map has no cells."""


class DetectorTrunk(nn.Module):
    """A frozen detector. Its parameters and buffers are what a model file holds of it."""

    name: str
    taps: tuple[Tap, ...]
    known_classes: tuple[str, ...]
    """What the network tells apart."""
    size_px: int
    """The scale that it was trained for."""

    @property
    def grid(self) -> CellGrid:
        """Of the first tap, the finest."""
        return self.taps[0].grid

    @property
    def channels(self) -> int:
        """Of all taps together."""
        return sum(tap.channels for tap in self.taps)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(tap.grid.stride for tap in self.taps)

    @property
    def has_head(self) -> bool:
        """Whether it has boxes of its own, and their vectors; else it gives maps alone."""
        return True

    @property
    @abstractmethod
    def layout(self) -> VectorLayout:
        """Of the vectors of its boxes; raises ConfigError where it has none."""

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What `restore_trunk` builds this trunk from again, with its state dict. Fit for JSON."""

    @property
    @abstractmethod
    def mean(self) -> Rgb: ...

    @property
    @abstractmethod
    def std(self) -> Rgb: ...

    def check_scales(self, scales: tuple[int, ...]) -> None:
        """Raises ConfigError for scales at which no image can go through."""
        if min(scales) < MIN_SCALE:
            raise ConfigError(f"scales must be sizes of {MIN_SCALE} pixels or more; got {scales}")

    @abstractmethod
    def fit_size(self, size_hw: tuple[int, int], scale_px: int) -> tuple[int, int]:
        """(height, width) that an image is resized to, in pixels."""

    @abstractmethod
    def look(self, image: Array) -> HeadOutput:
        """image: (h, w, 3) uint8 RGB, of a size that `fit_size` gives."""

    def extra_repr(self) -> str:
        return f"{self.name}, channels={self.channels}, strides={self.strides}"


def longer_size(size_hw: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """(height, width) after resizing the longer side to `longer_px`; no side becomes less than a pixel."""
    longer = max(size_hw)
    height, width = (max(1, side * longer_px // longer) for side in size_hw)
    return height, width
