"""Networks cut between their stages: which stages there are, and a body of the first few.

Stages keep the names they had in the whole network, so its published weights load as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONTAINERS = ("features", "layers", "trunk_output")
"""Where torchvision puts stages one level down."""

HEADS = ("avgpool", "classifier", "fc", "dropout", "head", "heads", "norm", "permute", "flatten")
"""Where the part that classifies begins."""


@dataclass(frozen=True)
class Stage:
    """A piece of a network, between two of which it can be cut."""

    path: str
    module: nn.Module


def list_stages(network: nn.Module, name: str) -> Iterator[Stage]:
    """The pieces of a network in the order of its forward, up to its head."""
    for child_name, child in network.named_children():
        if child_name in HEADS:
            break
        if child_name in CONTAINERS:
            yield from (Stage(f"{child_name}.{inner}", stage) for inner, stage in child.named_children())
        elif not child_name.lower().startswith("aux"):  # classifiers at the side of GoogLeNet and Inception
            yield Stage(child_name, child)
    if name.startswith("densenet"):  # the last one is a function call in torchvision
        yield Stage("relu", nn.ReLU(inplace=True))


class MultiStageBody(nn.Sequential):
    """Stages one after the other, of which several are taps: they give their maps.

    Taps of one stride give one map, one behind the other in the channels. Early maps say where things are,
    late ones what they are.
    """

    def __init__(self, paths: list[str], taps: Sequence[Sequence[str]]) -> None:
        """taps: the paths of the taps of each stride."""
        super().__init__()
        self.paths, self.taps = paths, [list(group) for group in taps]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """images (b, 3, h, w) → features (b, channels, h', w'), in a tuple where strides differ."""
        maps, current = {}, images
        tapped = {path for group in self.taps for path in group}
        for path in self.paths:
            current = self.get_submodule(path)(current)
            if path in tapped:
                maps[path] = current.clone()  # the next stage may work in place
        joined = tuple(torch.cat([maps[path] for path in group], 1) for group in self.taps)
        return joined if len(joined) > 1 else joined[0]


def assemble(stages: Sequence[Stage], taps: Sequence[Sequence[str]]) -> nn.Sequential:
    """The stages one after the other, under the names they had; taps: as `MultiStageBody` takes them."""
    several = sum(map(len, taps)) > 1
    body = MultiStageBody([stage.path for stage in stages], taps) if several else nn.Sequential()
    for stage in stages:
        container, _, leaf = stage.path.rpartition(".")
        if container and not hasattr(body, container):
            body.add_module(container, nn.Sequential())
        body.get_submodule(container).add_module(leaf, stage.module)
    return body
