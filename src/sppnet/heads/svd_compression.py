"""fc layers of low rank: each as two thin ones, by truncated SVD (Fast R-CNN, section 3.1).

A layer of m × n weights takes m·n multiply-adds a window, its two factors rank·(m + n).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sppnet.errors import ConfigError

LAYERS = ("fc6", "fc7")

Factor = Callable[[nn.Linear, int], nn.Sequential]


def compress_head(head: nn.Sequential, ranks: Sequence[int]) -> nn.Sequential:
    """A head with the nearest fc6 and fc7 of these ranks, 0 for a layer left whole; shares what it can.

    Raises ConfigError for other than two ranks, and for one that would save nothing.
    """
    return _with_factors(head, ranks, nearest_factors)


def split_head(head: nn.Sequential, ranks: Sequence[int]) -> nn.Sequential:
    """As `compress_head`, with factors of new weights: to be loaded into, or for their speed alone."""
    return _with_factors(head, ranks, empty_factors)


def ranks_of(head: nn.Sequential) -> list[int]:
    """Of fc6 and fc7; 0 for a layer that is whole."""
    weights = head.state_dict()
    return [len(weights[f"{layer}.0.weight"]) if f"{layer}.0.weight" in weights else 0 for layer in LAYERS]


@torch.no_grad()
def nearest_factors(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Of all products of that rank the one nearest to the layer's weights, in the sum of squares."""
    left, values, right = torch.linalg.svd(layer.weight.double(), full_matrices=False)
    share = values[:rank].sqrt()
    factors = empty_factors(layer, rank)
    values_of: dict[str, Tensor] = {
        "0.weight": share[:, None] * right[:rank],
        "1.weight": left[:, :rank] * share,
        "1.bias": layer.bias,
    }
    factors.load_state_dict(values_of)
    return factors


def empty_factors(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two layers of new weights, which together take and give as many numbers as `layer`."""
    first = nn.Linear(layer.in_features, rank, bias=False, device=layer.weight.device)
    return nn.Sequential(first, nn.Linear(rank, layer.out_features, device=layer.weight.device))


def _with_factors(head: nn.Sequential, ranks: Sequence[int], factor: Factor) -> nn.Sequential:
    if len(ranks) != len(LAYERS) or min(ranks) < 0:
        raise ConfigError(f"give two ranks, of fc6 and of fc7, each 0 or more; got {list(ranks)}")
    asked = dict(zip(LAYERS, ranks, strict=True))
    made = nn.Sequential()
    for name, layer in head.named_children():
        rank = asked.get(name, 0)
        if rank:
            assert isinstance(layer, nn.Linear)
            _check_gain(name, layer, rank)
            layer = factor(layer, rank)
        made.add_module(name, layer)
    return made.train(head.training)


def _check_gain(name: str, layer: nn.Linear, rank: int) -> None:
    whole = layer.in_features * layer.out_features
    maximum = whole // (layer.in_features + layer.out_features)
    if rank > maximum:
        raise ConfigError(
            f"{name} has {layer.in_features:,} × {layer.out_features:,} weights: a rank above {maximum} "
            f"makes it larger; got {rank}. Give a smaller one, or 0 to leave it whole"
        )
