"""Batch norms folded into the convolutions before them."""

from copy import deepcopy
from itertools import pairwise

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


def _fold_neighbours(part: nn.Sequential) -> None:
    names = list(part._modules)
    for name, following in pairwise(names):
        conv, norm = part._modules[name], part._modules[following]
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
            part._modules[name] = fuse_conv_bn_eval(conv, norm)
            part._modules[following] = nn.Identity()
