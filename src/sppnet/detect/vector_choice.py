"""Which vectors suit a data set: of the head, of the pyramid, or both, by cross-validation over photographs.

SVMs of a part of the vectors are fitted to the windows that were mined with all of them, and each judges the
photographs that it was fitted without. So a choice costs a few fits, and one more look at these photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Floats, Ints
from sppnet.detect.config import DetectorConfig, VectorKind
from sppnet.detect.detector import MIN_SCORE
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.postprocess import ScoredBoxes, select_detections
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.heads.standardisation import Standardisation
from sppnet.metrics.detection import evaluate_detections
from sppnet.progress import Progress, track
from sppnet.structures import Detections, GroundTruth
from sppnet.svm.mining import MinedSVMs
from sppnet.threads import ordered_map

MIN_GAIN = 0.01
"""Mean average precision by which a part must be better than both parts to be taken."""

MIN_IMAGES, MAX_IMAGES = 20, 64
"""Photographs held out that a choice needs, of fewer both parts are taken; and that it looks at, at most."""


@dataclass(frozen=True)
class VectorTrial:
    """How well SVMs on some vectors did."""

    vectors: VectorKind
    map: float
    """Mean average precision on photographs that were held out, boxes uncorrected."""
    images: int
    """Those."""


def vector_blocks(head: int, length: int, known: bool) -> dict[VectorKind, slice]:
    """The parts of a vector of `length` numbers, the first `head` of which are the head's.

    known: whether some classes begin from the network's own score, which only the head has.
    """
    blocks: dict[VectorKind, slice] = {"head": slice(0, head)}
    return blocks if known else blocks | {"pyramid": slice(head, length)}


def try_vectors(
    photos: TrainingImages,
    roi_extractor: RoIFeatureExtractor,
    proposals: Sequence[Floats],
    mined: MinedSVMs,
    blocks: Mapping[VectorKind, slice],
    left_out: Ints,
    config: DetectorConfig,
    progress: Progress,
) -> list[VectorTrial]:
    """Trials of both parts, and of each block, by its SVMs of `mined.of_blocks`; none of too few photographs.

    left_out: labels of classes that are not learned by SVMs.
    """
    kinds: list[tuple[VectorKind, slice, MinedSVMs]] = [("both", slice(None), mined)]
    kinds += [(*one, svms) for one, svms in zip(blocks.items(), mined.of_blocks, strict=False)]
    fold_of = mined.fold_of[: len(photos.images)]
    held_out = np.flatnonzero(fold_of < len(mined.folds))[:MAX_IMAGES].tolist()
    objects = any((~(t.difficult | t.crowd)).any() for t in map(photos.truth, held_out))
    if len(held_out) < MIN_IMAGES or len(kinds) < 2 or not objects:
        return []

    def find(index: int) -> tuple[list[Detections], GroundTruth]:
        boxes = proposals[index]
        vectors = roi_extractor(photos.photo(index), boxes)
        found = []
        for _, block, svms in kinds:
            scores = svms.folds[fold_of[index]].scores(vectors.distinct[:, block]).numpy()[vectors.roi_of_box]
            scores[:, left_out] = -np.inf
            found.append(_select(boxes, scores, photos.classes, config))
        return found, photos.truth(index)

    judged = list(track(ordered_map(find, held_out), "trying vectors", len(held_out), progress))
    learned = [name for label, name in enumerate(photos.classes) if label not in left_out]
    trials = []
    for number, (kind, _, _) in enumerate(kinds):
        each = [found[number] for found, _ in judged]
        result = evaluate_detections(each, [truth for _, truth in judged], photos.classes).per_class
        reached = [value for name in learned if (value := result.get(name)) is not None]
        trials.append(VectorTrial(kind, float(np.mean(reached)) if reached else 0.0, len(held_out)))
    return trials


def _select(boxes: Floats, scores: Floats, classes: tuple[str, ...], config: DetectorConfig) -> Detections:
    rows, labels = np.nonzero(scores >= MIN_SCORE)
    candidates = ScoredBoxes(boxes[rows], scores[rows, labels], labels)
    kept = select_detections(candidates, config.nms_iou, config.voting_iou, MIN_SCORE)
    return Detections(kept.boxes, kept.scores, kept.labels, classes)


def choose_vectors(trials: Sequence[VectorTrial]) -> VectorKind:
    """Both parts, unless one of them alone is better by MIN_GAIN; then the best."""
    both = next((one.map for one in trials if one.vectors == "both"), 0.0)
    best = max(trials, key=lambda one: one.map, default=None)
    return best.vectors if best is not None and best.map >= both + MIN_GAIN else "both"


def take_best(
    mined: MinedSVMs, blocks: Mapping[VectorKind, slice], trials: Sequence[VectorTrial]
) -> tuple[MinedSVMs, VectorKind]:
    """The SVMs of the vectors that are taken, and which these are."""
    chosen = choose_vectors(trials)
    return (mined if chosen == "both" else mined.of_blocks[list(blocks).index(chosen)]), chosen


def narrowed(standard: Standardisation, vectors: VectorKind, head: int) -> Standardisation:
    """Of the part of the vectors that was chosen; head: numbers of the head's."""
    block = vector_blocks(head, len(standard.mean), False)[vectors]
    return Standardisation(standard.mean[block], standard.factor[block])
