"""How good a classifier is: shares of images labelled right, over all and in each class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppnet.arrays import Array, Ints, Reals
from sppnet.data.files import Omission
from sppnet.errors import DataError

TOP = 5
"""How many guesses `top5` allows."""


@dataclass(frozen=True)
class ScoredImage:
    """What was said of one image. Labels are indices of the classes."""

    path: Path
    label: int
    """What it shows."""
    guess: int
    """The class that scored highest."""
    score: float
    """Of the guess."""
    own_score: float
    """Of the class it shows."""


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """What a classifier made of labelled images. Every share is a fraction of 1."""

    classes: tuple[str, ...]
    confusion: Ints
    """(k, k) images by class (row) and by the class that scored highest (column)."""
    top5_right: int
    """Images whose class is among the five of the highest scores; of five or fewer classes, all."""
    skipped: tuple[str, ...] = ()
    """Images that could not be read; no share counts them."""
    omitted: tuple[Omission, ...] = ()
    """Images of the data set that were left out before, by reason."""
    judged: tuple[ScoredImage, ...] = field(default=(), repr=False)
    """One an image, from whoever knows the files; else empty."""

    def __post_init__(self) -> None:
        k = len(self.classes)
        if self.confusion.shape != (k, k):
            raise DataError(f"{k} classes need a confusion matrix ({k}, {k}); got {self.confusion.shape}")
        if not np.trace(self.confusion) <= self.top5_right <= self.images or self.images == 0:
            raise DataError(
                f"of {self.images} images {self.top5_right} cannot be among the first five "
                f"if {np.trace(self.confusion)} are first"
            )

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def found(self) -> int:
        """How many images the data set has, with those that were left out."""
        return self.images + len(self.skipped) + sum(omission.count for omission in self.omitted)

    @property
    def top1(self) -> float:
        return float(np.trace(self.confusion) / self.images)

    @property
    def top5(self) -> float:
        return self.top5_right / self.images

    @property
    def per_class(self) -> dict[str, float | None]:
        """The share labelled right in each class; None for a class without images."""
        right, totals = self.confusion.diagonal().tolist(), self.confusion.sum(axis=1).tolist()
        return {
            name: hits / total if total else None
            for name, hits, total in zip(self.classes, right, totals, strict=True)
        }

    @property
    def mean_per_class(self) -> float:
        """The mean of `per_class` over the classes with images, however many each has."""
        return float(np.mean([share for share in self.per_class.values() if share is not None]))

    def to_json(self) -> dict[str, Any]:
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            "images": self.images,
            "found": self.found,
            "skipped": [*(omission.reason for omission in self.omitted), *self.skipped],
            "per_class": self.per_class,
        }


def evaluate_scores(
    scores: Tensor | Reals,
    labels: Tensor | npt.NDArray[np.integer] | Sequence[int],
    classes: Sequence[str],
    skipped: Sequence[str] = (),
) -> ClassificationResult:
    """scores: (n, k), the higher the likelier; labels: (n,) indices of `classes`.

    Of equal scores the class of the lower index comes first. Raises DataError if there are no images,
    a score is NaN, or a label names no class.
    """
    numbers = torch.as_tensor(scores).detach().cpu().numpy()
    truth = torch.as_tensor(labels).cpu().numpy()
    _check(numbers, truth, len(classes))
    places = _places(numbers, truth)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, numbers.argmax(axis=1)), 1)
    return ClassificationResult(tuple(classes), confusion, int((places < TOP).sum()), tuple(skipped))


def _places(scores: Array, labels: Array) -> Ints:
    """(n,) how many classes come before the right one."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    places: Ints = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return places


def _check(scores: Array, labels: Array, k: int) -> None:
    if scores.ndim != 2 or scores.shape[1] != k or labels.shape != (len(scores),):
        raise DataError(
            f"scores must be (n, {k}) and labels (n,) for {k} classes; got {scores.shape} and {labels.shape}"
        )
    if len(scores) == 0:
        raise DataError("there are no images to judge; check that some could be read")
    if np.isnan(scores).any():
        raise DataError(
            f"scores of {int(np.isnan(scores).any(axis=1).sum())} images are NaN; check the model, or, in "
            "training, lower --learning-rate"
        )
    if not np.issubdtype(labels.dtype, np.integer) or not 0 <= labels.min() <= labels.max() < k:
        raise DataError(f"labels must be integers 0..{k - 1}; got {labels.min()}..{labels.max()}")
