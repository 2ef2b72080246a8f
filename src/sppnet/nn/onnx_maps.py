"""The feature maps of an ONNX file without a head that is understood: a classifier, or another detector."""

from typing import Any

from sppnet.errors import ModelError
from sppnet.nn.onnx_graph import DetectorGraph, HeadLevel, OnnxGraph
from sppnet.nn.onnx_probe import probe_shapes, takes_any_size
from sppnet.nn.onnx_shapes import infer_shapes

STRIDES = 8, 16, 32
MIN_CHANNELS = 8
"""Of a feature map; fewer are an image, or what a head says."""

POOLING = {"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "ReduceMean", "Gemm", "MatMul"}
"""Between the last convolutions and the output of a classifier."""


def cut_maps(model: Any, name: str) -> DetectorGraph:
    """The last map at each of the strides 8, 16 and 32. Raises ModelError where there is none."""
    graph = OnnxGraph(model)
    size_px = graph.size_px(name)
    names = _feature_tensors(graph)
    shapes = infer_shapes(graph.part(names), size_px) if names else {}
    last = {}  # the file's order is that of computing
    for tensor in names:
        for stride in STRIDES:
            side = size_px // stride
            shape = shapes.get(tensor, ())
            if len(shape) == 4 and shape[1] >= MIN_CHANNELS and shape[2:] == (side, side):
                last[stride] = tensor
    if not last:
        raise ModelError(f"{name} has no feature map of stride {', '.join(map(str, STRIDES))}")
    levels = tuple(HeadLevel(stride, tensor) for stride, tensor in sorted(last.items()))
    part = graph.part([level.map for level in levels])
    channels = tuple((shape[1],) for shape in probe_shapes(part, size_px, name))
    return DetectorGraph(part, levels, size_px, takes_any_size(part, size_px), channels)


def _feature_tensors(graph: OnnxGraph) -> list[str]:
    """What stands before a head, in the file's order: all of a classifier, of others what leads to the last
    convolutions."""
    ends = [node.output[0] for node in graph.last_convolutions()]
    after = graph.operations_after(ends)
    if not after & POOLING:
        ends = [graph.maker[end].input[0] for end in ends]
        wanted = set().union(*(graph.before(end) for end in ends)) if ends else set()
    else:
        wanted = set().union(*(graph.before(one.name) for one in graph.graph.output))
    return [
        output
        for node in graph.graph.node
        for output in node.output
        if output in wanted and node.op_type not in ("Constant", "Shape", "Cast")
    ]
