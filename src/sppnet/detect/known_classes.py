"""Classes that a detector's network knows by name: rescored or kept; others are learned from nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Flags, Floats, Ints
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.cross_validation import MAX_IMAGES
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.probabilities import LOGIT_SHARE, MIN_KEPT_PROBABILITY
from sppnet.errors import ConfigError, did_you_mean
from sppnet.features.head_boxes import LOG_SHARE, OWN_NMS_IOU
from sppnet.features.maps import FeatureMaps
from sppnet.heads.rescoring import Rescoring, fit_rescoring
from sppnet.heads.ridge import BoxRegressor
from sppnet.heads.standardisation import Standardisation
from sppnet.metrics.detection import judge_class
from sppnet.nn.any_trunk import AnyTrunk
from sppnet.nn.coco_classes import known_class
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.ops.nms import nms
from sppnet.progress import Progress, track
from sppnet.structures import Detections, GroundTruth
from sppnet.svm.cross_validation import deal_folds, first_folds
from sppnet.svm.linear_svm import LinearSVM
from sppnet.svm.mining import MinedSVMs
from sppnet.svm.vector_store import NORM
from sppnet.threads import ordered_map

MIN_OWN_SCORE = -9.0
"""Logarithm of class probability times objectness below which the network would not show a box."""
MAX_PER_IMAGE = 100
"""Boxes that the network would show of a class."""
RIGHT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class KnownClass:
    """One of the classes, and the network's name for it."""

    label: int
    """Among the classes that are learned."""
    column: int
    """Of a head's vector: the logarithm of its probability, times LOG_SHARE."""
    objectness: int
    """The same for objectness."""

    def own_scores(self, vectors: Tensor) -> Tensor:
        """(n, d) vectors of the head → (n,) logarithms of class probability times objectness."""
        return (vectors[:, self.column] + vectors[:, self.objectness]) / LOG_SHARE


def find_known_classes(classes: Sequence[str], trunk: AnyTrunk) -> list[KnownClass]:
    """Those that the trunk's network tells apart, by name; none of other trunks."""
    if not isinstance(trunk, DetectorTrunk):
        return []
    layout = trunk.layout
    found = ((label, known_class(name, trunk.known_classes)) for label, name in enumerate(classes))
    return [
        KnownClass(label, layout.first_class + index, layout.objectness)
        for label, index in found
        if index is not None
    ]


def known_to_rescore(config: DetectorConfig, classes: Sequence[str], trunk: AnyTrunk) -> list[KnownClass]:
    """Those that begin from the network's score, which its own boxes have."""
    own = config.proposals in ("auto", "trunk", "joined")
    if config.known_classes and own and config.vectors != "pyramid":
        return find_known_classes(classes, trunk)
    return []


@dataclass(frozen=True, eq=False)
class ShownBoxes:
    """What the network itself would show of one known class on all photographs."""

    vectors: Tensor
    """(n, d) of the head."""
    right: Flags
    photographs: Ints
    """(n,) which each was found on."""


def rescore_known(
    photos: TrainingImages,
    known: Sequence[KnownClass],
    standard: Standardisation,
    mined: MinedSVMs,
    progress: Progress,
) -> MinedSVMs:
    """SVMs whose known classes score as their `Rescoring` does, for all photographs and for every fold.

    standard: of the vectors that the SVMs take, whose first numbers are the head's.
    """
    shown = _gather(photos, known, progress)
    svm, folds = _copy(mined.svm), [_copy(fold) for fold in mined.folds]
    progress.begin("rescoring known classes", len(known))
    for one, boxes in zip(known, shown, strict=True):
        full = write_rescoring(svm, one, boxes, np.ones(len(boxes.right), np.bool_), standard, None)
        for number, fold in enumerate(folds):
            write_rescoring(fold, one, boxes, mined.fold_of[boxes.photographs] != number, standard, full)
        progress.advance()
    return MinedSVMs(svm, tuple(folds), mined.fold_of)


def _copy(svm: LinearSVM) -> LinearSVM:
    return LinearSVM(svm.weight.clone(), svm.bias.clone(), svm.classes, svm.fit)


def _gather(photos: TrainingImages, known: Sequence[KnownClass], progress: Progress) -> list[ShownBoxes]:
    def look(index: int) -> list[tuple[Floats, Tensor, Tensor]]:
        return [_shown(photos.photo(index).maps, one) for one in known]

    count = len(photos)
    looks = list(track(ordered_map(look, range(count)), "what the network shows", count, progress))
    truths = [photos.truth(index) for index in range(count)]
    return [
        _judged([look[position] for look in looks], truths, one, photos.classes)
        for position, one in enumerate(known)
    ]


def judge_shown(
    maps: Sequence[FeatureMaps], truths: Sequence[GroundTruth], one: KnownClass, classes: tuple[str, ...]
) -> ShownBoxes:
    """What the network would show of a known class on photographs, and what of it is right."""
    return _judged([_shown(each, one) for each in maps], truths, one, classes)


def _judged(
    parts: Sequence[tuple[Floats, Tensor, Tensor]],
    truths: Sequence[GroundTruth],
    one: KnownClass,
    classes: tuple[str, ...],
) -> ShownBoxes:
    detections = [
        Detections(boxes, scores.numpy(), np.full(len(boxes), one.label), classes)
        for boxes, _, scores in parts
    ]
    _, right, ignored, _ = judge_class(detections, truths, one.label, RIGHT_IOU)
    photographs = np.repeat(np.arange(len(parts)), [len(boxes) for boxes, *_ in parts])
    kept = np.flatnonzero(~ignored)
    vectors = torch.cat([vectors for _, vectors, _ in parts])[torch.from_numpy(kept)]
    return ShownBoxes(vectors, right[kept], photographs[kept])


def _shown(maps: FeatureMaps, one: KnownClass) -> tuple[Floats, Tensor, Tensor]:
    """Boxes (n, 4), vectors (n, d) and own scores (n,) of what the network would show of the class."""
    assert maps.head is not None
    vectors = torch.from_numpy(maps.head.vectors)
    scores = one.own_scores(vectors)
    likely = np.flatnonzero(scores.numpy() > MIN_OWN_SCORE)
    kept = likely[nms(maps.head.boxes[likely], scores.numpy()[likely], OWN_NMS_IOU, MAX_PER_IMAGE)]
    chosen = torch.from_numpy(kept)
    return maps.head.boxes[kept], vectors[chosen], scores[chosen]


def write_rescoring(
    svm: LinearSVM,
    one: KnownClass,
    boxes: ShownBoxes,
    used: Flags,
    standard: Standardisation,
    start: Rescoring | None,
) -> Rescoring:
    """Fit on the boxes that are used, and write it into the class's row of the SVM."""
    length = boxes.vectors.shape[1]
    mean, factor = standard.mean[:length], standard.factor[:length]
    rows = (boxes.vectors - mean) * factor
    scale = NORM / float(rows.norm(dim=1).mean().clamp_min(1e-6)) if len(rows) else 1.0
    chosen = torch.from_numpy(used)
    own = one.own_scores(boxes.vectors)
    fitted = fit_rescoring(rows[chosen] * scale, own[chosen], boxes.right[used], start=start)
    weight, columns = fitted.weight * scale, torch.tensor([one.column, one.objectness])
    weight[columns] += fitted.slope / LOG_SHARE / factor[columns]
    svm.weight[one.label] = 0
    svm.weight[one.label, :length] = LOGIT_SHARE * weight
    bias = fitted.bias + fitted.slope / LOG_SHARE * float(mean[columns].sum())
    svm.bias[one.label] = LOGIT_SHARE * bias
    return fitted


def empty_svms(photos: TrainingImages, length: int, folds: int, seed: int) -> MinedSVMs:
    """SVMs that `rescore_known` fills, where the network knows all classes; length: of their vectors."""
    dealt = deal_folds(len(photos.images), folds, seed)
    k, count = len(photos.classes), 1 + len(first_folds(dealt, MAX_IMAGES))
    svms = [LinearSVM(torch.zeros(k, length), torch.zeros(k), photos.classes) for _ in range(count)]
    return MinedSVMs(svms[0], tuple(svms[1:]), dealt[photos.photograph_of] if len(dealt) else dealt)


def append_kept(parts: DetectorComponents) -> DetectorComponents:
    """With the classes of `config.keep`, which the trunk's network finds by itself, behind the learned ones.

    Their score is LOGIT_SHARE · log(probability / MIN_KEPT_PROBABILITY).
    """
    keep = parts.config.keep
    if not keep:
        return parts
    known = find_known_classes(keep, parts.trunk)
    weight = torch.zeros(len(keep), parts.svm.weight.shape[1])
    for one in known:
        weight[one.label, [one.column, one.objectness]] = LOGIT_SHARE / LOG_SHARE
    bias = torch.full((len(keep),), -LOGIT_SHARE * math.log(MIN_KEPT_PROBABILITY))
    still = torch.zeros(len(keep), *parts.regressor.weight.shape[1:])
    svm, regressor = LinearSVM(weight, bias, keep), BoxRegressor(still, still[:, :, 0], keep)
    return parts.joined(replace(parts, classes=keep, svm=svm, regressor=regressor, probabilities=None))


def check_kept(keep: Sequence[str], trunk: AnyTrunk) -> None:
    """Raises ConfigError unless the trunk's network knows the classes."""
    known = {one.label for one in find_known_classes(keep, trunk)} if keep else set()
    for label, name in enumerate(keep):
        if label not in known:
            network = trunk.known_classes if isinstance(trunk, DetectorTrunk) else ()
            raise ConfigError(
                f"keep: {trunk.name} knows no {name}; it knows {len(network)} classes: "
                f"{did_you_mean(name, network)}"
            )


def detect_known(maps: FeatureMaps, trunk: DetectorTrunk, min_score: float) -> Detections:
    """What the network finds by itself, each box as its likeliest class; scores are probabilities."""
    assert maps.head is not None
    layout, vectors = trunk.layout, maps.head.vectors
    labels = layout.likeliest(vectors)
    likeliest = vectors[np.arange(len(labels)), layout.first_class + labels] + vectors[:, layout.objectness]
    scores = np.exp(likeliest / LOG_SHARE)
    found = []
    for label in np.unique(labels):
        own = np.flatnonzero((labels == label) & (scores >= min_score))
        found.append(own[nms(maps.head.boxes[own], scores[own], OWN_NMS_IOU, MAX_PER_IMAGE)])
    kept = np.concatenate([np.empty(0, np.int64), *found])
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Detections(maps.head.boxes[kept], scores[kept], labels[kept], trunk.known_classes)
