"""The paper's trunks: sizes, counts and places of their cells, and ZF-5's norm against a loop."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sppnet.errors import ModelError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.backbones import build_backbone
from sppnet.nn.receptive_field import derive_grid
from sppnet.nn.response_norm import AcrossChannelNorm, WithinChannelNorm, _define, _sum_within

# Counts: kernel areas × channels of the paper's Table 1, plus biases, without groups.
# Maps: Table 1 at 224, section 2.3 at 180 (10×10 for ZF-5).
# Grids: stride 16 and 12 in the paper's Appendix A; the centres 20 and 14 are the released detector's offsets
# of 21 and 15, which count pixels from 1; the rest follows from kernels, strides and pads.
TABLE = {
    "zf5": (3_726_464, 13, 10, CellGrid(stride=16, center0=20, receptive_field=139), 256),
    "convnet5": (3_747_200, 13, 10, CellGrid(stride=16, center0=15, receptive_field=131), 256),
    "overfeat5": (6_528_640, 18, 14, CellGrid(stride=12, center0=14, receptive_field=113), 512),
    "overfeat7": (11_248_256, 18, 14, CellGrid(stride=12, center0=14, receptive_field=161), 512),
}


def map_hw(trunk: nn.Module, height: int, width: int) -> tuple[int, int]:
    features = trunk.to("meta")(torch.empty(1, 3, height, width, device="meta"))
    return features.shape[2], features.shape[3]


@pytest.mark.parametrize(("name", "row"), TABLE.items(), ids=TABLE.keys())
def test_trunks_are_those_of_table_1(name: str, row: tuple[int, int, int, CellGrid, int]) -> None:
    parameters, cells_224, cells_180, grid, channels = row
    trunk = build_backbone(name)
    assert sum(parameter.numel() for parameter in trunk.parameters()) == parameters
    assert derive_grid(trunk) == (grid, channels)
    assert map_hw(trunk, 224, 180) == (cells_224, cells_180)


@pytest.mark.parametrize(
    ("name", "sizes"),
    # Table 1: filter counts and map sizes; ZF-5's 27 there is its convolution 2 before pooling, which the
    # prototxt's pads make 26; Overfeat's 36 is 37 with the pads of the released offset.
    [
        ("zf5", {"pool1": 55, "conv2": 26, "pool2": 13, "conv3": 13, "conv5": 13}),
        ("convnet5", {"conv1": 55, "pool2": 27, "pool3": 13, "conv5": 13}),
        ("overfeat7", {"pool1": 37, "conv2": 35, "pool2": 18, "conv7": 18}),
    ],
)
def test_maps_on_the_way_through_a_trunk(name: str, sizes: dict[str, int]) -> None:
    maps, found = torch.empty(1, 3, 224, 224, device="meta"), {}
    for layer_name, layer in build_backbone(name).to("meta").named_children():
        maps = layer(maps)
        found[layer_name] = maps.shape[-1]
    assert {layer_name: found[layer_name] for layer_name in sizes} == sizes


def test_zf5_maps_at_all_sizes_of_multi_size_training() -> None:
    # By Caffe's size formulas on the layers of Zeiler_conv5.prototxt, sizes 180 to 224 in steps of 4.
    trunk = build_backbone("zf5")
    found = [map_hw(trunk, size, size)[0] for size in range(180, 225, 4)]
    assert found == [10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 13]
    every = [map_hw(trunk, size, size)[0] for size in range(180, 225)]
    assert every == sorted(every)
    assert set(every) == {10, 11, 12, 13}


@pytest.mark.parametrize(
    ("scale_px", "cells"),
    # The paper's five scales (section 4.1) of a 500×375 photograph, through the prototxt's layers by hand.
    [(480, (29, 39)), (576, (35, 47)), (688, (42, 56)), (864, (53, 71)), (1200, (74, 99))],
)
def test_zf5_maps_of_a_photograph_at_the_scales_of_detection(scale_px: int, cells: tuple[int, int]) -> None:
    assert map_hw(build_backbone("zf5"), scale_px, scale_px * 4 // 3) == cells


@pytest.mark.parametrize("size", [1, 3, 5])
def test_within_channel_norm_equals_a_loop(size: int) -> None:
    # Caffe's lrn_layer, WITHIN_CHANNEL: the mean of squares over the window, zeros outside, k = 1.
    maps = torch.randn(2, 3, 6, 5, dtype=torch.float64) * 100
    expected = torch.empty_like(maps)
    reach = size // 2
    for y in range(6):
        for x in range(5):
            window = maps[:, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            power = (window**2).sum(dim=(2, 3)) / size**2
            expected[:, :, y, x] = maps[:, :, y, x] / (1 + 5e-5 * power) ** 0.75
    torch.testing.assert_close(WithinChannelNorm(size)(maps), expected)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 16, 62, 62), id="two chunks, the last of one image"),
        pytest.param((1, 8, 1, 1), id="one cell"),
        pytest.param((0, 8, 5, 4), id="no image"),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_through_the_norm_is_the_definition(shape, memory_format) -> None:
    start = (torch.randn(shape, dtype=torch.float64) * 100).to(memory_format=memory_format)
    upstream = torch.randn(shape, dtype=torch.float64)
    results = []
    window = partial(_sum_within, size=3, factor=5e-5 / 9)
    for function in (WithinChannelNorm(3), lambda maps: _define(maps, window, 1, 0.75)):
        maps = start.clone().requires_grad_()
        normalised = function(maps)
        normalised.backward(upstream)
        results.append((normalised.detach(), maps.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 16, 62, 62), id="two chunks, the last of one image"),
        pytest.param((2, 8, 1, 1), id="one cell"),
        pytest.param((2, 2, 5, 4), id="fewer channels than the window"),
        pytest.param((0, 8, 5, 4), id="no image"),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_the_norm_across_channels_is_torchs(shape, memory_format, beta: float) -> None:
    start = (torch.randn(shape, dtype=torch.float64) * 100).to(memory_format=memory_format)
    upstream = torch.randn(shape, dtype=torch.float64)
    results = []
    for norm in (AcrossChannelNorm(5, 1e-2, beta, 2), torch.nn.LocalResponseNorm(5, 1e-2, beta, 2)):
        maps = start.clone().requires_grad_()
        normalised = norm(maps)
        if maps.numel():  # torch's does not go back through a batch of nothing
            normalised.backward(upstream)
        results.append((normalised.detach(), maps.grad, norm(start.float())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [WithinChannelNorm, AcrossChannelNorm])
def test_gradients_of_the_norm_and_of_its_gradient(kind) -> None:
    maps = (torch.randn(2, 4, 4, 3, dtype=torch.float64) * 3).requires_grad_()
    norm = kind(3, alpha=0.5)  # large, so that the second term of the gradient counts
    assert torch.autograd.gradcheck(norm, maps)
    assert torch.autograd.gradgradcheck(norm, maps)


def test_norms_are_within_channels_for_zf5_only() -> None:
    kinds = {
        name: [
            type(layer) for layer_name, layer in build_backbone(name).named_children() if "norm" in layer_name
        ]
        for name in TABLE
    }
    assert kinds["zf5"] == [WithinChannelNorm] * 2
    assert kinds["convnet5"] == [AcrossChannelNorm] * 2
    assert kinds["overfeat5"] == kinds["overfeat7"] == [AcrossChannelNorm]


def test_overfeat_pools_before_its_norm() -> None:
    names = [name for name, _ in build_backbone("overfeat5").named_children()]
    assert names[:7] == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2"]


def convolutions(trunk: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in trunk if isinstance(layer, nn.Conv2d)]


def bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def test_width_multiplies_channels_in_steps_of_eight() -> None:
    widths = [layer.out_channels for layer in convolutions(build_backbone("zf5", width=0.3))]
    assert widths == [32, 80, 112, 112, 80]
    assert {layer.out_channels for layer in convolutions(build_backbone("zf5", width=0.001))} == {8}


def test_paper_init_is_that_of_the_prototxt() -> None:
    # Zeiler_conv5.prototxt: weights N(0, 0.01), biases 0, 1, 0, 1, 1.
    layers = convolutions(build_backbone("zf5", init="paper"))
    assert [bias(layer).unique().tolist() for layer in layers] == [[0], [1], [0], [1], [1]]
    assert all(abs(float(layer.weight.detach().std()) - 0.01) < 5e-4 for layer in layers)


def test_he_init_keeps_the_signal() -> None:
    torch.manual_seed(0)
    trunk = build_backbone("zf5", width=0.25)
    assert all(not bias(layer).any() for layer in convolutions(trunk))
    assert 0.5 < float(trunk(torch.randn(2, 3, 96, 96)).detach().std()) < 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zf6", {}, "did you mean zf5"),
        ("zf5", {"width": 0}, "above 0, got 0"),
        ("zf5", {"width": float("nan")}, "above 0, got nan"),
        ("zf5", {"init": "xavier"}, 'must be "he" or "paper"'),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_backbone(name, **options)


@pytest.mark.parametrize("kind", [WithinChannelNorm, AcrossChannelNorm])
def test_an_even_norm_window_is_refused(kind) -> None:
    with pytest.raises(ModelError, match="odd size, got 4"):
        kind(4)
