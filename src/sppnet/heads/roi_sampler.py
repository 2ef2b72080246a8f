"""Which windows a batch of fine-tuning is made of (paper section 4.1).

Arrays in, indices out: nothing is read or pooled here. A batch comes from a few images, because the
convolutions of an image are paid once however many of its windows are used.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Ints
from sppnet.errors import ConfigError, DataError
from sppnet.rng import Stream, generator

Range = tuple[float, float]

UNUSED = -1
"""The label of a window that is neither positive nor negative."""


class SampledRoIs(NamedTuple):
    """What a batch takes from one image."""

    image: int
    windows: Ints
    """(m,) indices of windows, ascending, each once."""
    labels: Ints
    """(m,) of the classes; their number stands for background."""


class RoISampler:
    """Batches of windows, each a pure function of the seed and the step.

    best_overlap: for every image (n,), the IoU of each window with the object it overlaps most.
    best_label: for every image (n,), that object's class; it is read for positives alone.
    positive, negative: a window is positive from positive[0] to positive[1], both included, and
        negative from negative[0] to below negative[1].
    images_per_batch: at most; the images of an epoch are spread evenly over its batches.
    Raises ConfigError for options that cannot be, and DataError for overlaps and labels that do not fit,
    or if no image has a window to learn from.
    """

    def __init__(
        self,
        best_overlap: Sequence[npt.ArrayLike],
        best_label: Sequence[npt.ArrayLike],
        num_classes: int,
        positive: Range = (0.5, 1.0),
        negative: Range = (0.1, 0.5),
        batch_size: int = 128,
        positive_share: float = 0.25,
        images_per_batch: int = 8,
        seed: int = 0,
    ) -> None:
        _check_options(num_classes, positive, negative, batch_size, positive_share, images_per_batch)
        if len(best_overlap) != len(best_label):
            raise DataError(
                f"{len(best_overlap)} images of overlaps need as many labels; got {len(best_label)}"
            )
        self.num_classes, self.batch_size, self.seed = num_classes, batch_size, seed
        self.positives = round(batch_size * positive_share)
        self._labels = [
            _label_windows(image, overlap, label, num_classes, positive, negative)
            for image, (overlap, label) in enumerate(zip(best_overlap, best_label, strict=True))
        ]
        self.images = np.array([i for i, row in enumerate(self._labels) if (row != UNUSED).any()], np.int64)
        """Those with a window to learn from; others are never drawn."""
        if not len(self.images):
            raise DataError(
                f"none of {len(self._labels)} images has a window to learn from: no overlap lies in "
                f"{positive} or {negative}; propose more windows or widen the ranges"
            )
        self.steps_per_epoch = -(-len(self.images) // images_per_batch)
        """Steps in which every image is visited once."""

    def draw(self, step: int) -> list[SampledRoIs]:
        """The windows of a step, from its images in turn; an image none was drawn from is left out.

        Of a full batch `positive_share` are positive. Where its images have too few of one kind, there are
        more of the other; no window comes twice.
        """
        images = self._images_of(step)
        positives = self._pool(images, background=False)
        negatives = self._pool(images, background=True)
        wanted = min(len(positives), max(self.positives, self.batch_size - len(negatives)))
        rng = generator(self.seed, Stream.ROI_WINDOWS, step)
        some, rest = (
            rng.permutation(positives)[:wanted],
            rng.permutation(negatives)[: self.batch_size - wanted],
        )
        drawn = np.concatenate([some, rest])
        return [self._of_image(int(image), drawn) for image in images if (drawn[:, 0] == image).any()]

    def _images_of(self, step: int) -> Ints:
        epoch, part = divmod(step, self.steps_per_epoch)
        order = generator(self.seed, Stream.ROI_IMAGES, epoch).permutation(self.images)
        return np.array_split(order, self.steps_per_epoch)[part]

    def _pool(self, images: Ints, background: bool) -> Ints:
        """(m, 2): image and index of every window of a kind."""
        pairs = [np.zeros((0, 2), np.int64)]
        for image in images:
            labels = self._labels[image]
            own = labels == self.num_classes if background else (labels >= 0) & (labels < self.num_classes)
            windows = np.flatnonzero(own)
            pairs.append(np.stack([np.full_like(windows, image), windows], axis=1))
        return np.concatenate(pairs)

    def _of_image(self, image: int, drawn: Ints) -> SampledRoIs:
        windows = np.sort(drawn[drawn[:, 0] == image, 1])
        return SampledRoIs(image, windows, self._labels[image][windows])


def _label_windows(
    image: int,
    overlap: npt.ArrayLike,
    label: npt.ArrayLike,
    num_classes: int,
    positive: Range,
    negative: Range,
) -> Ints:
    """(n,) the class of positives, `num_classes` for negatives, UNUSED for the rest."""
    shares, classes = np.asarray(overlap, np.float64).reshape(-1), np.asarray(label).reshape(-1)
    if len(shares) != len(classes) or not ((shares >= 0) & (shares <= 1)).all():
        raise DataError(
            f"image {image}: {len(shares)} overlaps, all from 0 to 1, need as many labels; got {len(classes)}"
        )
    positives = (shares >= positive[0]) & (shares <= positive[1])
    known = (classes >= 0) & (classes < num_classes)
    if not known[positives].all():
        wrong = classes[positives & ~known][0]
        raise DataError(f"image {image}: labels must be 0..{num_classes - 1}; got {wrong}")
    negatives = (shares >= negative[0]) & (shares < negative[1])
    return np.where(positives, classes, np.where(negatives, num_classes, UNUSED)).astype(np.int64)


def _check_options(
    num_classes: int,
    positive: Range,
    negative: Range,
    batch_size: int,
    positive_share: float,
    images_per_batch: int,
) -> None:
    if min(num_classes, batch_size, images_per_batch) < 1:
        raise ConfigError(
            "num_classes, batch_size and images_per_batch must be 1 or more; "
            f"got {num_classes}, {batch_size} and {images_per_batch}"
        )
    if not 0 <= negative[0] < negative[1] <= positive[0] <= positive[1] <= 1:
        raise ConfigError(
            f"overlaps of negatives must lie below those of positives, in 0..1; got {negative}, {positive}"
        )
    if not 0 <= positive_share <= 1:
        raise ConfigError(f"positive_share must lie in 0..1; got {positive_share}")
