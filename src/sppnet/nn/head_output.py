"""What a detector's network makes of one image: maps, candidate boxes, and a vector for each of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from sppnet.arrays import Array, Ints

LOGIT_LIMIT = 12.0
"""Beyond it a probability is 0 or 1 for all that matters."""
LOG_SHARE = 0.25
"""Factor of logarithms of probabilities in a vector, so that they weigh like its other numbers."""


@dataclass(frozen=True)
class VectorLayout:
    """Which numbers of a vector are what, in their order."""

    class_features: int
    box_features: int
    classes: int
    levels: int

    @property
    def first_class(self) -> int:
        """Where the logarithms of the class probabilities begin."""
        return self.class_features + self.box_features

    @property
    def objectness(self) -> int:
        return self.first_class + self.classes

    def likeliest(self, vectors: Array) -> Ints:
        """(n, d) vectors → (n,) the class of the network that each most likely is."""
        labels: Ints = vectors[:, self.first_class : self.objectness].argmax(axis=1)
        return labels

    @property
    def length(self) -> int:
        """With the level as one number each, and the logarithms of half the width and height."""
        return self.objectness + 1 + self.levels + 2


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """The maps of an image, and all boxes that the head decodes."""

    maps: tuple[Tensor, ...]
    """(c, h, w) for each tap, on the CPU."""
    boxes: Array = field(default_factory=lambda: np.empty((0, 4), np.float32))
    """(n, 4) xyxy in pixels of the image."""
    objectness: Array = field(default_factory=lambda: np.empty(0, np.float32))
    """(n,) by which boxes rank, whatever their class."""
    vectors: Callable[[Ints], Array] = lambda chosen: np.empty((len(chosen), 0), np.float32)
    """Numbers of boxes (m,) → (m, d) as `VectorLayout` tells; few of the boxes are asked for."""


def log_of_logits(logits: Array) -> Array:
    """Logarithms of sigmoids, as vectors hold them."""
    scaled: Array = -LOG_SHARE * np.log1p(np.exp(-logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)))
    return scaled


def log_sizes(boxes: Array) -> Array:
    """(n, 4) xyxy → (n, 2): logarithms of half the width and height, about 0 for 40 pixels."""
    sizes: Array = np.log(np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 1)) - 3
    return sizes
