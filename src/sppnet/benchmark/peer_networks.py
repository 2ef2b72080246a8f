"""torchvision's SSDlite and Faster R-CNN on one of our trunks, for a few hundred photographs and a CPU.

Batch norms are folded and so frozen, the first stages frozen, tensors channels last; anchors and regions few.
"""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import Conv2dNormActivation

from sppnet.detect.joint.network import learn_last_stages
from sppnet.errors import ConfigError
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.trunks import Trunk, as_maps

STRIDES = 8, 16, 32
"""Of the trunk's maps."""
SSD_PX, SSD_EXTRA = 320, (512, 256, 256, 128)
"""Side of what SSDlite sees; channels of the maps it adds, each of half the cells a side."""
RCNN_PX, RCNN_CHANNELS, RCNN_HIDDEN = 352, 128, 512
"""Shorter side of what Faster R-CNN sees; channels of its feature pyramid; numbers of its window head."""
ANCHOR_STRIDES = 3.4, 5.0
"""Sides of square anchors, in strides of their level."""


class _TrunkMaps(nn.Module):
    """A trunk as torchvision's backbones are: maps by name, the finest first."""

    def __init__(self, trunk: Trunk, frozen_share: float) -> None:
        super().__init__()
        self.body = fuse_conv_bn(trunk.body).to(memory_format=torch.channels_last)
        learn_last_stages(self.body, frozen_share)
        self.channels = [tap.channels for tap in trunk.taps]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = as_maps(self.body(images.contiguous(memory_format=torch.channels_last)))
        return OrderedDict((str(level), one) for level, one in enumerate(maps))


class _SsdMaps(_TrunkMaps):
    """The trunk's maps and further ones, each of the one before."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(trunk, frozen_share=0.2)
        self.channels = [*self.channels[1:], *SSD_EXTRA]
        self.extra = nn.ModuleList(map(_halve, self.channels[1:], SSD_EXTRA))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = list(super().forward(images).values())[1:]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return OrderedDict((str(level), one) for level, one in enumerate(maps))


class _PyramidMaps(_TrunkMaps):
    """A feature pyramid network (Lin et al. 2017) on the trunk's maps, with one level more."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(trunk, frozen_share=0.35)
        self.out_channels = RCNN_CHANNELS
        self.pyramid = FeaturePyramidNetwork(self.channels, RCNN_CHANNELS, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        found: OrderedDict[str, Tensor] = self.pyramid(super().forward(images))
        return found


_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)
"""torchvision's momentum of 0.03 does not settle in a few hundred steps."""


def _halve(channels: int, wide: int) -> nn.Sequential:
    """SSDlite's block: half of the cells a side, and `wide` channels."""
    inner, layer = wide // 2, partial(Conv2dNormActivation, norm_layer=_NORM, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(channels, inner, kernel_size=1),
        layer(inner, inner, kernel_size=3, stride=2, groups=inner),
        layer(inner, wide, kernel_size=1),
    )


def build_ssdlite(trunk: Trunk, classes: int) -> nn.Module:
    """SSDlite as torchvision's ssdlite320, on maps of strides 16 and 32; the trunk gives one of 8 as well."""
    _check_strides("SSDlite", trunk)
    maps = _SsdMaps(trunk)
    anchors = DefaultBoxGenerator([[2, 3]] * len(maps.channels), min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(maps.channels, anchors.num_anchors_per_location(), classes + 1, _NORM)
    network: nn.Module = SSD(
        maps, anchors, (SSD_PX, SSD_PX), classes + 1, head=head, score_thresh=0.001, nms_thresh=0.55,
        detections_per_img=300, topk_candidates=300, image_mean=list(trunk.mean), image_std=list(trunk.std),
    )  # fmt: skip
    return network


def build_fasterrcnn(trunk: Trunk, classes: int) -> nn.Module:
    """Faster R-CNN with a feature pyramid on maps of strides 8, 16 and 32; few regions, as on a CPU."""
    _check_strides("Faster R-CNN", trunk)
    maps = _PyramidMaps(trunk)
    sizes = tuple(
        tuple(round(side * stride) for side in ANCHOR_STRIDES) for stride in (*STRIDES, 2 * STRIDES[-1])
    )
    names = [str(level) for level in range(len(trunk.taps))]
    network: nn.Module = FasterRCNN(
        maps, min_size=RCNN_PX, max_size=RCNN_PX * 5 // 3,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2, canonical_scale=112, canonical_level=4),
        box_head=TwoMLPHead(RCNN_CHANNELS * 49, RCNN_HIDDEN),
        box_predictor=FastRCNNPredictor(RCNN_HIDDEN, classes + 1),
        rpn_batch_size_per_image=128, box_batch_size_per_image=96, rpn_pre_nms_top_n_train=600,
        rpn_post_nms_top_n_train=400, rpn_pre_nms_top_n_test=400, rpn_post_nms_top_n_test=200,
        box_score_thresh=0.01, image_mean=list(trunk.mean), image_std=list(trunk.std),
    )  # fmt: skip
    return network


def _check_strides(name: str, trunk: Trunk) -> None:
    if (found := tuple(tap.grid.stride for tap in trunk.taps)) != STRIDES:
        raise ConfigError(
            f"{name} takes maps at strides 8, 16 and 32, as those of efficientnet_lite1:4+6+8; "
            f"{trunk.name} has them at {', '.join(map(str, found))}"
        )
