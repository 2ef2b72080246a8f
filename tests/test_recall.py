"""Recall by hand, and against a plain loop."""

import numpy as np
import pytest

from sppnet.errors import ConfigError, DataError
from sppnet.metrics.recall import recall_curve
from sppnet.structures import GroundTruth

HALF = [0, 0, 10, 5]
"""IoU 0.5 with WHOLE."""
WHOLE = [0, 0, 10, 10]
FAR = [50, 50, 60, 60]


def truth(*boxes, difficult=(), crowd=()):
    n = len(boxes)
    flags = [np.isin(np.arange(n), chosen) for chosen in (difficult, crowd)]
    return GroundTruth(np.array(boxes, np.float32).reshape(-1, 4), np.zeros(n, np.int64), *flags)


@pytest.mark.parametrize(
    ("boxes", "truths", "expected"),
    [
        pytest.param(
            [[FAR, HALF, WHOLE]], [truth(WHOLE)], [[0, 0], [1, 0], [1, 1]], id="later boxes are better"
        ),
        pytest.param([[WHOLE]], [truth(WHOLE, FAR)], [[0.5, 0.5]] * 3, id="fewer boxes than asked for"),
        pytest.param([[], [FAR]], [truth(WHOLE), truth(FAR)], [[0.5, 0.5]] * 3, id="an image without boxes"),
        pytest.param(
            [[FAR]], [truth(WHOLE, FAR, difficult=[0])], [[1, 1]] * 3, id="difficult objects are left out"
        ),
        pytest.param([[FAR]], [truth(FAR, WHOLE, crowd=[1])], [[1, 1]] * 3, id="and crowds"),
        pytest.param([[WHOLE], [FAR]], [truth(WHOLE), truth()], [[1, 1]] * 3, id="an image without objects"),
    ],
)
def test_recall_by_hand(boxes, truths, expected):
    curve = recall_curve(boxes, truths, counts=(1, 2, 3), ious=(0.5, 0.7))
    np.testing.assert_allclose(curve.recall, expected)
    assert curve.at(2, 0.7) == expected[1][1]
    assert curve.boxes_per_image == np.mean([len(several) for several in boxes])


def test_recall_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)

    def draw(n):
        corners = rng.integers(0, 40, (n, 2))
        return np.hstack([corners, corners + rng.integers(5, 30, (n, 2))]).astype(np.float32)

    boxes, truths = [draw(60) for _ in range(5)], [truth(*draw(7)) for _ in range(5)]
    found = 0
    for several, objects in zip(boxes, truths, strict=True):
        for a in objects.boxes:
            overlaps = []
            for b in several[:20]:
                width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                shared = max(width, 0) * max(height, 0)
                areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
                overlaps.append(shared / (sum(areas) - shared))
            found += max(overlaps) >= 0.6
    curve = recall_curve(boxes, truths, counts=[20], ious=[0.6])
    assert curve.objects == 35
    assert 0 < found < 35
    assert curve.at(20, 0.6) == pytest.approx(found / 35)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(([[WHOLE]], []), DataError, "1 images need as many truths; got 0", id="a truth missing"),
        pytest.param(([[WHOLE]], [truth()]), DataError, "no image has an object", id="no objects"),
        pytest.param(([], []), DataError, "no image has an object", id="no images"),
        pytest.param(([[WHOLE]], [truth(WHOLE)], [0]), ConfigError, "1 box or more", id="no boxes asked for"),
        pytest.param(
            ([[WHOLE]], [truth(WHOLE)], [1], [0.0]), ConfigError, "above 0", id="no overlap asked for"
        ),
    ],
)
def test_what_has_no_recall(arguments, error, message):
    with pytest.raises(error, match=message):
        recall_curve(*arguments)
