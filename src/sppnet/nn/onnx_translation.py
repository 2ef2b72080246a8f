"""A convolutional network as an ONNX graph for images of any size, made in a tenth of a second.

torch's own exporter takes ten seconds for the same graph, more than the graph saves on a few photographs;
`sppnet export` uses it. Here torch.fx follows the network, and the few kinds of layers that convolutional
networks are made of are translated one by one; others are refused by name.
"""

from torch import fx, nn

from sppnet.nn.onnx_nodes import OnnxNodes, UntranslatableError
from sppnet.nn.onnx_operators import CALLS, MODULES

OPSET, IR_VERSION = 18, 8
"""The opset that `sppnet export` writes, and the file format that goes with it."""

INPUT = "images"

FLOAT = 1
"""ONNX's number for float32."""


def translate_body(body: nn.Module) -> bytes:
    """The content of an ONNX file: images (b, 3, h, w) float32 → one output for each map of the body.

    Raises UntranslatableError; MissingExtraError without the package onnx.
    """
    try:
        graph = _Tracer().trace(body)
    except Exception as error:  # a forward that depends on its input, in any of many ways
        raise UntranslatableError(
            f"a network that torch.fx cannot follow ({type(error).__name__})"
        ) from error
    nodes, needed = OnnxNodes(body), _ancestors(graph)
    for node in graph.nodes:
        if node in needed:
            nodes.names[node] = _translate(node, nodes)
    found = graph.output_node().args[0]
    return _model(nodes, [nodes.value(one) for one in (found if isinstance(found, tuple) else (found,))])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


def _ancestors(graph: fx.Graph) -> set[fx.Node]:
    """What the output depends on; networks also check shapes, which is left out."""
    found: set[fx.Node] = set()
    waiting = list(graph.output_node().all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _translate(node: fx.Node, nodes: OnnxNodes) -> str:
    """The name of the node's result."""
    if node.op == "placeholder":
        return INPUT
    if node.op == "get_attr":
        return nodes.constant(nodes.attribute(node))
    if node.op == "call_module":
        module = nodes.body.get_submodule(str(node.target))
        if type(module) not in MODULES:
            raise UntranslatableError(type(module).__name__)
        return MODULES[type(module)](nodes, module, nodes.value(node.args[0]))
    name = str(getattr(node.target, "__name__", node.target))
    if name not in CALLS:
        raise UntranslatableError(name)
    return CALLS[name](nodes, *node.args, **node.kwargs)


def _model(nodes: OnnxNodes, outputs: list[str]) -> bytes:
    helper = nodes.helper
    named = [f"maps{index}" for index in range(len(outputs))]
    ends = [
        helper.make_node("Identity", [output], [name]) for output, name in zip(outputs, named, strict=True)
    ]
    graph = helper.make_graph(
        [*nodes.nodes, *ends],
        "trunk",
        [helper.make_tensor_value_info(INPUT, FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in named],
        nodes.constants,
    )
    content: bytes = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sppnet",
    ).SerializeToString(deterministic=True)
    return content
