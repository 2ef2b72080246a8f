"""What a labelling session learns: after one photograph, of new classes, from refusals; twice the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from browser import until
from labelling import describe, make_photos, make_trunk, propose
from sppnet.boxes import box_iou, decode_boxes
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.detect.roi_features import RoIFeatures
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.ridge import fit_boxes
from sppnet.label.examples import Examples, LabelledWindows, iou_of_deltas
from sppnet.label.fitting import FitConfig, fit_classes, fit_regression
from sppnet.label.learner import Learner
from sppnet.label.model import LabelConfig, LabelModel, best_threshold, right_ones
from sppnet.label.suggesting import Candidates
from sppnet.structures import GroundTruth
from sppnet.svm.linear_svm import fit_svm


def candidates_of(path):
    photo = LazyImage(path, None)
    boxes = propose(photo).boxes
    return Candidates(photo, boxes, describe(photo, boxes), photo.size_hw)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    truths = make_photos(folder, 12, ("apple", "berry"))
    paths = sorted(folder.iterdir())
    return [candidates_of(path) for path in paths], truths


def apples(truth: GroundTruth) -> GroundTruth:
    return truth[truth.labels == 0]


def taught(candidates, truths, count, classes=("apple", "berry"), of=lambda truth: truth):
    model = LabelModel(describe)
    for index in range(count):
        model.evaluate(model.score(candidates[index]), of(truths[index]))
        model.learn(index, candidates[index], of(truths[index]), classes)
    return model


def test_suggestions_begin_after_one_photograph(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 1, ("apple",), apples)
    scored = model.score(candidates[1])
    best = scored.boxes[:1]
    assert box_iou(best, apples(truths[1]).boxes).max() > 0.5


def test_after_some_photographs_every_object_is_suggested_and_little_else(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 8)
    for index in range(8, 12):
        shown = model.shown(model.score(candidates[index]))
        assert right_ones(shown, truths[index]).sum() == 2
        assert len(shown.boxes) <= 3


def test_the_same_photographs_give_the_same_bits(scene):
    candidates, truths = scene
    first, second = taught(candidates, truths, 5), taught(candidates, truths, 5)
    assert torch.equal(first.svm.weight, second.svm.weight)
    assert torch.equal(first.regressor.weight, second.regressor.weight)
    assert np.array_equal(first.score(candidates[7]).boxes, second.score(candidates[7]).boxes)


def test_a_new_class_leaves_the_others_as_they_are_to_the_last_bit(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 4, ("apple",), apples)
    weight, bias = model.svm.weight.clone(), model.svm.bias.clone()
    model.learn(4, candidates[4], truths[4], ("apple", "berry"))
    assert torch.equal(model.svm.weight[:1], weight)
    assert torch.equal(model.svm.bias[:1], bias)
    assert torch.isfinite(model.svm.bias[1])
    scored = model.score(candidates[5])
    berries = scored.take(np.flatnonzero(scored.labels == 1))
    assert box_iou(berries.boxes[:1], truths[5].boxes[1:]).max() > 0.5
    model.learn(5, candidates[5], truths[5], ("apple", "berry"))
    assert not torch.equal(model.svm.weight[:1], weight)  # from the next photograph on all learn again


def test_vectors_of_fc_layers_need_not_be_as_long_as_what_is_pooled(scene):
    candidates, truths = scene

    def short(photo, boxes):
        made = describe(photo, boxes)
        return RoIFeatures(made.distinct, made.pooled[:, :3], made.roi_of_box)

    model = LabelModel(short)
    for index in range(4):
        made = replace(candidates[index], features=short(candidates[index].photo, candidates[index].boxes))
        model.learn(index, made, truths[index], ("apple", "berry"))
    made = replace(candidates[8], features=short(candidates[8].photo, candidates[8].boxes))
    assert right_ones(model.score(made), truths[8]).sum() == 2


def test_a_refused_box_scores_less_than_before(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 3, ("apple",), apples)
    wrong = truths[3].boxes[1:]  # a berry
    before = float(model.svm.scores(describe(candidates[3].photo, wrong).distinct)[0, 0])
    model.learn(3, candidates[3], apples(truths[3]), ("apple",), wrong)
    assert float(model.svm.scores(describe(candidates[3].photo, wrong).distinct)[0, 0]) < before


def test_a_photograph_without_objects_teaches_too_and_alone_teaches_nothing_wrong(scene):
    candidates, truths = scene
    model = LabelModel(describe)
    model.learn(0, candidates[0], GroundTruth.of([], []), ("apple",))
    assert not len(model.score(candidates[1]).boxes)
    model.learn(1, candidates[1], apples(truths[1]), ("apple",))
    assert len(model.score(candidates[2]).boxes)


def test_a_photograph_that_is_confirmed_again_is_learned_anew(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 3)
    model.learn(1, candidates[1], GroundTruth.of([], []), ("apple", "berry"))
    rows = np.flatnonzero(model.examples.photos[: model.examples.count] == 1)
    assert len(rows)
    assert not (model.examples.signs[rows] > 0).any()


def test_thresholds_weigh_refusals_against_drawing():
    scores = np.array([3.0, 2.0, 1.0, 0.5, 0.0], np.float32)
    assert best_threshold(scores, np.array([True, True, False, True, False]), 0.7) == pytest.approx(0.25)
    assert best_threshold(scores, np.array([True, True, False, False, True]), 0.7) == pytest.approx(1.5)
    assert best_threshold(scores, np.zeros(5, bool), 0.7) == 0


def test_each_object_is_found_once():
    truth = GroundTruth.of([(0, 0, 10, 10), (20, 0, 30, 10)], [0, 1])
    boxes = np.array([(0, 0, 10, 9), (0, 0, 10, 10), (20, 0, 30, 10)], np.float32)
    scored = ScoredBoxes(boxes, np.array([3, 2, 1], np.float32), np.array([0, 0, 0]))
    assert right_ones(scored, truth).tolist() == [True, False, False]


# --- against the plain definitions ----------------------------------------------------------------


def random_windows(rng, n, d, k):
    labels = rng.integers(-1, k, n)
    signs = np.where(labels[:, None] == np.arange(k), 1, -1).astype(np.int8)
    vectors = torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32))
    return LabelledWindows(vectors, signs, labels, rng.normal(size=(n, 4)) * 0.1)


def test_fits_are_those_of_the_package_s_own_solvers():
    rng, classes = np.random.default_rng(0), ("a", "b", "c")
    examples = Examples(30, 400)
    examples.add_classes(3)
    parts = [random_windows(rng, 60, 30, 3) for _ in range(4)]
    config, svm = FitConfig(tolerance=1e-5), None
    for number, part in enumerate(parts):
        examples.add(number, part)
        svm = fit_classes(examples, svm, classes, range(3), config)
    vectors = torch.cat([part.vectors for part in parts]) * examples.scale
    signs = np.concatenate([part.signs for part in parts])
    plain = fit_svm(vectors, signs, C=1e-3, class_weight=2, intercept_scaling=10, tolerance=1e-5)
    assert torch.allclose(svm.weight / examples.scale, plain.weight, atol=2e-3)
    labels, deltas = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "deltas")
    )
    own = labels >= 0
    squares = np.tile([0.0, 0, 10, 10], (own.sum(), 1))
    moved = np.hstack([squares[:, :2] + 10 * deltas[own, :2], 10 * np.exp(deltas[own, 2:])])
    targets = np.hstack([5 + moved[:, :2] - moved[:, 2:] / 2, 5 + moved[:, :2] + moved[:, 2:] / 2])
    ridge = fit_boxes(vectors[torch.from_numpy(own)], squares, targets, labels[own], classes)
    found, quality = fit_regression(examples, classes, config)
    assert torch.allclose(found.weight / examples.scale, ridge.weight, atol=1e-5)
    assert torch.allclose(found.bias, ridge.bias, atol=1e-4)
    for label in range(3):
        rows = np.pad(vectors[torch.from_numpy(labels == label)].numpy(), ((0, 0), (0, 1)), constant_values=1)
        iou = iou_of_deltas(deltas[labels == label])
        weight = np.linalg.solve(rows.T @ rows + 1000 * np.eye(31), rows.T @ (iou - iou.mean()))
        expected = rows @ weight + iou.mean()
        of_class = np.full(len(rows), label)
        assert quality(torch.from_numpy(rows[:, :-1] / examples.scale), of_class) == pytest.approx(
            expected, abs=1e-4
        )


def test_the_iou_that_deltas_lead_to_is_that_of_the_boxes():
    rng = np.random.default_rng(2)
    corners, sides = rng.uniform(0, 90, (50, 2)), rng.uniform(5, 60, (50, 2))
    boxes = np.hstack([corners, corners + sides])
    deltas = rng.normal(size=(50, 4)) * 0.5
    there = box_iou(boxes.astype(np.float32), decode_boxes(boxes, deltas).astype(np.float32))
    assert iou_of_deltas(deltas) == pytest.approx(np.diag(there), abs=1e-5)


def test_of_two_boxes_the_tight_one_is_the_surer(scene):
    candidates, truths = scene
    model = taught(candidates, truths, 6, ("apple",), apples)
    tight = apples(truths[8]).boxes
    loose = tight + np.array([[-6, -6, 6, 6]], np.float32)
    of_both = np.zeros(2, np.int64)
    features = describe(candidates[8].photo, np.concatenate([tight, loose]))
    first, second = model.quality(features.pooled, of_both)
    assert first > second


@pytest.mark.parametrize("limit", [70, 120])
def test_the_store_stays_bounded_and_its_gram_matrix_true(limit):
    rng = np.random.default_rng(1)
    examples = Examples(8, limit)
    examples.add_classes(2)
    for number in range(8):
        examples.add(number, random_windows(rng, 30, 8, 2))
        fit_classes(examples, None, ("a", "b"), range(2), FitConfig())
    assert 30 <= len(examples) <= limit
    vectors = examples.vectors[: len(examples)]
    assert np.allclose(examples.gram_of(slice(0, len(examples))), vectors @ vectors.T, rtol=1e-4, atol=1e-2)
    assert (examples.photos[: examples.count] == 7).sum() == 30  # what is new stays


# --- the threads ----------------------------------------------------------------------------------


def test_the_threads_learn_from_a_confirmed_photograph_and_suggest_for_the_next(tmp_path):
    truths = make_photos(tmp_path, 6)
    learner = Learner(sorted(tmp_path.iterdir()), make_trunk(), LabelConfig())
    learner.start()
    try:
        learner.want([0, 1, 2])
        until(lambda: learner.is_ready(1))
        assert learner.suggestions(1) is None
        learner.confirm(0, truths[0], ("apple",))
        until(lambda: learner.suggestions(1) is not None)
        assert learner.suggestions(1).version == 1
        assert learner.waiting == 0
    finally:
        learner.close()


def test_a_photograph_that_cannot_be_read_is_told_and_the_others_go_on(tmp_path):
    truths = make_photos(tmp_path, 3)
    paths = sorted(tmp_path.iterdir())
    paths[0].write_bytes(b"no image")
    learner = Learner(paths, make_trunk())
    learner.start()
    try:
        learner.want([0, 1, 2])
        learner.confirm(0, truths[0], ("apple",))
        learner.confirm(1, truths[1], ("apple",))
        until(lambda: learner.suggestions(2) is not None)
        assert "photo000.png" in learner.problems[0]
    finally:
        learner.close()


def test_a_session_that_is_opened_again_suggests_at_once(scene):
    """Nothing was judged then."""
    candidates, truths = scene
    model = LabelModel(describe)
    for index in range(4):
        model.learn(index, candidates[index], truths[index], ("apple", "berry"))
    assert len(model.shown(model.score(candidates[5])).boxes) > 0
