"""An ONNX file of a detector: read as data, understood by its last convolutions, and cut before them.

A detector without anchors ends alike in every tool: for each stride a few convolutions say, at each cell,
where the box lies, whether anything is there and what it is. They are found by walking back from the file's
outputs, and told apart by how many numbers they give; nothing depends on names in the file.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sppnet.errors import ModelError
from sppnet.nn.onnx_probe import probe_shapes, takes_any_size
from sppnet.nn.onnx_session import import_extra


class UnknownHeadError(ModelError):
    """A network whose head is not understood; its maps may be of use."""


MAX_PX = 4096
"""A side of the input of a file."""

DEFAULT_PX = 416
"""Side of the input of a file that leaves it open."""

BOX, OBJECTNESS = 4, 1
"""Numbers a cell gives for its box, and for whether there is an object."""

ALLOWED = """
Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose DepthToSpace Div
Elu Exp Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
InstanceNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mish Mul Neg Pad Pow PRelu
ReduceMax ReduceMean ReduceSum Relu Reshape Resize Round Shape Sigmoid Slice Softmax Softplus
SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Transpose Unsqueeze Upsample
"""
"""Operations of plain networks: none runs another graph, or makes an array of whatever size a number says."""


@dataclass(frozen=True)
class HeadLevel:
    """Names of what is taken out at one stride; cells are those of `map`."""

    stride: int
    map: str
    """The feature map before the head."""
    class_features: str = ""
    """What the last convolution for classes sees."""
    box_features: str = ""
    """What the last convolution for boxes sees."""
    logits: str = ""
    boxes: str = ""
    objectness: str = ""

    @property
    def has_head(self) -> bool:
        """Whether more than the map is taken out."""
        return bool(self.logits)

    @property
    def tensors(self) -> tuple[str, ...]:
        """In the order in which a trunk gives them; "" for box features that are the class features."""
        if not self.has_head:
            return (self.map,)
        return (self.map, self.class_features, self.box_features, self.logits, self.boxes, self.objectness)

    def prefixed(self, prefix: str) -> "HeadLevel":
        """The same tensors where the network is a part of another graph, which names them so."""
        return HeadLevel(self.stride, *(prefix + name if name else "" for name in self.tensors))


@dataclass(frozen=True)
class DetectorGraph:
    """A detector's network without its last steps."""

    content: bytes
    """The ONNX file; its outputs are the tensors of the levels, level by level."""
    levels: tuple[HeadLevel, ...]
    """The finest first."""
    size_px: int
    """Side of the square image that the network was exported for."""
    dynamic: bool
    """Whether it takes images of other sizes too."""
    channels: tuple[tuple[int, ...], ...]
    """Of each level's tensors."""
    family: str = "yolox"
    """Of the head: yolox, or one of `onnx_heads`."""
    centre: float = 0.0
    """Where the point of a cell lies in it, from which distances to the sides of its box count."""

    @property
    def has_objectness(self) -> bool:
        """Whether the network says so apart from classes; else it is the probability of the likeliest one."""
        return self.family in ("yolox", "yolov5")

    @property
    def has_head(self) -> bool:
        """Whether boxes and classes are taken out beside the maps."""
        return self.levels[0].has_head

    def described(self) -> dict[str, Any]:
        """All but the content, fit for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "content"}

    @staticmethod
    def from_described(content: bytes, described: dict[str, Any]) -> "DetectorGraph":
        levels = tuple(HeadLevel(**level) for level in described["levels"])
        channels = tuple(tuple(map(int, counts)) for counts in described["channels"])
        size_px, dynamic = int(described["size_px"]), bool(described["dynamic"])
        family, centre = str(described.get("family", "yolox")), float(described.get("centre", 0.0))
        return DetectorGraph(content, levels, size_px, dynamic, channels, family, centre)


def cut_detector(model: Any, name: str) -> DetectorGraph:
    """The front of a parsed model of a YOLOX-like detector, up to its last convolutions.

    Such a detector gives, for each stride and cell, a box of 4 numbers, an objectness and class scores, each
    from a convolution of its own. Raises ModelError naming what was found instead.
    """
    graph = OnnxGraph(model)
    last = graph.last_convolutions()
    described = f"{name} ends in {_in_words(graph, last)}"
    if not last:
        raise UnknownHeadError(f"{described}; a detector like YOLOX was expected")
    size_px = graph.size_px(name)
    shapes = probe_shapes(graph.part([node.output[0] for node in last]), size_px, name)
    of_cells: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for node, shape in zip(last, shapes, strict=True):
        of_cells[shape[2:]].append(node)
    levels = [
        _level(graph, nodes, size_px, cells, described)
        for cells, nodes in sorted(of_cells.items(), reverse=True)
    ]
    names = [tensor for level in levels for tensor in level.tensors]
    part = graph.part(names)
    shapes = probe_shapes(part, size_px, name)
    shape_of = dict(zip(dict.fromkeys(names), shapes, strict=True))
    for level in levels:
        if len({shape_of[name][2:] for name in level.tensors}) > 1:
            raise UnknownHeadError(
                f"{described}; those of stride {level.stride} stand on maps of other sizes"
            )
    channels = tuple(tuple(shape_of[name][1] for name in level.tensors) for level in levels)
    if len({counts[1:] for counts in channels}) > 1:
        raise UnknownHeadError(f"{described}; at each stride as many features were expected, got {channels}")
    return DetectorGraph(part, tuple(levels), size_px, takes_any_size(part, size_px), channels)


def _level(
    graph: "OnnxGraph", nodes: Sequence[Any], size_px: int, cells: tuple[int, ...], described: str
) -> HeadLevel:
    """Which of the last convolutions of one stride gives what."""
    by_count = {graph.channels_of(node): node for node in nodes}
    classes = set(by_count) - {BOX, OBJECTNESS}
    if len(nodes) != 3 or len(by_count) != 3 or len(classes) != 1 or size_px % cells[0]:
        raise UnknownHeadError(
            f"{described}; a detector like YOLOX was expected: at each stride one convolution of {BOX} "
            f"numbers (the box), one of {OBJECTNESS} (objectness) and one with a number for each class"
        )
    box, objectness, logits = by_count[BOX], by_count[OBJECTNESS], by_count[classes.pop()]
    return HeadLevel(
        size_px // cells[0],
        graph.map_before([box, logits]),
        logits.input[0],
        box.input[0],
        logits.output[0],
        box.output[0],
        objectness.output[0],
    )


def _in_words(graph: "OnnxGraph", nodes: Iterable[Any]) -> str:
    counts = [graph.channels_of(node) for node in nodes]
    if not counts:
        return "no convolution"
    return f"{len(counts)} convolutions, of {', '.join(map(str, counts[:12]))} numbers"


class OnnxGraph:
    """The network of a model, with who makes and who takes every tensor."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph
        self.weights = {one.name: tuple(one.dims) for one in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.weights[node.output[0]] = tuple(node.attribute[0].t.dims)
        self.maker = {output: node for node in self.graph.node for output in node.output}
        inputs = [one for one in self.graph.input if one.name not in self.weights]
        if len(inputs) != 1:
            raise ModelError(f"a network of images has one input; this one has {len(inputs)}")
        self.input = inputs[0].name
        self.dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]

    def size_px(self, name: str) -> int:
        """Side of the square input; raises ModelError unless it takes (1, 3, h, w)."""
        if len(self.dims) != 4 or self.dims[1] not in (0, 3):
            raise ModelError(f"{name} takes {self.dims}; images of shape (1, 3, height, width) were expected")
        size_px = max(map(int, self.dims[2:]))
        if size_px > MAX_PX:
            raise ModelError(
                f"{name} takes images of {size_px} pixels a side; networks of up to {MAX_PX} are run"
            )
        return size_px if size_px > 0 else DEFAULT_PX

    def channels_of(self, node: Any) -> int:
        """Numbers that a convolution gives for each cell; 0 where its weights are no constants."""
        return int((self.weight_shape(node) or (0,))[0])

    def weight_shape(self, node: Any) -> tuple[int, ...]:
        """Of a convolution; () where its weights are no constants, or are missing."""
        shape: tuple[int, ...] = self.weights.get(node.input[1], ()) if len(node.input) > 1 else ()
        return shape

    def last_convolutions(self) -> list[Any]:
        """From which the outputs are reached without another convolution, in the file's order."""
        seen: set[str] = set()
        found = set()
        waiting = [one.name for one in self.graph.output]
        while waiting:
            name = waiting.pop()
            node = self.maker.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type == "Conv":
                found.add(node.output[0])
            else:
                waiting.extend(node.input)
        return [node for node in self.graph.node if node.op_type == "Conv" and node.output[0] in found]

    def operations_after(self, ends: Iterable[str]) -> set[str]:
        """Between these tensors and the outputs."""
        every = set().union(*(self.before(one.name) for one in self.graph.output))
        known = set().union(*map(self.before, ends))
        return {node.op_type for node in self.graph.node if set(node.output) & every - known}

    def map_before(self, nodes: Sequence[Any]) -> str:
        """What goes into the last convolution that all of `nodes` stand on: the map before the head."""
        shared = set.intersection(*(self.before(node.input[0]) for node in nodes))
        last = [node for node in self.graph.node if node.op_type == "Conv" and node.output[0] in shared]
        if not last:
            raise UnknownHeadError("the convolutions for boxes and for classes share no feature map")
        name: str = last[-1].input[0]
        return name

    def before(self, name: str) -> set[str]:
        """The tensor and all that it is computed from."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if node := self.maker.get(name):
                waiting.extend(node.input)
        return seen

    def part(self, outputs: Sequence[str]) -> bytes:
        """The network that gives these tensors, for images of any size."""
        onnx = import_extra("onnx")
        needed = set().union(*map(self.before, outputs))
        nodes = [node for node in self.graph.node if needed.intersection(node.output)]
        refused = {node.op_type for node in nodes} - set(ALLOWED.split())
        if refused:
            raise ModelError(f"the network uses {', '.join(sorted(refused))}, which a trunk must not")
        weights = [one for one in self.graph.initializer if one.name in needed]
        kind = onnx.TensorProto.FLOAT
        free = onnx.helper.make_tensor_value_info(self.input, kind, [1, 3, "height", "width"])
        given = [onnx.helper.make_tensor_value_info(one, kind, None) for one in dict.fromkeys(outputs)]
        graph = onnx.helper.make_graph(nodes, "trunk", [free], given, weights)
        opsets = [one for one in self.model.opset_import if one.domain in ("", "ai.onnx")]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        model.ir_version = min(self.model.ir_version or 8, 10)
        content: bytes = model.SerializeToString(deterministic=True)
        return content
