"""Local response normalisation, and a way to train through it that stays in the processor's cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.errors import ModelError

REALS = (torch.float32, torch.float64)
CHUNK_NUMBERS = 1 << 17
"""Numbers that go through every step together. On 64 maps of 62×62×16, forward and backward: half as many or
twice as many take a tenth longer, all at once and by autograd, as before, 2.5 times as long."""

WindowSum = Callable[[Tensor], Tensor]
"""A map (b, channels, h, w) → its weighted sums over a window around each number. The weights are the same
seen from either end, so that the sum is its own transpose."""


class WithinChannelNorm(nn.Module):
    """Local response normalisation over a size×size window of the same channel, as in ZF-5.

    y = x / (1 + alpha · mean(x²))^beta, the mean over the window with zeros outside the map. This is
    Caffe's WITHIN_CHANNEL region; torch.nn.LocalResponseNorm runs across channels.
    """

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        _check_odd(size, "within-channel norm")
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (b, channels, h, w) → the same shape."""
        window = partial(_sum_within, size=self.size, factor=self.alpha / self.size**2)
        return _normalise(maps, window, 1, self.beta)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}"


class AcrossChannelNorm(nn.LocalResponseNorm):
    """torch.nn.LocalResponseNorm over an odd number of channels, as in AlexNet, but faster on a CPU.

    A training step of a narrow Convnet*-5 spends more than half of its time in torch's.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__(size, alpha, beta, k)
        _check_odd(size, "across-channel norm")

    def forward(self, input: Tensor) -> Tensor:
        """input: (b, channels, h, w) → the same shape."""
        window = partial(_sum_across, size=self.size, factor=self.alpha / self.size)
        return _normalise(input, window, self.k, self.beta)


def _check_odd(size: int, name: str) -> None:
    if size % 2 == 0:
        raise ModelError(f"the window of a {name} needs an odd size, got {size}")


def _sum_within(maps: Tensor, size: int, factor: float) -> Tensor:
    """A convolution of each channel by itself: on a CPU four times as fast as avg_pool2d, both ways."""
    shape = (maps.shape[1], 1, size, size)
    window = torch.full(shape, factor, dtype=maps.dtype, device=maps.device)
    return F.conv2d(maps, window, padding=size // 2, groups=shape[0])


def _sum_across(maps: Tensor, size: int, factor: float) -> Tensor:
    """A 1×1 convolution with a band of weights, where torch pools in three dimensions."""
    channels, reach = maps.shape[1], size // 2
    window = torch.full((channels, channels), factor, dtype=maps.dtype, device=maps.device)
    return F.conv2d(maps, window.tril(reach).triu(-reach)[:, :, None, None])


def _normalise(maps: Tensor, window: WindowSum, k: float, beta: float) -> Tensor:
    """`_define` the fastest way there is for these maps."""
    learning = torch.is_grad_enabled() and maps.requires_grad and not torch.compiler.is_compiling()
    if learning and beta == 0.75 and maps.device.type == "cpu" and maps.dtype in REALS:
        normalised: Tensor = _Chunked.apply(maps, window, k)
        return normalised
    return _define(maps, window, k, beta)


def _define(maps: Tensor, window: WindowSum, k: float, beta: float) -> Tensor:
    """The definition."""
    scale = k + window(maps * maps)
    return maps / (_three_quarters(scale) if beta == 0.75 else scale**beta)


def _three_quarters(scale: Tensor) -> Tensor:
    root = scale.sqrt()  # without pow a training step of a narrow ZF-5 takes a tenth less
    return root * root.sqrt()


class _Chunked(torch.autograd.Function):
    """`_define` with beta 0.75, a few images at a time, and its gradient from the formula.

    With s the scale, g the gradient of y and Σ the sum over a window, x gets
    g / s^¾ − 2 · ¾ · x · Σ (g · x / s^¾ / s).
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, window: WindowSum, k: float) -> Tensor:
        normalised, scale = torch.empty_like(maps), torch.empty_like(maps)
        for x, y, s in _chunks(maps, normalised, scale):
            torch.add(window(x * x), k, out=s)
            torch.div(x, _three_quarters(s), out=y)
        ctx.save_for_backward(maps, scale)
        ctx.window, ctx.k = window, k
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        maps, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient of the gradient
            plain = _define(maps, ctx.window, ctx.k, 0.75)
            return *torch.autograd.grad(plain, maps, gradient, create_graph=True), None, None
        result = torch.empty_like(maps)
        for x, s, g, out in _chunks(maps, scale, gradient, result):
            torch.div(g, _three_quarters(s), out=out)
            weighted = (out * x).div_(s)
            out.addcmul_(x, ctx.window(weighted), value=-1.5)
        return result, None, None


def _chunks(*tensors: Tensor) -> Any:
    """Views of a few images of every tensor."""
    images = max(1, CHUNK_NUMBERS // max(1, tensors[0][:1].numel()))
    return zip(*(tensor.split(images) for tensor in tensors), strict=True)
