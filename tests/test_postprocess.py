"""What becomes of scored windows: suppression by class, votes on boxes, thresholds."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from sppnet.boxes import box_iou
from sppnet.detect.postprocess import (
    MAX_PER_CLASS,
    VOTE_MARGIN,
    VOTE_SHARPNESS,
    ScoredBoxes,
    select_detections,
    vote_boxes,
)


def draw(count, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 60, (count, 2))]).astype(np.float32)
    scores = rng.normal(0, 1, count).astype(np.float32)
    return ScoredBoxes(boxes, scores, rng.integers(0, classes, count))


@pytest.mark.parametrize("seed", range(5))
def test_without_votes_it_is_torchvisions_nms(seed):
    candidates = draw(120, seed=seed)
    kept = batched_nms(
        torch.from_numpy(candidates.boxes), torch.from_numpy(candidates.scores),
        torch.from_numpy(candidates.labels), 0.3,
    ).numpy()  # fmt: skip
    kept = kept[candidates.scores[kept] >= -0.5]
    found = select_detections(candidates, 0.3, 1.0, -0.5)
    assert np.array_equal(found.boxes, candidates.boxes[kept])
    assert np.array_equal(found.scores, candidates.scores[kept])
    assert np.array_equal(found.labels, candidates.labels[kept])


@pytest.mark.parametrize("voting_iou", [0.3, 0.5, 0.9])
def test_a_box_is_the_weighted_mean_of_its_voters(voting_iou):
    """Against the definition, a box and a candidate at a time."""
    candidates = draw(80, classes=1)
    kept = np.array([3, 17, 40])
    found = vote_boxes(candidates, kept, voting_iou)
    shared = box_iou(candidates.boxes, candidates.boxes)
    for row, index in enumerate(kept):
        total, weights = np.zeros(4), 0.0
        for other in range(80):
            lead = float(candidates.scores[other]) - float(candidates.scores[index])
            if other == index or (shared[index, other] >= voting_iou and lead >= -VOTE_MARGIN):
                weight = math.exp(VOTE_SHARPNESS * min(lead, 0))
                total += weight * candidates.boxes[other]
                weights += weight
        np.testing.assert_allclose(found[row], total / weights, rtol=1e-5)
    assert found.dtype == np.float32


def test_votes_move_boxes_and_neither_scores_nor_order():
    candidates = draw(120)
    plain, voted = select_detections(candidates, 0.3, 1.0, -9), select_detections(candidates, 0.3, 0.5, -9)
    assert np.array_equal(plain.scores, voted.scores)
    assert np.array_equal(plain.labels, voted.labels)
    assert not np.allclose(plain.boxes, voted.boxes)


def test_a_higher_threshold_shows_some_of_the_same_detections():
    """Windows below the threshold vote all the same, as long as they are within the margin."""
    candidates = draw(200)
    every = select_detections(candidates, 0.3, 0.5, -1.0)
    few = select_detections(
        candidates.take(np.flatnonzero(candidates.scores >= 0.4 - VOTE_MARGIN)), 0.3, 0.5, 0.4
    )
    shown = every.scores >= 0.4
    assert 0 < len(few.scores) < len(every.scores)
    assert np.array_equal(few.boxes, every.boxes[shown])
    assert np.array_equal(few.scores, every.scores[shown])


def test_nothing_gives_nothing():
    found = select_detections(ScoredBoxes.joined([]), 0.3, 0.5, 0.0)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
    assert len(select_detections(draw(30), 0.3, 0.5, 99.0).scores) == 0


def test_no_class_has_more_than_the_most():
    boxes = np.array([[20 * i, 0, 20 * i + 9, 9] for i in range(150)], np.float32)
    scores = np.linspace(1, 0, 150, dtype=np.float32)
    found = select_detections(ScoredBoxes(boxes, scores, np.zeros(150, np.int64)), 0.3, 0.5, 0.0)
    assert np.array_equal(found.scores, scores[:MAX_PER_CLASS])
