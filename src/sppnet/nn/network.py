"""SPP-net: a trunk, the pyramid on its last feature map, and fully connected layers on that."""

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sppnet.errors import ModelError
from sppnet.geometry.grid import sliding_bins
from sppnet.nn.backbones import BACKBONES
from sppnet.nn.engines import EngineBody
from sppnet.nn.networks import ParametersOnMeta
from sppnet.nn.pyramid import SpatialPyramidPooling
from sppnet.nn.trunks import IMAGENET_MEAN, IMAGENET_STD, Trunk, empty_trunk, load_trunk

FIXED_LEVEL = 6
"""The network without a pyramid pools its last map to 6×6 (paper section 3.1.1)."""

PAPER_HIDDEN = 4096
OTHER_HIDDEN = 512
"""Default outputs of fc6 and fc7 on a trunk that is not the paper's: on 1,280 channels and 50 bins,
4,096 would make a fc6 of a gigabyte."""

HeadKind = Literal["fc", "svm"]

ENGINE_IMAGES = 64
"""From how many images on another engine is worth the second that it takes to make one."""


class SPPNet(nn.Module):
    """Images of any size → class scores (paper section 3.1).

    trunk: a Trunk, a name for `load_trunk`, or any convolutional module (inputs then normalised as
        for ImageNet): `SPPNet(model.features, num_classes=10)` gives an existing model an any-size head.
    levels: of the pyramid; None for the paper's baseline, one 6×6 level on maps of one size only.
    head: "fc", three fully connected layers with dropout; "svm", one linear layer on the
        l2-normalised vector.
    hidden: outputs of fc6 and fc7; by default 4,096 times the trunk's width, 512 on other trunks.
    size: with levels=None, the side of the only input it takes, in pixels.
    """

    def __init__(
        self,
        trunk: Trunk | nn.Module | str,
        levels: Sequence[int] | None = (1, 2, 3, 6),
        num_classes: int = 1000,
        *,
        head: HeadKind = "fc",
        hidden: int | None = None,
        dropout: float = 0.5,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or head not in ("fc", "svm"):
            raise ModelError(f'needs num_classes ≥ 1 and head "fc" or "svm"; got {num_classes} and {head!r}')
        self.trunk = _as_trunk(trunk)
        if len(self.trunk.taps) > 1:
            name = self.trunk.name
            raise ModelError(
                f"a classifier needs a trunk of one feature map; {name} gives {len(self.trunk.taps)}. Name "
                f"one stage, such as {name.partition('+')[0]}"
            )
        self.num_classes, self.head_kind, self.size = num_classes, head, size
        self.fixed = levels is None
        if levels is None:
            self._check_fixed_size()
        self.pyramid = SpatialPyramidPooling((FIXED_LEVEL,) if levels is None else levels)
        self.hidden = hidden or default_hidden(self.trunk)
        self.head: nn.Module = (
            VectorSVM(self.vector_length, num_classes)
            if head == "svm"
            else build_head(self.vector_length, self.hidden, num_classes, dropout)
        )

    @property
    def vector_length(self) -> int:
        """Channels × bins: 12,800 for 256 channels and levels (1, 2, 3, 6)."""
        return self.trunk.channels * self.pyramid.bins

    @property
    def spec(self) -> dict[str, Any]:
        """What `empty_network` builds this network from again, weights apart. Fit for JSON."""
        return {
            "trunk": self.trunk.spec,
            "levels": None if self.fixed else list(self.pyramid.levels),
            "num_classes": self.num_classes,
            "head": self.head_kind,
            "hidden": self.hidden,
            "size": self.size,
        }

    def forward(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w), normalised → scores (b, num_classes), before any softmax."""
        scores: Tensor = self.head(self.vectors(images))
        return scores

    def vectors(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w) → pooled vectors (b, vector_length)."""
        if self.fixed and tuple(images.shape[-2:]) != (self.size, self.size):
            raise ModelError(
                f"this network has no pyramid and takes {self.size}×{self.size} pixels only; got "
                f"{images.shape[-2]}×{images.shape[-1]}. Evaluate it with the views crop, warp, 10 or 96"
            )
        vectors: Tensor = self.pyramid(self.trunk(images))
        return vectors

    def for_scoring(self, images: int) -> "SPPNet":
        """What scores that many images fastest: a copy for inference alone, or this network itself.

        The copy shares the head, and `make_engine` chooses what runs its trunk. Scores differ by rounding.
        """
        if images < ENGINE_IMAGES or next(self.parameters()).device.type != "cpu":
            return self
        fast = copy(self)
        fast._modules = {**self._modules, "trunk": self.trunk.with_body(EngineBody(self.trunk))}
        return fast.eval()

    def _check_fixed_size(self) -> None:
        if self.size is None:
            raise ModelError("a network without a pyramid (levels=None) needs size=, the side of its inputs")
        image = torch.zeros(1, 3, self.size, self.size, device="meta")
        features = _on_meta(self.trunk)(image)
        for side in features.shape[-2:]:
            sliding_bins(side, FIXED_LEVEL)


class VectorSVM(nn.Module):
    """One-vs-rest linear scores of l2-normalised vectors (paper section 4.2)."""

    def __init__(self, length: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, length))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors (n, length) → scores (n, num_classes)."""
        return nn.functional.linear(nn.functional.normalize(vectors, dim=1), self.weight, self.bias)


def build_head(length: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """fc6, fc7 and fc8, with ReLU and dropout between (paper Table 1)."""
    head = nn.Sequential()
    for name, inputs in (("6", length), ("7", hidden)):
        head.add_module(f"fc{name}", nn.Linear(inputs, hidden))
        head.add_module(f"relu{name}", nn.ReLU(inplace=True))
        head.add_module(f"drop{name}", nn.Dropout(dropout))
    fc8 = nn.Linear(hidden, num_classes)
    head.add_module("fc8", fc8)
    for layer in head:
        if isinstance(layer, nn.Linear):
            # He's initialisation; the paper's N(0, 0.01) with bias 1 suits fan-ins of its full width only.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    # Scores begin near 0, as the paper's do. From scores of ±4 the first steps killed every ReLU of conv5 in
    # one run of two.
    nn.init.normal_(fc8.weight, std=0.01)
    return head


def default_hidden(trunk: Trunk) -> int:
    """Outputs of fc6 and fc7 for a trunk."""
    if trunk.name in BACKBONES:
        return max(8, round(PAPER_HIDDEN * trunk.width / 8) * 8)
    return OTHER_HIDDEN


def empty_network(spec: dict[str, Any]) -> SPPNet:
    """The network of a `spec`; load its state dict with assign=True."""
    options = dict(spec)
    trunk = empty_trunk(**options.pop("trunk"))
    with ParametersOnMeta():
        network = SPPNet(trunk, options.pop("levels"), **options)
    return network


def warm_start_fc6(network: SPPNet, weight: Tensor, bias: Tensor) -> None:
    """Give fc6 the weights of a fixed-size network's: its 6×6 level gets them, the others start at zero.

    weight: (hidden, channels × 36), over a flattened (channels, 6, 6) map; bias: (hidden,).
    The network then starts out computing what the fixed-size one does on maps it took.
    """
    fc6 = network.head[0] if isinstance(network.head, nn.Sequential) else None
    levels, channels = network.pyramid.levels, network.trunk.channels
    if fc6 is None or FIXED_LEVEL not in levels:
        raise ModelError(f'a warm start needs head="fc" and a level 6; got levels {levels}')
    assert isinstance(fc6, nn.Linear)
    expected = (fc6.out_features, channels * FIXED_LEVEL**2)
    if tuple(weight.shape) != expected or tuple(bias.shape) != expected[:1]:
        raise ModelError(
            f"fc6 of the fixed-size network must have weight {expected}; got {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)}. Build the network with hidden={weight.shape[0]}"
        )
    start = channels * sum(n * n for n in levels[: levels.index(FIXED_LEVEL)])
    with torch.no_grad():
        fc6.weight.zero_()
        fc6.weight[:, start : start + expected[1]] = weight
        fc6.bias.copy_(bias)


def _as_trunk(trunk: Trunk | nn.Module | str) -> Trunk:
    if isinstance(trunk, Trunk):
        return trunk
    if isinstance(trunk, str):
        return load_trunk(trunk)
    return Trunk(type(trunk).__name__, trunk, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _on_meta(module: nn.Module) -> Any:
    """The module as a function that only computes shapes."""
    tensors = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    return lambda images: torch.func.functional_call(module, tensors, images)
