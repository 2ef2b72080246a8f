"""Dilated trunks: every cell of the coarse map is in the fine one, unchanged, at its place."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sppnet.errors import ModelError
from sppnet.nn.dilation import dilate_stages
from sppnet.nn.trunks import Trunk, load_trunk


def stir(module: nn.Module) -> None:
    """Batch norms as after training: of a fresh one nothing would be seen."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)


def coarse_and_fine(name: str, stride: int) -> tuple[Trunk, Trunk]:
    torch.manual_seed(0)
    coarse = load_trunk(name).eval()
    stir(coarse)
    return coarse, load_trunk(name, stride=stride, weights=coarse.body.state_dict()).eval()


def maps_of(trunk: Trunk, size_hw: tuple[int, int]) -> Tensor:
    images = torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return trunk(images)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("mobilenet_v2:18", 16),
        ("mobilenet_v2:18", 8),
        ("resnet18:8", 16),
        ("resnet18:8", 8),
        ("resnet50:8", 16),
        ("densenet121:10", 16),
        ("vgg11:21", 16),
        ("alexnet:13", 16),
        ("convnext_tiny:8", 16),
    ],
)
def test_every_coarse_cell_is_there_unchanged(name, stride):
    coarse, fine = coarse_and_fine(name, stride)
    step = coarse.grid.stride // stride
    assert step > 1
    assert fine.grid.stride == stride
    assert fine.grid.center0 == coarse.grid.center0
    assert fine.grid.receptive_field == coarse.grid.receptive_field
    assert fine.spec == {**coarse.spec, "stride": stride}
    for size_hw in ((160, 191), (97, 128)):
        expected = maps_of(coarse, size_hw)
        every = maps_of(fine, size_hw)[:, :, ::step, ::step]
        found = every[:, :, : expected.shape[2], : expected.shape[3]]
        assert expected.std() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_cells_between_are_new():
    coarse, fine = coarse_and_fine("mobilenet_v2:18", 16)
    maps = maps_of(fine, (128, 128))
    assert maps.shape[2:] == (8, 8)
    assert maps_of(coarse, (128, 128)).shape[2:] == (4, 4)
    assert not torch.allclose(maps[:, :, 1::2, 1::2], maps[:, :, ::2, ::2], atol=1e-3)


def test_a_stride_that_is_there_already_changes_nothing():
    trunk = load_trunk("mobilenet_v2:18", stride=32)
    assert all(part.dilation == (1, 1) for part in trunk.modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        pytest.param("mobilenet_v2:18", 12, "has stride 8 and cannot have 12", id="a stride between"),
        pytest.param("mobilenet_v2:18", 64, "has stride 32 and cannot have 64", id="a coarser stride"),
        pytest.param("densenet121:10", 8, "AvgPool2d.* cannot be dilated", id="an average spread"),
        pytest.param("squeezenet1_1:13", 8, "hangs over the border", id="a pooling that rounds up"),
        pytest.param("googlenet:15", 16, "hangs over the border", id="one within a network"),
    ],
)
def test_what_cannot_be_spread_is_refused(name, stride, message):
    with pytest.raises(ModelError, match=message):
        load_trunk(name, stride=stride)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        pytest.param(
            [nn.Conv2d(3, 3, 3, stride=4, padding=1)], r"only one step of 8", id="two steps at once"
        ),
        pytest.param(
            [nn.Conv2d(3, 3, 3, stride=8, padding=1), nn.Conv2d(3, 3, 3, padding="same")],
            "padded in a way of its own",
            id="pads by name",
        ),
        pytest.param(
            [nn.Conv2d(3, 3, 3, stride=8, padding=1), nn.Conv2d(3, 3, 3, dilation=2)],
            "dilated or padded in a way",
            id="dilated before",
        ),
        pytest.param(
            [nn.Conv2d(3, 3, 3, stride=8, padding=1), nn.MaxPool2d(3, 1, ceil_mode=True)],
            "cannot be dilated",
            id="a pooling that rounds up",
        ),
    ],
)
def test_layers_that_cannot_be_spread_are_named(layers, message):
    with pytest.raises(ModelError, match=message):
        dilate_stages([nn.Sequential(*layers)], [8], 1)


def test_what_comes_before_the_step_sees_as_far_as_before():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 3)]
    coarse, fine = nn.Sequential(*layers), deepcopy(nn.Sequential(*layers))
    dilate_stages([fine], [2], 1)
    assert [layer.dilation[0] for layer in fine] == [1, 1, 2]
    images = torch.randn(1, 3, 20, 20)
    with torch.inference_mode():
        expected = coarse(images)
        torch.testing.assert_close(fine(images)[:, :, ::2, ::2], expected)


def test_stages_multiply():
    stages = [
        nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 3, padding=1)) for _ in "abc"
    ]
    dilate_stages(stages, [2, 4, 8], 2)
    assert [[conv.dilation[0] for conv in stage] for stage in stages] == [[1, 1], [1, 2], [2, 4]]
    assert [[conv.padding[0] for conv in stage] for stage in stages] == [[1, 1], [1, 2], [2, 4]]
    assert [stage[0].stride for stage in stages] == [(2, 2), (1, 1), (1, 1)]
