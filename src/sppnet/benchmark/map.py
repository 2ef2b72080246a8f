"""Pooling whole maps: the layer beside `adaptive_max_pool2d` of every level, eager and compiled.

The maps are a batch of feature maps after a ReLU, from those of small training images to those of a
photograph. Compiled, each side is what `torch.compile` makes of it, made before anything is timed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.benchmark.pool import LEVELS, joined, require_equal
from sppnet.benchmark.results import Row, compare
from sppnet.nn.pyramid import SpatialPyramidPooling
from sppnet.progress import NullProgress, Progress

SIZES_HW = ((13, 13), (24, 24), (40, 60))
PEER = "F.adaptive_max_pool2d of every level"

Layer = Callable[[Tensor], Tensor]


def run(
    batch: Annotated[int, "Maps in a batch."] = 32,
    channels: Annotated[int, "Channels of each map."] = 256,
    compiled: Annotated[bool, "Also both sides under torch.compile."] = True,
    rounds: Annotated[int, "Timed repetitions of each side."] = 15,
    sizes_hw: Sequence[tuple[int, int]] = SIZES_HW,
    progress: Progress | None = None,
) -> list[Row]:
    """Time maps of every size, forward, and forward and backward.

    Raises RuntimeError if the peer's numbers are not ours.
    """
    progress = progress or NullProgress()
    progress.begin("timing", 2 * len(sizes_hw) * (2 if compiled else 1))
    rows = []
    for size in sizes_hw:
        features = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0)).relu()
        case = f"{batch} maps of {size[0]}×{size[1]}, {channels} channels"
        sides: list[tuple[str, Layer, Layer]] = [(case, SpatialPyramidPooling(LEVELS), _pool_levels)]
        if compiled:
            sides.append((f"{case}, compiled", *_compile(*sides[0][1:])))
        for name, layer, peer in sides:
            for measure in (_forward, _training):
                rows.append(measure(name, layer, peer, features, rounds))
                progress.advance(note=rows[-1].case)
    return rows


def _pool_levels(features: Tensor) -> Tensor:
    """The definition of the vectors in torch's words."""
    return joined([F.adaptive_max_pool2d(features, n) for n in LEVELS])


def _compile(layer: Layer, peer: Layer) -> tuple[Layer, Layer]:
    """Both anew for every size: a compiled function may otherwise be one for all sizes, and slower."""
    torch.compiler.reset()
    return torch.compile(layer, dynamic=False), torch.compile(peer, dynamic=False)


def _forward(case: str, layer: Layer, peer: Layer, features: Tensor, rounds: int) -> Row:
    require_equal(layer(features), peer(features), PEER, "the layer")
    return compare(case, partial(layer, features), PEER, partial(peer, features), features.sum, rounds)


def _training(case: str, layer: Layer, peer: Layer, features: Tensor, rounds: int) -> Row:
    """Forward, and the gradient of the maps for one gradient of the vectors."""
    leaf = features.clone().requires_grad_()
    shape = layer(features).shape
    # Whole numbers add up to the same in any order.
    grad = torch.randint(-8, 8, tuple(shape), generator=torch.Generator().manual_seed(0)).to(features.dtype)

    def train(side: Layer) -> Tensor:
        return torch.autograd.grad(side(leaf), leaf, grad)[0]

    require_equal(train(layer), train(peer), PEER, "the layer")
    floor = partial(torch.mul, features, 0, out=torch.empty_like(features))
    return compare(
        f"{case}, forward and backward", partial(train, layer), PEER, partial(train, peer), floor, rounds
    )
