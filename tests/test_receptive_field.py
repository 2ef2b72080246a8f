"""The derived grid against gradients: which pixels a cell of the real network depends on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import SqueezeExcitation

from sppnet.errors import ModelError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.backbones import BACKBONES, build_backbone
from sppnet.nn.receptive_field import derive_grid, follow_stages
from sppnet.nn.response_norm import AcrossChannelNorm, WithinChannelNorm

# What only scales a cell or acts on it alone; max pools become averages, which see every pixel.
TRANSPARENT = (
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.Dropout,
    WithinChannelNorm,
    nn.LocalResponseNorm,
    SqueezeExcitation,
)


def transparent(module: nn.Module) -> nn.Module:
    """The network in float64 with equal positive weights, so that no gradient cancels or vanishes."""
    for name, child in module.named_children():
        if isinstance(child, TRANSPARENT):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Conv2d):
            nn.init.constant_(child.weight, 1 / child.weight[0].numel())
        else:
            transparent(child)
    return module.double().eval()


def average_pool(
    maps: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    *_: int,
    ceil_mode: bool = False,
    **__: bool,
) -> Tensor:
    return F.avg_pool2d(maps, kernel_size, stride, padding, ceil_mode)


def pixels_seen(module: nn.Module, size_hw: tuple[int, int], axis: int, cell: int) -> tuple[int, int]:
    """First and last pixel along an axis (-2 down, -1 across) whose change changes the cell."""
    images = (torch.rand(1, 3, *size_hw, dtype=torch.float64) + 0.1).requires_grad_()
    maps = module(images)
    maps.select(axis, cell).sum().backward()
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=(0, 1, -1 if axis == -2 else -2)).nonzero().flatten()
    return int(seen[0]), int(seen[-1])


def cut(network: nn.Module, last: str) -> nn.Sequential:
    """The children of a network up to the one named."""
    children = dict(network.named_children())
    names = list(children)
    return nn.Sequential(*(children[name] for name in names[: names.index(last) + 1]))


NETWORKS = {
    **{name: (lambda name=name: build_backbone(name, width=1 / 8)) for name in BACKBONES},
    "squeezenet1_1, ceil pools": lambda: models.squeezenet1_1().features,
    "mobilenet_v2 at stride 16": lambda: models.mobilenet_v2(width_mult=0.25).features[:14],
    "mobilenet_v3_small, gates": lambda: models.mobilenet_v3_small().features[:9],
    "resnet18, unions of branches": lambda: cut(models.resnet18(), "layer4"),
    "densenet121, joined maps": lambda: models.densenet121().features[:7],
    "shufflenet, shuffled channels": lambda: cut(models.shufflenet_v2_x0_5(), "stage3"),
    "inception_v3, oblong kernels": lambda: cut(models.inception_v3(init_weights=False), "Mixed_6b"),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("axis", [-2, -1], ids=["down", "across"])
def test_a_cell_sees_the_pixels_that_gradients_reach(
    monkeypatch: pytest.MonkeyPatch, build: object, axis: int
) -> None:
    network = build()
    (grid, channels) = derive_grid(network)
    network = transparent(network)
    monkeypatch.setattr(F, "relu", lambda maps, inplace=False: maps)
    monkeypatch.setattr(F, "max_pool2d", average_pool)
    middle = -(-(grid.receptive_field // 2 - int(grid.center0)) // grid.stride) + 1
    long = grid.receptive_field + 4 * grid.stride
    size_hw = (long, 80) if axis == -2 else (80, long)
    half = (grid.receptive_field - 1) / 2
    center = grid.center0 + middle * grid.stride
    assert pixels_seen(network, size_hw, axis, middle) == (center - half, center + half)
    # At the border what a cell would see beyond the image is cut off.
    assert pixels_seen(network, size_hw, axis, 0) == (max(0, grid.center0 - half), grid.center0 + half)
    assert network(torch.zeros(1, 3, *size_hw, dtype=torch.float64)).shape[1] == channels


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)


# By hand: stride, centre, receptive field.
GOLDEN = {
    "nothing": (nn.Identity(), CellGrid(stride=1, center0=0, receptive_field=1)),
    "an even kernel centres between pixels": (
        nn.Conv2d(3, 4, 2, stride=2),
        CellGrid(stride=2, center0=0.5, receptive_field=2),
    ),
    "dilation spreads the kernel": (
        nn.Conv2d(3, 4, 3, dilation=3),
        CellGrid(stride=1, center0=3, receptive_field=7),
    ),
    "same padding keeps the centre": (
        nn.Conv2d(3, 4, 5, padding="same"),
        CellGrid(stride=1, center0=0, receptive_field=5),
    ),
    "zero pads move the centre": (
        nn.Sequential(nn.ZeroPad2d(4), nn.Conv2d(3, 4, 3, stride=4)),
        CellGrid(stride=4, center0=-3, receptive_field=3),
    ),
    "channels last and back": (
        nn.Sequential(
            Function(lambda maps: maps.permute(0, 2, 3, 1)),
            nn.LayerNorm(3),
            nn.Linear(3, 8),
            nn.GELU(),
            Function(lambda maps: maps.permute(0, 3, 1, 2)),
            nn.Conv2d(8, 4, 3),
        ),
        CellGrid(stride=1, center0=1, receptive_field=3),
    ),
    "what is pooled from everywhere does not count": (
        nn.Sequential(
            nn.Conv2d(3, 16, 3),
            SqueezeExcitation(16, 4),
            Function(lambda maps: maps * maps.mean((2, 3), True)),
        ),
        CellGrid(stride=1, center0=1, receptive_field=3),
    ),
    "the divisor of a norm does not count": (
        nn.Sequential(WithinChannelNorm(), AcrossChannelNorm(3), nn.LocalResponseNorm(3)),
        CellGrid(stride=1, center0=0, receptive_field=1),
    ),
}


@pytest.mark.parametrize(("module", "grid"), GOLDEN.values(), ids=GOLDEN.keys())
def test_grids_worked_out_by_hand(module: nn.Module, grid: CellGrid) -> None:
    assert derive_grid(module)[0] == grid


REFUSED = {
    "strides that differ": (nn.Conv2d(3, 4, 3, stride=(1, 2)), "alike down and across"),
    "kernels that differ": (nn.Conv2d(3, 4, (1, 3)), "alike down and across"),
    "pads by image size": (
        nn.Sequential(Function(lambda maps: F.pad(maps, (maps.shape[-1] % 2, 0, 0, 0))), nn.Conv2d(3, 4, 3)),
        "pads that depend on the image size",
    ),
    "rows and columns flattened": (Function(lambda maps: maps.flatten(2)[:, :, :1, None]), "reshapes rows"),
    "a patch of the image": (Function(lambda maps: maps[:, :, 1:, :]), "cuts or reshapes"),
    "rows pooled away": (Function(lambda maps: maps * maps.mean(2, keepdim=True)), "one side of the image"),
    "enlarged maps": (nn.Upsample(scale_factor=2), "cannot follow"),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 2), "convolution"),
    "maps side by side": (Function(lambda maps: torch.cat([maps, maps], dim=2)), "side by side"),
    "bins that grow": (nn.AdaptiveMaxPool2d(6), "adaptive_max_pool2d"),
    "a linear layer over columns": (nn.Linear(549, 549), "mixes the cells of a row"),
    "everything pooled": (nn.AdaptiveAvgPool2d(1), "pools the whole image"),
    "channels put last": (Function(lambda maps: maps.permute(0, 2, 3, 1)), "rows and columns elsewhere"),
    "two results": (Function(lambda maps: (maps, maps)), "a stage must give one map; Function gave 2"),
    "other input channels": (nn.Conv2d(4, 4, 3), r"failed on shape \(1, 3, 512, 549\)"),
    "attention": (
        Function(lambda maps: maps @ maps.transpose(2, 3).softmax(-1) @ maps),
        "Only convolutional trunks can be used",
    ),
    "maps of two strides": (
        Function(lambda maps: maps + F.avg_pool2d(F.pad(maps, (0, maps.shape[3], 0, maps.shape[2])), 2)),
        "different strides",
    ),
}


@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_followed_is_refused_by_name(module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        derive_grid(module)


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    derive_grid(module)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_stages_are_followed_one_after_the_other() -> None:
    stages = [nn.Conv2d(3, 4, 3, stride=2), nn.MaxPool2d(2)]
    grids = [(grid.stride, grid.receptive_field, channels) for grid, channels in follow_stages(stages)]
    assert grids == [(2, 3, 4), (4, 5, 4)]


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)]
)
def test_norms_keep_the_cells(norm: nn.Module) -> None:
    convolution = nn.Conv2d(3, 4, 3, stride=2)
    assert derive_grid(nn.Sequential(convolution, norm)) == derive_grid(convolution)
