"""Shares of images labelled right, against scikit-learn and by hand."""

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from sppnet.errors import DataError
from sppnet.metrics.classification import ClassificationResult, evaluate_scores


def names(k):
    return [f"class {i}" for i in range(k)]


@pytest.mark.parametrize(
    ("n", "k"),
    [
        pytest.param(200, 12, id="many images"),
        pytest.param(9, 30, id="fewer images than classes"),
        pytest.param(50, 6, id="one class beyond five"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_equal_those_of_scikit_learn(n, k, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(k, size=n), rng.normal(size=(n, k))
    result = evaluate_scores(torch.from_numpy(scores), torch.from_numpy(labels), names(k))
    guesses, everything = scores.argmax(axis=1), np.arange(k)
    assert result.images == n
    assert result.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, guesses))
    top5 = sklearn_metrics.top_k_accuracy_score(labels, scores, k=5, labels=everything)
    assert result.top5 == pytest.approx(top5)
    confusion = sklearn_metrics.confusion_matrix(labels, guesses, labels=everything)
    np.testing.assert_array_equal(result.confusion, confusion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that were guessed but have no images
        balanced = sklearn_metrics.balanced_accuracy_score(labels, guesses)
    assert result.mean_per_class == pytest.approx(balanced)


def test_json_has_these_keys_and_fractions():
    scores = [[0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1]]
    result = evaluate_scores(np.array(scores), [0, 0, 1, 1], ["cat", "dog", "ant"], skipped=["a/b.jpg"])
    written = {
        "top1": 0.5,
        "top5": 1.0,
        "mean_per_class": 0.5,
        "images": 4,
        "found": 5,
        "skipped": ["a/b.jpg"],
        "per_class": {"cat": 0.5, "dog": 0.5, "ant": None},
    }
    assert json.loads(json.dumps(result.to_json())) == written


@pytest.mark.parametrize(
    ("scores", "label", "top1", "top5"),
    [
        pytest.param([1, 1, 0, 0, 0, 0], 0, 1, 1, id="the first of two equals is first"),
        pytest.param([1, 1, 0, 0, 0, 0], 1, 0, 1, id="the second is not"),
        pytest.param([0, 0, 0, 0, 0, 0], 4, 0, 1, id="the fifth of six equals is among five"),
        pytest.param([0, 0, 0, 0, 0, 0], 5, 0, 0, id="the sixth is not"),
        pytest.param([-np.inf, -np.inf, 1, np.inf, 0, 2], 1, 0, 0, id="infinities are compared"),
    ],
)
def test_of_equal_scores_the_lower_class_comes_first(scores, label, top1, top5):
    result = evaluate_scores(np.array([scores], dtype=np.float32), [label], names(6))
    assert (result.top1, result.top5) == (top1, top5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_of_five_classes_or_fewer_all_are_among_five(k):
    result = evaluate_scores(np.zeros((3, k)), np.full(3, k - 1), names(k))
    assert result.top5 == 1


def test_classes_without_images_do_not_weigh():
    result = evaluate_scores(np.eye(4)[[0, 0, 1, 2]], [0, 0, 0, 2], names(4))
    assert result.per_class == {"class 0": 2 / 3, "class 1": None, "class 2": 1.0, "class 3": None}
    assert result.mean_per_class == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        pytest.param(np.zeros((0, 2)), np.zeros(0, int), "no images to judge", id="no images"),
        pytest.param(np.array([[0, np.nan]]), [0], "scores of 1 images are NaN", id="NaN"),
        pytest.param(np.zeros((1, 2)), [2], r"integers 0\.\.1; got 2\.\.2", id="label too large"),
        pytest.param(np.zeros((1, 2)), [-1], r"integers 0\.\.1; got -1", id="label below 0"),
        pytest.param(np.zeros((1, 2)), [0.5], "must be integers", id="label a fraction"),
        pytest.param(np.zeros((1, 3)), [0], r"must be \(n, 2\)", id="scores of other classes"),
        pytest.param(np.zeros((2, 2)), [0], r"got \(2, 2\) and \(1,\)", id="labels missing"),
    ],
)
def test_what_cannot_be_judged_is_refused(scores, labels, message):
    with pytest.raises(DataError, match=message):
        evaluate_scores(scores, labels, names(2))


def test_a_result_that_cannot_be_is_refused():
    with pytest.raises(DataError, match=r"need a confusion matrix \(3, 3\)"):
        ClassificationResult(("a", "b", "c"), np.ones((2, 2), np.int64), 4)
    with pytest.raises(DataError, match="cannot be among the first five"):
        ClassificationResult(("a", "b"), np.ones((2, 2), np.int64), 1)
