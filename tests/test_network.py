"""The whole network: its size by the paper's tables, any input, the fixed baseline, and its spec."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from sppnet.errors import GeometryError, ModelError
from sppnet.nn.network import SPPNet, VectorSVM, empty_network, warm_start_fc6
from sppnet.nn.trunks import IMAGENET_MEAN, Trunk, load_trunk

WIDTH = 0.125


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**options) -> SPPNet:
    """ZF-5 an eighth as wide, with a head of 16."""
    torch.manual_seed(0)
    return SPPNet(load_trunk("zf5", width=WIDTH), num_classes=3, hidden=16, **options).eval()


def photographs(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# --- sizes ---------------------------------------------------------------------------------------


# Source: the paper's Table 1, multiplied out by hand with one group in every convolution: kernel² × in ×
# out + out for a convolution, in × out + out for fc6 (channels × bins → 4096), fc7 and fc8 (→ 1000).
@pytest.mark.parametrize(
    ("trunk", "levels", "expected"),
    [
        pytest.param("zf5", None, 62_357_608, id="ZF-5 without a pyramid"),
        pytest.param("zf5", [1, 2, 3, 6], 77_037_672, id="ZF-5 with 50 bins"),
        pytest.param("zf5", [1, 2, 3, 4], 56_066_152, id="ZF-5 with 30 bins"),
        pytest.param("convnet5", None, 62_378_344, id="Convnet*-5 without a pyramid"),
        pytest.param("convnet5", [1, 2, 3, 6], 77_058_408, id="Convnet*-5 with 50 bins"),
        pytest.param("overfeat5", None, 102_908_520, id="Overfeat-5 without a pyramid"),
        pytest.param("overfeat5", [1, 2, 3, 6], 132_268_648, id="Overfeat-5 with 50 bins"),
        pytest.param("overfeat7", None, 107_628_136, id="Overfeat-7 without a pyramid"),
        pytest.param("overfeat7", [1, 2, 3, 6], 136_988_264, id="Overfeat-7 with 50 bins"),
    ],
)
def test_parameter_counts_of_the_paper(trunk, levels, expected):
    with torch.device("meta"):
        network = SPPNet(trunk, levels, size=224 if levels is None else None)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_hidden_follows_the_width_of_the_papers_trunks_and_is_512_on_others():
    with torch.device("meta"):
        assert SPPNet("zf5").hidden == 4096
        assert SPPNet(load_trunk("zf5", width=0.25)).hidden == 1024
        assert SPPNet("squeezenet1_1").hidden == 512


@pytest.mark.parametrize(("height", "width"), [(180, 180), (224, 224), (160, 300), (33, 64)])
def test_one_network_takes_every_size(height, width):
    network = small()
    with torch.inference_mode():
        scores = network(photographs(height, width))
        vectors = network.vectors(photographs(height, width))
    assert scores.shape == (2, 3)
    assert vectors.shape == (2, network.vector_length) == (2, 32 * 50)
    assert torch.isfinite(scores).all()
    assert not torch.equal(scores[0], scores[1])


def test_vectors_are_the_levels_one_after_the_other():
    network = small()
    images = photographs(160, 300)
    with torch.inference_mode():
        features = network.trunk(images)
        expected = torch.cat([F.adaptive_max_pool2d(features, n).flatten(1) for n in (1, 2, 3, 6)], 1)
        assert torch.equal(network.vectors(images), expected)


# --- the fixed-size baseline ---------------------------------------------------------------------


def literal(network: SPPNet, images: Tensor) -> Tensor:
    """The paper's baseline, layer by layer: 3×3 pooling with stride 2 on 13×13, then fc6, fc7, fc8."""
    features = network.trunk(images)
    assert features.shape[-2:] == (13, 13)
    x = F.max_pool2d(features, kernel_size=3, stride=2).flatten(1)
    weights = network.head.state_dict()
    for name in ("fc6", "fc7"):
        x = F.relu(F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return F.linear(x, weights["fc8.weight"], weights["fc8.bias"])


def test_without_levels_it_is_the_papers_fixed_network():
    network = small(levels=None, size=224)
    assert network.vector_length == 32 * 36
    with torch.inference_mode():
        torch.testing.assert_close(network(photographs(224, 224)), literal(network, photographs(224, 224)))


@pytest.mark.parametrize(("height", "width"), [(180, 180), (224, 225), (240, 224)])
def test_the_fixed_network_refuses_other_sizes(height, width):
    message = f"takes 224×224 pixels only; got {height}×{width}. Evaluate it with the views crop"
    with pytest.raises(ModelError, match=re.escape(message)):
        small(levels=None, size=224)(photographs(height, width))


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        pytest.param(180, GeometryError, "a = 10 cells with n = 6", id="a map of 10 cells is not 6 bins"),
        pytest.param(None, ModelError, r"\(levels=None\) needs size=", id="no size"),
    ],
)
def test_a_fixed_network_whose_size_does_not_fit_is_not_built(size, error, message):
    with pytest.raises(error, match=message):
        small(levels=None, size=size)


# --- trunks and heads ----------------------------------------------------------------------------


def test_any_existing_module_becomes_a_trunk():
    torch.manual_seed(0)
    features = models.squeezenet1_1().features
    network = SPPNet(features, num_classes=3).eval()
    images = photographs(120, 90)
    assert network.trunk.mean == IMAGENET_MEAN
    with torch.inference_mode():
        assert torch.equal(network.trunk(images), features.eval()(images))
        assert network(images).shape == (2, 3)


def test_the_trunk_object_is_used_as_it_is():
    trunk = load_trunk("zf5", width=WIDTH)
    assert isinstance(trunk, Trunk)
    assert SPPNet(trunk, num_classes=2, hidden=8).trunk is trunk


def test_svm_scores_are_linear_in_the_vector_of_length_one():
    network = small(head="svm")
    assert isinstance(network.head, VectorSVM)
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(2))
        network.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        images = photographs(64, 64)
        vectors = network.vectors(images).double()
        vectors /= (vectors**2).sum(1, keepdim=True).sqrt()
        expected = vectors @ network.head.weight.double().T + network.head.bias.double()
        torch.testing.assert_close(network(images).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "num_classes ≥ 1", id="no classes"),
        pytest.param({"head": "mlp"}, "got 1000 and 'mlp'", id="a head there is not"),
        pytest.param({"trunk": "zf6"}, "did you mean zf5", id="a trunk there is not"),
        pytest.param({"trunk": nn.Flatten()}, "Flatten cannot be a trunk", id="a module without maps"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with torch.device("meta"), pytest.raises(ModelError, match=message):
        SPPNet(**{"trunk": "zf5", **options})


# --- warm start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (6,), (6, 1)], ids=str)
def test_a_warm_started_network_computes_what_the_fixed_one_does(levels):
    fixed = small(levels=None, size=224)
    state = fixed.state_dict()
    network = small(levels=levels)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("head.fc6")}
    assert network.load_state_dict(rest, strict=False).unexpected_keys == []
    with torch.no_grad():
        network.head.fc6.weight.fill_(7.0)  # all of it must be replaced
    warm_start_fc6(network, state["head.fc6.weight"], state["head.fc6.bias"])
    images = photographs(224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), fixed(images), rtol=1e-5, atol=1e-5)
        assert network(photographs(180, 180)).shape == (2, 3)  # and takes what the fixed one does not


@pytest.mark.parametrize(
    ("options", "weight", "bias", "message"),
    [
        pytest.param(
            {"levels": (1, 2)}, (16, 1152), (16,), r"a level 6; got levels \(1, 2\)", id="no level 6"
        ),
        pytest.param({"head": "svm"}, (16, 1152), (16,), 'needs head="fc"', id="an SVM head"),
        pytest.param({}, (32, 1152), (32,), r"got \(32, 1152\).*hidden=32", id="another hidden"),
        pytest.param({}, (16, 1600), (16,), r"\(16, 1152\); got \(16, 1600\)", id="another map"),
        pytest.param({}, (16, 1152), (3,), r"bias \(3,\)", id="another bias"),
    ],
)
def test_warm_starts_that_do_not_fit_change_nothing(options, weight, bias, message):
    network = small(**options)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        warm_start_fc6(network, torch.ones(weight), torch.ones(bias))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# --- spec ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "stride", "width", "options"),
    [
        pytest.param("zf5", None, WIDTH, {"hidden": 16}, id="the paper's, narrowed"),
        pytest.param("overfeat7", None, 0.0625, {"hidden": 8, "levels": (2, 5)}, id="other levels"),
        pytest.param("zf5", None, WIDTH, {"hidden": 8, "levels": None, "size": 112}, id="without a pyramid"),
        pytest.param("zf5", None, WIDTH, {"head": "svm"}, id="SVMs"),
        pytest.param("mobilenet_v3_small", 16, 1.0, {"hidden": 8}, id="torchvision, cut by stride"),
        pytest.param("squeezenet1_1:6", None, 1.0, {"hidden": 8}, id="torchvision, cut by stages"),
        pytest.param("timm:test_resnet", 16, 1.0, {"hidden": 8}, id="timm"),
    ],
)
def test_a_network_is_built_again_from_its_spec(trunk, stride, width, options):
    if trunk.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    network = SPPNet(load_trunk(trunk, stride=stride, width=width), num_classes=3, **options).eval()
    spec = json.loads(json.dumps(network.spec))
    again = empty_network(spec).eval()
    assert again.spec == network.spec
    again.load_state_dict(network.state_dict(), assign=True)
    images = photographs(112, 112, count=1)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_an_empty_network_takes_no_memory():
    network = empty_network(small().spec)
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), None], ids=["a pyramid", "no pyramid"])
def test_a_new_network_prefers_no_class(levels):
    """From scores far from 0 the first steps are so large that ReLUs die."""
    torch.manual_seed(1)
    network = SPPNet(load_trunk("zf5", width=WIDTH), levels, 50, size=None if levels else 224).eval()
    images = F.interpolate(torch.randn(8, 3, 14, 14), (224, 224), mode="bilinear")
    with torch.no_grad():
        assert 0.01 < network(images).std() < 1


def test_a_trunk_of_several_maps_is_refused():
    with pytest.raises(ModelError, match=r"gives 2\. Name one stage, such as mobilenet_v2:3"):
        SPPNet(load_trunk("mobilenet_v2:3+5"), num_classes=2)
