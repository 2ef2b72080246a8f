"""Linear SVMs on the pooled vectors of a frozen trunk (paper section 4.2): seconds instead of hours."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Ints
from sppnet.classify.config import TrainingConfig
from sppnet.data import transforms
from sppnet.data.folder import ImageFolder
from sppnet.data.image import read_header, read_image
from sppnet.data.loader import Damaged, batches
from sppnet.errors import DataError, ImageError
from sppnet.geometry.grid import VIEW_PX
from sppnet.nn.network import SPPNet, VectorSVM
from sppnet.progress import Progress
from sppnet.svm.cross_validation import choose_C
from sppnet.svm.gram import gram_matrix
from sppnet.svm.linear_svm import fit_svm

BATCH = 4
"""Images of one size that are convolved together; whole photographs have so many sizes that few meet."""

DEFAULT_C = 1.0
"""Of the SVMs where no class has two images, so that none can be held out to choose it."""

logger = logging.getLogger(__name__)


def train_svm(
    network: SPPNet, folder: ImageFolder, config: TrainingConfig, damaged: list[Damaged], progress: Progress
) -> float:
    """Set the network's SVMs from the images of a folder; returns the C that was used."""
    vectors, labels = extract_vectors(network, folder, config, damaged, progress)
    counts = np.bincount(labels.numpy(), minlength=len(folder.classes))
    _check_counts(counts, folder, damaged)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    gram = gram_matrix(vectors) if len(vectors) <= vectors.shape[1] else None
    cost = config.C
    if cost is None and counts.max() < 2:
        logger.warning(
            "no class has two images to train on, so C is not chosen but %g; or give it", DEFAULT_C
        )
        cost = DEFAULT_C
    if cost is None:
        cost = choose_C(vectors, labels, seed=config.seed, gram=gram, progress=progress).C
    svm = fit_svm(
        vectors, labels, C=cost, seed=config.seed, gram=gram, classes=folder.classes, progress=progress
    )
    head = network.head
    assert isinstance(head, VectorSVM)
    with torch.no_grad():
        head.weight.copy_(svm.weight)
        head.bias.copy_(svm.bias)
    return cost


def _check_counts(counts: Ints, folder: ImageFolder, damaged: Sequence[Damaged]) -> None:
    """Raises DataError for classes of which no image could be read."""
    if lost := [name for name, count in zip(folder.classes, counts, strict=True) if not count]:
        raise DataError(
            f"of the images of {', '.join(lost)} to train on none could be read; the first: "
            f"{damaged[0].reason}. Repair them, or remove the class folders"
        )


def extract_vectors(
    network: SPPNet, folder: ImageFolder, config: TrainingConfig, damaged: list[Damaged], progress: Progress
) -> tuple[Tensor, Tensor]:
    """Vectors (n, vector_length) and labels (n,) of the images that can be read, in the folder's order."""
    order = _batches_of_one_size(folder, config)
    device = next(network.parameters()).device
    vectors = torch.zeros(len(folder), network.vector_length)
    read = torch.zeros(len(folder), dtype=torch.bool)
    progress.begin(f"features of {len(folder)} images", len(folder))
    network.eval()
    scorer = network.for_scoring(len(folder))
    with torch.inference_mode():
        for batch in batches(
            folder,
            lambda index: _make(network, folder, config, index),
            order,
            workers=config.workers,
            damaged=damaged,
        ):
            vectors[batch.indices] = scorer.vectors(batch.images.to(device)).cpu()
            read[batch.indices] = True
            progress.advance(len(batch))
    return vectors[read], torch.tensor(folder.labels)[read]


def _make(network: SPPNet, folder: ImageFolder, config: TrainingConfig, index: int) -> Tensor:
    image = read_image(folder.paths[index])
    size = config.schedule_of_sizes().test_size
    view = transforms.test_view(image, config.view, scale_px=config.test_scale_px, size_px=size)
    return transforms.to_tensor(view, network.trunk.mean, network.trunk.std)


def _batches_of_one_size(folder: ImageFolder, config: TrainingConfig) -> Sequence[Sequence[int]]:
    """Indices of images that the view makes equally large, at most BATCH together."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, path in enumerate(folder.paths):
        buckets.setdefault(_view_size(path, config), []).append(index)
    return [
        bucket[start : start + BATCH] for bucket in buckets.values() for start in range(0, len(bucket), BATCH)
    ]


def _view_size(path: Path, config: TrainingConfig) -> tuple[int, int]:
    if config.view != "full":
        return VIEW_PX, VIEW_PX
    try:
        return transforms.shorter_size(read_header(path).size_hw, config.test_scale_px)
    except ImageError:
        return 0, 0  # the loader will name it
