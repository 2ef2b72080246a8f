"""The spatial pyramid pooling layer."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.errors import GeometryError
from sppnet.geometry.grid import check_levels, count_bins, sliding_bins
from sppnet.ops import pyramid_pool


class SpatialPyramidPooling(nn.Module):
    """Feature maps of any size → vectors of one length (paper section 2.2).

    levels: n of each n×n grid of bins, coarse to fine by custom; (1, 2, 3, 6) has 50 bins.
    rule: "adaptive" fits every map (Appendix A). "paper" is the sliding window of the training
        rule (section 2.3), window ⌈a/n⌉ and stride ⌊a/n⌋: a GeometryError wherever that does not
        give exactly n bins that cover the map, and the same bins as "adaptive" where it does.
    pooling: "max", as in the paper, or "average".
    """

    def __init__(
        self,
        levels: Sequence[int] = (1, 2, 3, 6),
        rule: Literal["adaptive", "paper"] = "adaptive",
        pooling: Literal["max", "average"] = "max",
    ) -> None:
        super().__init__()
        if rule not in ("adaptive", "paper"):
            raise GeometryError(f'rule must be "adaptive" or "paper"; got {rule!r}')
        if pooling not in ("max", "average"):
            raise GeometryError(f'pooling must be "max" or "average"; got {pooling!r}')
        self.levels = check_levels(levels)
        self.rule = rule
        self.pooling = pooling

    @property
    def bins(self) -> int:
        """Bins of all levels: the vector is this many times as long as there are channels."""
        return count_bins(self.levels)

    def forward(self, features: Tensor, cells: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """features (b, c, h, w) → (b, c × bins); with windows, (n, c × bins): see `pyramid_pool`."""
        if self.rule == "paper":
            _check_sizes(features, cells, self.levels)
        return pyramid_pool(features, cells, self.levels, self.pooling)

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` takes in place of the layer."""
        if self.rule == "paper":
            raise GeometryError('torch.jit.script takes rule="adaptive" only; torch.jit.trace takes both')
        return ScriptedPooling(self.levels, self.pooling == "average")

    def extra_repr(self) -> str:
        return f"levels={self.levels}, rule={self.rule!r}, pooling={self.pooling!r}"


class ScriptedPooling(nn.Module):
    """The layer on whole maps in the operations that TorchScript knows."""

    def __init__(self, levels: Sequence[int], average: bool) -> None:
        super().__init__()
        self.levels, self.average = list(levels), average

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c × bins)"""
        parts = []
        for n in self.levels:
            if self.average:
                parts.append(F.adaptive_avg_pool2d(features, (n, n)).flatten(1))
            else:
                parts.append(F.adaptive_max_pool2d(features, (n, n)).flatten(1))
        return torch.cat(parts, 1)


@torch.fx.wrap  # when the traced network runs, since it looks at sizes
def _check_sizes(features: Tensor, cells: Tensor | Sequence[Tensor] | None, levels: tuple[int, ...]) -> None:
    if cells is not None:
        raise GeometryError('rule="paper" is for whole maps of one size; windows need rule="adaptive"')
    for size in set(features.shape[-2:]):
        for n in levels:
            sliding_bins(size, n)
