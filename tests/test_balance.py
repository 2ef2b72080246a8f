"""Where a score of 0 lies after training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sppnet.benchmark.detect import random_detector
from sppnet.data.annotated import open_annotated
from sppnet.demo import generate_scenes
from sppnet.detect.balance import balance_scores, best_score, choose_photographs
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.examples import TrainingPhotos
from sppnet.features.cache import MapCache
from sppnet.learn.ridge import BoxRegressor
from sppnet.learn.svm import LinearSVM
from sppnet.metrics.detection import Curve
from sppnet.progress import Silent
from sppnet.structures import GroundTruth


@pytest.mark.parametrize(
    ("right", "objects", "expected"),
    [
        pytest.param([1, 1, 0, 0], 2, -0.2, id="all found before the first wrong one"),
        pytest.param([0, 1, 1, 0], 2, -0.3, id="two right after one wrong"),
        pytest.param([1, 0, 0, 1], 9, -0.4, id="each right one counts where many are missed"),
        pytest.param([0, 0, 0, 0], 2, 0.0, id="none right"),
        pytest.param([], 2, 0.0, id="none found"),
    ],
)
def test_the_best_score_is_where_f1_is_highest(right, objects, expected):
    rights = np.cumsum(right)
    scores = -0.1 * np.arange(1, len(right) + 1)
    curve = Curve(rights / objects, rights / np.arange(1, len(right) + 1), scores)
    f1 = [2 * rights[i] / (i + 1 + objects) for i in range(len(right))]
    assert best_score(curve) == pytest.approx(expected)
    assert expected == 0 or f1.index(max(f1)) == round(-10 * expected) - 1


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, "train", 4, seed=0, size_hw=(180, 240))
    return open_annotated(root, "train")


def test_careful_classes_are_raised_and_nothing_else_changes(scenes, tmp_path):
    detector = random_detector(
        DetectorConfig(trunk="zf5", width=0.0625, scales=(128,), levels=(1, 2), hidden=8, most=60), seed=1
    )
    classes = scenes.classes
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(len(classes), 8, generator=generator)
    careful = LinearSVM(weight, torch.full((len(classes),), -1.0), classes)
    length = detector.parts.regressor.weight.shape[2]
    still = BoxRegressor(torch.zeros(len(classes), 4, length), torch.zeros(len(classes), 4), classes)
    detector = Detector(replace(detector.parts, classes=classes, svm=careful, regressor=still))
    photos = TrainingPhotos(scenes, detector.convolver, MapCache("x", tmp_path))
    # Proposals near the objects, so that some are right.
    proposals = [photos.truth(index).boxes + np.float32(1) for index in range(len(photos))]
    raised = balance_scores(detector, photos, proposals, detector.vectoriser, Silent())
    assert torch.equal(raised.weight, careful.weight)
    assert (raised.bias >= careful.bias).all()
    assert (raised.bias > careful.bias).any()


def test_images_without_objects_are_not_asked(scenes, tmp_path):
    empty = GroundTruth(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    )
    truths = (empty, *scenes.truths[1:3], empty)
    photos = TrainingPhotos(replace(scenes, truths=truths), None, None)
    assert choose_photographs(photos) == [1, 2]
    assert choose_photographs(TrainingPhotos(replace(scenes, truths=(empty,) * 4), None, None)) == []
