"""Any convolutional network as a trunk: the paper's, torchvision's, EfficientNet-Lites, or timm's.

timm's vision transformers are trunks too, a cell a patch. Published weights of the whole network fit the
part that is kept. Everything else about a trunk (strides, centres of the first cells, receptive fields,
channels) is read off the cut network; nothing is kept in tables.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sppnet.errors import ModelError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.backbones import BACKBONES
from sppnet.nn.dilation import dilate_stages
from sppnet.nn.efficientnet_lite import (
    EFFICIENTNET_LITES,
    LITE_MEAN,
    LITE_STD,
    current_lite_names,
    lite_weights_file,
)
from sppnet.nn.networks import is_known, refuse_width, whole_network
from sppnet.nn.pretrained import published_weights
from sppnet.nn.receptive_field import derive_grids, follow_stages
from sppnet.nn.stages import Stage, assemble, list_stages
from sppnet.nn.timm_networks import TimmBody, timm_network
from sppnet.nn.weights import current_names, load_weights, read_weights, trunk_names, under_prefix

Weights = str | Path | Mapping[str, Tensor]
Rgb = tuple[float, float, float]

IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

PAPER_MEAN: Rgb = (128 / 255, 128 / 255, 128 / 255)
"""The released code subtracts 128 from every channel, and so does the paper for VOC and Caltech."""

PAPER_STD: Rgb = (0.25, 0.25, 0.25)
"""Brings photographs to about unit variance, which He's initialisation keeps; the released code divides by
nothing, and its inputs in ±128 suit only weights that were trained on them."""

HALF: Rgb = (0.5, 0.5, 0.5)
"""GoogLeNet and Inception v3 were trained on −1..1; torchvision converts to that inside the whole network."""

TIMM = "timm:"


@dataclass(frozen=True)
class Tap:
    """A place in a trunk that gives a map."""

    grid: CellGrid
    channels: int


class Trunk(nn.Module):
    """The convolutional part of a network, and what one has to know to use it."""

    def __init__(self, name: str, body: nn.Module, *, mean: Rgb, std: Rgb, width: float = 1.0) -> None:
        """body: maps images (b, 3, h, w) to features, or to a tuple of them at several strides.

        Its attribute `grids`, if it has one, says where the cells of each map lie, and its channels. Raises
        ModelError for a body without that which is not convolutional.
        """
        super().__init__()
        self.name = name
        self.body = body
        with _refusal_of(name):
            grids = getattr(body, "grids", None) or derive_grids(body)
            self.taps = tuple(Tap(grid, channels) for grid, channels in grids)
        self.mean, self.std = mean, std
        """What to subtract from RGB in 0..1, and then to divide by."""
        self.width = width
        self.register_buffer("int8", None)
        self.int8: Tensor | None  # an ONNX file, which the engine int8 runs; see `quantise_trunk`

    def with_body(self, body: nn.Module) -> "Trunk":
        """This trunk with another body, whose maps have the same cells and channels; not quantised."""
        return Trunk(self.name, body, mean=self.mean, std=self.std, width=self.width)

    @property
    def grid(self) -> CellGrid:
        """Of the first tap, the finest."""
        return self.taps[0].grid

    @property
    def channels(self) -> int:
        """Of all taps together."""
        return sum(tap.channels for tap in self.taps)

    @property
    def spec(self) -> dict[str, Any]:
        """What `empty_trunk(**spec)` builds this trunk from again, weights apart. Fit for JSON.

        Raises ModelError for a trunk made from a module, which no name builds again.
        """
        if not (self.name.startswith(TIMM) or is_known(self.name.partition(":")[0])):
            raise ModelError(
                f"the trunk {self.name} was made from a module, and a model file can only name what "
                "load_trunk knows; save the network's state_dict() instead"
            )
        return {"name": self.name, "stride": self.taps[-1].grid.stride, "width": self.width}

    def forward(self, images: Tensor) -> Tensor:
        """images: (b, 3, h, w), normalised by mean and std → features (b, channels, h', w').

        Raises ModelError where taps have several strides; `maps` gives all of them.
        """
        (features, *others) = self.maps(images)
        if others:
            raise ModelError(
                f"{self.name} gives {len(self.taps)} maps, and one is needed here; name one tap, or a stride"
            )
        return features

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images as `forward` takes them → a map (b, channels, h', w') for each tap."""
        return as_maps(self.body(images))

    def extra_repr(self) -> str:
        strides = "+".join(str(tap.grid.stride) for tap in self.taps)
        return f"{self.name}, channels={self.channels}, stride={strides}"


def as_maps(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a trunk's body gives, as a tuple in any case."""
    return output if isinstance(output, tuple) else (output,)


@contextmanager
def _refusal_of(name: str) -> Iterator[None]:
    """Puts the network's name before what is wrong with it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name} cannot be a trunk: {error}") from error


def load_trunk(
    name: str, *, stride: int | None = None, width: float = 1.0, weights: Weights | None = None
) -> Trunk:
    """A trunk by name.

    name: a backbone of the paper (zf5, convnet5, overfeat5, overfeat7), a classification network of
    torchvision, an EfficientNet-Lite (efficientnet_lite0 to 2), or timm:<name>, a vision transformer too.
    An ending :N keeps the first N stages: mobilenet_v2:18. An ending :M+N gives the maps of both: if they
    have one stride, one behind the other in the channels, else each at its own.
    stride: image pixels a cell; the network is cut after its last stage of that stride. None: not cut.
    With :N it is not cut but dilated (`dilate_stages`): mobilenet_v2:18 has stride 32, or 16 if asked for.
    width: multiplies the channels of the paper's backbones; the others have names for their widths.
    weights: None for random ones, "imagenet" for those that torchvision or timm publish (downloaded once,
    to their own caches), a file as `read_weights` takes it, or tensors by name (these are copied).
    Those of the whole network fit too, and names are as in the whole network; of a classifier or detector
    file of ours the trunk is taken.
    Raises ModelError for names, strides, weights that do not fit, and networks that are not convolutional.
    """
    if name.startswith(TIMM):
        refuse_width(name, width)
        return _load_timm(name, stride, weights)
    if weights is None:
        return _cut(whole_network(name, width), name, stride, width)
    network = whole_network(name, width, empty=True)
    trunk = _cut(network, name, stride, width)
    known = network.state_dict().keys()
    load_weights(trunk.body, _state(name, weights, known), known=known)
    return trunk


def empty_trunk(name: str, *, stride: int | None = None, width: float = 1.0) -> Trunk:
    """A trunk whose parameters have no values yet: load its state dict with assign=True.

    They stand on the meta device, so that nothing is initialised in vain (those of timm are random).
    """
    if name.startswith(TIMM):
        return load_trunk(name, stride=stride, width=width)
    return _cut(whole_network(name, width, empty=True), name, stride, width)


# --- the paper's and torchvision's networks ------------------------------------------------------


def _cut(network: nn.Module, name: str, stride: int | None, width: float) -> Trunk:
    """The front of `network` as the name and the stride ask for it."""
    base, colon, count = name.partition(":")
    stages = list(list_stages(network, base))
    taps: list[list[str]] = []
    if colon:
        counts = sorted({_parse_count(name, part, len(stages)) for part in count.split("+")})
        stages = stages[: counts[-1]]
        strides = _strides(base, stages)
        if stride is not None:
            dilate_stages([stage.module for stage in stages], strides, stride)
            strides = [min(one, stride) for one in strides]
        of_stride: dict[int, list[str]] = {}
        for number in counts:
            of_stride.setdefault(strides[number - 1], []).append(stages[number - 1].path)
        taps = list(of_stride.values())
    elif stride is not None:
        stages = stages[: _last_of_stride(name, _strides(base, stages), stride)]
    mean, std = _normalisation(base)
    trunk = Trunk(name, assemble(stages, taps), mean=mean, std=std, width=width)
    if stride is not None and stride != trunk.taps[-1].grid.stride:
        raise ModelError(
            f"{name} has stride {trunk.taps[-1].grid.stride} and cannot have {stride}; ask for one of its "
            "own strides"
        )
    return trunk


def _strides(base: str, stages: Sequence[Stage]) -> list[int]:
    """The stride after every stage."""
    with _refusal_of(base):
        return [grid.stride for grid, _ in follow_stages([stage.module for stage in stages])]


def _last_of_stride(name: str, strides: list[int], stride: int | None) -> int:
    """How many stages to keep."""
    if stride is None:
        return len(strides)
    if stride not in strides:
        raise ModelError(f"{name} has no stage of stride {stride}; it has {_in_words(strides)}")
    return len(strides) - strides[::-1].index(stride)


def _in_words(strides: Collection[int]) -> str:
    return ", ".join(str(stride) for stride in sorted(set(strides)))


def _parse_count(name: str, count: str, maximum: int) -> int:
    if not count.isdecimal() or not 1 <= int(count) <= maximum:
        raise ModelError(f"the number of stages in {name!r} must be from 1 to {maximum}, got {count!r}")
    return int(count)


def _normalisation(base: str) -> tuple[Rgb, Rgb]:
    """Mean and std that the published weights expect."""
    if base in BACKBONES:
        return PAPER_MEAN, PAPER_STD
    if base in EFFICIENTNET_LITES:
        return LITE_MEAN, LITE_STD
    if base in ("googlenet", "inception_v3"):
        return HALF, HALF
    published = _published(base).transforms()
    return _rgb(published.mean), _rgb(published.std)


def _rgb(values: Collection[float]) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _state(name: str, weights: Weights, known: Collection[str]) -> dict[str, Tensor]:
    """Weights by name, as the whole network names them, in tensors that nobody else holds."""
    base = name.partition(":")[0]
    if base in EFFICIENTNET_LITES:
        weights = _lite_state(base, weights)
    if isinstance(weights, Mapping):
        return under_prefix({key: tensor.detach().clone() for key, tensor in weights.items()}, known)
    if weights != "imagenet":
        return under_prefix(current_names(trunk_names(read_weights(weights))), known)
    if base in BACKBONES:
        raise ModelError(
            f"no ImageNet weights are published for {base}; train it, or take a torchvision network"
        )
    return current_names(published_weights(_published(base).url))


def _published(base: str) -> Any:
    """torchvision's weights of a network, imported here since that takes seconds."""
    from torchvision import models

    return models.get_model_weights(base).DEFAULT


def _lite_state(base: str, weights: Weights) -> dict[str, Tensor]:
    """Weights of an EfficientNet-Lite, published or not, under the names of today."""
    if not isinstance(weights, Mapping):
        weights = trunk_names(read_weights(lite_weights_file(base) if weights == "imagenet" else weights))
    return current_lite_names(base, weights)


# --- timm's networks -----------------------------------------------------------------------------


def _load_timm(name: str, stride: int | None, weights: Weights | None) -> Trunk:
    network = timm_network(name.removeprefix(TIMM), pretrained=weights == "imagenet")
    reductions = [int(info["reduction"]) for info in network.feature_info]
    index = _last_of_stride(name, reductions, stride) - 1
    known = network.state_dict().keys()
    body = TimmBody(network, index)
    published = network.pretrained_cfg
    trunk = Trunk(name, body, mean=_rgb(published["mean"]), std=_rgb(published["std"]))
    if weights is not None and weights != "imagenet":
        load_weights(body.network, _state(name, weights, known), known=known)
    return trunk
