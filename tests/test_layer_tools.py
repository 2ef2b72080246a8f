"""The layer in torch's own tools: torch.fx, torch.func, torch.onnx; and windows and levels of every kind."""

import pickle
import warnings

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.export import Dim
from torch.func import grad, jacrev, vjp, vmap
from torchvision.models.feature_extraction import create_feature_extractor

import sppnet
from sppnet import SpatialPyramidPooling, pyramid_pool
from sppnet.boxes import check_boxes
from sppnet.errors import GeometryError

LEVELS = (1, 2, 3)


def adaptive(features, levels=LEVELS):
    return torch.cat([F.adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_network(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), SpatialPyramidPooling(**options)).eval()


# --- torch.fx --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pooling": "average"}, {"levels": (1, 2), "rule": "paper"}])
def test_a_traced_network_holds_the_layer_as_one_call(options):
    network, images = make_network(**options), draw(2, 3, 25, 25)
    traced = torch.fx.symbolic_trace(network)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"][-1] is pyramid_pool
    assert torch.equal(traced(images), network(images))
    again = pickle.loads(pickle.dumps(traced))  # noqa: S301
    assert torch.equal(again(images), network(images))


def test_the_layer_alone_is_traced_with_its_windows():
    traced = torch.fx.symbolic_trace(SpatialPyramidPooling(LEVELS))
    features, cells = draw(1, 4, 9, 9), torch.tensor([[0, 0, 5, 5], [1, 2, 9, 9]])
    assert torch.equal(traced(features, cells), pyramid_pool(features, cells, LEVELS))
    assert torch.equal(traced(features), adaptive(features))


def test_a_function_of_ones_own_is_traced():
    traced = torch.fx.symbolic_trace(lambda features: sppnet.pyramid_pool(features.relu(), levels=(2,)))
    features = draw(1, 4, 9, 9) - 0.5
    assert torch.equal(traced(features), adaptive(features.relu(), (2,)))


def test_torchvision_extracts_the_vectors():
    network, images = make_network(), draw(1, 3, 30, 20)
    found = create_feature_extractor(network, {"1": "map", "2": "vectors"})(images)
    assert torch.equal(found["vectors"], pyramid_pool(found["map"]))


def test_a_subclass_of_tensor_stays_one():
    class Marked(torch.Tensor):
        pass

    pooled = pyramid_pool(draw(1, 2, 5, 5).as_subclass(Marked))
    assert type(pooled) is Marked


# --- torch.func --------------------------------------------------------------------------------------


def test_gradients_are_those_of_adaptive_pooling():
    features = draw(2, 3, 7, 9)
    layer = SpatialPyramidPooling(LEVELS)
    ours = grad(lambda x: layer(x).square().sum())(features)
    assert torch.equal(ours, grad(lambda x: adaptive(x).square().sum())(features))
    pooled, pull = vjp(layer, features)
    assert torch.equal(pooled, layer(features))
    assert pull(torch.ones_like(pooled))[0].sum() == pooled.numel()


def test_each_image_has_its_own_gradient():
    features = draw(3, 4, 6, 5)
    layer = SpatialPyramidPooling((1, 2))
    each = vmap(grad(lambda x: layer(x[None]).square().sum()))(features)
    own = [grad(lambda x: layer(x).square().sum())(one[None])[0] for one in features]
    assert torch.equal(each, torch.stack(own))
    assert torch.equal(vmap(layer)(features[:, None]), layer(features)[:, None])


def test_jacobians_and_second_derivatives():
    features = draw(1, 2, 4, 3)
    layer = SpatialPyramidPooling((1, 2))
    assert torch.equal(jacrev(layer)(features), jacrev(lambda x: adaptive(x, (1, 2)))(features))
    second = jacrev(grad(lambda x: (layer(x) ** 3).sum()))(features)
    expected = jacrev(grad(lambda x: (adaptive(x, (1, 2)) ** 3).sum()))(features)
    torch.testing.assert_close(second, expected)


def test_windows_under_torch_func():
    features = draw(2, 3, 12, 12)
    cells = torch.tensor([[0, 0, 0, 5, 5], [1, 2, 2, 9, 12], [0, 0, 0, 5, 5]])

    def loss(x):
        return pyramid_pool(x, cells, LEVELS).square().sum()

    own = features.clone().requires_grad_()
    loss(own).backward()
    torch.testing.assert_close(grad(loss)(features), own.grad)
    mapped = vmap(lambda x: pyramid_pool(x, cells, LEVELS))(torch.stack([features, features + 1]))
    assert torch.equal(mapped[1], pyramid_pool(features + 1, cells, LEVELS))
    none = vmap(lambda x: pyramid_pool(x, cells[:0], LEVELS))(features[None])
    assert none.shape == (1, 0, 42)
    with pytest.raises(GeometryError, match=r"windows cannot be mapped by torch\.func\.vmap; pass them"):
        vmap(lambda some: pyramid_pool(features, some, LEVELS))(cells[None])


CELLS = torch.tensor([[0, 0, 0, 5, 5], [1, 2, 2, 7, 7], [0, 0, 0, 5, 5], [1, 1, 0, 2, 7]])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's forward mode calls it
@pytest.mark.parametrize("cells", [None, CELLS], ids=["whole maps", "windows"])
def test_gradients_twice_and_in_forward_mode(cells):
    features = draw(2, 2, 7, 7, seed=3).double().requires_grad_()

    def pool(x):
        return pyramid_pool(x, cells, (1, 2))

    assert gradcheck(pool, (features,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(lambda x: pool(x) ** 3, (features,))


def test_a_penalty_on_gradients_is_that_of_adaptive_pooling():
    features = draw(2, 3, 7, 9)
    penalties = []
    for pool in (SpatialPyramidPooling(LEVELS), adaptive):
        own = features.clone().requires_grad_()
        (first,) = torch.autograd.grad((pool(own) ** 2).sum(), own, create_graph=True)
        penalties.append(torch.autograd.grad(first.norm(), own)[0])
    torch.testing.assert_close(*penalties)


# --- torch.onnx --------------------------------------------------------------------------------------

SIZES = ({0: Dim("batch"), 2: Dim("height", min=24), 3: Dim("width", min=24)},)
ODD = [(2, 40, 50), (1, 33, 61), (3, 25, 24), (1, 97, 34), (2, 64, 71)]


def export(network, images, **options):
    """A session of onnxruntime."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its internals
        program = torch.onnx.export(network, images, dynamo=True, verbose=False, **options)
    return runtime.InferenceSession(program.model_proto.SerializeToString())


@pytest.mark.parametrize(
    "options",
    [{}, {"levels": (4, 3, 1)}, {"levels": (1, 2), "pooling": "average"}],
    ids=["the paper's levels", "levels that do not divide", "average"],
)
def test_onnx_at_any_size(options):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),  # sizes of which are the hardest to say in symbols
        nn.Conv2d(8, 8, 3, padding=1),
        SpatialPyramidPooling(**options),
    ).eval()
    session = export(network, (draw(2, 3, 97, 135),), dynamic_shapes=SIZES)
    (name,) = (entry.name for entry in session.get_inputs())
    for batch, height, width in ODD:
        images = draw(batch, 3, height, width, seed=height)
        with torch.no_grad():
            expected = network(images).numpy()
        np.testing.assert_allclose(session.run(None, {name: images.numpy()})[0], expected, atol=1e-5)


def test_onnx_of_one_size_and_of_maps_smaller_than_a_level():
    network, images = make_network(), draw(1, 3, 9, 7)
    session = export(network, (images,))
    (name,) = (entry.name for entry in session.get_inputs())
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(None, {name: images.numpy()})[0], network(images).numpy(), atol=1e-6
        )


# --- TorchScript, and averages in graphs -------------------------------------------------------------

IGNORED = "ignore:`torch.jit"  # deprecated, and used all the same


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("convert", [torch.jit.script, lambda it: torch.jit.trace(it, draw(2, 3, 25, 25))])
def test_torchscript_takes_other_sizes_than_it_has_seen(tmp_path, convert, pooling):
    network = make_network(pooling=pooling)
    torch.jit.save(convert(network), tmp_path / "network.pt")
    read = torch.jit.load(tmp_path / "network.pt")
    for height, width in ((25, 25), (40, 33), (9, 12)):
        images = draw(1, 3, height, width)
        torch.testing.assert_close(read(images), network(images))


@pytest.mark.filterwarnings(IGNORED)
def test_the_papers_rule_is_no_torchscript():
    with pytest.raises(GeometryError, match=r'takes rule="adaptive" only; torch\.jit\.trace takes both'):
        torch.jit.script(make_network(levels=(1, 2), rule="paper"))


def test_average_is_exported_for_any_size():
    sizes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    network = make_network(pooling="average")
    exported = torch.export.export(network, (draw(2, 3, 25, 27),), dynamic_shapes=sizes).module()
    images = draw(3, 3, 40, 33)
    torch.testing.assert_close(exported(images), network(images))


def test_average_of_windows_in_a_graph():
    class Windows(nn.Module):
        def forward(self, features, cells):
            return pyramid_pool(features, cells, LEVELS, "average")

    first = draw(2, 3, 9, 11), torch.tensor([[0, 0, 0, 5, 5], [1, 1, 1, 4, 4]])
    other = draw(3, 3, 12, 8), torch.tensor([[0, 0, 0, 5, 5], [2, 1, 1, 8, 12], [1, 0, 0, 1, 1]])
    sizes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    exported = torch.export.export(Windows(), first, dynamic_shapes=sizes).module()
    compiled = torch.compile(Windows(), fullgraph=True, dynamic=True, backend="aot_eager")
    for one in (first, other):
        torch.testing.assert_close(exported(*one), Windows()(*one))
        torch.testing.assert_close(compiled(*one), Windows()(*one))
    with pytest.raises(RuntimeError, match="a window is empty or not inside its map"):
        exported(other[0], torch.tensor([[0, 0, 0, 5, 13], [0, 3, 3, 3, 4]]))


def test_windows_that_a_compiled_function_holds():
    features, cells = draw(1, 4, 9, 9), np.array([[0, 0, 5, 5]])
    compiled = torch.compile(lambda x: pyramid_pool(x, cells, LEVELS), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features), pyramid_pool(features, cells, LEVELS))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_an_average_is_as_odd_as_its_own_window_alone(odd):
    features = draw(1, 2, 9, 9)
    features[0, 0, 2, 2] = odd
    cells = torch.tensor([[0, 0, 3, 3], [3, 3, 9, 9], [0, 3, 9, 9], [2, 2, 3, 3]])
    for windows, expected in (
        (None, [features]),
        (cells, [features[:, :, y0:y1, x0:x1] for x0, y0, x1, y1 in cells.tolist()]),
    ):
        each = [torch.cat([F.adaptive_avg_pool2d(one, n).flatten(1) for n in LEVELS], 1) for one in expected]
        torch.testing.assert_close(
            pyramid_pool(features, windows, LEVELS, "average"), torch.cat(each), equal_nan=True
        )
    assert pyramid_pool(features, cells[:0], LEVELS, "average").shape == (0, 28)


# --- windows and levels of other makes ---------------------------------------------------------------


def read_only(cells):
    cells.setflags(write=False)
    return cells


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda cells: read_only(cells.copy()), id="read-only"),
        pytest.param(lambda cells: cells[::-1].copy()[::-1], id="reversed"),
        pytest.param(np.asfortranarray, id="by columns"),
        pytest.param(lambda cells: cells.astype(">i4"), id="of another byte order"),
        pytest.param(lambda cells: cells.astype(np.uint8), id="bytes"),
        pytest.param(lambda cells: cells.astype(np.uint64), id="unsigned"),
        pytest.param(pandas.DataFrame, id="a table"),
        pytest.param(lambda cells: pandas.DataFrame(cells).to_numpy(), id="of a table"),
        pytest.param(lambda cells: [read_only(cells.copy())], id="one a map"),
        pytest.param(lambda cells: torch.from_numpy(cells).int(), id="a tensor of 32 bits"),
    ],
)
def test_windows_of_every_make(made):
    cells = np.array([[0, 0, 5, 5], [1, 1, 4, 4], [3, 2, 9, 9]])
    features = draw(1, 4, 9, 9)
    assert torch.equal(pyramid_pool(features, made(cells)), pyramid_pool(features, torch.from_numpy(cells)))


@pytest.mark.parametrize("kind", ["f8", "O", "U3", "?"])
def test_windows_that_are_no_integers_are_refused(kind):
    with pytest.raises(GeometryError, match="cells must be integers; got"):
        pyramid_pool(draw(1, 4, 9, 9), np.array([[0, 0, 1, 1]]).astype(kind))


@pytest.mark.parametrize(
    "levels",
    [np.array([1, 2]), np.array([1, 2], np.uint8), [np.int32(1), 2], torch.tensor([1, 2]), range(1, 3)],
    ids=["an array", "bytes", "mixed", "a tensor", "a range"],
)
def test_levels_are_integers_of_any_kind(levels):
    layer, features = SpatialPyramidPooling(levels), draw(1, 4, 9, 9)
    assert layer.levels == (1, 2)
    assert all(type(n) is int for n in layer.levels)
    assert torch.equal(layer(features), pyramid_pool(features, levels=levels))


@pytest.mark.parametrize(
    "levels", [3, (True,), (np.True_,), (1.0,), (np.float64(2),), "12", (0,), (), None], ids=repr
)
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(GeometryError, match="levels must be one or more integers ≥ 1"):
        SpatialPyramidPooling(levels)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(torch.Tensor.to_sparse, r"torch\.sparse_coo.*to_dense\(\)", id="sparse"),
        pytest.param(
            lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
            r"quint8.*dequantize\(\)",
            id="quantised",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quant")
def test_features_that_are_no_dense_numbers_are_refused(made, said):
    with pytest.raises(GeometryError, match=f"must be a dense tensor of numbers; got .*{said}"):
        pyramid_pool(made(draw(1, 4, 9, 9)))


@pytest.mark.parametrize(
    "cells",
    [5, torch.tensor([[0, 0, 5, 5]]).to_sparse(), torch.empty(1, 4, dtype=torch.int64, device="meta")],
    ids=["a number", "sparse", "without values"],
)
def test_windows_that_are_no_dense_tensor_are_refused(cells):
    with pytest.raises(GeometryError, match="cells must be"):
        pyramid_pool(draw(1, 4, 9, 9), cells)


def test_boxes_of_a_network_are_taken_as_they_come():
    boxes = torch.tensor([[0, 0, 50, 60], [8, 16, 32, 40]], dtype=torch.bfloat16, requires_grad=True)
    grid = sppnet.load_trunk("zf5", width=0.0625).grid
    plain = boxes.detach().float().numpy()
    np.testing.assert_array_equal(
        sppnet.boxes_to_cells(boxes, grid, (20, 20)), sppnet.boxes_to_cells(plain, grid, (20, 20))
    )
    np.testing.assert_array_equal(check_boxes(boxes), plain)
