"""SVMs against scikit-learn's LinearSVC, run to a tight tolerance in float64."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from recording_progress import RecordingProgress
from sppnet.errors import ConfigError, DataError
from sppnet.svm import gram as gram_module
from sppnet.svm.cross_validation import choose_C
from sppnet.svm.gram import gram_matrix
from sppnet.svm.linear_svm import LinearSVM, fit_svm

TALL, WIDE = (240, 12), (60, 400)
SIZES = [pytest.param(TALL, id="more vectors than dimensions"), pytest.param(WIDE, id="fewer")]
LOSSES = ["squared_hinge", "hinge"]


def blobs(size, k=3, seed=0, apart=1.5):
    """Gaussians around k corners: (n, d) float32 and labels, all of which occur."""
    rng = np.random.default_rng(seed)
    n, d = size
    labels = rng.permutation(np.arange(n) % k)
    return (rng.normal(size=size) + apart * np.eye(k, d)[labels]).astype(np.float32), labels


def signs_of(labels, k=3):
    return np.where(labels[:, None] == np.arange(k), 1, -1)


def objectives(weight, bias, vectors, signs, C, loss, class_weight, intercept_scaling):
    """(k,) by the definition, in float64."""
    weight, bias, vectors = (np.asarray(a, dtype=np.float64) for a in (weight, bias, vectors))
    short = np.maximum(1 - signs * (vectors @ weight.T + bias), 0)
    losses = short if loss == "hinge" else short**2
    costs = C * np.where(signs > 0, class_weight, 1.0)
    lengths = (weight**2).sum(axis=1) + ((bias / intercept_scaling) ** 2 if intercept_scaling else 0)
    return 0.5 * lengths + (costs * losses).sum(axis=0)


def reference(vectors, signs, C, loss, class_weight, intercept_scaling):
    """scikit-learn's weights and biases, a class at a time."""
    weights, biases = [], []
    for sign in signs.T:
        svm = LinearSVC(
            C=C, loss=loss, class_weight={1: class_weight}, intercept_scaling=intercept_scaling, dual=True,
            tol=1e-6, max_iter=200_000, random_state=0,
        )  # fmt: skip
        svm.fit(vectors.astype(np.float64), sign)
        weights.append(svm.coef_[0])
        biases.append(svm.intercept_[0])
    return np.array(weights), np.array(biases)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("C", "class_weight", "intercept_scaling"),
    [
        pytest.param(1.0, 1.0, 1.0, id="as by default"),
        pytest.param(
            0.01, 2.0, 10.0, id="as in the released detector: small C, weighty positives, large bias"
        ),
        pytest.param(3.0, 0.3, 0.1, id="large C, light positives, small bias"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_objective_equals_that_of_scikit_learn(size, loss, C, class_weight, intercept_scaling, seed):
    vectors, labels = blobs(size, seed=seed)
    options = {"C": C, "loss": loss, "class_weight": class_weight, "intercept_scaling": intercept_scaling}
    svm = fit_svm(vectors, labels, **options, seed=seed, max_iter=10_000)
    best = objectives(*reference(vectors, signs_of(labels), **options), vectors, signs_of(labels), **options)
    ours = objectives(svm.weight, svm.bias, vectors, signs_of(labels), **options)
    np.testing.assert_allclose(ours, best, rtol=1e-3)
    np.testing.assert_allclose(svm.fit.objective, ours, rtol=1e-4)
    assert (svm.fit.gap <= 1e-3).all()
    assert (ours <= best / (1 - svm.fit.gap) * (1 + 1e-4)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_tight_tolerance_gives_the_weights_of_scikit_learn(size, loss):
    vectors, labels = blobs(size)
    options = {"C": 0.1, "loss": loss, "class_weight": 2.0, "intercept_scaling": 1.0}
    svm = fit_svm(vectors, labels, **options, tolerance=1e-8, max_iter=100_000)
    weight, bias = reference(vectors, signs_of(labels), **options)
    np.testing.assert_allclose(svm.weight, weight, atol=2e-4)
    np.testing.assert_allclose(svm.bias, bias, atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
def test_separable_classes_are_decided_as_by_scikit_learn(size):
    vectors, labels = blobs(size, k=5, apart=12.0)
    svm = fit_svm(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert svm.scores(vectors).argmax(dim=1).tolist() == labels.tolist()
    weight, bias = reference(vectors, signs_of(labels, 5), 1.0, "squared_hinge", 1.0, 1.0)
    np.testing.assert_array_equal(svm.scores(vectors) > 0, vectors @ weight.T + bias > 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loss", LOSSES)
def test_vectors_and_gram_matrix_give_the_same(size, loss, monkeypatch):
    vectors, labels = blobs(size)
    options = {"C": 0.2, "loss": loss, "tolerance": 1e-7, "max_iter": 100_000}
    by_gram = fit_svm(vectors, labels, **options, gram=gram_matrix(vectors))
    monkeypatch.setattr(gram_module, "GRAM_ROWS", 0)
    by_rows = fit_svm(vectors, labels, **options)
    torch.testing.assert_close(by_rows.weight, by_gram.weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(by_rows.bias, by_gram.bias, atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_does_not_see_the_others(loss):
    vectors, labels = blobs((203, 40), k=5, apart=1.0)
    options = {"loss": loss, "C": 0.3, "tolerance": 1e-5, "max_iter": 10_000}
    signs = signs_of(labels, 5)
    signs[::7, 2] = 0
    together = fit_svm(vectors, signs, **options)
    alone = fit_svm(vectors, signs[:, 2:3], **options)
    assert torch.equal(together.weight[2], alone.weight[0])
    assert together.fit.sweeps[2] == alone.fit.sweeps[0]
    assert (together.fit.dual[::7, 2] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_that_arrive_are_learned_from_where_the_fit_was(loss):
    vectors, labels = blobs((400, 30), apart=1.0)
    options = {"loss": loss, "C": 0.01, "max_iter": 10_000}
    early = fit_svm(vectors[:360], labels[:360], **options)
    anew = fit_svm(vectors, labels, **options)
    refitted = fit_svm(vectors, labels, **options, start=early.fit.dual)
    np.testing.assert_allclose(refitted.fit.objective, anew.fit.objective, rtol=2e-3)
    assert (refitted.fit.gap <= 1e-3).all()
    assert refitted.fit.sweeps.sum() < anew.fit.sweeps.sum()


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
def test_gram_matrix_holds_all_inner_products(n):
    vectors, _ = blobs((n, 7), k=1)
    gram = gram_matrix(vectors)
    np.testing.assert_allclose(gram, vectors @ vectors.T, rtol=1e-5, atol=1e-5)
    assert torch.equal(gram, gram.T)


def test_without_a_bias_there_is_none():
    vectors, labels = blobs(TALL)
    svm = fit_svm(vectors, labels, intercept_scaling=0.0)
    assert svm.bias.tolist() == [0.0, 0.0, 0.0]
    ours = objectives(svm.weight, svm.bias, vectors, signs_of(labels), 1.0, "squared_hinge", 1.0, 0.0)
    np.testing.assert_allclose(svm.fit.objective, ours, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_unused_vectors_change_nothing(size):
    vectors, labels = blobs(size)
    targets = signs_of(labels)
    targets[::3, 1] = 0
    svm = fit_svm(vectors, targets, tolerance=1e-6, max_iter=10_000)
    used = targets[:, 1] != 0
    alone = fit_svm(vectors[used], targets[used, 1:2], tolerance=1e-6, max_iter=10_000)
    torch.testing.assert_close(svm.weight[1], alone.weight[0], atol=2e-3, rtol=0)
    assert not svm.fit.dual[::3, 1].any()


def test_each_class_may_have_its_own_weight_of_positives():
    vectors, labels = blobs(TALL)
    svm = fit_svm(vectors, labels, class_weight=[1.0, 2.0, 5.0], tolerance=1e-6, max_iter=10_000)
    other = fit_svm(vectors, labels, class_weight=5.0, tolerance=1e-6, max_iter=10_000)
    torch.testing.assert_close(svm.weight[2], other.weight[2], atol=1e-3, rtol=0)
    assert not torch.allclose(svm.weight[1], other.weight[1], atol=1e-2)


def test_two_classes_mirror_each_other():
    vectors, labels = blobs(TALL, k=2)
    svm = fit_svm(vectors, labels, tolerance=1e-7, max_iter=10_000)
    torch.testing.assert_close(svm.weight[0], -svm.weight[1], atol=1e-3, rtol=0)
    one = fit_svm(vectors, np.where(labels, 1, -1)[:, None], classes=["one"])
    assert one.scores(vectors).shape == (len(vectors), 1)
    assert one.classes == ("one",)


@pytest.mark.parametrize("size", SIZES)
def test_a_warm_start_needs_fewer_sweeps_for_the_same_optimum(size):
    vectors, labels = blobs(size, seed=4)
    n = len(vectors) * 9 // 10
    options = {"tolerance": 1e-4, "max_iter": 10_000, "loss": "hinge", "C": 0.1}
    before = fit_svm(vectors[:n], labels[:n], **options)
    cold = fit_svm(vectors, labels, **options)
    warm = fit_svm(vectors, labels, **options, start=before.fit.dual)
    np.testing.assert_allclose(warm.fit.objective, cold.fit.objective, rtol=2e-4)
    assert warm.fit.sweeps.sum() < cold.fit.sweeps.sum()
    again = fit_svm(vectors, labels, **options, start=cold.fit.dual)
    assert (again.fit.sweeps <= 3).all()


def test_a_start_outside_the_bounds_is_brought_inside():
    vectors, labels = blobs(TALL)
    options = {"tolerance": 1e-5, "max_iter": 10_000, "loss": "hinge", "C": 0.1}
    wild = np.random.default_rng(0).normal(size=(len(vectors), 3)) * 9
    svm = fit_svm(vectors, labels, **options, start=wild)
    np.testing.assert_allclose(
        svm.fit.objective, fit_svm(vectors, labels, **options).fit.objective, rtol=3e-5
    )
    assert svm.fit.dual.min() >= 0
    assert svm.fit.dual.max() <= 0.1


@pytest.mark.parametrize("size", SIZES)
def test_seeds_change_the_way_and_not_the_end(size):
    vectors, labels = blobs(size)
    first, same, other = (fit_svm(vectors, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.weight, other.weight)
    np.testing.assert_allclose(first.fit.objective, other.fit.objective, rtol=1e-3)


def test_the_number_of_threads_changes_no_bit():
    program = textwrap.dedent("""
        import numba, numpy as np, torch
        from sppnet.svm.linear_svm import fit_svm

        for n, d in ((300, 9), (129, 20_000)):
            vectors, labels = np.random.default_rng(n).normal(size=(n, d)), np.arange(n) % 11
            for threads in (1, 2):
                torch.set_num_threads(threads)
                numba.set_num_threads(threads)
                svm = fit_svm(vectors, labels)
                assert torch.get_num_threads() == threads  # left as it was
                print(svm.weight.numpy().tobytes().hex()[-999:], svm.bias.tolist(), svm.fit.objective.sum())
    """)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    one, two, wide_one, wide_two = result.stdout.splitlines()
    assert one == two
    assert wide_one == wide_two


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(torch.from_numpy, id="tensor"),
        pytest.param(lambda v: v.astype(np.float64), id="float64"),
        pytest.param(np.asfortranarray, id="columns first"),
        pytest.param(lambda v: np.repeat(v, 2, axis=0)[::2], id="every other row"),
        pytest.param(lambda v: torch.from_numpy(v).requires_grad_(), id="part of a graph"),
    ],
)
def test_vectors_of_any_kind_give_the_same(make):
    vectors, labels = blobs(TALL)
    assert torch.equal(fit_svm(make(vectors), labels).weight, fit_svm(vectors, labels).weight)


def test_progress_counts_classes_and_changes_nothing():
    vectors, labels = blobs((100, 8), k=25)
    told = RecordingProgress()
    svm = fit_svm(vectors, labels, progress=told)
    assert told.stages == [("training SVMs", 25)]
    assert told.done == 25
    assert torch.equal(svm.weight, fit_svm(vectors, labels).weight)


def test_vectors_of_zeros_and_duplicates_are_no_trouble():
    vectors, labels = blobs(TALL)
    vectors[:20] = 0
    vectors[20:40] = vectors[40]
    for loss in LOSSES:
        svm = fit_svm(vectors, labels, loss=loss, intercept_scaling=0.0, max_iter=10_000)
        assert torch.isfinite(svm.weight).all()


def test_too_few_sweeps_are_told():
    vectors, labels = blobs(TALL, apart=0.1)
    with pytest.warns(RuntimeWarning, match=r"3 of 3 SVMs were left after 2 sweeps.*Raise max_iter"):
        svm = fit_svm(vectors, labels, C=100.0, max_iter=2)
    assert svm.fit.sweeps.tolist() == [2, 2, 2]


PAIR = np.ones((2, 2))
NAN = np.array([[0.0, 1.0], [np.nan, 0.0], [1.0, np.inf]], np.float32)


@pytest.mark.parametrize(
    ("vectors", "targets", "options", "error", "message"),
    [
        pytest.param(NAN, [0, 1, 0], {}, DataError, r"2 of 3 vectors .*the first is vector 1", id="NaN"),
        pytest.param(
            np.ones((3, 2)), [0, 2, 2], {"classes": ["ant", "bee", "cat"]}, DataError,
            "no positives for 1 of 3 classes: bee", id="a class without positives",
        ),
        pytest.param(np.ones((3, 2)), [0, 0, 0], {}, DataError, "no negatives for 1 of 1", id="one class"),
        pytest.param(np.ones((3, 2)), [0, 1, 3], {"classes": ["a", "b"]}, DataError, r"0\.\.1", id="label 3"),
        pytest.param(np.ones((3, 2)), [0, 1], {}, DataError, r"got \(2,\)", id="too few labels"),
        pytest.param(np.ones((3, 2)), [0.0, 1.0, 1.0], {}, DataError, "integers", id="labels as fractions"),
        pytest.param(np.ones((3, 2)), [[1], [-1], [2]], {}, DataError, "other numbers", id="targets of 2"),
        pytest.param(np.ones((3, 2)), [[1], [-1], [0]], {"classes": "ab"}, DataError, "got 2", id="names"),
        pytest.param(np.ones(3), [0, 1, 1], {}, DataError, r"shape \(n, d\)", id="one vector flat"),
        pytest.param(np.ones((0, 2)), np.zeros(0, int), {}, DataError, "neither of them 0", id="no vectors"),
        pytest.param(PAIR, [0, 1], {"C": 0}, ConfigError, "C must be above 0", id="C of 0"),
        pytest.param(PAIR, [0, 1], {"loss": "log"}, ConfigError, "squared_hinge or hinge", id="loss"),
        pytest.param(PAIR, [0, 1], {"intercept_scaling": -1}, ConfigError, "0 .* or more", id="bias below 0"),
        pytest.param(PAIR, [0, 1], {"max_iter": 0}, ConfigError, "1 or more", id="no sweeps"),
        pytest.param(PAIR, [0, 1], {"class_weight": [1, 2, 3]}, ConfigError, "or 2, one a", id="weights"),
        pytest.param(PAIR, [0, 1], {"start": np.zeros((3, 2))}, DataError, r"up to 2, 2\)", id="long start"),
        pytest.param(PAIR, [0, 1], {"gram": torch.zeros(3, 3)}, DataError, r"\(2, 2\) float32", id="gram"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(vectors, targets, options, error, message):
    with pytest.raises(error, match=message):
        fit_svm(vectors, np.array(targets), **options)


def test_an_svm_is_checked_at_birth_and_at_use():
    with pytest.raises(ConfigError, match=r"2 classes need weights of shape \(2, d\)"):
        LinearSVM(torch.zeros(3, 4), torch.zeros(3), ("a", "b"))
    svm = LinearSVM(torch.zeros(2, 4), torch.zeros(2), ("a", "b"))
    with pytest.raises(DataError, match=r"\(n, 4\); got \(1, 3\)"):
        svm.scores(torch.zeros(1, 3))
    assert repr(svm) == "LinearSVM(2 classes, 4 dimensions)"


# --- choosing C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_choose_C_gives_the_same_on_vectors_and_on_the_gram_matrix(size, monkeypatch):
    vectors, labels = blobs(size, seed=2)
    options = {"folds": 2, "tolerance": 1e-6, "seed": 3}
    chosen = choose_C(vectors, labels, [0.001, 0.3], **options)
    assert chosen.accuracy[chosen.C] == max(chosen.accuracy.values())
    assert list(chosen.accuracy) == [0.001, 0.3]
    assert choose_C(vectors, labels, [0.3, 0.001], **options, gram=gram_matrix(vectors)) == chosen
    monkeypatch.setattr(gram_module, "GRAM_ROWS", 0)
    assert choose_C(vectors, labels, [0.001, 0.3], **options) == chosen


def test_of_equally_good_values_the_smallest_is_chosen():
    vectors, labels = blobs((60, 200), apart=20.0)
    chosen = choose_C(vectors, labels, [5.0, 1.0, 25.0])
    assert set(chosen.accuracy.values()) == {1.0}
    assert chosen.C == 1.0


def test_a_value_that_is_too_small_is_not_chosen():
    # One in ten is of class 1: while C is tiny, class 0 outscores it nearly everywhere.
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    vectors = (rng.normal(size=(200, 300)) * 0.1 + 3 * np.eye(2, 300)[labels]).astype(np.float32)
    chosen = choose_C(vectors, labels, [1e-5, 1.0])
    assert chosen.C == 1.0
    assert chosen.accuracy[1.0] == 1.0
    assert chosen.accuracy[1e-5] < 0.97


def test_a_class_of_one_vector_is_never_held_out():
    vectors, labels = blobs((41, 5), k=2, apart=20.0)
    labels[0] = 2
    told = RecordingProgress()
    chosen = choose_C(vectors, labels, [1.0], folds=4, progress=told)
    assert chosen.accuracy[1.0] > 0.9
    assert told.stages == [("choosing C", 4)]
    assert told.advances == [*[(1, "")] * 4, (0, "C = 1")]


def test_there_are_no_more_folds_than_vectors_to_hold_out():
    vectors, labels = blobs((4, 5), k=2, apart=20.0)
    told = RecordingProgress()
    chosen = choose_C(vectors, labels, [1.0], folds=5, progress=told)
    assert chosen.accuracy == {1.0: 1.0}
    assert told.stages == [("choosing C", 4)]
    assert told.advances[-1] == (0, "C = 1, in 4 folds for want of images")


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        pytest.param([0, 1, 2], {}, DataError, "no class has 2 vectors", id="nothing to hold out"),
        pytest.param([0, 0, 1], {"folds": 1}, ConfigError, "folds must be 2", id="one fold"),
        pytest.param([0, 0, 1], {"values": []}, ConfigError, "one value of C or more", id="no values"),
        pytest.param([0, 0, 0], {}, DataError, "two classes or more", id="one class"),
        pytest.param([[1], [-1], [1]], {}, DataError, "two classes or more", id="a matrix"),
    ],
)
def test_choose_C_refuses(labels, options, error, message):
    with pytest.raises(error, match=message):
        choose_C(np.eye(3), np.array(labels), **{"folds": 2, **options})
