"""Box algebra beside torchvision's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area as torchvision_area
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.ops import box_iou as torchvision_iou

from sppnet.boxes import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes, match_boxes, to_xywh
from sppnet.errors import GeometryError

PIXELS = st.integers(0, 2**32)


def boxes_of(rng, n, largest=200):
    low = rng.uniform(0, largest, (n, 2))
    return np.hstack([low, low + rng.uniform(20, 150, (n, 2))]).astype(np.float32)


# --- overlap -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param([0, 0, 10, 10], 1.0, id="the same"),
        pytest.param([5, 0, 15, 10], 1 / 3, id="half of it"),
        pytest.param([10, 0, 20, 10], 0.0, id="side by side"),
        pytest.param([2, 2, 4, 4], 0.04, id="inside"),
    ],
)
def test_overlaps(other, expected):
    shared = box_iou([[0, 0, 10, 10]], [other, other])
    np.testing.assert_allclose(shared, [[expected] * 2], rtol=1e-6)
    assert box_area([other]).tolist() == [(other[2] - other[0]) * (other[3] - other[1])]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(n=st.integers(0, 20), m=st.integers(0, 20), seed=PIXELS)
def test_overlap_and_area_are_those_of_torchvision(dtype, n, m, seed):
    rng = np.random.default_rng(seed)
    boxes, others = boxes_of(rng, n), boxes_of(rng, m)
    a, b = (torch.from_numpy(array.astype(dtype)) for array in (boxes, others))
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    found = box_iou(boxes, others, dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, torchvision_iou(a, b).numpy(), atol=tolerance)
    np.testing.assert_allclose(box_area(boxes, dtype), torchvision_area(a).numpy(), rtol=1e-6)


def test_a_box_is_matched_with_what_it_overlaps_most():
    others = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 20]]
    overlap, nearest = match_boxes([[0, 0, 10, 18], [0, 0, 10, 5], [50, 50, 60, 60]], others)
    assert nearest.tolist() == [2, 0, 0], "of equal ones the first"
    np.testing.assert_allclose(overlap, [0.9, 0.5, 0])


def test_with_nothing_to_match_there_is_no_index():
    overlap, nearest = match_boxes([[0, 0, 10, 18]], [])
    assert (overlap.tolist(), nearest.tolist()) == ([0], [-1])


def test_corners_and_sides_are_those_of_torchvision():
    boxes = boxes_of(np.random.default_rng(0), 50)
    expected = box_convert(torch.from_numpy(boxes).double(), "xyxy", "xywh").numpy()
    np.testing.assert_array_equal(to_xywh(boxes), expected)


# --- clipping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([10, 10, 60, 40], [10, 10, 60, 40], id="inside"),
        pytest.param([-5, -5, 105, 55], [0, 0, 100, 50], id="over every border"),
        pytest.param([120, 60, 150, 80], [99, 49, 100, 50], id="outside, right and below"),
        pytest.param([-20, -20, -10, -5], [0, 0, 1, 1], id="outside, left and above"),
        pytest.param([10, 10, 10.25, 10.5], [10, 10, 11, 11], id="less than a pixel"),
    ],
)
def test_boxes_are_clipped_and_never_empty(box, expected):
    (clipped,) = clip_boxes(np.array([box], np.float32), (50, 100))
    np.testing.assert_allclose(clipped, expected, atol=1e-5)
    assert clipped.dtype == np.float32


def test_what_touches_the_image_is_clipped_as_by_torchvision():
    boxes = boxes_of(np.random.default_rng(1), 100, largest=90) - 40
    expected = clip_boxes_to_image(torch.from_numpy(boxes), (60, 90)).numpy()
    wide = ((expected[:, 2:] - expected[:, :2]) >= 1).all(axis=1)
    assert wide.sum() > 50
    np.testing.assert_array_equal(clip_boxes(boxes, (60, 90))[wide], expected[wide])


# --- boxes and deltas ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "target", "deltas"),
    [
        pytest.param([0, 0, 10, 20], [0, 0, 10, 20], [0, 0, 0, 0], id="the same"),
        pytest.param([0, 0, 10, 20], [5, 5, 15, 25], [0.5, 0.25, 0, 0], id="moved"),
        pytest.param([0, 0, 10, 20], [-5, 0, 15, 20], [0, 0, math.log(2), 0], id="twice as wide"),
        pytest.param([10, 10, 20, 20], [10, 10, 15, 20], [-0.25, 0, -math.log(2), 0], id="left half"),
    ],
)
def test_deltas(box, target, deltas):
    np.testing.assert_allclose(encode_boxes([box], [target]), [deltas], atol=1e-12)
    np.testing.assert_allclose(decode_boxes([box], [deltas]), [target], atol=1e-5)


def test_deltas_are_those_of_torchvision():
    rng = np.random.default_rng(2)
    boxes, targets = boxes_of(rng, 100), boxes_of(rng, 100)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    a, b = torch.from_numpy(boxes).double(), torch.from_numpy(targets).double()
    deltas = encode_boxes(boxes, targets)
    np.testing.assert_allclose(deltas, coder.encode_single(b, a).numpy(), atol=1e-9)
    decoded = coder.decode_single(torch.from_numpy(deltas), a).numpy()
    np.testing.assert_allclose(decode_boxes(boxes, deltas), decoded, rtol=1e-5, atol=1e-4)


def test_boxes_come_back():
    rng = np.random.default_rng(1)
    windows, objects = boxes_of(rng, 500), boxes_of(rng, 500)
    np.testing.assert_allclose(decode_boxes(windows, encode_boxes(windows, objects)), objects, atol=1e-3)


@pytest.mark.parametrize(("growth", "side"), [(50.0, 625.0), (-50.0, 0.16), (1e300, 625.0)])
def test_growth_has_a_limit(growth, side):
    (box,) = decode_boxes([[0, 0, 10, 10]], [[0, 0, growth, growth]])
    np.testing.assert_allclose(box, [5 - side / 2, 5 - side / 2, 5 + side / 2, 5 + side / 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: encode_boxes([[0, 0, 0, 5]], [[0, 0, 5, 5]]), "boxes .* number 0", id="empty"),
        pytest.param(
            lambda: encode_boxes([[0, 0, 5, 5]], [[0, 0, np.inf, 5]]), "targets must be finite", id="infinite"
        ),
        pytest.param(lambda: encode_boxes([[0, 0, 5, 5]], []), "as many targets; got 0", id="too few"),
        pytest.param(lambda: encode_boxes([0, 0, 5, 5], []), r"\(n, 4\), xyxy; got \(4,\)", id="flat"),
        pytest.param(lambda: decode_boxes([[0, 0, 5, 5]], [[0, 0]]), r"\(1, 4\); got \(1, 2\)", id="short"),
        pytest.param(lambda: decode_boxes([[0, 0, 5, 5]], [[0, 0, np.nan, 0]]), "finite", id="NaN"),
    ],
)
def test_boxes_that_cannot_be_are_refused(call, message):
    with pytest.raises(GeometryError, match=message):
        call()
