"""Trunk, proposal head and window head as one network, whose heads begin as the frozen solution's."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from sppnet.detect.components import DetectorComponents
from sppnet.errors import ConfigError
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.fusion import fuse_conv_bn, unfuse_conv_bn
from sppnet.nn.stages import MultiStageBody
from sppnet.nn.trunks import Trunk, as_maps
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.svm.linear_svm import LinearSVM

MARGIN_LOGIT = 2.0
"""Logit of an SVM's margin of 1: log-odds of a class against background."""

FROZEN_SHARE = 0.5
"""Of the trunk's stages, the first, that stay as they are."""

DELTA_UNITS = (0.1, 0.1, 0.2, 0.2)
"""Box deltas are divided by these, as in Fast R-CNN's code."""


class JointNetwork(nn.Module):
    """The trunk with batch norms folded, the proposal head, and a linear window head.

    Softmax over k classes and background needs k logits where background's is 0: so the window head is the
    SVMs' and the box regression's linear layers, and becomes them again (`components`).
    """

    def __init__(self, parts: DetectorComponents, vector_scale: float) -> None:
        """vector_scale: makes pooled vectors about 20 long (`mean_length_scale`)."""
        super().__init__()
        if not isinstance(parts.trunk, Trunk) or parts.head is not None or parts.windows is None:
            raise ConfigError(
                "joint training needs a trunk whose weights can learn, learned proposals, and SVMs on the "
                "pyramid: leave --proposals, --finetune and --vectors, or choose --method spp"
            )
        self.parts, self.scale = parts, vector_scale
        self.body = fuse_conv_bn(parts.trunk.body).to(memory_format=torch.channels_last)
        learn_last_stages(self.body)
        self.windows = replace_head(parts)
        units = torch.tensor(DELTA_UNITS)
        self.class_weight = nn.Parameter(parts.svm.weight * (MARGIN_LOGIT / vector_scale))
        self.class_bias = nn.Parameter(parts.svm.bias * MARGIN_LOGIT)
        self.box_weight = nn.Parameter(parts.regressor.weight / (vector_scale * units[:, None]))
        self.box_bias = nn.Parameter(parts.regressor.bias / units)
        self.register_buffer("units", units, persistent=False)
        self.units: Tensor

    def maps(self, images: Tensor) -> list[FeatureMaps]:
        """images: (b, 3, h, w), normalised → the maps of each, with gradients."""
        size_hw = int(images.shape[2]), int(images.shape[3])
        found = as_maps(self.body(images.contiguous(memory_format=torch.channels_last)))
        grids = [tap.grid for tap in self.parts.trunk.taps]
        each = zip(*(one.contiguous().unbind() for one in found), strict=True)
        return [
            FeatureMaps(
                size_hw,
                (size_hw,),
                tuple(TapMaps((one,), grid) for one, grid in zip(taps, grids, strict=True)),
            )
            for taps in each
        ]

    def class_logits(self, vectors: Tensor) -> Tensor:
        """(n, d) pooled → (n, k + 1), background's, which is 0, last."""
        logits = torch.addmm(self.class_bias, vectors * self.scale, self.class_weight.T)
        return nn.functional.pad(logits, (0, 1))

    def box_deltas(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """(n, d) pooled and (n,) labels → (n, 4) in DELTA_UNITS, each of its class."""
        moves = torch.einsum("nd,nkd->nk", vectors * self.scale, self.box_weight[labels])
        return moves + self.box_bias[labels]

    def components(self, scales: Sequence[int]) -> DetectorComponents:
        """The detector that the network is now; scales: at which it convolves images."""
        parts, (weight, box) = self.parts, (self.class_weight.detach(), self.box_weight.detach())
        assert isinstance(parts.trunk, Trunk)
        trunk = parts.trunk.with_body(unfuse_conv_bn(self.body, parts.trunk.body))
        svm = LinearSVM(
            weight * (self.scale / MARGIN_LOGIT), self.class_bias.detach() / MARGIN_LOGIT, parts.classes
        )
        regressor = BoxRegressor(
            box * (self.scale * self.units[:, None]), self.box_bias.detach() * self.units, parts.classes
        )
        windows = replace_head(parts)
        windows.load_state_dict(self.windows.state_dict())
        return replace(
            parts,
            trunk=trunk,
            windows=windows.eval().requires_grad_(False),
            svm=svm,
            regressor=regressor,
            config=replace(parts.config, scales=tuple(scales)),
        )


def replace_head(parts: DetectorComponents) -> ProposalHead:
    """A proposal head of the same weights, which learns."""
    assert parts.windows is not None
    return deepcopy(parts.windows).train().requires_grad_(True)


def learn_last_stages(body: nn.Module, frozen_share: float = FROZEN_SHARE) -> None:
    """Let the parameters of the last stages learn, and no others; frozen_share: of the stages, the first.

    Early stages see edges and colours, which are everywhere the same, and take most of the time.
    """
    body.requires_grad_(True)
    stages = _stages(body)
    for stage in stages[: int(frozen_share * len(stages))]:
        stage.requires_grad_(False)


def _stages(body: nn.Module) -> list[nn.Module]:
    """In the order of the forward."""
    if isinstance(body, MultiStageBody):
        return [body.get_submodule(path) for path in body.paths]
    children = list(body.children())
    return _stages(children[0]) if len(children) == 1 else children
