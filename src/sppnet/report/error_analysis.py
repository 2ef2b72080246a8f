"""One photograph judged: which detections are right, which wrong, and which objects were missed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Flags
from sppnet.boxes import box_iou
from sppnet.data.image import ImageArray
from sppnet.drawing import draw_boxes
from sppnet.metrics.detection import EvaluatedImage
from sppnet.report.page import shrink
from sppnet.structures import Detections

MIN_SCORE = 0.0
"""What `detect predict` shows by default."""
MIN_IOU = 0.5

RIGHT, WRONG, MISSED = 2, 5, 3
"""Colours of `drawing`: green, vermilion, yellow, which people of every colour vision tell apart."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the detections that would be shown, and of the objects."""

    photo: EvaluatedImage
    shown: Detections
    """The surer ones, the surest first."""
    right: Flags
    """(n,) of `shown`."""
    ignored: Flags
    """(n,) of `shown`: on objects that do not count."""
    missed: Flags
    """(m,) of the objects."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Right, wrong, missed."""
        wrong = ~self.right & ~self.ignored
        return int(self.right.sum()), int(wrong.sum()), int(self.missed.sum())

    @property
    def agreement(self) -> float:
        """Right ones, of all that were shown or should have been; 1 where there was nothing to do."""
        right, wrong, missed = self.counts
        return right / (right + wrong + missed) if right + wrong + missed else 1.0

    def in_words(self) -> str:
        right, wrong, missed = self.counts
        return f"{right} right, {wrong} wrong, {missed} missed"

    def draw(self, image: ImageArray, longest_px: int) -> ImageArray:
        """The photograph, made smaller, with missed objects, wrong detections and right ones on top."""
        small = shrink(image, longest_px)
        ratio = np.array([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]] * 2)
        truth, shown, wrong = self.photo.truth, self.shown, ~self.right & ~self.ignored
        layers = [
            (truth.boxes[self.missed], [f"missed {shown.classes[i]}" for i in truth.labels[self.missed]]),
            (shown.boxes[wrong], shown[wrong].in_words()),
            (shown.boxes[self.right], shown[self.right].in_words()),
        ]
        labels = [
            colour for (boxes, _), colour in zip(layers, (MISSED, WRONG, RIGHT), strict=True) for _ in boxes
        ]
        boxes = np.concatenate([own for own, _ in layers]) * ratio
        return draw_boxes(small, boxes, [text for _, texts in layers for text in texts], labels)


def analyse_image(photo: EvaluatedImage) -> Outcome:
    """By the rule of `metrics.detection`, at an overlap of 0.5: the surest detection has the object."""
    shown = photo.found[photo.found.scores >= MIN_SCORE]
    spared = photo.truth.difficult | photo.truth.crowd
    right, ignored = np.zeros(len(shown), np.bool_), np.zeros(len(shown), np.bool_)
    had = np.zeros(len(photo.truth), np.bool_)
    shared = np.where(
        shown.labels[:, None] == photo.truth.labels[None, :], box_iou(shown.boxes, photo.truth.boxes), 0
    )
    for i in np.argsort(-shown.scores, kind="stable") if len(photo.truth) else ():
        nearest = int(shared[i].argmax())
        if shared[i, nearest] >= MIN_IOU:
            ignored[i] = spared[nearest]
            right[i] = not spared[nearest] and not had[nearest]
            had[nearest] = True
    return Outcome(photo, shown, right, ignored, ~had & ~spared)


def best_images(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """Those with an object found, most agreement first, of equal ones those with more objects found."""
    chosen = [one for one in outcomes if one.counts[0]]
    return sorted(chosen, key=lambda one: (-one.agreement, -one.counts[0]))[:count]


def worst_images(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """Those with a mistake, least agreement first, of equal ones those with more mistakes."""
    chosen = [one for one in outcomes if sum(one.counts[1:])]
    return sorted(chosen, key=lambda one: (one.agreement, -sum(one.counts[1:])))[:count]
