"""Which windows box regression learns from."""

import numpy as np
import pytest
import torch

from sppnet.data.detection_dataset import open_annotated
from sppnet.detect import box_regression
from sppnet.detect.box_regression import draw_regression_samples, learn_boxes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages, match_objects
from sppnet.detect.roi_features import SppRoIFeatureExtractor
from sppnet.errors import DataError
from sppnet.features.extractor import FeatureExtractor
from sppnet.heads.ridge import fit_boxes, mean_length_scale
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress
from test_detect_train import write_scenes

EXTRACTOR = SppRoIFeatureExtractor((1, 2))
LIMITS = np.array([3, 5])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    images = open_annotated(write_scenes(tmp_path_factory.mktemp("scenes"), 6))
    torch.manual_seed(0)
    return TrainingImages(images, FeatureExtractor(load_trunk("zf5", width=0.1).eval(), (96,)), None)


@pytest.fixture(scope="module")
def proposals(photos):
    """A dozen windows near every object."""
    rng = np.random.default_rng(0)
    found = []
    for truth in photos.images.truths:
        sides = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], 2)
        moved = [truth.boxes + rng.uniform(-0.1, 0.1, truth.boxes.shape) * sides for _ in range(12)]
        found.append(np.concatenate(moved).astype(np.float32))
    return found


def test_an_image_gives_no_more_than_its_share_of_a_class(photos, proposals):
    for index, boxes in enumerate(proposals):
        sample = draw_regression_samples(photos, index, boxes, EXTRACTOR, LIMITS, 0)
        iou, nearest = match_objects(boxes, photos.truth(index))
        near = np.bincount(photos.truth(index).labels[nearest[iou >= 0.5]], minlength=2)
        assert np.array_equal(sample.near, near)
        assert np.array_equal(np.bincount(sample.labels, minlength=2), np.minimum(near, LIMITS))
        again = draw_regression_samples(photos, index, boxes, EXTRACTOR, LIMITS, 0)
        assert np.array_equal(sample.boxes, again.boxes)


def test_no_window_near_an_object_gives_none(photos):
    far = np.array([[0, 0, 3, 3]], np.float32)
    assert draw_regression_samples(photos, 0, far, EXTRACTOR, LIMITS, 0) is None


@pytest.mark.parametrize("most", [24, 10**6], ids=["some", "all"])
def test_drawn_windows_are_regularised_as_all_would_be(photos, proposals, monkeypatch, most):
    monkeypatch.setattr(box_regression, "MAX_OF_CLASS", most)
    config = DetectorConfig(trunk="zf5", weights="imagenet", levels=(1, 2), ridge_alpha=50.0)
    found, other = learn_boxes(photos, proposals, EXTRACTOR, config, NullProgress())
    assert found is other
    limits = box_regression._limits(photos)
    every = [
        draw_regression_samples(photos, index, boxes, EXTRACTOR, limits, config.seed)
        for index, boxes in enumerate(proposals)
    ]
    rows = np.concatenate([sample.vectors for sample in every])
    labels = np.concatenate([sample.labels for sample in every])
    boxes, targets = (np.concatenate([getattr(one, name) for one in every]) for name in ("boxes", "targets"))
    drawn, near = np.bincount(labels, minlength=2), sum(sample.near for sample in every)
    assert (drawn < near).all() if most < 100 else (drawn == near).all()
    scale = mean_length_scale(rows)
    alpha = 50.0 * drawn / near
    expected = fit_boxes(rows * np.float32(scale), boxes, targets, labels, photos.classes, alpha=alpha)
    torch.testing.assert_close(found.weight, expected.weight * scale)
    torch.testing.assert_close(found.bias, expected.bias)


FAR = np.array([[0, 0, 3, 3]], np.float32)


@pytest.mark.parametrize("near", [0, 1], ids=["none near", "those of one that is held out"])
def test_few_photographs_without_a_proposal_near_an_object_leave_boxes(photos, proposals, caplog, near):
    few = photos.take([0, 1])
    config = DetectorConfig(trunk="zf5", weights="imagenet", levels=(1, 2))
    given = [*proposals[:near], *[FAR] * (2 - near)]
    found, other = learn_boxes(few, given, EXTRACTOR, config, NullProgress(), held_out=np.array([0]))
    assert ("no proposal overlaps an object by half, so boxes are left" in caplog.text) == (near == 0)
    assert (found is other) == (near == 1)  # else nothing is left to learn the other from
    if near == 0:
        truth = few.truth(0)
        vectors = EXTRACTOR(few.photo(0), truth.boxes).take_pooled(np.arange(len(truth)))
        np.testing.assert_allclose(found.deltas(vectors, truth.labels), 0, atol=1e-6)


def test_proposals_that_miss_many_objects_are_refused(photos, monkeypatch):
    monkeypatch.setattr(box_regression, "FEW_OBJECTS", 5)
    config = DetectorConfig(trunk="zf5", weights="imagenet", levels=(1, 2))
    with pytest.raises(DataError, match="no proposal overlaps an object by half; propose more windows"):
        learn_boxes(photos, [FAR] * 6, EXTRACTOR, config, NullProgress())
