"""A finer map from the same weights: strides taken out, and the convolutions behind them spread.

A network of stride 32 sees what a cell of stride 16 saw if, instead of leaving out every other cell,
the later convolutions leave out every other of their inputs (dilation, "à trous"). The weights stay
as they are and every cell of the coarse map is there unchanged, between three new ones. (Where a
network weighs channels by their average over the map, that average is over the new cells too.)
"""

from collections.abc import Sequence

from torch import nn

from sppnet.errors import ModelError

Windowed = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


def dilate_stages(stages: Sequence[nn.Module], strides: Sequence[int], stride: int) -> None:
    """Change stages in place so that no map is coarser than `stride`.

    strides: after each stage, as the stages are. Raises ModelError for a layer that cannot be spread.
    """
    spread = 1
    before = 1
    for stage, after in zip(stages, strides, strict=True):
        if after <= stride:
            before = after
            continue
        factor = after // before
        _spread_stage(stage, spread, factor)
        spread, before = spread * factor, after


def _spread_stage(stage: nn.Module, spread: int, factor: int) -> None:
    """The layers of a stage up to the strided one see as far as before; those behind it, `factor` as far."""
    passed = factor == 1
    pad: nn.ZeroPad2d | None = None
    for name, layer in stage.named_modules():
        if isinstance(layer, nn.ZeroPad2d):
            pad = layer
        if not isinstance(layer, Windowed):
            continue
        strided = factor > 1 and _pair(layer.stride) != (1, 1)
        if strided and getattr(layer, "ceil_mode", False):
            raise ModelError(f"{name} ({layer}) hangs over the border; cut the network before it")
        if strided and _pair(layer.stride) != (factor, factor):
            raise ModelError(f"{name} has stride {layer.stride}; only one step of {factor} can be taken out")
        _spread(layer, name, spread * factor if passed and not strided else spread)
        if strided:
            layer.stride = (1, 1)
            if pad is not None:
                _widen(pad, spread, factor)
            passed = True


def _widen(pad: nn.ZeroPad2d, spread: int, factor: int) -> None:
    """The pads before a strided convolution; behind, as many more as keep the size without the stride."""
    left, right, top, bottom = pad.padding
    behind = spread * (factor - 1)
    pad.padding = (spread * left, spread * right + behind, spread * top, spread * bottom + behind)


def _spread(layer: Windowed, name: str, spread: int) -> None:
    if spread == 1 or _pair(layer.kernel_size) == (1, 1):
        return
    if isinstance(layer, nn.AvgPool2d) or (isinstance(layer, nn.MaxPool2d) and layer.ceil_mode):
        raise ModelError(f"{name} ({layer}) cannot be dilated; cut the network before it")
    if _pair(layer.dilation) != (1, 1) or isinstance(layer.padding, str):
        raise ModelError(
            f"{name} ({layer}) is dilated or padded in a way of its own; cut the network before it"
        )
    layer.dilation = (spread, spread)
    down, across = _pair(layer.padding)
    layer.padding = (down * spread, across * spread)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
