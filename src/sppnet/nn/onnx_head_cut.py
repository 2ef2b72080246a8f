"""A detector's ONNX file cut before its last steps, where its head is one of `onnx_heads`.

Behind the last convolutions stand a few operations of our own, so that the cut network gives of every head
the same: logits of classes, objectness, and distances from the cell to the sides of its box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sppnet.nn.graph_writer import GraphWriter, Value
from sppnet.nn.onnx_graph import DetectorGraph, HeadLevel, OnnxGraph, UnknownHeadError
from sppnet.nn.onnx_heads import HeadReading, LevelReading, Source, read_head
from sppnet.nn.onnx_probe import probe_shapes, takes_any_size

PREFIX = "sppnet/"
"""Of the names of these operations."""

OLDEST = 11
"""Version of ONNX's operators from which on those that are added mean what they do here."""

AXES_AS_INPUT = 18
"""Version of ONNX's operators from which on ReduceMax takes its axes as an input."""


def cut_head(model: Any, name: str) -> DetectorGraph:
    """The front of a parsed model of a detector with distributions or anchors.

    Raises UnknownHeadError where its head is none of these, or stands on no map.
    """
    reading = read_head(model, name)
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    if opset < OLDEST:
        raise UnknownHeadError(
            f"{name} has version {opset} of ONNX's operators; {OLDEST} or newer was expected"
        )
    op, graph = GraphWriter(opset, PREFIX), OnnxGraph(model)
    levels = [_write_level(op, graph, reading, level) for level in reading.levels]
    extended = type(model)()
    extended.CopyFrom(model)
    extended.graph.node.extend(op.nodes)
    extended.graph.initializer.extend(op.constants)
    names = [tensor for level in levels for tensor in level.tensors if tensor]
    whole, size_px = OnnxGraph(extended), graph.size_px(name)
    part = whole.part(names)
    shape_of = {"": (1, 0)} | dict(zip(dict.fromkeys(names), probe_shapes(part, size_px, name), strict=True))
    channels = tuple(tuple(shape_of[tensor][1] for tensor in level.tensors) for level in levels)
    cells = [{shape_of[tensor][2:] for tensor in level.tensors if tensor} for level in levels]
    if any(len(one) > 1 for one in cells) or len({counts[1:] for counts in channels}) > 1:
        raise UnknownHeadError(f"{name}: the head does not give the same at every stride: {channels}")
    dynamic = takes_any_size(part, size_px)
    return DetectorGraph(part, tuple(levels), size_px, dynamic, channels, reading.family, reading.centre)


def _write_level(op: GraphWriter, graph: OnnxGraph, reading: HeadReading, level: LevelReading) -> HeadLevel:
    of_class, of_box = (graph.maker[source.tensor].input[0] for source in (level.logits, level.boxes))
    logits = _sliced(op, level.logits)
    numbers = _sliced(op, level.boxes)
    if level.anchor is None:
        scaled = numbers if level.scale == 1 else op.Mul(numbers, op.constant(level.scale))
        boxes, objectness = _mean(op, scaled, reading.bins), _largest(op, logits)
    else:
        assert level.objectness is not None
        boxes, objectness = _distances(op, numbers, level), _sliced(op, level.objectness)
    features = "" if of_box == of_class else of_box
    return HeadLevel(
        level.stride, _map(graph, of_class, of_box), of_class, features, logits, boxes, objectness
    )


def _sliced(op: GraphWriter, source: Source) -> Value:
    """(1, c, h, w) of the convolution → those channels."""
    return op.Slice(source.tensor, op.ints(source.first), op.ints(source.end), op.ints(1))


def _largest(op: GraphWriter, logits: Value) -> Value:
    """(1, k, h, w) → (1, 1, h, w): of the likeliest class, which stands for objectness."""
    if op.opset >= AXES_AS_INPUT:
        return op.ReduceMax(logits, op.ints(1), keepdims=1)
    return op.ReduceMax(logits, axes=[1], keepdims=1)


def _mean(op: GraphWriter, numbers: Value, bins: int) -> Value:
    """(1, 4 · bins, h, w) logits of distributions → (1, 4, h, w)"""
    last = op.Transpose(numbers, perm=[0, 2, 3, 1])
    shares = op.Softmax(op.Reshape(last, op.ints(0, 0, 0, 4, bins)), axis=4)
    mean = op.MatMul(shares, op.constant(np.arange(bins)[:, None]))
    return op.Transpose(op.Reshape(mean, op.ints(0, 0, 0, 4)), perm=[0, 3, 1, 2])


def _distances(op: GraphWriter, numbers: Value, level: LevelReading) -> Value:
    """(1, 4, h, w) of an anchor → (1, 4, h, w) from the middle of the cell to the sides, in strides."""
    twice = op.Mul(op.Sigmoid(numbers), op.constant(2))
    shift = op.Sub(op.Slice(twice, op.ints(0), op.ints(2), op.ints(1)), op.constant(1))
    sizes = op.Slice(twice, op.ints(2), op.ints(4), op.ints(1))
    factor = np.array(level.anchor)[None, :, None, None] / (2 * level.stride)
    half = op.Mul(op.Mul(sizes, sizes), op.constant(factor))
    return op.Concat(op.Sub(half, shift), op.Add(half, shift), axis=1)


def _map(graph: OnnxGraph, of_class: str, of_box: str) -> str:
    """The feature map before the head: where its branches part, or where a head of one branch begins."""
    if of_class != of_box:
        shared = graph.before(of_class) & graph.before(of_box)
        made = [one for node in graph.graph.node for one in node.output if one in shared]
        made = [one for one in made if one not in graph.weights]
        if not made:
            raise UnknownHeadError("the convolutions for boxes and for classes share no feature map")
        return str(made[-1])
    found = name = of_class
    while (before := _before_in_chain(graph, name)) is not None:
        if graph.maker[name].op_type == "Conv":  # what is between a layer and its activation is no map
            found = before
        name = before
    return found


def _before_in_chain(graph: OnnxGraph, name: str) -> str | None:
    """What a tensor is made from, if by one layer that keeps size and channels, and nothing else takes it."""
    node = graph.maker.get(name)
    inputs = [] if node is None else [one for one in node.input if one and one not in graph.weights]
    if node is None or len(inputs) != 1 or len(_takers(graph, name)) > 1:
        return None
    before: str = inputs[0]
    if node.op_type == "Conv":
        shape = graph.weight_shape(node)
        attributes = {one.name: one for one in node.attribute}
        group = attributes["group"].i if "group" in attributes else 1
        strides = list(attributes["strides"].ints) if "strides" in attributes else []
        if len(shape) != 4 or shape[0] != shape[1] * group or set(strides) - {1}:
            return None
    elif node.op_type not in ACTIVATIONS:
        return None
    return before if before in graph.maker else None


ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "HardSwish",
    "BatchNormalization",
    "Elu",
    "PRelu",
    "Mish",
    "Swish",
    "Clip",
}


def _takers(graph: OnnxGraph, name: str) -> Sequence[Any]:
    return [node for node in graph.graph.node if name in node.input]
