"""The training photographs as joint training reads them: shrunk, in memory as long as there is room."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sppnet.arrays import Flags, Floats
from sppnet.data.transforms import resize_to
from sppnet.detect.joint.augmentation import ZOOM, Sample
from sppnet.detect.label_assignment import TrainingImages

MAX_BYTES = 1 << 30
"""Of pixels kept in memory; beyond, photographs are read again."""


@dataclass(frozen=True, eq=False)
class JointPhotographs:
    """Photographs, their objects and their proposals by index; mirror images are drawn, not listed."""

    photos: TrainingImages
    proposals: Sequence[Floats]
    size_px: int
    """Shorter side at which they are learned on."""
    _kept: dict[int, Sample] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.photos.images)

    def __getitem__(self, index: int) -> Sample:
        kept = self._kept.get(index)
        if kept is None:
            kept = self._read(index)
            with self._lock:
                if sum(one.pixels.nbytes for one in self._kept.values()) + kept.pixels.nbytes <= MAX_BYTES:
                    self._kept[index] = kept
        return kept

    def lie_flat(self) -> Flags:
        """(n,) whether each photograph is at least as wide as high."""
        sizes = [self.photos.photo(index).size_hw for index in range(len(self))]
        return np.array([width >= height for height, width in sizes], np.bool_)

    def _read(self, index: int) -> Sample:
        photo = self.photos.photo(index)
        return shrink(Sample(photo.pixels, self.photos.truth(index), self.proposals[index]), self.size_px)


def shrink(sample: Sample, size_px: int) -> Sample:
    """What the largest zoom to a shorter side of `size_px` needs, and no more; crowds count as difficult."""
    height, width = sample.pixels.shape[:2]
    ratio = min(1.0, ZOOM[1] * size_px / min(height, width))
    small = resize_to(sample.pixels, (max(1, round(height * ratio)), max(1, round(width * ratio))))
    factor = np.array([small.shape[1] / width, small.shape[0] / height] * 2, np.float32)
    truth = sample.truth
    objects = replace(truth, boxes=truth.boxes * factor, difficult=truth.difficult | truth.crowd)
    return Sample(small, objects, sample.proposals * factor)
