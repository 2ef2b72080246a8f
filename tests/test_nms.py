"""Greedy suppression: a table of cases, and torchvision's on any boxes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms as torchvision_nms

from sppnet.ops.nms import nms

BOX = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("boxes", "scores", "kept"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([BOX, BOX], [1, 2], [1], id="the surer of two"),
        pytest.param([BOX, BOX, BOX], [1, 1, 1], [0], id="of equal ones the first"),
        pytest.param([BOX, [20, 0, 30, 10]], [1, 1], [0, 1], id="apart, equal: in their order"),
        pytest.param([BOX, [20, 0, 30, 10]], [1, 2], [1, 0], id="apart: the surest first"),
        pytest.param([BOX, [5, 0, 15, 10], [10, 0, 20, 10]], [2, 3, 1], [1], id="both neighbours go"),
        pytest.param(
            [BOX, [5, 0, 15, 10], [10, 0, 20, 10]], [3, 2, 1], [0, 2], id="who is gone suppresses none"
        ),
        pytest.param([BOX, [0, 0, 10, 3]], [2, 1], [0, 1], id="an overlap of 0.3 is not more than 0.3"),
        pytest.param([BOX, [0, 0, 10, 3.1]], [2, 1], [0], id="an overlap of 0.31 is"),
    ],
)
def test_suppression(boxes, scores, kept):
    found = nms(np.reshape(boxes, (-1, 4)).astype(np.float32), np.array(scores, np.float32), 0.3, 100)
    assert found.tolist() == kept


def test_suppression_keeps_at_most_so_many():
    boxes = np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(150)], np.float32)
    scores = np.arange(150, dtype=np.float32)
    assert nms(boxes, scores, 0.3, 100).tolist() == list(range(149, 49, -1))
    assert nms(boxes, scores, 0.3, 2).tolist() == [149, 148]


@given(
    st.integers(0, 200),
    st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
    st.integers(1, 250),
    st.integers(0, 2**32),
)
def test_it_keeps_what_torchvision_keeps(count, overlap, most, seed):
    """Whole numbers, so that boxes and scores are often equal; some boxes are empty."""
    draw = np.random.default_rng(seed)
    corners = draw.integers(0, 30, (count, 2))
    boxes = np.hstack([corners, corners + draw.integers(0, 20, (count, 2))]).astype(np.float32)
    scores = draw.integers(0, 50, count).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    ranks = torch.arange(count, 0, -1, dtype=torch.float64)
    expected = order[torchvision_nms(torch.from_numpy(boxes[order]).double(), ranks, overlap).numpy()][:most]
    assert nms(boxes, scores, overlap, most).tolist() == expected.tolist()
