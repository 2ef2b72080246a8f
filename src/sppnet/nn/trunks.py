"""Any convolutional network as a trunk: the paper's, torchvision's, or timm's.

A torchvision network is cut between its top-level stages and keeps their names, so its published
weights load as they are. Everything else about a trunk (stride, centre of the first cell, receptive
field, channels) is read off the cut network; nothing is kept in tables.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from sppnet.errors import MissingExtraError, ModelError, did_you_mean
from sppnet.nn.backbones import BACKBONES, build_backbone
from sppnet.nn.dilation import dilate_stages
from sppnet.nn.pretrained import find_timm_weights, published_weights
from sppnet.nn.receptive_field import derive_grid, follow_stages
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


class Trunk(nn.Module):
    """The convolutional part of a network, and what one has to know to use it."""

    def __init__(self, name: str, body: nn.Module, *, mean: Rgb, std: Rgb, width: float = 1.0) -> None:
        """body: maps images (b, 3, h, w) to features. Raises ModelError if that is not convolutional."""
        super().__init__()
        self.name = name
        self.body = body
        with _refusal_of(name):
            self.grid, self.channels = derive_grid(body)
        self.mean, self.std = mean, std
        """What to subtract from RGB in 0..1, and then to divide by."""
        self.width = width

    @property
    def spec(self) -> dict[str, Any]:
        """What `empty_trunk(**spec)` builds this trunk from again, weights apart. Fit for JSON.

        Raises ModelError for a trunk made from a module, which no name builds again.
        """
        if not (self.name.startswith(TIMM) or self.name.partition(":")[0] in _known_names()):
            raise ModelError(
                f"the trunk {self.name} was made from a module, and a model file can only name what "
                "load_trunk knows; save the network's state_dict() instead"
            )
        return {"name": self.name, "stride": self.grid.stride, "width": self.width}

    def forward(self, images: Tensor) -> Tensor:
        """images: (b, 3, h, w), normalised by mean and std → features (b, channels, h', w')."""
        features: Tensor = self.body(images)
        return features

    def extra_repr(self) -> str:
        return f"{self.name}, channels={self.channels}, stride={self.grid.stride}"


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
    torchvision, or timm:<name>. An ending :N keeps the first N stages: mobilenet_v2:18. An ending :M+N
    gives the maps of both stages, one behind the other in the channels, where they are of one size.
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
        _no_width(name, width)
        return _load_timm(name, stride, weights)
    if weights is None:
        return _cut(_network(name, width), name, stride, width)
    network = _network(name, width, empty=True)
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
    return _cut(_network(name, width, empty=True), name, stride, width)


# --- the paper's and torchvision's networks ------------------------------------------------------

CONTAINERS = ("features", "layers", "trunk_output")
"""Where torchvision puts stages one level down."""

HEADS = ("avgpool", "classifier", "fc", "dropout", "head", "heads", "norm", "permute", "flatten")
"""Where the part that classifies begins."""


@dataclass(frozen=True)
class _Stage:
    """A piece of a network, between two of which it can be cut."""

    path: str
    module: nn.Module


class _ParametersOnMeta(TorchFunctionMode):
    """Makes what parameters and buffers are made from without memory.

    Not `with torch.device("meta")`: some constructors (RegNet's) compute widths with small tensors.
    """

    FACTORIES = (torch.empty, torch.zeros, torch.ones)
    FILLERS = ("normal_", "uniform_")  # without memory too they take a millisecond each

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        if getattr(func, "__name__", "") in self.FILLERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _known_names() -> list[str]:
    return [*BACKBONES, *models.list_models(module=models)]


def _network(name: str, width: float, empty: bool = False) -> nn.Module:
    """The whole network, randomly initialised or without values."""
    base = name.partition(":")[0]
    known = _known_names()
    if base not in known:
        hint = did_you_mean(base, known)
        raise ModelError(f"no trunk is called {base!r}; {hint} (networks of timm are written timm:<name>)")
    with _ParametersOnMeta() if empty else nullcontext():
        if base in BACKBONES:
            return build_backbone(base, width)
        _no_width(base, width)
        # Without the argument these two warn, and with True they take minutes to draw truncated normals.
        options = {"init_weights": False} if base in ("googlenet", "inception_v3") else {}
        network: nn.Module = models.get_model(base, weights=None, **options)
        return network


def _cut(network: nn.Module, name: str, stride: int | None, width: float) -> Trunk:
    """The front of `network` as the name and the stride ask for it."""
    base, colon, count = name.partition(":")
    stages = list(_stages(network, base))
    taps: list[int] = []
    if colon:
        taps = [_parse_count(name, part, len(stages)) for part in count.split("+")]
        stages = stages[: max(taps)]
        if stride is not None:
            dilate_stages([stage.module for stage in stages], _strides(base, stages), stride)
    elif stride is not None:
        stages = stages[: _last_of_stride(name, _strides(base, stages), stride)]
    mean, std = _normalisation(base)
    trunk = Trunk(name, _assembled(stages, taps), mean=mean, std=std, width=width)
    if stride not in (None, trunk.grid.stride):
        raise ModelError(
            f"{name} has stride {trunk.grid.stride} and cannot have {stride}; ask for one of its own strides"
        )
    return trunk


def _strides(base: str, stages: list[_Stage]) -> list[int]:
    """The stride after every stage."""
    with _refusal_of(base):
        return [grid.stride for grid, _ in follow_stages([stage.module for stage in stages])]


def _stages(network: nn.Module, base: str) -> Iterator[_Stage]:
    """The pieces of a network in the order of its forward, up to its head."""
    for name, child in network.named_children():
        if name in HEADS:
            break
        if name in CONTAINERS:
            yield from (_Stage(f"{name}.{inner}", stage) for inner, stage in child.named_children())
        elif not name.lower().startswith("aux"):  # classifiers at the side of GoogLeNet and Inception
            yield _Stage(name, child)
    if base.startswith("densenet"):  # the last one is a function call in torchvision
        yield _Stage("relu", nn.ReLU(inplace=True))


class MultiStageBody(nn.Sequential):
    """Stages one after the other, of which several give their maps, one behind the other in the channels.

    Early maps say where things are, late ones what they are.
    """

    def __init__(self, paths: list[str], taps: Collection[str]) -> None:
        super().__init__()
        self.paths, self.taps = paths, frozenset(taps)

    def forward(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w) → features (b, sum of the channels, h', w')."""
        maps, current = [], images
        for path in self.paths:
            current = self.get_submodule(path)(current)
            if path in self.taps:
                maps.append(current.clone())  # the next stage may work in place
        return torch.cat(maps, 1)


def _assembled(stages: list[_Stage], taps: list[int]) -> nn.Sequential:
    """The stages one after the other, under the names they had."""
    paths = [stage.path for stage in stages]
    several = len(set(taps)) > 1
    body = MultiStageBody(paths, [paths[count - 1] for count in taps]) if several else nn.Sequential()
    for stage in stages:
        container, _, leaf = stage.path.rpartition(".")
        if container and not hasattr(body, container):
            body.add_module(container, nn.Sequential())
        body.get_submodule(container).add_module(leaf, stage.module)
    return body


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


def _no_width(name: str, width: float) -> None:
    if width != 1:
        raise ModelError(
            f"width must be 1 for {name}, got {width}; only the paper's {', '.join(BACKBONES)} take it"
        )


def _normalisation(base: str) -> tuple[Rgb, Rgb]:
    """Mean and std that the published weights expect."""
    if base in BACKBONES:
        return PAPER_MEAN, PAPER_STD
    if base in ("googlenet", "inception_v3"):
        return HALF, HALF
    published = models.get_model_weights(base).DEFAULT.transforms()
    return _rgb(published.mean), _rgb(published.std)


def _rgb(values: Collection[float]) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _state(name: str, weights: Weights, known: Collection[str]) -> dict[str, Tensor]:
    """Weights by name, as the whole network names them, in tensors that nobody else holds."""
    if isinstance(weights, Mapping):
        return under_prefix({key: tensor.detach().clone() for key, tensor in weights.items()}, known)
    if weights != "imagenet":
        return under_prefix(current_names(trunk_names(read_weights(weights))), known)
    base = name.partition(":")[0]
    if base in BACKBONES:
        raise ModelError(
            f"no ImageNet weights are published for {base}; train it, or take a torchvision network"
        )
    published = models.get_model_weights(base).DEFAULT
    return current_names(published_weights(published.url))


# --- timm's networks -----------------------------------------------------------------------------


class TimmBody(nn.Module):
    """A timm network up to one of its feature maps. Names are timm's, with "network." before them."""

    def __init__(self, network: Any, index: int) -> None:
        super().__init__()
        self.network = network
        # Gives the index back in timm's own counting, with the stages behind it taken away.
        (self.index,) = self.network.prune_intermediate_layers([index])

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = self.network.forward_intermediates(
            images, indices=[self.index], intermediates_only=True
        )
        return maps[0]


def _load_timm(name: str, stride: int | None, weights: Weights | None) -> Trunk:
    network = _timm_network(name, pretrained=weights == "imagenet")
    reductions = [int(info["reduction"]) for info in network.feature_info]
    index = _last_of_stride(name, reductions, stride) - 1
    known = network.state_dict().keys()
    body = TimmBody(network, index)
    published = network.pretrained_cfg
    trunk = Trunk(name, body, mean=_rgb(published["mean"]), std=_rgb(published["std"]))
    if weights is not None and weights != "imagenet":
        load_weights(body.network, _state(name, weights, known), known=known)
    return trunk


def _timm_network(name: str, pretrained: bool) -> Any:
    try:
        import timm  # slow to import, and an extra
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
    model = name.removeprefix(TIMM)
    if not timm.is_model(model):
        hint = did_you_mean(model, timm.list_models())
        raise ModelError(f"timm has no network {model!r}; {hint}")
    cached = find_timm_weights(timm.get_pretrained_cfg(model)) if pretrained else {}
    try:
        network = timm.create_model(model, pretrained=pretrained, pretrained_cfg_overlay=cached)
    except Exception as error:  # of the network, the cache, or the file in it
        if not pretrained:
            raise
        raise ModelError(
            f"timm cannot get the published weights of {model} ({type(error).__name__}: {error}). Connect "
            "this machine, or set HF_HUB_CACHE to a cache that has them, or pass a weights file"
        ) from error
    if not hasattr(network, "forward_intermediates") or not getattr(network, "feature_info", None):
        raise ModelError(f"timm gives no feature maps for {model}; choose a convolutional network")
    return network
