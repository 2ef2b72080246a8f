"""How far the numbers of the vectors spread, measured on some of the training photographs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.heads.standardisation import Standardisation
from sppnet.progress import Progress, track
from sppnet.rng import Stream, generator
from sppnet.threads import ordered_map

PHOTOGRAPHS = 200
"""Photographs whose vectors suffice."""
PER_IMAGE = 50


def sample_vectors(
    photos: TrainingImages,
    roi_extractor: RoIFeatureExtractor,
    proposals: Sequence[Floats],
    seed: int,
    progress: Progress,
) -> Tensor:
    """(n, d) of some proposals of some photographs."""
    chosen = np.sort(generator(seed, Stream.VECTORS).permutation(len(photos.images))[:PHOTOGRAPHS])

    def draw(index: int) -> Tensor:
        boxes = proposals[index][:: max(1, len(proposals[index]) // PER_IMAGE)]
        return roi_extractor(photos.photo(index), boxes).distinct

    every = track(ordered_map(draw, chosen.tolist()), "measuring vectors", len(chosen), progress)
    return torch.cat(list(every))


def measure_spread(
    photos: TrainingImages,
    roi_extractor: RoIFeatureExtractor,
    proposals: Sequence[Floats],
    head: int,
    seed: int,
    progress: Progress,
) -> Standardisation:
    """What brings the numbers of vectors to the same spread; the first `head` weigh like the others."""
    sample = sample_vectors(photos, roi_extractor, proposals, seed, progress)
    return Standardisation.of(sample, [one for one in (head, sample.shape[1] - head) if one])
