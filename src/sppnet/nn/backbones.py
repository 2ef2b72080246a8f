"""The four convolutional trunks of the paper's Table 1, as one table and one builder.

The paper adjusts pads "to produce the expected output feature map size" and does not print them.
ZF-5 follows the released prototxt; the others take the pads that give Table 1's maps and, for
Overfeat, the released detector's offset. AlexNet's two groups are not used (paper section 3.1.1).
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from sppnet.errors import ModelError, did_you_mean
from sppnet.nn.response_norm import AcrossChannelNorm, WithinChannelNorm

Init = Literal["he", "paper"]

CHANNEL_STEP = 8
"""Narrowed channel counts are rounded to a multiple of this, which vector units like."""


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """Max pooling without pads."""

    kernel: int
    stride: int
    ceil: bool
    """Whether a window that hangs over the border counts, as in Caffe."""


@dataclass(frozen=True)
class Row:
    """One convolution of Table 1 and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 1
    norm: Literal["within", "across"] | None = None
    pool: Pool | None = None
    pool_first: bool = False
    """Pool, then norm (Overfeat); otherwise norm, then pool."""
    bias: float = 0
    """What init="paper" fills the biases with."""


_CEIL3, _FLOOR3 = Pool(3, 2, ceil=True), Pool(3, 2, ceil=False)

BACKBONES: dict[str, tuple[Row, ...]] = {
    # Zeiler_conv5.prototxt of the released code, biases included.
    "zf5": (
        Row(96, 7, stride=2, padding=1, norm="within", pool=_CEIL3),
        Row(256, 5, stride=2, padding=0, norm="within", pool=_CEIL3, bias=1),
        Row(384, 3),
        Row(384, 3, bias=1),
        Row(256, 3, bias=1),
    ),
    "convnet5": (
        Row(96, 11, stride=4, padding=2, norm="across"),
        Row(256, 5, padding=2, norm="across", pool=_FLOOR3, bias=1),
        Row(384, 3, pool=_FLOOR3),
        Row(384, 3, bias=1),
        Row(256, 3, bias=1),
    ),
    "overfeat5": (
        Row(96, 7, stride=2, padding=0, norm="across", pool=Pool(3, 3, ceil=True), pool_first=True),
        Row(256, 5, padding=1, pool=Pool(2, 2, ceil=True), bias=1),
        Row(512, 3),
        Row(512, 3, bias=1),
        Row(512, 3, bias=1),
    ),
}
BACKBONES["overfeat7"] = (*BACKBONES["overfeat5"], Row(512, 3, bias=1), Row(512, 3, bias=1))


# --- the builder ---------------------------------------------------------------------------------


def build_backbone(name: str, width: float = 1.0, init: Init = "he") -> nn.Sequential:
    """A convolutional trunk of the paper: images (b, 3, h, w) → features (b, channels, h', w').

    width multiplies every channel count, rounded to a multiple of 8 and at least 8.
    init "he" scales each layer by its fan-in, with zero biases, and trains from scratch at any width.
    "paper" is the released code's N(0, 0.01) with biases of 0 or 1, made for images in 0..255 at full width:
    in a narrow network, or on inputs near 1, the biases drown what comes from the image.
    Raises ModelError for an unknown name, init or width.
    """
    if name not in BACKBONES:
        raise ModelError(f"no backbone is called {name!r}; {did_you_mean(name, BACKBONES)}")
    if not 0 < width < float("inf"):
        raise ModelError(f"width multiplies channel counts and must be above 0, got {width}")
    if init not in ("he", "paper"):
        raise ModelError(f'init must be "he" or "paper", got {init!r}')
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for number, row in enumerate(BACKBONES[name], start=1):
        wide = _widened(row.channels, width)
        layers |= {f"{kind}{number}": layer for kind, layer in _layers(row, channels, wide, init)}
        channels = wide
    return nn.Sequential(layers)


def _widened(channels: int, width: float) -> int:
    return max(CHANNEL_STEP, int(channels * width / CHANNEL_STEP + 0.5) * CHANNEL_STEP)


def _layers(row: Row, channels: int, wide: int, init: Init) -> Iterator[tuple[str, nn.Module]]:
    """The named layers of one row."""
    conv = nn.Conv2d(channels, wide, row.kernel, row.stride, row.padding)
    _initialise(conv, row, init)
    yield "conv", conv
    yield "relu", nn.ReLU(inplace=True)
    after: list[tuple[str, nn.Module]] = []
    if row.norm:
        after.append(("norm", _norm(row.norm)))
    if row.pool:
        after.append(("pool", nn.MaxPool2d(row.pool.kernel, row.pool.stride, ceil_mode=row.pool.ceil)))
    yield from reversed(after) if row.pool_first else after


def _norm(kind: Literal["within", "across"]) -> nn.Module:
    """ZF-5's norm, or AlexNet's for the networks whose norm the paper does not give."""
    return WithinChannelNorm() if kind == "within" else AcrossChannelNorm(5, alpha=1e-4, beta=0.75, k=2)


def _initialise(conv: nn.Conv2d, row: Row, init: Init) -> None:
    if init == "he":
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    else:
        nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, row.bias if init == "paper" else 0)
