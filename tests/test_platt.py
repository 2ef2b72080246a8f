"""Probabilities of scores and the threshold of the best F1, against scikit-learn and known answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sppnet.svm.platt import PRIOR_STRENGTH, PlattScaling, best_f1_score, fit_platt


def drawn(n, slope, offset, seed=0):
    """Scores, and whether each is right with a probability of 1 / (1 + exp(−(slope · score + offset)))."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.8, 0.3, n)
    return scores, rng.random(n) < 1 / (1 + np.exp(-(slope * scores + offset)))


@pytest.mark.parametrize(("n", "slope", "offset"), [(500, 8.0, 6.0), (50, 4.0, 2.0), (5000, 20.0, 12.0)])
def test_the_fit_is_that_of_logistic_regression(n, slope, offset):
    scores, right = drawn(n, slope, offset)
    prior = PlattScaling(0.0, 1.0, 0.0, 0.0)
    # scikit-learn leaves the intercept free unless it is a column like any other.
    columns = np.stack([scores, np.ones(n)], axis=1)
    theirs = LogisticRegression(C=1 / PRIOR_STRENGTH, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(columns, right)
    ours = fit_platt(scores, right, prior)
    np.testing.assert_allclose([ours.slope, ours.intercept], theirs.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(ours(scores), theirs.predict_proba(columns)[:, 1], rtol=1e-4)


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        pytest.param([], [], id="no scores"),
        pytest.param([0.5, 0.5], [True, False], id="all alike"),
        pytest.param([3.0, 2.0, -1.0, -2.0], [True, True, False, False], id="sides apart"),
        pytest.param([1.0, 2.0], [True, True], id="all right"),
        pytest.param([1e6, -1e6], [True, False], id="far apart"),
    ],
)
def test_odd_scores_have_probabilities(scores, right):
    found = fit_platt(np.array(scores), np.array(right, bool))
    assert found.slope > 0
    assert np.isfinite([found.mean, found.deviation, found.slope, found.intercept]).all()
    assert ((found(np.array(scores)) >= 0) & (found(np.array(scores)) <= 1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_least_error_where_newtons_step_overshoots(seed):
    """Few of many scores are right, all in a long tail, as with detections of few objects."""
    rng = np.random.default_rng(seed)
    scores = rng.gamma(0.7, 0.6, 4800) - 1.5
    right = rng.random(4800) < 1 / (1 + np.exp(-4 * (scores - 0.5)))
    found, start = fit_platt(scores, right), PlattScaling()
    columns = np.stack([(scores - found.mean) / found.deviation, np.ones(4800)])
    away = np.array([found.slope - start.slope, found.intercept - start.intercept])
    gradient = columns @ (found(scores) - right) + PRIOR_STRENGTH * away
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    assert found(scores).sum() == pytest.approx(right.sum(), rel=0.02)


def test_a_falling_fit_gives_way_to_the_prior():
    prior = PlattScaling(0.0, 1.0, 2.0, -1.0)
    assert fit_platt(np.array([3.0, 2.0, -2.0, -3.0]), np.array([False, False, True, True]), prior) is prior


def test_few_scores_stay_near_the_prior():
    prior = PlattScaling(0.0, 1.0, 5.0, -1.0)
    near = fit_platt(np.array([0.1]), np.array([True]), prior)
    assert abs(near.slope - 5.0) < 1
    assert abs(near.intercept + 1.0) < 4
    assert near.intercept > prior.intercept  # one more that is right


def test_the_threshold_is_where_expected_f1_is_best():
    platt = PlattScaling(0.0, 1.0, 4.0, 0.0)
    scores = np.linspace(2, -2, 41)
    probabilities = 1 / (1 + np.exp(-4 * scores))
    objects = 12
    f1 = [2 * probabilities[: k + 1].sum() / (k + 1 + objects) for k in range(41)]
    best = int(np.argmax(f1))
    assert 0 < best < 40
    assert best_f1_score(scores, platt, objects) == pytest.approx(scores[best : best + 2].mean())


def test_one_score_is_its_own_threshold():
    assert best_f1_score(np.array([-0.7]), PlattScaling(), 1) == pytest.approx(-0.7)


def test_on_unseen_scores_the_threshold_is_within_three_points_of_the_best():
    def f1_from(threshold, scores, right, objects):
        shown = scores >= threshold
        return 2 * right[shown].sum() / (shown.sum() + objects)

    for seed in range(5):
        scores, right = drawn(300, 9.0, 7.0, seed)
        order = np.argsort(-scores)
        threshold = best_f1_score(scores[order], fit_platt(scores, right), round(1.5 * right.sum()))
        unseen, is_right = drawn(5000, 9.0, 7.0, seed + 100)
        objects = round(1.5 * is_right.sum())
        best = max(f1_from(one, unseen, is_right, objects) for one in np.linspace(-2, 1, 301))
        assert f1_from(threshold, unseen, is_right, objects) > best - 0.03
