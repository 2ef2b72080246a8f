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
