"""The nodes of an ONNX graph, as a network is translated."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from sppnet.errors import ModelError
from sppnet.nn.onnx_session import import_extra


class UntranslatableError(ModelError):
    """A network with a layer that `onnx_operators` has no translation of."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not translated to ONNX")


class OnnxNodes:
    """The nodes of a graph, and its constants, as they are made."""

    def __init__(self, body: nn.Module) -> None:
        """body: the network that is translated, which has the tensors."""
        self.body, self.helper = body, import_extra("onnx").helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names: dict[fx.Node, str] = {}
        """Of the results, by what torch.fx calls them."""

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        name = f"value{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def value(self, given: Any) -> str:
        """The name of an argument: another node's result, or a number."""
        if isinstance(given, fx.Node):
            return self.names[given]
        if isinstance(given, int | float):
            return self.constant(torch.tensor(float(given)))
        raise UntranslatableError(f"an argument of type {type(given).__name__}")

    def constant(self, tensor: Tensor) -> str:
        name = f"constant{len(self.constants)}"
        array = tensor.detach().cpu().numpy()
        self.constants.append(import_extra("onnx.numpy_helper").from_array(array, name))
        return name

    def attribute(self, node: fx.Node) -> Tensor:
        """The tensor of the network that a node of torch.fx stands for."""
        found = operator.attrgetter(str(node.target))(self.body) if node.op == "get_attr" else None
        if not isinstance(found, Tensor):
            raise UntranslatableError(f"{node.name}, which is no tensor of the network,")
        return found
