"""Box regression against scikit-learn's Ridge and a plain solve in float64."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sppnet.boxes import decode_boxes, encode_boxes
from sppnet.errors import ConfigError, DataError, GeometryError
from sppnet.heads import ridge
from sppnet.heads.ridge import BoxRegressor, fit_boxes, mean_length_scale

TALL, WIDE = (200, 12), (60, 300)
SIZES = [pytest.param(TALL, id="more windows than dimensions"), pytest.param(WIDE, id="fewer")]
NAMES = ("cat", "dog")


def boxes_of(rng, n):
    low = rng.uniform(0, 200, (n, 2))
    return np.hstack([low, low + rng.uniform(20, 150, (n, 2))]).astype(np.float32)


def problem(size, seed=0, noise=0.02):
    """Vectors (n, d) that know their objects' boxes, windows, objects, and labels of two classes."""
    rng = np.random.default_rng(seed)
    n, d = size
    vectors = (rng.normal(0.3, 1, size) * 20 / math.sqrt(d)).astype(np.float32)
    labels = rng.integers(0, 2, n)
    maps = rng.normal(0, 0.04, (2, d, 4))
    deltas = np.einsum("nd,ndk->nk", vectors, maps[labels]) + rng.normal(0.1, noise, (n, 4))
    windows = boxes_of(rng, n)
    return vectors, windows, decode_boxes(windows, deltas), labels


def pairs(regressor):
    return regressor.weight.numpy().astype(np.float64), regressor.bias.numpy().astype(np.float64)


def whitened_by_the_released_code(vectors, deltas, alpha):
    """Weights (d, 4) and biases (4,) as spp_train_bbox_regressor.m finds them, whitening and all."""
    x = np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])
    mean = deltas.mean(axis=0)
    y = deltas - mean
    variances, axes = np.linalg.eigh(y.T @ y / len(y))
    whiten = axes @ np.diag((variances + 0.001) ** -0.5) @ axes.T
    unwhiten = axes @ np.diag((variances + 0.001) ** 0.5) @ axes.T
    solution = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (y @ whiten)) @ unwhiten
    return solution[:-1], mean + solution[-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.5, 1000.0])
def test_weights_are_those_of_the_released_code(size, alpha):
    vectors, windows, objects, labels = problem(size)
    weight, bias = pairs(fit_boxes(vectors, windows, objects, labels, NAMES, alpha=alpha))
    deltas = encode_boxes(windows, objects)
    for label in range(2):
        own = labels == label
        expected, shift = whitened_by_the_released_code(vectors[own], deltas[own], alpha)
        np.testing.assert_allclose(weight[label], expected.T, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bias[label], shift, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.5, 1000.0])
def test_weights_are_those_of_scikit_learn(size, alpha):
    """Its Ridge does not regularise the bias: so a column of ones, and no bias of its own."""
    vectors, windows, objects, labels = problem(size)
    weight, bias = pairs(fit_boxes(vectors, windows, objects, labels, NAMES, alpha=alpha))
    deltas = encode_boxes(windows, objects)
    for label in range(2):
        own = labels == label
        mean = deltas[own].mean(axis=0)
        ones = np.hstack([vectors[own].astype(np.float64), np.ones((own.sum(), 1))])
        expected = Ridge(alpha=alpha, fit_intercept=False).fit(ones, deltas[own] - mean).coef_
        np.testing.assert_allclose(weight[label], expected[:, :-1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bias[label], mean + expected[:, -1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_pieces_make_the_whole(size, monkeypatch):
    given = problem(size)
    whole = fit_boxes(*given, NAMES)
    monkeypatch.setattr(ridge, "PIECE", 7)
    pieces = fit_boxes(*given, NAMES)
    torch.testing.assert_close(pieces.weight, whole.weight, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(pieces.bias, whole.bias, rtol=1e-4, atol=1e-7)


def test_the_same_bits_on_any_number_of_threads():
    given, before = problem((300, 2000)), torch.get_num_threads()
    fits = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            fits.append(fit_boxes(*given, NAMES))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert torch.equal(fits[0].bias, fits[1].bias)


def test_corrected_boxes_lie_nearer_to_their_objects():
    vectors, windows, objects, labels = problem((400, 12))
    regressor = fit_boxes(vectors[:300], windows[:300], objects[:300], labels[:300], NAMES, alpha=0.1)
    corrected = regressor.apply(vectors[300:], windows[300:], labels[300:], (10_000, 10_000))
    before = np.abs(encode_boxes(windows[300:], objects[300:])).mean()
    inside = (objects[300:] >= 0).all(axis=1)
    after = np.abs(encode_boxes(corrected[inside], objects[300:][inside])).mean()
    assert after < 0.2 * before


# --- few windows, many images --------------------------------------------------------------------


def test_a_class_with_few_windows_leaves_its_boxes_alone():
    vectors, windows, objects, labels = problem(TALL)
    labels[:] = 0
    labels[:9], labels[9:19] = 1, 2
    regressor = fit_boxes(vectors, windows, objects, labels, ("cat", "rare", "dog", "none"))
    assert not regressor.weight[[1, 3]].any()
    assert not regressor.bias[[1, 3]].any()
    assert regressor.weight[0].any()
    assert regressor.weight[2].any()
    kept = regressor.apply(vectors[:9], windows[:9], [1] * 9, (500, 500))
    np.testing.assert_allclose(kept, windows[:9], rtol=1e-6)


def test_no_boxes_are_no_boxes():
    regressor = BoxRegressor(torch.zeros(1, 4, 3), torch.zeros(1, 4), ("cat",))
    assert regressor.apply(torch.zeros(0, 3), [], [], (50, 100)).shape == (0, 4)


# --- lengths -------------------------------------------------------------------------------------


def test_scaled_vectors_have_a_mean_length_of_20():
    vectors = np.random.default_rng(0).normal(3, 1, (2500, 40)).astype(np.float32)
    scaled = vectors * mean_length_scale(vectors)
    assert np.linalg.norm(scaled, axis=1).mean() == pytest.approx(20, rel=1e-5)
    with pytest.raises(DataError, match="all 3 vectors are 0"):
        mean_length_scale(np.zeros((3, 5)))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"vectors": np.ones(5)}, DataError, r"\(n, d\)", id="a vector alone"),
        pytest.param({"vectors": np.full((20, 3), np.nan)}, DataError, "the first is vector 0", id="NaN"),
        pytest.param({"vectors": np.ones((19, 3))}, DataError, "19 vectors, 20 boxes", id="too few vectors"),
        pytest.param({"labels": np.full(20, 2)}, DataError, r"integers 0\.\.1", id="an unknown class"),
        pytest.param({"labels": np.zeros(20)}, DataError, "float64", id="labels as fractions"),
        pytest.param({"labels": np.zeros(3, int)}, DataError, "3 labels", id="too few labels"),
        pytest.param({"alpha": 0.0}, ConfigError, "above 0", id="no alpha"),
        pytest.param({"alpha": math.nan}, ConfigError, "got nan", id="alpha of NaN"),
        pytest.param({"alpha": 1e-30}, DataError, "raise it", id="too small an alpha"),
    ],
)
def test_what_cannot_be_learned_is_refused(change, error, message):
    boxes = np.tile([[0, 0, 9, 9]], (20, 1))
    given = {"vectors": np.ones((20, 300)), "proposals": boxes, "targets": boxes, "labels": np.zeros(20, int)}
    with pytest.raises(error, match=message):
        fit_boxes(**{**given, "classes": NAMES, **change})


def test_a_regressor_is_checked_at_birth_and_at_use():
    with pytest.raises(ConfigError, match=r"2 classes need weights of shape \(2, 4, d\)"):
        BoxRegressor(torch.zeros(2, 4), torch.zeros(2, 4), NAMES)
    regressor = BoxRegressor(torch.zeros(2, 4, 5), torch.zeros(2, 4), NAMES)
    assert repr(regressor) == "BoxRegressor(2 classes, 5 dimensions)"
    with pytest.raises(DataError, match=r"1 labels need vectors \(1, 5\); got \(1, 4\)"):
        regressor.apply(torch.zeros(1, 4), [[0, 0, 5, 5]], [0], (9, 9))
    with pytest.raises(DataError, match=r"integers 0\.\.1"):
        regressor.deltas(torch.zeros(1, 5), [2])
    with pytest.raises(GeometryError, match="1×1 pixels or more"):
        regressor.apply(torch.zeros(1, 5), [[0, 0, 5, 5]], [0], (0, 9))


@pytest.mark.parametrize("kind", ["all of few classes", "few of many", "mixed", "none"])
def test_deltas_of_shared_vectors_are_those_of_copies(kind):
    rng = np.random.default_rng(3)
    vectors = torch.from_numpy(rng.normal(size=(50, 7)).astype(np.float32))
    classes = tuple("abcd")
    regressor = BoxRegressor(torch.randn(4, 4, 7), torch.randn(4, 4), classes)
    counts = {"all of few classes": [60, 0, 40, 0], "few of many": [3, 2, 1, 4], "mixed": [70, 3, 0, 12]}
    labels = rng.permutation(np.repeat(np.arange(4), counts.get(kind, [0] * 4)))
    rows = rng.integers(0, 50, len(labels))
    found = regressor.deltas_among(vectors, rows, labels)
    assert found == pytest.approx(regressor.deltas(vectors[torch.from_numpy(rows)], labels), abs=1e-5)


def test_every_class_may_have_an_alpha_of_its_own():
    given = problem((200, 12))
    each = fit_boxes(*given, NAMES, alpha=[3.0, 500.0])
    for label, alpha in enumerate((3.0, 500.0)):
        alone = fit_boxes(*given, NAMES, alpha=alpha)
        assert torch.equal(each.weight[label], alone.weight[label])
        assert torch.equal(each.bias[label], alone.bias[label])
    with pytest.raises(ConfigError, match="above 0"):
        fit_boxes(*given, NAMES, alpha=[3.0, 0.0])
