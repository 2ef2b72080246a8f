"""Rescoring of known classes, and what is learned on standardised vectors put back to plain ones."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sppnet.errors import DataError
from sppnet.heads.rescoring import Rescoring, fit_rescoring
from sppnet.heads.ridge import BoxRegressor
from sppnet.heads.standardisation import Standardisation
from sppnet.svm.linear_svm import LinearSVM


def problem(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    vectors, own = rng.normal(0, 5, (n, d)), rng.normal(-3, 2, n)
    logits = 0.2 * vectors[:, 0] + 0.8 * own + 2
    right = rng.random(n) < 1 / (1 + np.exp(-logits))
    return torch.from_numpy(vectors).float(), torch.from_numpy(own).float(), right


def test_the_fit_is_that_of_scikit_learn():
    # There all weights are drawn to zero alike; a column made long enough is hardly drawn at all.
    vectors, own, right = problem()
    C, long = 1e-2, 1e4
    rows = np.column_stack([vectors.numpy(), long * own.numpy()]).astype(np.float64)
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(rows, right)
    fitted = fit_rescoring(vectors, own, right, C=C)
    assert fitted.weight.numpy() == pytest.approx(reference.coef_[0, :-1], abs=1e-3)
    assert fitted.slope == pytest.approx(reference.coef_[0, -1] * long, abs=1e-2)
    assert fitted.bias == pytest.approx(reference.intercept_[0], abs=2e-2)


def test_little_weight_of_errors_leaves_the_order_of_the_network():
    vectors, own, right = problem()
    fitted = fit_rescoring(vectors, own, right, C=1e-9)
    assert fitted.weight.abs().max() < 1e-4
    assert torch.equal(fitted(vectors, own).argsort(), own.argsort())


def test_a_fit_begun_elsewhere_ends_at_the_same_place():
    vectors, own, right = problem()
    first = fit_rescoring(vectors, own, right)
    other = fit_rescoring(vectors, own, right, start=Rescoring(torch.full((6,), 0.1), 2.0, -1.0))
    assert other.weight == pytest.approx(first.weight, abs=1e-3)
    assert (other.slope, other.bias) == pytest.approx((first.slope, first.bias), abs=1e-2)


@pytest.mark.parametrize("right", [np.zeros(5, bool), np.ones(5, bool), np.zeros(0, bool)])
def test_without_both_sides_the_score_stays(right):
    fitted = fit_rescoring(torch.randn(len(right), 3), torch.randn(len(right)), right)
    assert (fitted.weight.abs().sum(), fitted.slope, fitted.bias) == (0, 1, 0)


def test_separable_boxes_do_not_send_the_fit_away():
    own = torch.tensor([-3.0, -2, -1, 1, 2, 3])
    fitted = fit_rescoring(torch.zeros(6, 2), own, own.numpy() > 0)
    assert np.isfinite([fitted.slope, fitted.bias]).all()
    assert fitted.slope > 0


def test_vectors_that_are_not_finite_are_refused():
    vectors, own, right = problem()
    vectors[3, 2] = torch.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        fit_rescoring(vectors, own, right)


def test_what_is_learned_on_standardised_vectors_works_on_plain_ones():
    torch.manual_seed(0)
    vectors = torch.randn(50, 7) * torch.tensor([1, 10, 0.1, 5, 1, 2, 3]) + torch.arange(7)
    standard = Standardisation.of(vectors, (3, 4))
    plain = standard(vectors)
    assert plain.mean(0) == pytest.approx(torch.zeros(7), abs=1e-5)
    first, second = (float(part.square().sum(1).mean()) for part in plain.split((3, 4), dim=1))
    assert first == pytest.approx(second, rel=0.05)
    svm = LinearSVM(torch.randn(2, 7), torch.randn(2), ("a", "b"))
    assert standard.unfold_svm(svm).scores(vectors) == pytest.approx(svm.scores(plain), abs=1e-4)
    regressor = BoxRegressor(torch.randn(2, 4, 7), torch.randn(2, 4), ("a", "b"))
    labels = np.arange(50) % 2
    deltas = standard.unfold_regressor(regressor).deltas(vectors, labels)
    assert deltas == pytest.approx(regressor.deltas(plain, labels), abs=1e-4)


def test_a_number_that_never_varies_is_not_blown_up():
    standard = Standardisation.of(torch.ones(10, 2), (2,))
    assert standard(torch.ones(1, 2)).abs().max() == 0
    assert standard.factor.max() <= 1001
