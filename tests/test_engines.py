"""The engines that run frozen trunks: each computes what torch computes."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from sppnet.detect.config import DetectorConfig
from sppnet.errors import ConfigError
from sppnet.features.cache import recipe_of
from sppnet.features.extractor import FeatureExtractor
from sppnet.nn import engines
from sppnet.nn.engines import OnnxEngine, TorchEngine, make_engine
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.network import ENGINE_IMAGES, SPPNet
from sppnet.nn.onnx_nodes import UntranslatableError
from sppnet.nn.onnx_translation import translate_body
from sppnet.nn.response_norm import AcrossChannelNorm, WithinChannelNorm
from sppnet.nn.trunks import as_maps, load_trunk

pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
SIZES_HW = [(33, 47), (64, 40), (51, 32)]


def _live_norm(norm: nn.Module) -> nn.Module:
    """A batch norm whose numbers are not those it starts with."""
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


LAYERS = {
    "strided": nn.Conv2d(3, 6, 3, stride=2, padding=1),
    "grouped": nn.Conv2d(3, 6, (3, 5), groups=3, padding=(0, 2), bias=False),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "same": nn.Conv2d(3, 4, 3, dilation=2, padding="same"),
    "norm": _live_norm(nn.BatchNorm2d(3)),
    "across": AcrossChannelNorm(5, alpha=0.3, beta=0.75, k=2),
    "across, torch's": nn.LocalResponseNorm(5, alpha=0.3, beta=0.75, k=2),
    "within": WithinChannelNorm(3, alpha=0.3),
    "within, beta": WithinChannelNorm(5, alpha=0.3, beta=0.5),
    "max": nn.MaxPool2d(3, 2),
    "max, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max, padded": nn.MaxPool2d(3, 2, padding=1),
    "average": nn.AvgPool2d(3, 2, padding=1),
    "average, inside": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "global": nn.AdaptiveAvgPool2d(1),
    "pad": nn.ZeroPad2d((0, 1, 2, 3)),
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True)),
    "hardtanh": nn.Hardtanh(-0.2, 0.3),
    "leaky": nn.LeakyReLU(0.1),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "dropout": nn.Dropout(0.5),
    "stochastic depth": StochasticDepth(0.5, "row"),
}


class _Calls(nn.Module):
    """Functions and methods in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = _live_norm(nn.BatchNorm2d(3))
        self.layer_norm, self.linear = nn.LayerNorm(3), nn.Linear(3, 5, bias=False)
        self.scale = nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.norm
        maps = F.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        maps = torch.cat([F.relu(maps), F.gelu(images) * self.scale, 0.5 * images + 1], dim=1)
        maps = F.max_pool2d(maps, 3, 2) + maps.mean((2, 3), keepdim=True)
        rows = F.layer_norm(images.permute(0, 2, 3, 1), (3,), self.layer_norm.weight)
        last = self.linear(self.layer_norm(rows)).permute((0, 3, 1, 2))
        last += 0.25
        return maps.clone(), F.avg_pool2d(last.contiguous(), 3, 1, 1).relu()


def _compare(body: nn.Module, size_hw: tuple[int, int], channels: int = 3) -> None:
    images = torch.randn(2, channels, *size_hw, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = as_maps(body.eval()(images.clone()))
    found = OnnxEngine(translate_body(body))(images)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, size_hw):
    torch.manual_seed(0)
    _compare(nn.Sequential(LAYERS[name]), size_hw)


TRUNKS = [
    "zf5", "convnet5", "overfeat7", "alexnet:12", "mobilenet_v2:14+18", "mobilenet_v3_small:9",
    "efficientnet_lite0:4+6", "resnet18:6+7", "densenet121:6", "squeezenet1_1:10", "efficientnet_b0:5",
    "regnet_y_400mf:3", "convnext_tiny:4", "inception_v3:10", "mnasnet0_5:9",
]  # fmt: skip


@pytest.mark.parametrize("name", TRUNKS)
def test_trunk(name):
    torch.manual_seed(0)
    trunk = load_trunk(name, width=0.2 if name in ("zf5", "convnet5", "overfeat7") else 1.0)
    engine = make_engine(fuse_conv_bn(trunk.body), CPU, "onnx")
    images = torch.randn(1, 3, 131, 163)
    with torch.inference_mode():
        expected = as_maps(trunk.eval().body(images))
    for one, other in zip(engine(images), expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


class _Indexed(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 1:]


class _Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


REFUSED = {
    "getitem": (_Indexed(), "getitem is not translated"),
    "branch": (_Branching(), r"torch.fx cannot follow \(TraceError\) is not translated"),
    "padding": (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "padding by reflect"),
    "layer": (nn.Sequential(nn.Softplus()), "Softplus is not translated"),
    "pooling": (nn.Sequential(nn.AdaptiveAvgPool2d(3)), "adaptive pooling to 3"),
    "statistics": (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "without statistics"),
    "divisor": (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "with a divisor"),
    "gelu": (nn.Sequential(nn.GELU(approximate="tanh")), "GELU by tanh"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_translated_runs_in_torch(name):
    body, message = REFUSED[name]
    with pytest.raises(UntranslatableError, match=message):
        translate_body(body.eval())
    with pytest.raises(ConfigError, match=r"--engine onnx cannot run this trunk.*Leave --engine at auto"):
        make_engine(body.eval(), CPU, "onnx")
    engine = make_engine(body.eval(), CPU)
    assert isinstance(engine, TorchEngine)
    assert "not translated" in engine.reason


def _small_body() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def test_engine_that_disagrees_is_not_taken(monkeypatch):
    other = translate_body(_small_body()[:1])
    monkeypatch.setattr(engines, "translate_body", lambda body: other)
    assert "differ from torch's" in make_engine(_small_body(), CPU).reason


def test_calls():
    _compare(_Calls(), (33, 47))


def test_without_the_extra_torch_runs_and_says_so(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "onnxruntime" else name)
    engine = make_engine(_small_body(), CPU)
    assert engine.name == "torch"
    assert engine.reason.startswith("onnxruntime not installed: pip install 'sppnet[onnx]'")
    with pytest.raises(ConfigError, match="onnxruntime not installed"):
        make_engine(_small_body(), CPU, "onnx")


def test_another_device_runs_in_torch():
    assert "on meta" in make_engine(_small_body(), torch.device("meta")).reason


def test_calls_at_once_give_the_same_bits():
    engine, rng = make_engine(_small_body(), CPU), torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 40 + index, 60, generator=rng) for index in range(12)]
    alone = [engine(one)[0] for one in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: engine(one)[0], images))
    assert all(map(torch.equal, alone, together))
    copy = deepcopy(engine)  # as pickling does
    assert torch.equal(copy(images[0])[0], alone[0])


def test_engine_survives_a_fork():
    program = """
        import os
        import torch
        from torch import nn
        from sppnet.nn.engines import make_engine

        engine = make_engine(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), torch.device("cpu"), "onnx")
        images = torch.rand(1, 3, 50, 60)
        expected = engine(images)[0]
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(engine(images)[0], expected) else 3)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_onnxruntime_leaves_nothing_in_the_home_folder(tmp_path):
    """Its telemetry would: an id, and a database of events."""
    program = """
        import os
        import torch
        from torch import nn
        from sppnet.nn.engines import make_engine

        before = dict(os.environ)
        engine = make_engine(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), torch.device("cpu"), "onnx")
        engine(torch.rand(1, 3, 50, 60))
        assert dict(os.environ) == before
    """
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, timeout=120, check=True, env=environment)
    assert not list(tmp_path.rglob("*"))


def test_extractor_gives_the_same_maps_by_either_engine():
    trunk = load_trunk("mobilenet_v2:3+5").eval()
    image = np.random.default_rng(0).integers(0, 256, (70, 101, 3), np.uint8)
    by_torch, by_onnx = (FeatureExtractor(trunk, (64, 48), name) for name in ("torch", "onnx"))
    assert (by_torch.engine_name, by_onnx.engine_name) == ("torch", "onnx")
    expected, found = by_torch(image), by_onnx(image)
    assert found.sizes_hw == expected.sizes_hw
    for one, other in zip(found.taps, expected.taps, strict=True):
        assert one.grid == other.grid
        for maps, others in zip(one.maps, other.maps, strict=True):
            torch.testing.assert_close(maps, others, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("head", ["fc", "svm"])
def test_a_classifier_of_many_images_scores_them_by_the_engine(head):
    torch.manual_seed(0)
    network = SPPNet("mobilenet_v2:5", (1, 2), 3, head=head).eval()
    fast = network.for_scoring(ENGINE_IMAGES)
    assert network.for_scoring(ENGINE_IMAGES - 1) is network
    assert fast.trunk.body.engine.name == "onnx"
    assert fast.head is network.head
    images = torch.randn(2, 3, 71, 90)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), network(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fast.vectors(images), network.vectors(images), rtol=1e-4, atol=1e-5)
    assert fast.vector_length == network.vector_length


def test_maps_of_different_engines_are_kept_apart():
    trunk = load_trunk("squeezenet1_1")
    recipes = [recipe_of(FeatureExtractor(trunk, (64,), engine)) for engine in ("torch", "torch", "onnx")]
    assert recipes[0] == recipes[1] != recipes[2]


def test_config():
    assert replace(DetectorConfig(weights="imagenet"), engine="torch").engine == "torch"
    with pytest.raises(ConfigError, match="engine must be one of auto, torch, onnx"):
        DetectorConfig(engine="tensorrt")
    with pytest.raises(ConfigError, match="an engine of its own"):
        DetectorConfig(trunk="detector.onnx", engine="onnx")
