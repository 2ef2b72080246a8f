"""Average precision as the PASCAL VOC devkit counts it (paper-spec §6.7).

Detections of a class are taken from all images by falling score. Each is held against the one object
of its class and image that it overlaps most: right if that overlap reaches the threshold and no
surer detection had the object, wrong otherwise. Objects marked difficult are neither asked for nor
wrong to find, however often. Equal scores keep the order of the images, then of the detections.

The devkit adds 1 to every width because its boxes name the last pixel inside; ours are half-open, so
x1 − x0 is that width already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sppnet.arrays import Doubles, Flags, Ints
from sppnet.boxes import match_boxes
from sppnet.errors import ConfigError, DataError
from sppnet.metrics.reliability import expected_calibration_error
from sppnet.structures import Detections, GroundTruth

Rule = Literal["voc07", "voc"]

RECALL_STEPS = 10
"""VOC 2007 looks at the precision at recall 0, 1/10, …, 1."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One class, a point for each detection that is right or wrong, the surest first."""

    recall: Doubles
    """(n,)"""
    precision: Doubles
    """(n,)"""
    scores: Doubles
    """(n,) falling."""
    probabilities: Doubles = field(default_factory=lambda: np.empty(0))
    """(n,) what the detector estimated; NaN, or nothing, where it did not."""

    @property
    def is_right(self) -> Flags:
        """(n,) which of them are right."""
        so_far = np.rint(self.precision * np.arange(1, len(self.precision) + 1))
        flags: Flags = np.diff(so_far, prepend=0) > 0
        return flags

    @property
    def f1(self) -> Doubles:
        """(n,) the harmonic mean of precision and recall when all from this score on are shown."""
        both = self.precision + self.recall
        f1: Doubles = 2 * self.precision * self.recall / np.maximum(both, np.finfo(np.float64).tiny)
        return f1

    def f1_from(self, score: float) -> float:
        """F1 when all from a score on are shown; 0 where there are none."""
        return self._f1_of_first(int(np.count_nonzero(self.scores >= score)))

    def f1_of_probable(self, probability: float) -> float:
        """F1 when all from a probability on are shown, which rises with the score; 0 where there are none."""
        return self._f1_of_first(int(np.count_nonzero(self.probabilities >= probability)))

    def _f1_of_first(self, shown: int) -> float:
        return float(self.f1[shown - 1]) if shown else 0.0

    @property
    def has_probabilities(self) -> bool:
        """Whether there are detections, and all with a probability."""
        return len(self.probabilities) > 0 and not np.isnan(self.probabilities).any()


@dataclass(frozen=True, eq=False)
class EvaluatedImage:
    """One image, what is in it, and what was found; both with labels of the same classes."""

    path: Path
    truth: GroundTruth
    found: Detections


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """How well objects were found."""

    metric: str
    per_class: dict[str, float | None]
    """Average precision; None for a class without objects to find."""
    curves: dict[str, Curve] = field(repr=False)
    images: int
    skipped: tuple[str, ...] = ()
    """Images that could not be read and were left out."""
    photos: tuple[EvaluatedImage, ...] = field(default=(), repr=False)
    """One an image, from whoever knows the files; else empty."""

    @property
    def map(self) -> float:
        """The mean of `per_class` over the classes with objects."""
        return float(np.mean([value for value in self.per_class.values() if value is not None]))

    def f1(self, min_score: float = 0.0) -> dict[str, float | None]:
        """F1 of each class at a threshold, 0 being the default of detectors; None without objects."""
        return self._of_each({name: curve.f1_from(min_score) for name, curve in self.curves.items()})

    def f1_at_half(self) -> dict[str, float | None]:
        """F1 of each class when what is right with a probability of 0.5 or more is shown.

        None without objects, and where probabilities are not known.
        """
        known = {name: one for name, one in self.curves.items() if one.has_probabilities}
        values = self._of_each({name: curve.f1_of_probable(0.5) for name, curve in known.items()})
        return {name: value if name in known else None for name, value in values.items()}

    def calibration_error(self) -> float | None:
        """By how much probabilities and the shares of right detections differ; None where none are known."""
        return expected_calibration_error(*self.probabilities())

    def probabilities(self) -> tuple[Doubles, Flags]:
        """(n,) of the detections of all classes where they are known, and which are right."""
        known = [one for one in self.curves.values() if one.has_probabilities]
        return (
            np.concatenate([np.zeros(0), *(one.probabilities for one in known)]),
            np.concatenate([np.zeros(0, np.bool_), *(one.is_right for one in known)]),
        )

    def best_f1(self) -> dict[str, float | None]:
        """F1 of each class at the threshold that is best for it on these images; None without objects."""
        return self._of_each({name: float(curve.f1.max(initial=0)) for name, curve in self.curves.items()})

    def best_scores(self) -> dict[str, float | None]:
        """The threshold of each class's best F1 on these images; None where nothing is right."""
        curves = self.curves
        return {
            name: float(curves[name].scores[curves[name].f1.argmax()]) if best else None
            for name, best in self.best_f1().items()
        }

    def _of_each(self, values: dict[str, float]) -> dict[str, float | None]:
        return {name: None if ap is None else values.get(name, 0.0) for name, ap in self.per_class.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "map": self.map,
            "per_class": self.per_class,
            "f1": self.f1(),
            "f1_at_half": self.f1_at_half(),
            "best_f1": self.best_f1(),
            "calibration_error": self.calibration_error(),
            "images": self.images,
            "skipped": list(self.skipped),
        }


def evaluate_detections(
    found: Sequence[Detections],
    truths: Sequence[GroundTruth],
    classes: Sequence[str],
    rule: Rule = "voc07",
    iou: float = 0.5,
    skipped: Sequence[str] = (),
) -> DetectionResult:
    """found, truths: one an image, in the same order, both with labels of `classes`.

    rule: "voc07", the mean precision at eleven recalls; "voc", the area under the curve (2010 on).
    iou: the least overlap of a right detection with its object.
    Crowds count as difficult. Raises DataError if the lists do not fit or hold no object to find.
    """
    _check_rule(rule)
    if not 0 < iou <= 1:
        raise ConfigError(f"iou must be above 0 and at most 1; got {iou}")
    names = check_lists(found, truths, classes)
    per_class: dict[str, float | None] = {}
    curves = {}
    for label, name in enumerate(names):
        scores, is_right, ignored, positives = judge_class(found, truths, label, iou)
        odds = [np.zeros(0), *(one.probabilities[one.labels == label] for one in found)]
        curves[name] = _curve(scores, is_right, ignored, positives, np.concatenate(odds))
        per_class[name] = average_precision(scores, is_right, ignored, positives, rule) if positives else None
    return DetectionResult(rule, per_class, curves, len(truths), tuple(skipped))


def average_precision(
    scores: npt.ArrayLike,
    is_right: npt.ArrayLike,
    ignored: npt.ArrayLike,
    positives: int,
    rule: Rule = "voc07",
) -> float:
    """Of one class, 0 to 1.

    scores, is_right, ignored: (n,) one a detection; the ignored ones are neither right nor wrong.
    positives: objects to find. Recalls are compared with the eleven levels in whole numbers, where
    the devkit's floats leave 3 of 10 below 0.3. Raises DataError without objects, or for NaN scores.
    """
    _check_rule(rule)
    if positives < 1:
        raise DataError(f"average precision needs an object to find; got {positives}")
    right, precision = _falling(scores, is_right, ignored)[1:]
    if rule == "voc07":
        reached = [precision[right * RECALL_STEPS >= step * positives] for step in range(RECALL_STEPS + 1)]
        return sum(float(values.max(initial=0.0)) for values in reached) / len(reached)
    # The best precision at this recall or a higher one, over the recall gained with each detection.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(right, prepend=0) * envelope) / positives)


def check_lists(
    found: Sequence[Detections], truths: Sequence[GroundTruth], classes: Sequence[str]
) -> tuple[str, ...]:
    """The classes; raises DataError unless detections and truths are of the same images and classes."""
    names = tuple(classes)
    if len(found) != len(truths):
        raise DataError(f"{len(truths)} images need as many Detections; got {len(found)}")
    if len(set(names)) != len(names):
        raise DataError(f"class names must differ; got {', '.join(names)}")
    if other := next((each.classes for each in found if each.classes != names), None):
        raise DataError(f"detections must be of the classes {', '.join(names)}; got {', '.join(other)}")
    highest = max((int(truth.labels.max()) for truth in truths if len(truth)), default=-1)
    if highest >= len(names):
        raise DataError(f"labels of the truths must be 0..{len(names) - 1}; got {highest}")
    if not any((~(truth.difficult | truth.crowd)).any() for truth in truths):
        raise DataError(f"there is no object to find in {len(truths)} images, so nothing can be judged")
    return names


# --- one class -----------------------------------------------------------------------------------


def judge_class(
    found: Sequence[Detections], truths: Sequence[GroundTruth], label: int, iou: float
) -> tuple[Doubles, Flags, Flags, int]:
    """Scores, which are right, which are ignored, and the number of objects to find."""
    scores, objects, spared = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    seen = 0
    for detections, truth in zip(found, truths, strict=True):
        own, asked = detections.labels == label, truth.labels == label
        scores.append(detections.scores[own].astype(np.float64))
        # In float64: areas of large images do not fit float32, and the threshold is often met exactly.
        overlap, nearest = match_boxes(detections.boxes[own], truth.boxes[asked], np.float64)
        objects.append(np.where(overlap >= iou, nearest + seen, -1))
        spared.append((truth.difficult | truth.crowd)[asked])
        seen += int(asked.sum())
    difficult = np.concatenate(spared)
    all_scores, matched = np.concatenate(scores), np.concatenate(objects)
    hit = matched >= 0
    ignored = hit & np.append(difficult, False)[matched]
    is_right = _first_of_each(all_scores, matched)
    return all_scores, is_right, ignored, int((~difficult).sum())


def _first_of_each(scores: Doubles, objects: Ints) -> Flags:
    """(n,) the surest detection of every object, −1 being none."""
    order = _order(scores)
    seen, first = np.unique(objects[order], return_index=True)
    result = np.zeros(len(scores), np.bool_)
    result[order[first[seen >= 0]]] = True
    return result


def _curve(scores: Doubles, is_right: Flags, ignored: Flags, positives: int, odds: Doubles) -> Curve:
    falling, right, precision = _falling(scores, is_right, ignored)
    order = _order(scores)
    return Curve(right / max(positives, 1), precision, falling, odds[order[~ignored[order]]])


def _falling(
    scores: npt.ArrayLike, is_right: npt.ArrayLike, ignored: npt.ArrayLike
) -> tuple[Doubles, Ints, Doubles]:
    """By falling score, the ignored left out: scores, how many are right so far, and the precision so far."""
    values = np.asarray(scores, np.float64).reshape(-1)
    rights, spared = (np.asarray(flags, np.bool_).reshape(-1) for flags in (is_right, ignored))
    if not len(values) == len(rights) == len(spared):
        raise DataError(f"{len(values)} scores need as many flags; got {len(rights)} and {len(spared)}")
    order = _order(values)
    order = order[~spared[order]]
    right = np.cumsum(rights[order], dtype=np.int64)
    return values[order], right, right / np.arange(1, len(order) + 1)


def _order(scores: Doubles) -> Ints:
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} scores are NaN; check the model")
    return np.argsort(-scores, kind="stable")


def _check_rule(rule: str) -> None:
    if rule not in get_args(Rule):
        raise ConfigError(f"the rule must be {' or '.join(get_args(Rule))}; got {rule!r}")
