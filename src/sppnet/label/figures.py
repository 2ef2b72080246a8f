"""What a labelling session has achieved so far, told as it is."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sppnet.boxes import box_iou
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.label.model import right_ones
from sppnet.structures import GroundTruth

TAKEN_IOU = 0.7
"""A confirmed box that a suggestion overlaps by as much was taken as suggested."""

RECENT = 20
"""Photographs that the figures of now are about."""

PAUSE_S = 60.0
"""A longer time between two photographs was a pause."""

MIN_TO_STOP, MIN_GAIN = 40, 0.02
"""Photographs, and how much more must have been taken of the last than of those before them."""


@dataclass(frozen=True)
class Record:
    """A confirmed photograph beside what had been suggested for it."""

    boxes: int
    taken: int
    """Confirmed boxes that a suggestion of their class overlaps by TAKEN_IOU."""
    shown: int
    right: int
    """Suggestions that overlap an object of their class by half."""
    seconds: float
    """Since the photograph before it, at most PAUSE_S."""


@dataclass
class Figures:
    """Of the photographs that were confirmed for the first time in this session."""

    records: list[Record] = field(default_factory=list)
    _last: float = field(default_factory=time.monotonic)

    def add(self, truth: GroundTruth, shown: ScoredBoxes | None) -> None:
        """shown: what was suggested before anything was corrected; None where nothing was learned yet."""
        now = time.monotonic()
        shown = shown or ScoredBoxes.joined([])
        iou = box_iou(truth.boxes, shown.boxes) * (truth.labels[:, None] == shown.labels[None])
        taken = int((iou.max(axis=1, initial=0) >= TAKEN_IOU).sum()) if iou.size else 0
        right = int(right_ones(shown, truth).sum())
        seconds = min(now - self._last, PAUSE_S)
        self.records.append(Record(len(truth), taken, len(shown.boxes), right, seconds))
        self._last = now

    def to_json(self) -> dict[str, Any]:
        recent = self.records[-RECENT:]
        boxes, shown = sum(one.boxes for one in recent), sum(one.shown for one in recent)
        right, seconds = sum(one.right for one in recent), sum(one.seconds for one in recent)
        return {
            "photographs": len(self.records),
            "taken": _share(sum(one.taken for one in recent), boxes),
            "precision": _share(right, shown),
            "recall": _share(right, boxes),
            "boxes_a_minute": round(60 * boxes / seconds, 1) if seconds > 1 else None,
            "curve": [_share(*pair) for pair in self._curve()],
            "stop": self._should_stop(),
        }

    def _curve(self) -> list[tuple[int, int]]:
        """Taken and all boxes of the RECENT photographs up to each."""
        windows = [self.records[max(0, end - RECENT) : end] for end in range(1, len(self.records) + 1)]
        return [(sum(one.taken for one in part), sum(one.boxes for one in part)) for part in windows]

    def _should_stop(self) -> bool:
        """Whether the last photographs had no more of their boxes taken than those before them."""
        shares = [one.taken / one.boxes for one in self.records if one.boxes]
        if len(shares) < MIN_TO_STOP:
            return False
        late, early = shares[-RECENT:], shares[-2 * RECENT : -RECENT]
        noise = float(np.std(late)) / len(late) ** 0.5
        gain = statistics.mean(late) - statistics.mean(early)
        return bool(gain + noise < MIN_GAIN)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
