"""Detectors trained without some of the photographs, to be judged on those.

Where SVMs stand on pooled vectors, a fold costs one more fit of them. Fine-tuned layers have seen every
photograph, so there a fold needs layers of its own, learned in fewer steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats, Ints
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.detect.finetune import FinetuneSamples, finetune_layers
from sppnet.detect.label_assignment import TrainingImages, assign_distinct_labels, training_boxes
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.progress import Progress
from sppnet.svm.cross_validation import deal_folds, first_folds
from sppnet.svm.linear_svm import LinearSVM
from sppnet.svm.mining import MinedSVMs, MiningRound, mine_svms
from sppnet.svm.vector_store import LabelledVectors, MiningConfig

MAX_IMAGES = 128
"""Photographs that suffice to calibrate on."""

MAX_POSITIVES = 64
"""Of a photograph, where windows near objects are positives too: a dozen objects would give hundreds."""

SVM_FOLDS, LAYER_FOLDS = 5, 3
"""Folds at least; of many photographs there are more, of about MAX_IMAGES each."""

STEPS_OF_FOLD = 0.25
"""Share of the steps of fine-tuning that a fold's layers learn in. F1 on 239 VOC photographs never seen, five
classes learned from 94: 42.2 at thresholds chosen so, 45.0 at the best threshold of each class."""


@dataclass(frozen=True, eq=False)
class Fold:
    """A detector, and photographs that its SVMs and fc layers were not trained on."""

    detector: Detector
    roi_extractor: RoIFeatureExtractor
    """The detector's, or one that gives the same vectors from a store."""
    photos: Ints
    """(n,) their indices."""


def count_svm_folds(photos: int) -> int:
    """Into how many folds photographs are dealt where a fold is one more fit of SVMs."""
    return _count_folds(photos, SVM_FOLDS)


def _count_folds(photos: int, folds: int) -> int:
    return min(photos, max(folds, photos // MAX_IMAGES))


def svm_folds(
    parts: DetectorComponents, mined: MinedSVMs, roi_extractor: RoIFeatureExtractor, photos: TrainingImages
) -> list[Fold]:
    """One fold for each of the mined SVMs that were fitted without; none where nothing could be held out.

    Mirror images are not judged.
    """
    return [
        Fold(
            Detector(replace(parts, svm=mined.folds[fold]), extractor=photos.extractor),
            roi_extractor,
            np.flatnonzero(mined.fold_of[: len(photos.images)] == fold),
        )
        for fold in range(len(mined.folds))
    ]


def layer_folds(
    parts: DetectorComponents, photos: TrainingImages, proposals: Sequence[Floats], progress: Progress
) -> list[Fold]:
    """Folds with fc layers and SVMs of their own; none where nothing could be held out.

    A tuned trunk has seen all photographs all the same: to tune it once a fold would take too long.
    """
    count = len(photos.images)
    fold_of = deal_folds(count, _count_folds(count, LAYER_FOLDS), parts.config.seed)
    folds = []
    for fold in first_folds(fold_of, MAX_IMAGES):
        seen = np.flatnonzero(fold_of != fold).tolist()
        subset = photos.take(seen)
        if all(subset.images.counts(plain=True).values()):  # else a class has nothing to learn from
            boxes = [proposals[index] for index in photos.with_mirrors(seen)]
            detector, roi_extractor = _train_layers(parts, subset, boxes, progress)
            folds.append(Fold(detector, roi_extractor, np.flatnonzero(fold_of == fold)))
    return folds


def _train_layers(
    parts: DetectorComponents, photos: TrainingImages, proposals: Sequence[Floats], progress: Progress
) -> tuple[Detector, RoIFeatureExtractor]:
    """The detector with fc layers and SVMs learned from these photographs, and what made its vectors."""
    config = replace(parts.config, steps=max(1, round(STEPS_OF_FOLD * parts.config.steps)))
    head = finetune_layers(FinetuneSamples(photos, proposals, config), None, lambda state: None, progress)
    roi_extractor = make_roi_extractor(config, photos.extractor, head, photos.vectors)
    svm = mine_detector_svms(photos, roi_extractor, proposals, config, progress).svm
    return Detector(replace(parts, head=head, svm=svm), extractor=photos.extractor), roi_extractor


def mine_detector_svms(
    photos: TrainingImages,
    roi_extractor: RoIFeatureExtractor,
    proposals: Sequence[Floats],
    config: DetectorConfig,
    progress: Progress,
    folds: int = 0,
    callback: Callable[[MiningRound], None] | None = None,
    blocks: Sequence[slice] = (),
) -> MinedSVMs:
    """SVMs of the photographs' objects against their other windows; see `mine_svms`."""

    def source(index: int) -> LabelledVectors:
        truth = photos.truth(index)
        boxes = training_boxes(truth, proposals[index])
        vectors = roi_extractor.on_demand(photos.photo(index), boxes)
        signs = assign_distinct_labels(boxes, vectors.roi_of_box, truth, len(photos.classes), config)
        return LabelledVectors(signs, vectors.take)

    mining = MiningConfig(
        loss=config.loss, C=config.C, class_weight=config.class_weight,
        rounds=config.rounds, folds=folds, held_out=MAX_IMAGES, seed=config.seed,
        max_positives=MAX_POSITIVES if config.positive_iou < 1 else None,
    )  # fmt: skip
    return mine_svms(source, photos.photograph_of, photos.classes, mining, progress, callback, blocks)


def mined_tensors(mined: MinedSVMs) -> dict[str, Tensor]:
    """What a file holds of them."""
    every = [mined.svm, *mined.folds]
    return {
        "weight": mined.svm.weight,
        "bias": mined.svm.bias,
        "fold_weights": torch.stack([svm.weight for svm in every])[1:],
        "fold_biases": torch.stack([svm.bias for svm in every])[1:],
    }


def read_mined(tensors: Mapping[str, Tensor], classes: tuple[str, ...], fold_of: Ints) -> MinedSVMs:
    """The inverse of `mined_tensors`."""
    folds = zip(tensors["fold_weights"], tensors["fold_biases"], strict=True)
    return MinedSVMs(
        LinearSVM(tensors["weight"], tensors["bias"], classes),
        tuple(LinearSVM(weight, bias, classes) for weight, bias in folds),
        fold_of,
    )
