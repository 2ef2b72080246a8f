"""Numbers against independent implementations, on any input."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.svm import LinearSVC

from sppnet.boxes import decode_boxes, encode_boxes
from sppnet.heads.ridge import fit_boxes
from sppnet.metrics.detection import average_precision
from sppnet.ops.nms import nms
from sppnet.ops.pooling import pyramid_pool
from sppnet.svm.linear_svm import fit_svm

FEW = settings(max_examples=40, deadline=None)

# --- the operator ----------------------------------------------------------------------------------


def pooled_in_loops(features: npt.NDArray[np.float32], cells: npt.NDArray[np.int64], levels) -> list[float]:
    """One window: bin i of n covers floor(i·size/n) to ceil((i+1)·size/n), in exact fractions."""
    x0, y0, x1, y1 = cells.tolist()
    found = []
    for channel in features:
        for n in levels:
            for i in range(n):
                for j in range(n):
                    top, bottom = i * (y1 - y0) // n, -((i + 1) * (y1 - y0) // -n)
                    left, right = j * (x1 - x0) // n, -((j + 1) * (x1 - x0) // -n)
                    found.append(
                        max(channel[y0 + top : y0 + bottom, x0 + left : x0 + right].ravel().tolist())
                    )
    return found


@FEW
@given(data=st.data(), levels=st.lists(st.integers(1, 7), min_size=1, max_size=4, unique=True))
def test_pooling_is_the_definition_on_any_map_and_window(data, levels):
    height, width = data.draw(st.tuples(st.integers(1, 15), st.integers(1, 15)))
    features = data.draw(
        arrays.arrays(np.float32, (2, height, width), elements=st.floats(-(2.0**99), 2.0**99, width=32))
    )
    x0, y0 = data.draw(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)))
    x1, y1 = data.draw(st.tuples(st.integers(x0 + 1, width), st.integers(y0 + 1, height)))
    cells = np.array([[x0, y0, x1, y1]])
    vectors = pyramid_pool(torch.from_numpy(features)[None], cells, levels)
    # Channels first within a level, levels one after the other.
    expected, start = [], 0
    loops = np.array(pooled_in_loops(features, cells[0], levels), np.float32).reshape(2, -1)
    for n in levels:
        expected.append(loops[:, start : start + n * n].ravel())
        start += n * n
    assert np.array_equal(vectors.numpy().ravel(), np.concatenate(expected))


# --- suppression -----------------------------------------------------------------------------------


def overlap(a: list[int], b: list[int]) -> tuple[int, int]:
    """Intersection and union of two boxes of whole pixels, exactly."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared, sum(sizes) - shared


def suppressed_in_loops(boxes: list[list[int]], scores: list[float], eighths: int, most: int) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        pairs = [overlap(boxes[index], boxes[other]) for other in kept]
        if all(8 * shared <= eighths * union for shared, union in pairs):
            kept.append(index)
    return kept[:most]


sides = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))


@given(
    found=st.lists(st.tuples(sides, st.sampled_from([-1.5, 0.0, 0.25, 0.5, 2.0])), max_size=40),
    eighths=st.integers(1, 8),
    most=st.integers(1, 50),
)
def test_suppression_is_greedy_and_exact_with_ties(found, eighths, most):
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in found]
    scores = [score for _, score in found]
    kept = nms(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), eighths / 8, most)
    assert kept.tolist() == suppressed_in_loops(boxes, scores, eighths, most)


# --- average precision -----------------------------------------------------------------------------

judged = st.lists(
    st.tuples(st.floats(-5, 5, width=32), st.sampled_from(["right", "wrong", "ignored"])), max_size=40
)


def precision_at_recall(found: list[tuple[float, str]], positives: int) -> list[tuple[int, int, int]]:
    """After each detection: right ones so far, ones so far, in the order of scores."""
    counted = [kind for _, kind in sorted(found, key=lambda each: -each[0]) if kind != "ignored"]
    right = [sum(kind == "right" for kind in counted[: n + 1]) for n in range(len(counted))]
    return [(hits, n + 1, positives) for n, hits in enumerate(right)]


@given(judged, st.integers(0, 20))
def test_average_precision_by_both_rules_is_its_definition(found, missed):
    positives = max(sum(kind == "right" for _, kind in found) + missed, 1)
    points = precision_at_recall(found, positives)
    eleven = sum(
        max((hits / seen for hits, seen, n in points if 10 * hits >= step * n), default=0.0)
        for step in range(11)
    )
    # The area under the best precision at each recall or beyond: one strip for each object found.
    area = sum(
        max((hits / seen for hits, seen, _ in points if hits >= nth), default=0.0)
        for nth in range(1, positives + 1)
    )
    flags = [[kind == name for _, kind in found] for name in ("right", "ignored")]
    scores = [score for score, _ in found]
    assert average_precision(scores, *flags, positives, "voc07") == pytest.approx(eleven / 11, abs=1e-12)
    assert average_precision(scores, *flags, positives, "voc") == pytest.approx(area / positives, abs=1e-12)


# --- SVMs and box regression -------------------------------------------------------------------------


@FEW
@given(
    n=st.integers(6, 50),
    d=st.integers(1, 60),
    C=st.floats(1e-3, 10),
    loss=st.sampled_from(["hinge", "squared_hinge"]),
    class_weight=st.floats(0.2, 5),
    intercept_scaling=st.floats(0.1, 10),
    seed=st.integers(0, 10**6),
)
def test_an_svm_comes_as_low_as_that_of_scikit_learn(n, d, C, loss, class_weight, intercept_scaling, seed):
    rng = np.random.default_rng(seed)
    signs = np.where(rng.permutation(n) < n // 3 + 1, 1, -1)
    vectors = (rng.normal(size=(n, d)) + 0.5 * signs[:, None]).astype(np.float32)

    def objective(weight: npt.ArrayLike, bias: float) -> float:
        w = np.asarray(weight, np.float64)
        short = np.maximum(1 - signs * (vectors.astype(np.float64) @ w + bias), 0)
        costs = C * np.where(signs > 0, class_weight, 1.0)
        return 0.5 * (w @ w + (bias / intercept_scaling) ** 2) + costs @ (
            short if loss == "hinge" else short**2
        )

    reference = LinearSVC(
        C=C, loss=loss, class_weight={1: class_weight}, intercept_scaling=intercept_scaling, dual=True,
        tol=1e-7, max_iter=2_000_000, random_state=0,
    ).fit(vectors.astype(np.float64), signs)  # fmt: skip
    svm = fit_svm(
        vectors, signs[:, None], C=C, loss=loss, class_weight=class_weight,
        intercept_scaling=intercept_scaling, tolerance=1e-5, max_iter=100_000,
    )  # fmt: skip
    best = objective(reference.coef_[0], float(reference.intercept_[0]))
    assert objective(svm.weight[0].numpy(), float(svm.bias[0])) == pytest.approx(best, rel=3e-4, abs=1e-6)


@FEW
@given(
    n=st.integers(10, 60),
    d=st.integers(1, 60),
    alpha=st.floats(0.5, 5000),
    seed=st.integers(0, 10**6),
)
def test_box_regression_is_the_closed_form_of_ridge(n, d, alpha, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0.2, 1, (n, d)).astype(np.float32)
    low, grown = rng.uniform(0, 200, (n, 2)), rng.uniform(20, 150, (n, 2))
    windows = np.hstack([low, low + grown]).astype(np.float32)
    objects = decode_boxes(windows, rng.normal(0, 0.2, (n, 4)))
    found = fit_boxes(vectors, windows, objects, np.zeros(n, int), ["a"], alpha=alpha)
    y = encode_boxes(windows, objects)
    x, mean = vectors.astype(np.float64), y.mean(axis=0)
    x1 = np.hstack([x, np.ones((n, 1))])
    whole = np.linalg.solve(x1.T @ x1 + alpha * np.eye(d + 1), x1.T @ (y - mean))
    solution, bias = whole[:-1], mean + whole[-1]
    np.testing.assert_allclose(found.weight[0].numpy(), solution.T, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(found.bias[0].numpy(), bias, rtol=2e-3, atol=2e-5)


@given(st.integers(0, 10**6))
def test_deltas_bring_a_box_to_its_target(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-50, 500, (2, 20, 2))
    boxes, targets = np.concatenate([low, low + rng.uniform(10, 300, (2, 20, 2))], axis=2)
    np.testing.assert_allclose(decode_boxes(boxes, encode_boxes(boxes, targets)), targets, atol=1e-3)
