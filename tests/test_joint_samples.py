"""What joint training learns on and what it minimises; its times and options."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sppnet.boxes import box_iou, decode_boxes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.joint.augmentation import Sample, augment
from sppnet.detect.joint.duration import read_time
from sppnet.detect.joint.loss import proposal_loss, window_loss
from sppnet.detect.joint.plan import MIN_STEPS, plan_steps
from sppnet.detect.joint.sampler import POSITIVE_IOU, WINDOWS, BatchOrder, draw_windows
from sppnet.errors import ConfigError
from sppnet.structures import GroundTruth

# --- samples -------------------------------------------------------------------------------------


def framed(seed: int) -> Sample:
    """A blue rectangle on black, whose box and one proposal are where it is."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 200, 2))
    x, y = int(rng.integers(5, width // 2)), int(rng.integers(5, height // 2))
    box = np.array([[x, y, x + width // 3, y + height // 3]], np.float32)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y : y + height // 3, x : x + width // 3] = 0, 0, 255
    return Sample(pixels, GroundTruth.of(box, [0]), box)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow_the_pixels(seed):
    rng, canvas = np.random.default_rng(seed), (96, 128)
    found = augment(framed(seed), canvas, np.zeros(3), rng)
    assert found.pixels.shape == (*canvas, 3)
    blue = found.pixels[..., 2].astype(int) - found.pixels[..., 0] > 60
    rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(found.truth.boxes[0], seen, atol=1.5)
    if len(found.proposals):
        np.testing.assert_allclose(found.proposals[0], found.truth.boxes[0], atol=1e-3)


def test_augmentation_zooms_mirrors_and_colours():
    found = [augment(framed(3), (96, 128), np.zeros(3), np.random.default_rng(seed)) for seed in range(40)]
    widths = [one.truth.boxes[0, 2] - one.truth.boxes[0, 0] for one in found if len(one.truth)]
    assert max(widths) > 1.2 * min(widths)
    assert len({one.pixels.max() for one in found}) > 5
    again = augment(framed(3), (96, 128), np.zeros(3), np.random.default_rng(0))
    assert np.array_equal(again.pixels, found[0].pixels)


def test_an_object_that_is_cut_off_is_difficult_or_gone():
    thin = np.array([[0, 0, 190, 100]], np.float32)
    wide = Sample(np.zeros((100, 800, 3), np.uint8), GroundTruth.of(thin, [0]), thin)
    found = [augment(wide, (96, 128), np.zeros(3), np.random.default_rng(seed)) for seed in range(60)]
    assert any(not len(one.truth) for one in found)
    assert any(one.truth.difficult.any() for one in found)
    assert any(len(one.truth) and not one.truth.difficult.any() for one in found)


@pytest.mark.parametrize("flat", [np.array([True] * 7 + [False] * 3), np.ones(5, bool), np.zeros(2, bool)])
def test_every_photograph_comes_once_an_epoch_among_its_like(flat):
    order = BatchOrder(flat, 4, seed=1)
    epoch = [order.photographs(step) for step in range(order.steps_per_epoch)]
    assert set(np.concatenate(epoch).tolist()) == set(range(len(flat)))
    assert all(len(one) == 4 and len(set(flat[one].tolist())) == 1 for one in epoch)
    assert np.array_equal(BatchOrder(flat, 4, seed=1).photographs(1), epoch[-1]) or len(epoch) != 2
    assert order.steps_per_epoch == -(-flat.sum() // 4) + -(-(~flat).sum() // 4)


def test_windows_have_the_labels_of_their_objects_and_difficult_ones_none():
    boxes = np.array([[10, 10, 50, 50], [60, 60, 90, 90]], np.float32)
    truth = replace(GroundTruth.of(boxes, [1, 0]), difficult=np.array([False, True]))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 70, (300, 2))
    proposals = np.hstack([corners, corners + rng.uniform(5, 40, (300, 2))]).astype(np.float32)
    sample = Sample(np.zeros((100, 110, 3), np.uint8), truth, proposals)
    found = draw_windows(sample, 3, rng)
    assert len(found.boxes) == len(found.labels) == WINDOWS
    positive = found.labels < 3
    assert positive[: len(found.deltas)].all()
    assert not positive[len(found.deltas) :].any()
    assert set(found.labels[positive]) == {1}
    shared = box_iou(found.boxes, boxes)
    assert (shared[positive, 0] >= POSITIVE_IOU).all()
    assert (shared[~positive] < POSITIVE_IOU).all()
    np.testing.assert_allclose(
        decode_boxes(found.boxes[positive], found.deltas), np.tile(boxes[0], (positive.sum(), 1)), atol=1e-3
    )


# --- loss --------------------------------------------------------------------------


def smooth_l1(x):
    return np.where(abs(x) < 1, 0.5 * x * x, abs(x) - 0.5)


def test_the_loss_of_windows_is_fast_rcnns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (7, 4)), np.array([0, 2, 1, 3, 3, 3, 3])
    deltas, targets = rng.normal(0, 1.5, (2, 3, 4))
    classes = np.mean(
        [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    )
    boxes = smooth_l1(deltas - targets).sum() / 7
    found = window_loss(*map(torch.from_numpy, (logits, labels, deltas, targets)))
    np.testing.assert_allclose([one.item() for one in found], [classes, boxes], rtol=1e-12)


def test_the_loss_of_proposals_is_of_scores_and_moves():
    rng = np.random.default_rng(1)
    outputs, coarse, deltas = rng.normal(0, 2, (6, 5)), rng.normal(0, 2, 6), rng.normal(0, 2, (6, 4))
    positive = np.array([1.0, 0, 0, 1, 0, 0])

    def entropy(x):
        return np.mean(np.log1p(np.exp(x)) - positive * x)

    moves = (smooth_l1(outputs[:, 1:] - deltas).sum(1) * positive).sum() / 2
    expected = entropy(outputs[:, 0]) + entropy(coarse) + 0.5 * moves
    found = proposal_loss(*map(torch.from_numpy, (outputs, coarse, positive, deltas)))
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)


# --- time and options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)]
)
def test_times_are_read(text, seconds):
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "0", "-5m", "10d", "5m30s"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError, match="10m or 1h"):
        read_time(text)


def test_steps_fit_the_time_that_is_left():
    assert plan_steps(100, 1.0, passes=0) == 100
    assert 80 < plan_steps(100, 1.0, passes=60) < 100
    assert plan_steps(0.99 * MIN_STEPS, 1.0, passes=0) == 0
    assert plan_steps(-5, 1.0, passes=0) == 0


def test_a_time_asks_for_joint_training():
    assert DetectorConfig().method == "spp"
    assert DetectorConfig(trunk="mobilenet_v2:14+18", time="5m").method == "faster"
    assert DetectorConfig(trunk="mobilenet_v2:14+18", joint_steps=5).method == "faster"
    assert DetectorConfig(trunk="mobilenet_v2:14+18", method="fast").time == "10m"
    assert DetectorConfig(trunk="mobilenet_v2:14+18", method="fast", joint_steps=5).time is None
    assert DetectorConfig(trunk="yolox_nano.onnx", time="5m").method == "spp"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "faster", "trunk": "yolox_nano.onnx"}, "leave --finetune and --method alone"),
        ({"method": "fast", "proposals": "selective-search"}, "--proposals learned"),
        ({"method": "fast", "finetune": "fc"}, "--finetune none"),
        ({"method": "faster", "joint_steps": 0}, "joint_steps must be 1 or more"),
        ({"method": "faster", "joint_size": 16}, "joint_size must be 32 pixels or more"),
        ({"time": "soon"}, "10m or 1h"),
    ],
)
def test_what_joint_training_cannot_do_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**{"trunk": "mobilenet_v2:14+18", **options})


def test_configurations_of_earlier_versions_are_read():
    described = json.loads(json.dumps(DetectorConfig(trunk="mobilenet_v2:14+18").to_json()))
    for name in ("time", "joint_steps", "joint_size"):
        del described[name]
    assert DetectorConfig.from_json(described).method == "spp"
