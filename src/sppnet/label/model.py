"""What a labelling session has learned: SVMs, box regression, and from which score on a box is shown."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from sppnet.arrays import Flags, Floats, Ints, Signs
from sppnet.boxes import box_iou, match_boxes
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.detect.roi_features import RoIFeatureExtractor, RoIFeatures
from sppnet.heads.ridge import BoxRegressor
from sppnet.label.examples import NO_CLASS, Examples, LabelledWindows, regression_targets
from sppnet.label.fitting import BoxQuality, FitConfig, fit_classes, fit_regression
from sppnet.label.known_classes import KnownClasses
from sppnet.label.near_windows import NearWindows
from sppnet.label.suggesting import Candidates, Learned, SuggestConfig, score_photo, without_copies
from sppnet.label.trained_classes import TrainedClasses
from sppnet.structures import GroundTruth
from sppnet.svm.linear_svm import LinearSVM

RIGHT_IOU = 0.5
"""A suggestion that overlaps an object of its class by as much is moved rather than refused."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How a session learns and what it shows."""

    max_examples: int = 3000
    positive_iou: float = 0.6
    negative_iou: float = 0.45
    max_positives: int = 24
    """Windows on objects that a photograph gives, the objects' own among them."""
    max_negatives: int = 40
    """Hard negatives that a photograph gives a class."""
    first_negatives: int = 120
    """Negatives drawn at random from the first photograph."""
    early_photos: int = 6
    """So many photographs are mined twice: the SVMs that judge them first know little."""
    refusal_cost: float = 0.7
    """What refusing a box weighs against drawing one."""
    judged_photos: int = 30
    """The last photographs, by which that is estimated."""
    fit: FitConfig = field(default_factory=FitConfig)
    suggest: SuggestConfig = field(default_factory=SuggestConfig)


MIN_JUDGED = 15
"""Right boxes of a class from which on it has a threshold of its own."""


EARLY_PHOTOS, EARLY_SCORE = 3, -0.5


class LabelModel:
    """For one thread at a time. The same photographs in the same order give the same numbers."""

    def __init__(
        self,
        roi_extractor: RoIFeatureExtractor,
        config: LabelConfig | None = None,
        known: KnownClasses | None = None,
        near: NearWindows | None = None,
        trained: TrainedClasses | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        """known: of the network that made the vectors. near: what corrects suggestions once more.

        trained: a detector, whose classes are suggested as it finds them. classes: there are already.
        """
        self.known, self.trained = known, trained
        self.roi_extractor, self.config = roi_extractor, config or LabelConfig()
        self.classes = tuple(classes)
        self.examples: Examples | None = None
        self.svm: LinearSVM | None = None
        self.regressor: BoxRegressor | None = None
        self.quality: BoxQuality | None = None
        self.near = near
        self.judged: deque[tuple[Floats, Ints, Flags]] = deque(maxlen=self.config.judged_photos)
        self.objects: deque[int] = deque(maxlen=self.config.judged_photos)
        self.photos: set[int] = set()

    # --- suggesting ------------------------------------------------------------------------------

    def score(self, candidates: Candidates) -> ScoredBoxes:
        """All boxes that may be suggested, the surest first."""
        learned = self._score_learned(candidates)
        if self.trained is None:
            return learned
        others = np.flatnonzero(~np.isin(learned.labels, self.trained.labels(self.classes)))
        both = ScoredBoxes.joined([self.trained.find(candidates.photo, self.classes), learned.take(others)])
        return both.take(np.argsort(-both.scores, kind="stable"))

    def _score_learned(self, candidates: Candidates) -> ScoredBoxes:
        """Those of the classes that this session has learned."""
        if self.svm is None or self.regressor is None or self.quality is None or not len(candidates.boxes):
            return ScoredBoxes.joined([])
        learned = Learned(self.svm, self.regressor, self.quality, self.roi_extractor)
        found = score_photo(candidates, learned, self.config.suggest)
        if self.near is None or self.near.refiner is None:
            return found
        moved = replace(found, boxes=self.near.refiner(candidates.photo.maps, found.boxes))
        return without_copies(moved, self.config.suggest)

    def shown(self, scored: ScoredBoxes) -> ScoredBoxes:
        """Those worth showing, the surest first: by what came of those suggested before."""
        most = max(self.objects, default=0)
        limit = most if self._is_early() else most * 3 // 2 + 2
        if self.trained is not None:  # it knows how many there are
            limit = len(scored.boxes)
        return scored.take(np.flatnonzero(scored.scores >= self.thresholds()[scored.labels])[:limit])

    def _is_early(self) -> bool:
        """Whether too few suggestions were judged to know which are worth showing."""
        return sum(len(scores) > 0 for scores, _, _ in self.judged) < EARLY_PHOTOS

    def thresholds(self) -> Floats:
        """(k,) the score of each class from which on a box is shown.

        It would have been the best one on the last photographs, each judged before it was learned from:
        the most taken, less `refusal_cost` for each refused. A class of few boxes takes that of all. The
        SVMs of one photograph are timid: at first boxes are shown from EARLY_SCORE on, and as few as objects.
        A trained detector's classes have its own threshold until there are enough of them.
        """
        result = np.full(len(self.classes), EARLY_SCORE, np.float32)
        trained = np.zeros(0, np.int64) if self.trained is None else self.trained.labels(self.classes)
        result[trained] = 0
        if self._is_early():
            return result
        scores, labels, right = (np.concatenate(column) for column in zip(*self.judged, strict=True))
        learned = ~np.isin(labels, trained)
        rest = np.setdiff1d(np.arange(len(result)), trained)
        result[rest] = best_threshold(scores[learned], right[learned], self.config.refusal_cost)
        for label in range(len(result)):
            own = labels == label
            if right[own].sum() >= MIN_JUDGED:
                result[label] = best_threshold(scores[own], right[own], self.config.refusal_cost)
        return result

    def doubt(self, scored: ScoredBoxes) -> float:
        """How unsure the model is of a photograph: the boxes that lie near the threshold, counted softly."""
        distance = np.abs(scored.scores - self.thresholds()[scored.labels])
        return float(np.sort(np.exp(-4 * distance))[-5:].sum())

    # --- learning --------------------------------------------------------------------------------

    def evaluate(self, scored: ScoredBoxes, truth: GroundTruth) -> None:
        """Compares what was suggested with what was confirmed: before the photograph is learned from."""
        self.judged.append((scored.scores, scored.labels, right_ones(scored, truth)))

    def learn(
        self,
        photo: int,
        candidates: Candidates,
        truth: GroundTruth,
        classes: Sequence[str],
        refused: Floats | None = None,
    ) -> None:
        """From a confirmed photograph; one that was confirmed before is learned anew.

        refused: (n, 4) suggestions that are no objects. Where the photograph brings new classes, only their
        SVMs are fitted, and those of the other classes stay as they are until the next photograph.
        """
        self.objects.append(len(truth))
        known = 0 if self.svm is None else int(torch.isfinite(self.svm.bias).sum())
        boxes = np.concatenate(
            [truth.boxes, refused if refused is not None else np.empty((0, 4), np.float32)]
        )
        boxes = np.concatenate([boxes, candidates.boxes]).astype(np.float32)
        features = _joined(
            self.roi_extractor(candidates.photo, boxes[: len(boxes) - len(candidates.boxes)]),
            candidates.features,
        )
        if self.examples is None:
            self.examples = Examples(features.distinct.shape[1], self.config.max_examples)
        self.classes = tuple(classes)
        self.examples.add_classes(len(classes))
        self.examples.drop(self.examples.photos[: len(self.examples)] == photo)
        labelled = label_windows(boxes, features, truth, len(classes), self.config)
        forced = np.arange(len(truth), len(boxes) - len(candidates.boxes))
        taken = self._add(photo, labelled, forced, np.zeros(0, np.int64))
        new = [k for k in np.unique(truth.labels).tolist() if not self._is_fitted(k)]
        if self.known is not None:
            self.known.learn(photo, candidates.photo.maps, truth, self.classes)
        only = new if new and known else list(range(len(classes)))
        self._fit(only)
        if new or len(self.photos) < self.config.early_photos:
            for _ in range(2):
                taken = self._add(photo, labelled, forced[:0], taken)
                self._fit(only)
        self.photos.add(photo)
        if self.near is not None:
            self.near.learn(photo, candidates.photo.maps, truth)
        self.regressor, self.quality = fit_regression(self.examples, self.classes, self.config.fit)

    def _is_fitted(self, label: int) -> bool:
        return (
            self.svm is not None and label < len(self.svm.bias) and bool(torch.isfinite(self.svm.bias[label]))
        )

    def _fit(self, only: Sequence[int]) -> None:
        assert self.examples is not None
        self.svm = fit_classes(self.examples, self.svm, self.classes, only, self.config.fit)
        if self.known is not None:
            self.svm = self.known.rescore(self.svm, only)

    def _add(self, photo: int, windows: LabelledWindows, forced: Ints, taken: Ints) -> Ints:
        """Windows of the photograph that are not `taken` join; gives all that are now."""
        assert self.examples is not None
        rows = np.union1d(hard_negatives(windows, self.svm, self.config, photo), forced)
        if not len(taken):
            rows = np.union1d(rows, positives(windows, self.config, photo))
        rows = np.setdiff1d(rows, taken)
        if len(rows):
            self.examples.add(photo, windows.take(rows))
        return np.union1d(taken, rows)


def best_threshold(scores: Floats, right: Flags, refusal_cost: float) -> float:
    """Halfway below the last score that is worth showing; 0 where none is."""
    order = np.argsort(-scores, kind="stable")
    gain = np.cumsum(np.where(right[order], 1.0, -refusal_cost))
    if not len(gain) or gain.max() <= 0:
        return 0.0
    best = int(gain.argmax())
    return float(scores[order[best : best + 2]].mean())


def right_ones(scored: ScoredBoxes, truth: GroundTruth) -> Flags:
    """(n,) which boxes overlap an object of their class by RIGHT_IOU that no surer box has."""
    right = np.zeros(len(scored.boxes), np.bool_)
    free = np.ones(len(truth), np.bool_)
    iou = box_iou(scored.boxes, truth.boxes) if len(truth) else np.zeros((len(right), 0))
    for index in range(len(right)):
        row = np.where(free & (truth.labels == scored.labels[index]), iou[index], 0)
        if len(row) and row.max() >= RIGHT_IOU:
            right[index] = True
            free[row.argmax()] = False
    return right


def _joined(first: RoIFeatures, second: RoIFeatures) -> RoIFeatures:
    return RoIFeatures(
        torch.cat([first.distinct, second.distinct]),
        torch.cat([first.pooled, second.pooled]),
        np.concatenate([first.roi_of_box, second.roi_of_box + len(first.distinct)]),
    )


def label_windows(
    boxes: Floats, features: RoIFeatures, truth: GroundTruth, classes: int, config: LabelConfig
) -> LabelledWindows:
    """Every box as a window to learn from; the objects' own boxes come first."""
    iou = box_iou(boxes, truth.boxes) if len(truth) else np.zeros((len(boxes), 0), np.float32)
    signs: Signs = np.full((len(boxes), classes), -1, np.int8)
    for label in np.unique(truth.labels).tolist():
        best = iou[:, truth.labels == label].max(axis=1)
        signs[best >= config.negative_iou, label] = 0
        signs[best >= config.positive_iou, label] = 1
    own = np.arange(len(truth))
    signs[own, truth.labels] = 1
    shared, nearest = match_boxes(boxes, truth.boxes)
    nearest = np.where(shared >= RIGHT_IOU, nearest, -1)
    labels = np.append(truth.labels, NO_CLASS)[nearest]
    return LabelledWindows(
        features.distinct[torch.from_numpy(features.roi_of_box)],
        signs, labels, regression_targets(boxes, truth.boxes, nearest),
    )  # fmt: skip


def positives(windows: LabelledWindows, config: LabelConfig, photo: int) -> Ints:
    """Windows on objects: the objects' own, then others as the draw has them."""
    near = np.flatnonzero(windows.labels != NO_CLASS)
    shuffled = np.random.default_rng((photo, 1)).permutation(near)
    order = np.concatenate([near[(windows.deltas[near] == 0).all(axis=1)], shuffled])
    return np.sort(np.array(list(dict.fromkeys(order.tolist()))[: config.max_positives], np.int64))


def hard_negatives(windows: LabelledWindows, svm: LinearSVM | None, config: LabelConfig, photo: int) -> Ints:
    """Negatives within a margin of the SVMs, the hardest of each class; at random where nothing is known."""
    negative = windows.signs < 0
    rng = np.random.default_rng((photo, 2))
    if svm is None:
        rows = np.flatnonzero(negative.any(axis=1))
        return rng.permutation(rows)[: config.first_negatives]
    scores = svm.scores(windows.vectors).numpy()
    found = [np.zeros(0, np.int64)]
    for label in range(scores.shape[1]):
        if not torch.isfinite(svm.bias[label]):
            found.append(rng.permutation(np.flatnonzero(negative[:, label]))[: config.max_negatives])
            continue
        own = np.flatnonzero(negative[:, label] & (scores[:, label] > -1))
        found.append(own[np.argsort(-scores[own, label], kind="stable")[: config.max_negatives]])
    return np.unique(np.concatenate(found))
