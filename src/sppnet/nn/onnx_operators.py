"""What the layers of convolutional networks are in ONNX, in evaluation mode."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from sppnet.nn.onnx_nodes import OnnxNodes, UntranslatableError
from sppnet.nn.response_norm import AcrossChannelNorm, WithinChannelNorm

# --- modules -------------------------------------------------------------------------------------


def _conv(graph: OnnxNodes, conv: Any, given: str) -> str:
    if conv.padding_mode != "zeros":
        raise UntranslatableError(f"padding by {conv.padding_mode}")
    inputs = [given, graph.constant(conv.weight)]
    if conv.bias is not None:
        inputs.append(graph.constant(conv.bias))
    around = conv._reversed_padding_repeated_twice  # left, right, top, bottom, of padding="same" too
    return graph.add(
        "Conv", *inputs, kernel_shape=list(conv.kernel_size), strides=list(conv.stride),
        dilations=list(conv.dilation), group=conv.groups, pads=_onnx_pads(around),
    )  # fmt: skip


def _onnx_pads(around: Any) -> list[int]:
    """torch's left, right, top, bottom as ONNX's top, left, bottom, right."""
    left, right, top, bottom = map(int, around)
    return [top, left, bottom, right]


def _batch_norm(graph: OnnxNodes, norm: Any, given: str) -> str:
    if norm.running_mean is None:
        raise UntranslatableError("a batch norm without statistics")
    return _normalised(graph, given, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)


def _normalised(
    graph: OnnxNodes,
    given: str,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> str:
    numbers = [torch.ones_like(mean) if weight is None else weight]
    numbers += [torch.zeros_like(mean) if bias is None else bias, mean, variance]
    return graph.add("BatchNormalization", given, *map(graph.constant, numbers), epsilon=float(eps))


def _two(given: Any) -> list[int]:
    return list(map(int, given)) if isinstance(given, tuple | list) else [int(given)] * 2


def _pool(graph: OnnxNodes, kind: str, given: str, pool: Any, **attributes: Any) -> str:
    return graph.add(
        kind, given, kernel_shape=_two(pool.kernel_size), strides=_two(pool.stride or pool.kernel_size),
        pads=_two(pool.padding) * 2, ceil_mode=int(pool.ceil_mode), **attributes,
    )  # fmt: skip


def _max_pool(graph: OnnxNodes, pool: Any, given: str) -> str:
    return _pool(graph, "MaxPool", given, pool, dilations=_two(pool.dilation))


def _average_pool(graph: OnnxNodes, pool: Any, given: str) -> str:
    if pool.divisor_override is not None:
        raise UntranslatableError("an average pooling with a divisor")
    return _pool(graph, "AveragePool", given, pool, count_include_pad=int(pool.count_include_pad))


def _global_average(graph: OnnxNodes, pool: Any, given: str) -> str:
    if _two(pool.output_size) != [1, 1]:
        raise UntranslatableError(f"an adaptive pooling to {pool.output_size}")
    return graph.add("GlobalAveragePool", given)


def _pad(graph: OnnxNodes, pad: Any, given: str) -> str:
    top, left, bottom, right = _onnx_pads(pad.padding)
    amounts = torch.tensor([0, 0, top, left, 0, 0, bottom, right])
    return graph.add("Pad", given, graph.constant(amounts))


def _clip(graph: OnnxNodes, given: str, low: float, high: float) -> str:
    return graph.add("Clip", given, graph.value(low), graph.value(high))


def _plain(kind: str, **attributes: Any) -> Callable[[OnnxNodes, Any, str], str]:
    return lambda graph, module, given: graph.add(kind, given, **attributes)


def _same(graph: OnnxNodes, module: Any, given: str) -> str:
    return given


def _response_norm(graph: OnnxNodes, norm: Any, given: str) -> str:
    alpha, beta, bias = map(float, (norm.alpha, norm.beta, norm.k))
    return graph.add("LRN", given, size=norm.size, alpha=alpha, beta=beta, bias=bias)


def _within_channel_norm(graph: OnnxNodes, norm: Any, given: str) -> str:
    window = nn.AvgPool2d(norm.size, 1, norm.size // 2)
    mean = _average_pool(graph, window, graph.add("Mul", given, given))
    scale = graph.add("Add", graph.add("Mul", mean, graph.value(norm.alpha)), graph.value(1.0))
    return graph.add("Div", given, graph.add("Pow", scale, graph.value(norm.beta)))


def _linear(graph: OnnxNodes, linear: Any, given: str) -> str:
    product = graph.add("MatMul", given, graph.constant(linear.weight.T))
    return product if linear.bias is None else graph.add("Add", product, graph.constant(linear.bias))


def _layer_norm(graph: OnnxNodes, norm: Any, given: str) -> str:
    if norm.weight is None:
        raise UntranslatableError("a layer norm without weights")
    numbers = [graph.constant(one) for one in (norm.weight, norm.bias) if one is not None]
    return graph.add(
        "LayerNormalization", given, *numbers, axis=-len(norm.normalized_shape), epsilon=norm.eps
    )


def _gelu(graph: OnnxNodes, given: str, approximate: str) -> str:
    if approximate != "none":
        raise UntranslatableError(f"GELU by {approximate}")
    half, turned = graph.value(0.5), graph.add("Mul", given, graph.value(math.sqrt(0.5)))
    share = graph.add("Mul", graph.add("Add", graph.add("Erf", turned), graph.value(1.0)), half)
    return graph.add("Mul", given, share)


MODULES: dict[type[nn.Module], Callable[[OnnxNodes, Any, str], str]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    WithinChannelNorm: _within_channel_norm,
    nn.LocalResponseNorm: _response_norm,
    AcrossChannelNorm: _response_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_average,
    nn.ZeroPad2d: _pad,
    nn.ReLU: _plain("Relu"),
    nn.ReLU6: lambda graph, module, given: _clip(graph, given, 0.0, 6.0),
    nn.Hardtanh: lambda graph, module, given: _clip(graph, given, module.min_val, module.max_val),
    nn.LeakyReLU: lambda graph, module, given: graph.add("LeakyRelu", given, alpha=module.negative_slope),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Hardswish: _plain("HardSwish"),
    nn.SiLU: lambda graph, module, given: graph.add("Mul", given, graph.add("Sigmoid", given)),
    nn.GELU: lambda graph, module, given: _gelu(graph, given, module.approximate),
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
}
"""What a leaf of the network becomes, in evaluation mode."""


# --- functions and methods -----------------------------------------------------------------------


def _binary(kind: str) -> Callable[..., str]:
    return lambda graph, one, other: graph.add(kind, graph.value(one), graph.value(other))


def _joined(graph: OnnxNodes, tensors: Any, dim: int = 0) -> str:
    return graph.add("Concat", *map(graph.value, tensors), axis=dim)


def _relu(graph: OnnxNodes, given: fx.Node, inplace: bool = False) -> str:
    return graph.add("Relu", graph.value(given))


def _copied(graph: OnnxNodes, given: fx.Node, *others: Any, **options: Any) -> str:
    return graph.value(given)


def _mean(graph: OnnxNodes, given: fx.Node, dim: Any, keepdim: bool = False) -> str:
    axes = graph.constant(torch.tensor(_two(dim) if isinstance(dim, tuple | list) else [dim]))
    return graph.add("ReduceMean", graph.value(given), axes, keepdims=int(keepdim))


def _normed(
    graph: OnnxNodes,
    given: fx.Node,
    mean: fx.Node,
    variance: fx.Node,
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:
    if training:
        raise UntranslatableError("a batch norm of the batch's own statistics")
    scale, shift = (None if one is None else graph.attribute(one) for one in (weight, bias))
    return _normalised(
        graph, graph.value(given), scale, shift, graph.attribute(mean), graph.attribute(variance), eps
    )


def _average_pooled(
    graph: OnnxNodes,
    given: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> str:
    pool = nn.AvgPool2d(kernel_size, stride, padding, ceil_mode, count_include_pad)
    return _average_pool(graph, pool, graph.value(given))


def _max_pooled(
    graph: OnnxNodes,
    given: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> str:
    if return_indices:
        raise UntranslatableError("a max pooling with indices")
    pool = nn.MaxPool2d(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
    return _max_pool(graph, pool, graph.value(given))


def _permuted(graph: OnnxNodes, given: fx.Node, *dims: Any) -> str:
    axes = dims[0] if isinstance(dims[0], tuple | list) else dims
    return graph.add("Transpose", graph.value(given), perm=list(axes))


def _layer_normed(
    graph: OnnxNodes,
    given: fx.Node,
    normalized_shape: Any,
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    eps: float = 1e-5,
) -> str:
    if weight is None:
        raise UntranslatableError("a layer norm without weights")
    inputs = [graph.value(one) for one in (given, weight, bias) if one is not None]
    return graph.add("LayerNormalization", *inputs, axis=-len(normalized_shape), epsilon=float(eps))


CALLS: dict[str, Callable[..., str]] = {
    "add": _binary("Add"),
    "iadd": _binary("Add"),
    "add_": _binary("Add"),
    "mul": _binary("Mul"),
    "imul": _binary("Mul"),
    "cat": _joined,
    "relu": _relu,
    "relu_": _relu,
    "clone": _copied,
    "contiguous": _copied,
    "stochastic_depth": _copied,
    "gelu": lambda graph, given, approximate="none": _gelu(graph, graph.value(given), approximate),
    "mean": _mean,
    "permute": _permuted,
    "batch_norm": _normed,
    "layer_norm": _layer_normed,
    "avg_pool2d": _average_pooled,
    "max_pool2d": _max_pooled,
}
"""Functions and methods by name, in evaluation mode."""
