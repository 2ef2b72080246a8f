"""Nodes of an ONNX graph, written one after the other; and graphs put one behind the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.errors import ModelError
from sppnet.nn.onnx_session import first_line, import_extra

Value = str
"""The name of a tensor of the graph."""


class GraphWriter:
    """op.Add(x, y) writes an Add node and returns the name of its output, for operators of ONNX's own."""

    def __init__(self, opset: int, prefix: str) -> None:
        """prefix: of all names, so that graphs can be put behind one another."""
        self.opset, self.prefix = opset, prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._onnx = import_extra("onnx")

    def __getattr__(self, kind: str) -> Callable[..., Value]:
        def write(*inputs: Value, **attributes: Any) -> Value:
            name = f"{self.prefix}{kind}_{len(self.nodes)}"
            self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name, **attributes))
            return name

        if not kind[:1].isupper():
            raise AttributeError(kind)
        return write

    def two(self, kind: str, *inputs: Value, **attributes: Any) -> tuple[Value, Value]:
        """A node of two outputs."""
        names = tuple(f"{self.prefix}{kind}_{len(self.nodes)}{end}" for end in ("", "_second"))
        self.nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), list(names), names[0], **attributes)
        )
        return names[0], names[1]

    def constant(self, array: Any, dtype: Any = np.float32) -> Value:
        """A tensor of the file."""
        name = f"{self.prefix}constant_{len(self.constants)}"
        held = np.asarray(array, dtype)
        self.constants.append(import_extra("onnx.numpy_helper").from_array(held, name))
        return name

    def ints(self, *values: int) -> Value:
        """(n,) int64."""
        return self.constant(values, np.int64)

    def named(self, name: str, value: Value) -> Value:
        """The same tensor under a name of its own, as outputs have."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name))
        return name

    def model(self, inputs: "Sequence[TensorInfo]", outputs: "Sequence[TensorInfo]") -> Any:
        """An onnx.ModelProto."""
        helper = self._onnx.helper
        infos = [[one.as_proto(helper) for one in each] for each in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "part", *infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = IR_VERSION
        return model


@dataclass(frozen=True)
class TensorInfo:
    """An input or an output of a graph."""

    name: str
    dtype: Any
    """Of numpy."""
    shape: tuple[int | str, ...] | None = None
    """Free axes have names; None where nothing is known."""

    def as_proto(self, helper: Any) -> Any:
        """onnx.ValueInfoProto; helper: the module onnx.helper."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return helper.make_tensor_value_info(self.name, kind, self.shape)


IR_VERSION = 10
"""Of the files; onnxruntime reads it from 1.18 on."""


MAP_AXES = 4
"""Of an output of a trunk's network: (1, c, h, w)."""


def at_opset(content: bytes, oldest: int) -> tuple[Any, int]:
    """The file of a trunk's network as an onnx.ModelProto with operators of the version `oldest` or newer.

    Second, which version. Raises ModelError where an operator cannot be converted.
    """
    onnx = import_extra("onnx")
    model = onnx.ModelProto.FromString(content)
    found = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    if found < oldest:
        try:
            model = import_extra("onnx.version_converter").convert_version(model, oldest)
        except Exception as error:  # in C++, which has its own errors
            raise ModelError(
                f"the trunk's network has version {found} of ONNX's operators, and cannot be brought to "
                f"version {oldest}: {first_line(error)}"
            ) from error
    for one in model.graph.output:  # the checker asks for a shape, if only of unknown sides
        shape = one.type.tensor_type.shape
        while not one.type.tensor_type.HasField("shape") or len(shape.dim) < MAP_AXES:
            shape.dim.add()
    model.ir_version = IR_VERSION
    return model, max(found, oldest)


def chain(first: Any, second: Any, io_map: Mapping[str, str], outputs: Sequence[str] | None = None) -> Any:
    """One model of two, of one version of operators; io_map: from outputs of one to inputs of the other."""
    compose, (opset, *_) = import_extra("onnx.compose"), first.opset_import
    whole = compose.merge_models(first, second, io_map=list(io_map.items()), outputs=outputs)
    del whole.opset_import[:]  # it lists those of both
    whole.opset_import.append(opset)
    return whole
