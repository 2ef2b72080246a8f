"""Networks of timm, and bodies of their first stages."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.errors import MissingExtraError, ModelError, did_you_mean
from sppnet.geometry.grid import CellGrid
from sppnet.nn.pretrained import find_timm_weights


class TimmBody(nn.Module):
    """A timm network up to one of its feature maps. Names are timm's, with "network." before them."""

    def __init__(self, network: Any, index: int) -> None:
        super().__init__()
        self.network = network
        # Gives the index back in timm's own counting, with the stages behind it taken away.
        (self.index,) = self.network.prune_intermediate_layers([index])
        self.grids = None if _patch_px(network) is None else [_patch_grid(network)]
        """Where a transformer's cells lie, and its channels; of convolutions that is derived."""

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = self.network.forward_intermediates(
            images, indices=[self.index], intermediates_only=True
        )
        return maps[0]


def _patch_px(network: Any) -> int | None:
    """The side of the patches of a vision transformer that takes images of any size; None for others."""
    if (
        not {"dynamic_img_size", "dynamic_img_pad"}
        <= inspect.signature(type(network).__init__).parameters.keys()
    ):
        return None
    height, width = network.patch_embed.patch_size
    return int(height) if height == width else None


def _patch_grid(network: Any) -> tuple[CellGrid, int]:
    """A cell is a patch, though attention lets it see the whole image; the last ones are padded."""
    side = _patch_px(network)
    assert side is not None
    grid = CellGrid(stride=side, center0=(side - 1) / 2, receptive_field=side)
    return grid, int(network.feature_info[-1]["num_chs"])


def timm_network(model: str, pretrained: bool) -> Any:
    """A network that gives its intermediate maps, of images of any size.

    Raises ModelError, or MissingExtraError without timm.
    """
    try:
        import timm  # slow to import, and an extra
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
    if not timm.is_model(model):
        hint = did_you_mean(model, timm.list_models())
        raise ModelError(f"timm has no network {model!r}; {hint}")
    cached = find_timm_weights(timm.get_pretrained_cfg(model)) if pretrained else {}
    with torch.device("meta"):
        outline = timm.create_model(model)
    sizes: dict[str, Any] = (
        {} if _patch_px(outline) is None else {"dynamic_img_size": True, "dynamic_img_pad": True}
    )
    try:
        network = timm.create_model(model, pretrained=pretrained, pretrained_cfg_overlay=cached, **sizes)
    except Exception as error:  # of the network, the cache, or the file in it
        if not pretrained:
            raise
        raise ModelError(
            f"timm cannot get the published weights of {model} ({type(error).__name__}: {error}). Connect "
            "this machine, or set HF_HUB_CACHE to a cache that has them, or pass a weights file"
        ) from error
    if not hasattr(network, "forward_intermediates") or not getattr(network, "feature_info", None):
        raise ModelError(
            f"timm gives no feature maps for {model}; choose a convolutional network or a vision transformer"
        )
    return network
