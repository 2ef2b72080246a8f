"""Batches of images, made ahead by threads.

Which images form a batch is decided before, as lists of indices; what a batch holds does not depend
on the number of workers.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch

from sppnet.arrays import Array
from sppnet.data.image import ImageArray, read_image
from sppnet.data.transforms import resize_shorter
from sppnet.errors import ConfigError, DataError, ImageError
from sppnet.threads import ordered_map

logger = logging.getLogger(__name__)

ORDER_STREAM = 1
"""Keeps the draws of the order apart from those of the transforms (0) and of the sizes (2)."""


class Samples(Protocol):
    """What batches are made of, such as an ImageFolder."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Path, int]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one size and their labels."""

    images: torch.Tensor
    """(b, 3, h, w)"""
    labels: torch.Tensor
    """(b,) int64"""
    indices: torch.Tensor
    """(b,) int64, into the data set."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read, and so was left out."""

    index: int
    path: Path
    reason: str


MakeImage: TypeAlias = Callable[[int], torch.Tensor | Array]


# --- making batches ------------------------------------------------------------------------------


def batches(
    dataset: Samples,
    make: MakeImage,
    order: Sequence[Sequence[int]],
    *,
    workers: int = 2,
    ahead: int = 2,
    damaged: list[Damaged] | None = None,
) -> Iterator[Batch]:
    """The batches of `order`, one after the other.

    make: the image (3, h, w) of an index; called on worker threads, so it must not keep state.
    workers: threads; with 0 each batch is made when it is asked for.
    ahead: batches beyond those being made that may wait for the consumer.
    damaged: receives each file for which `make` raised ImageError, once however often the same list
    is passed, and so is the warning in the log. Such images are left out of their batch, and a
    batch of nothing else is left out. Any other error ends the iteration, with the path as a note.
    The threads end when the iterator is exhausted, closed or dropped, after one image at most.
    """
    if workers < 0 or ahead < 0:
        raise ConfigError(f"workers and batches ahead must be 0 or more; got {workers} and {ahead}")
    return _batches(_BatchMaker(dataset, make), order, workers, ahead, [] if damaged is None else damaged)


def _batches(
    maker: "_BatchMaker", order: Sequence[Sequence[int]], workers: int, ahead: int, damaged: list[Damaged]
) -> Iterator[Batch]:
    named = {item.path for item in damaged}
    made = ordered_map(maker.make_batch, order, workers, ahead)
    try:
        for batch, left_out in made:
            for item in left_out:
                if item.path not in named:
                    named.add(item.path)
                    damaged.append(item)
                    logger.warning("left out: %s", item.reason)
            if batch is not None:
                yield batch
    finally:
        maker.stop.set()
        made.close()


class _BatchMaker:
    """Makes one batch, on whatever thread; the same batch for the same indices."""

    def __init__(self, dataset: Samples, make: MakeImage) -> None:
        self.dataset = dataset
        self.make = make
        self.stop = threading.Event()

    def make_batch(self, indices: Sequence[int]) -> tuple[Batch | None, list[Damaged]]:
        images, kept, left_out = [], [], []
        for index in indices:
            if self.stop.is_set():  # nobody will look at it any more
                return None, []
            try:
                images.append(np.asarray(self.make(index)))
                kept.append(index)
            except ImageError as error:
                left_out.append(Damaged(index, self.dataset[index][0], str(error)))
            except Exception as error:
                error.add_note(f"while making image {index} of the data set, {self.dataset[index][0]}")
                raise
        return (self._stack(images, kept) if kept else None), left_out

    def _stack(self, images: list[Array], indices: list[int]) -> Batch:
        for image, index in zip(images, indices, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    "the images of a batch must have one shape; got "
                    f"{images[0].shape} for {self.dataset[indices[0]][0]} and "
                    f"{image.shape} for {self.dataset[index][0]}. Use a view of a fixed size, or batches "
                    "of equal size (bucket_by_size)"
                )
        labels = np.array([self.dataset[index][1] for index in indices], dtype=np.int64)
        stacked = (np.stack(images), labels, np.array(indices, dtype=np.int64))
        return Batch(*map(torch.from_numpy, stacked))


# --- which images form a batch -------------------------------------------------------------------


def epoch_order(n: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch: one permutation of n images, in pieces.

    batch_size counts the images of all processes together.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch needs at least 1 image; got {batch_size}")
    order = _order_rng(seed, epoch).permutation(n).tolist()
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


def bucket_by_size(
    sizes_hw: Sequence[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Batches of images of equal size, in random order; every image once.

    sizes_hw: of each image as it will be in the batch, so after scaling (see `shorter_size`).
    """
    if batch_size < 1:
        raise ConfigError(f"a batch needs at least 1 image; got {batch_size}")
    rng = _order_rng(seed, epoch)
    buckets: dict[tuple[int, int], list[int]] = {}
    for index in rng.permutation(len(sizes_hw)).tolist():
        buckets.setdefault(sizes_hw[index], []).append(index)
    formed = [
        bucket[start : start + batch_size]
        for bucket in buckets.values()
        for start in range(0, len(bucket), batch_size)
    ]
    return [formed[i] for i in rng.permutation(len(formed))]


def _order_rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(ORDER_STREAM, epoch)))


# --- decoded images ------------------------------------------------------------------------------


class ImageCache:
    """Decoded images at their scale, kept in memory so that later epochs decode nothing.

    When it is full it keeps what it has: every epoch reads every image once, and to replace any
    would throw out what is needed before what replaced it.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ConfigError(f"a cache holds 0 bytes or more; got {max_bytes}")
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._images: dict[tuple[Path, int], ImageArray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, path: Path, scale_px: int) -> ImageArray:
        """The image of `path` with its shorter side at `scale_px`, read-only; safe on any thread."""
        key = (path, scale_px)
        cached = self._images.get(key)
        if cached is not None:
            return cached
        image = resize_shorter(read_image(path), scale_px)
        image.setflags(write=False)
        with self._lock:
            if key not in self._images and self.used_bytes + image.nbytes <= self.max_bytes:
                self._images[key] = image
                self.used_bytes += image.nbytes
        return image
