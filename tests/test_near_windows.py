"""Box refinement of a labelling session, from windows about confirmed objects."""

import numpy as np
import pytest
import torch

from labelling import make_photos
from sppnet.boxes import box_iou
from sppnet.detect.box_refinement import draw_windows
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.label import near_windows
from sppnet.label.fitting import FitConfig
from sppnet.label.near_windows import NearWindows
from sppnet.nn.trunks import load_trunk


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Their maps, and their objects."""
    folder = tmp_path_factory.mktemp("photos")
    truths = make_photos(folder, 14, ("apple", "berry"))
    torch.manual_seed(0)
    extractor = FeatureExtractor(load_trunk("zf5", width=0.1).eval(), (256, 160))
    return [
        (LazyImage(path, extractor).maps, truth)
        for path, truth in zip(sorted(folder.iterdir()), truths, strict=True)
    ]


def overlaps(boxes, targets):
    return np.array([box_iou(a[None], b[None])[0, 0] for a, b in zip(boxes, targets, strict=True)])


def learned(photos, which, config=None):
    near = NearWindows(config)
    for index in which:
        near.learn(index, *photos[index])
    return near


def test_windows_are_brought_nearer_to_objects_of_other_photographs(photos):
    refiner = learned(photos, range(10), FitConfig(ridge_alpha=100)).refiner
    before, after = [], []
    for index in range(10, 14):
        maps, truth = photos[index]
        targets = np.repeat(truth.boxes, 30, axis=0)
        boxes = draw_windows(targets, maps.size_hw, np.random.default_rng(index))
        before.append(overlaps(boxes, targets))
        after.append(overlaps(refiner(maps, boxes), targets))
    assert np.concatenate(after).mean() > np.concatenate(before).mean() + 0.02


def test_a_photograph_that_is_confirmed_again_is_learned_anew(photos):
    maps, truth = photos[1]
    near = learned(photos, [0, 1, 2])
    near.learn(1, maps, truth[:1])
    once = NearWindows()
    for index, objects in ((0, photos[0][1]), (2, photos[2][1]), (1, truth[:1])):
        once.learn(index, photos[index][0], objects)
    assert len(near.examples) == len(once.examples)
    torch.testing.assert_close(
        near.refiner.regressor.weight, once.refiner.regressor.weight, rtol=1e-4, atol=1e-8
    )


def test_without_objects_boxes_stay(photos):
    near = NearWindows()
    near.learn(0, photos[0][0], photos[0][1][:0])
    assert near.refiner is None
    near.learn(0, *photos[0])
    assert near.refiner is not None
    near.learn(0, photos[0][0], photos[0][1][:0])
    assert near.refiner is None


def test_the_oldest_windows_leave(photos, monkeypatch):
    monkeypatch.setattr(near_windows, "MAX_WINDOWS", 60)
    near = learned(photos, range(6))
    kept = near.examples.photos[: len(near.examples)]
    assert len(kept) <= 60
    assert 0 not in kept
    assert 5 in kept
