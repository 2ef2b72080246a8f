"""Batch norms folded into the convolutions before them."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_conv_bn(body: nn.Module) -> nn.Module:
    """A copy in evaluation mode, with batch norms folded into the convolutions before them.

    Only plain layers in a plain Sequential: a norm of another class may hold an activation too (timm's
    do), a convolution of another class may alter its weights, and another forward may have another order.
    """
    copy = deepcopy(body).eval().requires_grad_(False)
    for part in copy.modules():
        if isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward:
            _fold_neighbours(part)
    return copy


@torch.no_grad()
def unfuse_conv_bn(fused: nn.Module, body: nn.Module) -> nn.Module:
    """A copy of `body` that computes what `fused` does, which was `fuse_conv_bn(body)` and has learned since.

    A batch norm that was folded divides by 1 and adds what the convolution has learned to add.
    """
    copy, learned = deepcopy(body).eval(), dict(fused.named_modules())
    for name, part in copy.named_modules():
        if isinstance(part, nn.BatchNorm2d) and isinstance(learned[name], nn.Identity):
            continue  # written with its convolution
        _copy_own(learned[name], part)
    for name, part in copy.named_modules():
        if isinstance(part, nn.Sequential):
            for conv, norm in pairwise(part._modules):
                after = learned[f"{name}.{norm}".removeprefix(".")]
                if isinstance(part._modules[norm], nn.BatchNorm2d) and isinstance(after, nn.Identity):
                    before = learned[f"{name}.{conv}".removeprefix(".")]
                    _write_bias(before, part._modules[conv], part._modules[norm])
    return copy


def _copy_own(source: nn.Module, part: nn.Module) -> None:
    """Parameters and buffers of a module itself; a bias that folding has made is not `part`'s."""
    for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
        tensor.copy_(source.get_parameter(name) if name in source._parameters else source.get_buffer(name))


def _write_bias(fused: nn.Module, conv: nn.Module | None, norm: nn.Module | None) -> None:
    """Make of a batch norm what adds the bias that the folded convolution has and `conv` has no place for."""
    assert isinstance(fused, nn.Conv2d)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()
    if conv.bias is None and fused.bias is not None:
        norm.running_mean.sub_(fused.bias)


def _fold_neighbours(part: nn.Sequential) -> None:
    names = list(part._modules)
    for name, following in pairwise(names):
        conv, norm = part._modules[name], part._modules[following]
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
            part._modules[name] = fuse_conv_bn_eval(conv, norm)
            part._modules[following] = nn.Identity()
