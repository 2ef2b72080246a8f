"""Thresholds after training: chosen on photographs that were not trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sppnet.benchmark.detect import random_detector
from sppnet.data.detection_dataset import open_annotated
from sppnet.demo import generate_scenes
from sppnet.detect import cross_validation
from sppnet.detect.calibration import choose_thresholds, fit_classes, thresholds_of
from sppnet.detect.config import DetectorConfig
from sppnet.detect.cross_validation import Fold, count_svm_folds, layer_folds, svm_folds
from sppnet.detect.detector import Detector
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.features.cache import MapCache
from sppnet.heads.ridge import BoxRegressor
from sppnet.metrics.detection import Curve, evaluate_detections
from sppnet.progress import NullProgress
from sppnet.svm.cross_validation import deal_folds
from sppnet.svm.linear_svm import LinearSVM
from sppnet.svm.mining import MinedSVMs


def curve_of(scores, right, objects):
    order = np.argsort(-scores)
    so_far = np.cumsum(right[order])
    return Curve(so_far / objects, so_far / np.arange(1, len(order) + 1), scores[order])


def drawn(n, middle, seed):
    """Scores around −0.8, and which are right: more of those above `middle`."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.8, 0.15, n)
    return scores, rng.random(n) < 1 / (1 + np.exp(-25 * (scores - middle)))


def best_counted(scores, right, objects):
    return max(
        (2 * right[scores >= one].sum() / ((scores >= one).sum() + objects), one) for one in np.unique(scores)
    )


def test_every_class_has_the_threshold_of_its_own_best_f1():
    middles, objects = (-0.5, -0.9), (60, 500)
    drawings = [drawn(900, middle, seed) for seed, middle in enumerate(middles)]
    curves = [curve_of(*one, count) for one, count in zip(drawings, objects, strict=True)]
    thresholds = thresholds_of(curves, fit_classes(curves), np.array(objects))
    for (scores, right), count, threshold in zip(drawings, objects, thresholds, strict=True):
        best, _ = best_counted(scores, right, count)
        shown = scores >= threshold
        assert 2 * right[shown].sum() / (shown.sum() + count) > best - 0.03
    assert thresholds[0] > thresholds[1] + 0.1


@pytest.mark.parametrize("lacking", ["detections", "objects"])
def test_a_class_without_anything_to_judge_has_the_threshold_of_all(lacking):
    scores, right = drawn(500, -0.6, 0)
    empty = Curve(np.zeros(0), np.zeros(0), np.zeros(0))
    other = empty if lacking == "detections" else curve_of(scores, np.zeros(500, bool), 1)
    objects = np.array([100, 3 if lacking == "detections" else 0])
    curves = [curve_of(scores, right, 100), other]
    alone, other_threshold = thresholds_of(curves, fit_classes(curves), objects)
    assert abs(alone - best_counted(scores, right, 100)[1]) < 0.1
    assert scores.min() <= other_threshold <= scores.max()


def test_without_detections_nothing_moves():
    empty = Curve(np.zeros(0), np.zeros(0), np.zeros(0))
    curves = [empty, empty]
    assert thresholds_of(curves, fit_classes(curves), np.array([2, 0])).tolist() == [0, 0]


def test_probabilities_are_of_scores_less_the_thresholds():
    middles, objects = (-0.5, -0.9), np.array([60, 500])
    drawings = [drawn(900, middle, seed) for seed, middle in enumerate(middles)]
    curves = [curve_of(*one, count) for one, count in zip(drawings, objects, strict=True)]
    scalings = fit_classes(curves)
    thresholds = thresholds_of(curves, scalings, objects)
    odds = ScoreProbabilities.of(scalings.each, thresholds)
    for label, middle in enumerate(middles):
        others, right = drawn(20_000, middle, 10 + label)  # never seen, of the same distribution
        given = odds((others - thresholds[label]).astype(np.float32), np.full(len(others), label))
        for low in (0.2, 0.4, 0.6):
            near = (given >= low) & (given < low + 0.2)
            assert abs(right[near].mean() - given[near].mean()) < 0.08


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, "train", 6, seed=0, size_hw=(180, 240))
    return open_annotated(root, "train")


@pytest.fixture
def trained(scenes, tmp_path):
    """A detector with SVMs of chance whose boxes stay where they are, its photographs and proposals."""
    config = DetectorConfig(
        trunk="zf5",
        width=0.0625,
        scales=(128,),
        levels=(1, 2),
        hidden=8,
        max_proposals=60,
        steps=8,
        rounds=1,
        finetune="fc",
    )
    detector = random_detector(config, seed=1)
    count, length = len(scenes.classes), detector.parts.regressor.weight.shape[2]
    weight = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    parts = replace(
        detector.parts,
        classes=scenes.classes,
        svm=LinearSVM(weight, torch.full((count,), -1.0), scenes.classes),
        regressor=BoxRegressor(torch.zeros(count, 4, length), torch.zeros(count, 4), scenes.classes),
    )
    photos = TrainingImages(scenes, detector.extractor, MapCache("x", tmp_path))
    rng = np.random.default_rng(0)
    proposals = [
        np.concatenate(
            [truth.boxes + np.float32(1), truth.boxes + rng.uniform(40, 90, (1, 4)).astype(np.float32)]
        )
        for truth in scenes.truths
    ]
    return parts, photos, proposals


def f1_from_zero(detector, photos, proposals):
    found = []
    for index in range(len(photos)):
        photo, boxes = photos.photo(index), proposals[index]
        vectors = detector.roi_extractor(photo, boxes)
        scored = detector.score_and_refine(boxes, vectors, photo.size_hw, -100)
        found.append(detector.postprocess(photo, [scored]))
    return evaluate_detections(found, photos.images.truths, photos.classes).f1()


def test_thresholds_come_from_the_photographs_of_the_folds(trained):
    parts, photos, proposals = trained
    parts = replace(parts, svm=replace(parts.svm, bias=parts.svm.bias + 20))  # all above the least score
    detector = Detector(parts)
    fold = Fold(detector, detector.roi_extractor, np.arange(len(photos)))
    found = choose_thresholds([fold], photos, proposals, NullProgress())
    thresholds = found.thresholds
    shifted = Detector(
        replace(parts, svm=replace(parts.svm, bias=parts.svm.bias - torch.tensor(thresholds).float()))
    )
    judged = f1_from_zero(shifted, photos, proposals)
    assert found.f1 == pytest.approx({name: value for name, value in judged.items() if value is not None})
    assert max(found.f1.values()) > 0
    assert thresholds.shape == (len(photos.classes),)
    raised = Detector(replace(parts, svm=replace(parts.svm, bias=parts.svm.bias + 5)))
    moved = choose_thresholds(
        [Fold(raised, raised.roi_extractor, np.arange(len(photos)))], photos, proposals, NullProgress()
    ).thresholds
    np.testing.assert_allclose(moved, thresholds + 5, atol=1e-3)


def test_folds_of_svms_hold_what_each_has_not_seen(trained):
    parts, photos, _ = trained
    fold_of = deal_folds(len(photos), 3, seed=0)
    svms = tuple(replace(parts.svm, bias=parts.svm.bias + fold) for fold in range(3))
    roi_extractor = Detector(parts).roi_extractor
    folds = svm_folds(parts, MinedSVMs(parts.svm, svms, fold_of), roi_extractor, photos)
    assert [fold.detector.parts.svm for fold in folds] == list(svms)
    assert [fold.photos.tolist() for fold in folds] == [
        np.flatnonzero(fold_of == one).tolist() for one in range(3)
    ]
    assert svm_folds(parts, MinedSVMs(parts.svm), roi_extractor, photos) == []


def test_folds_of_layers_learn_without_their_photographs(trained, monkeypatch):
    parts, photos, proposals = trained
    seen = []

    def watched(windows, *rest):
        seen.append({path.name for path in windows.photos.images.paths})
        return learn(windows, *rest)

    learn = cross_validation.finetune_layers
    monkeypatch.setattr(cross_validation, "finetune_layers", watched)
    # Every class must be in what a fold leaves over, so that it can be learned.
    photos = replace(photos, images=photos.images.take([*range(6)] * 2))
    folds = layer_folds(parts, photos, proposals * 2, NullProgress())
    assert folds
    for fold, others in zip(folds, seen, strict=True):
        assert len(others | {photos.images.paths[index].name for index in fold.photos}) == 6
        assert len(fold.photos) == 4
        assert not torch.equal(fold.detector.parts.head.fc6.weight, parts.head.fc6.weight)


@pytest.mark.parametrize(
    ("photos", "folds"), [(1, 1), (3, 3), (94, 5), (640, 5), (935, 7)], ids=lambda value: f"{value}"
)
def test_many_photographs_are_dealt_to_folds_of_about_128(photos, folds):
    assert count_svm_folds(photos) == folds
