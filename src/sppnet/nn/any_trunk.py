"""A trunk of any kind, from its name or from a model file."""

from typing import Any

from torch import Tensor

from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.nn.trunks import Trunk, Weights, empty_trunk, load_trunk
from sppnet.nn.weights import load_weights

ONNX_SUFFIX = ".onnx"

AnyTrunk = Trunk | DetectorTrunk


def is_onnx(name: str) -> bool:
    """Whether a trunk's name is that of an ONNX file."""
    return name.lower().endswith(ONNX_SUFFIX)


def open_trunk(
    name: str, *, stride: int | None = None, width: float = 1.0, weights: Weights | None = None
) -> AnyTrunk:
    """A trunk by name, as `load_trunk`, or from an ONNX file, which has its weights in it."""
    if is_onnx(name):
        return OnnxTrunk.from_file(name)
    return load_trunk(name, stride=stride, width=width, weights=weights)


def restore_trunk(spec: dict[str, Any], state: dict[str, Tensor]) -> AnyTrunk:
    """The trunk of a model file; spec: its `spec`, state: its state dict. Raises ModelError."""
    if "onnx" in spec:
        return OnnxTrunk.restore(spec, state["content"])
    trunk = empty_trunk(**spec)
    load_weights(trunk, state)
    return trunk
