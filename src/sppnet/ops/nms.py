"""Greedy non-maximum suppression of boxes on the CPU, compiled by numba.

A box is compared with those kept so far and no others, and the work ends when enough are kept.
"""

from typing import Any

import numpy as np

from sppnet.arrays import Ints, Reals
from sppnet.jit import compiled

_AT_ONCE = 32
"""Kept boxes that a box is compared with before it is asked whether one of them suppresses it."""


def nms(boxes: Reals, scores: Reals, iou_threshold: float, max_kept: int) -> Ints:
    """Indices of the boxes that stay, at most `max_kept`, the surest first; of equal ones the earlier.

    boxes: (n, 4) xyxy. A box goes if its intersection over union with a surer one that stays exceeds
    `iou_threshold` (paper section 4.1, 0.3 there).
    """
    order = np.argsort(-scores, kind="stable")
    sides = np.ascontiguousarray(boxes[order].T, dtype=np.float64)
    kept: Ints = order[_nms(sides, iou_threshold, max_kept)]
    return kept


@compiled
def _nms(boxes: Any, iou_threshold: float, max_kept: int) -> Any:
    """boxes (4, n), the surest first → the numbers of those that stay."""
    count = boxes.shape[1]
    kept = np.empty(min(max_kept, count), np.int64)
    stay = np.empty((5, len(kept) + _AT_ONCE))  # x0, y0, x1, y1 and area of each that stays
    stays = 0
    for index in range(count):
        if stays == len(kept):
            break
        x0, y0, x1, y1 = boxes[0, index], boxes[1, index], boxes[2, index], boxes[3, index]
        area = (x1 - x0) * (y1 - y0)
        free = True
        start = 0
        while free and start < stays:
            end = min(start + _AT_ONCE, stays)
            hits = 0
            for other in range(start, end):
                across = min(x1, stay[2, other]) - max(x0, stay[0, other])
                down = min(y1, stay[3, other]) - max(y0, stay[1, other])
                common = max(across, 0.0) * max(down, 0.0)
                hits += common / (area + stay[4, other] - common) > iou_threshold
            free = hits == 0
            start = end
        if free:
            stay[0, stays], stay[1, stays], stay[2, stays], stay[3, stays] = x0, y0, x1, y1
            stay[4, stays] = area
            kept[stays] = index
            stays += 1
    return kept[:stays]
