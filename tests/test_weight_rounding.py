"""Weights rounded to 8 bits: against a plain definition, and what onnxruntime makes of them."""

import numpy as np
import pytest
import torch

from sppnet.nn.onnx_session import open_session
from sppnet.nn.quantisation import KEPT_CONVOLUTIONS, quantise
from sppnet.nn.weight_rounding import DAMPING, LARGEST, Convolution, round_rows

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def plain_rounding(row, products):
    """One output by the definition of optimal brain surgery: each weight in turn is rounded, and the weights
    that are left move to where the error is least, by the inverse of what is left of the products."""
    count = len(row)
    left = row.astype(np.float64).copy()
    damped = products + (DAMPING * np.mean(np.diag(products)) + 1e-12) * np.eye(count)
    for column in range(count):
        inverse = np.linalg.inv(damped[column:, column:])
        whole = np.clip(np.round(left[column]), -LARGEST, LARGEST)
        move = (left[column] - whole) / inverse[0, 0] * inverse[0]
        left[column:] -= move
        left[column] = whole
    return left


def correlated(rng, groups, n, count=400):
    """Sums of products of inputs that go together, as those after a ReLU."""
    inputs = np.maximum(rng.normal(size=(groups, n, count)) + 2 * rng.normal(size=(groups, 1, count)), 0)
    return inputs, inputs @ inputs.transpose(0, 2, 1)


@pytest.mark.parametrize(("groups", "outputs", "n"), [(1, 5, 12), (7, 1, 9), (1, 1, 1), (3, 2, 4)])
def test_rows_are_those_of_the_plain_definition(groups, outputs, n):
    rng = np.random.default_rng(0)
    _, products = correlated(rng, groups, n)
    rows = rng.normal(0, 20, (groups, outputs, n))
    found = round_rows(rows, products)
    for group in range(groups):
        for output in range(outputs):
            np.testing.assert_allclose(
                found[group, output], plain_rounding(rows[group, output], products[group])
            )


def test_products_with_inputs_come_nearer_than_by_plain_rounding():
    rng = np.random.default_rng(1)
    inputs, products = correlated(rng, 1, 40)
    rows = rng.normal(0, 10, (1, 30, 40))
    off = [np.square((rows - one) @ inputs).mean() for one in (round_rows(rows, products), np.round(rows))]
    assert off[0] < off[1] / 4


def test_inputs_that_do_not_go_together_are_rounded_plainly():
    rng = np.random.default_rng(2)
    rows = rng.normal(0, 200, (2, 3, 8))
    expected = np.round(rows).clip(-LARGEST, LARGEST)
    np.testing.assert_array_equal(round_rows(rows, np.stack([np.eye(8) * 5] * 2)), expected)


def test_an_image_smaller_than_the_kernel_says_nothing():
    one = Convolution("x", "w", np.ones((4, 1, 5, 5), np.float32), 4, (2, 2))
    assert one.sample(np.ones((4, 8, 30), np.float32), np.random.default_rng(0)) is None
    assert one.sample(np.ones((4, 9, 30), np.float32), np.random.default_rng(0)).shape == (4, 25, 25)


@pytest.mark.parametrize("kernel", [1, 3])
def test_samples_are_sums_of_products_of_what_a_convolution_reads(kernel):
    """On an image of constant channels every place reads the same."""
    channels = np.array([1.0, 2, 5], np.float32)
    image = np.broadcast_to(channels[:, None, None], (3, 9, 11))
    depthwise = kernel > 1
    weight = np.ones((3, 1 if depthwise else 3, kernel, kernel), np.float32)
    one = Convolution("x", "w", weight, 3 if depthwise else 1, (1, 1))
    found = one.sample(image, np.random.default_rng(0))
    expected = (
        [np.full((9, 9), value**2) for value in channels] if depthwise else [np.outer(channels, channels)]
    )
    np.testing.assert_allclose(found / found.flat[0] * np.stack(expected).flat[0], expected)


def graph_of(weight, groups):
    """1×1 convolutions that change nothing, as many as stay float32, and one with the weight."""
    channels = weight.shape[1] * groups
    nodes, stored, name = [], [], "images"
    for index in range(KEPT_CONVOLUTIONS):
        eye = np.eye(channels, channels if index else 3, dtype=np.float32)
        if not index:
            eye[:] = 1 / 3
        stored.append(onnx.numpy_helper.from_array(eye[..., None, None], f"w{index}"))
        nodes.append(onnx.helper.make_node("Conv", [name, f"w{index}"], [f"x{index}"], kernel_shape=[1, 1]))
        name = f"x{index}"
    stored.append(onnx.numpy_helper.from_array(weight, "w"))
    stored.append(onnx.numpy_helper.from_array(np.zeros(len(weight), np.float32), "b"))
    shape = list(weight.shape[2:])
    nodes.append(onnx.helper.make_node("Conv", [name, "w", "b"], ["y"], kernel_shape=shape, group=groups))
    kind = onnx.TensorProto.FLOAT
    given = onnx.helper.make_tensor_value_info("images", kind, [1, 3, "h", "w"])
    made = onnx.helper.make_tensor_value_info("y", kind, [1, len(weight), "a", "b"])
    graph = onnx.helper.make_graph(nodes, "graph", [given], [made], stored)
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((8, 64, 1, 1), 1), ((64, 1, 3, 3), 64), ((8, 16, 3, 3), 1), ((64, 1, 5, 5), 64)],
)
@pytest.mark.parametrize("signs", ["all", "in turn"])
def test_sums_of_the_largest_products_do_not_overflow(shape, groups, signs):
    """The largest inputs, with weights that are all as large as can be."""
    weight = np.ones(shape, np.float32)
    if signs == "in turn":  # long runs of either sign
        weight.reshape(shape[0], -1)[:, : weight[0].size // 3] = -1
    content = graph_of(weight, groups)
    image = np.full((1, 3, 24, 24), 6, np.float32)
    quantised = open_session(quantise(content, [image]))
    plain = open_session(content)
    found, expected = (one.run(None, {"images": image})[0] for one in (quantised, plain))
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_one_thread_and_two_round_alike():
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(1, 600, 900)).astype(np.float32)
    one = Convolution("x", "w", rng.normal(size=(40, 600, 1, 1)).astype(np.float32), 1, (1, 1))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(one.rounded(one.sample(inputs.reshape(600, 30, 30), np.random.default_rng(0))))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
