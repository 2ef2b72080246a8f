"""A trunk of any kind, from its name or from a model file."""

from typing import Any

from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.nn.detector_names import COCO, TORCHVISION_DETECTORS
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.onnx_file import parse_model
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.nn.trunks import Trunk, Weights, empty_trunk, load_trunk
from sppnet.nn.weights import load_weights
from sppnet.nn.yolox_release import YOLOX_NAMES, released_file

ONNX_SUFFIX = ".onnx"
PUBLISHED = "imagenet", COCO
"""Weights that are named, and no files."""

AnyTrunk = Trunk | DetectorTrunk


def is_onnx(name: str) -> bool:
    """Whether a trunk's name is that of an ONNX file."""
    return name.lower().endswith(ONNX_SUFFIX)


def is_onnx_trunk(name: str) -> bool:
    """Whether a trunk's name stands for an ONNX file, at hand or released."""
    return is_onnx(name) or name in YOLOX_NAMES


def is_detector(name: str) -> bool:
    """Whether a trunk's name is that of a detector's network."""
    return is_onnx_trunk(name) or name in TORCHVISION_DETECTORS


def open_trunk(
    name: str,
    *,
    stride: int | None = None,
    width: float = 1.0,
    weights: Weights | None = None,
    convention: str | None = None,
) -> AnyTrunk:
    """A trunk by name, as `load_trunk`, or a detector's: an ONNX file, which has its weights in it, a
    released YOLOX, or one of torchvision's, whose weights are "coco" or a file.
    convention: of the pixels of an ONNX file, see `CONVENTIONS`.
    """
    if is_onnx(name):
        return OnnxTrunk.from_file(name, convention)
    if name in YOLOX_NAMES:
        return OnnxTrunk.from_file(released_file(name, weights), convention)
    if name in TORCHVISION_DETECTORS:
        from sppnet.nn.torchvision_detectors import TorchvisionDetector

        return TorchvisionDetector.load(name, weights)
    if weights == COCO:
        raise ConfigError(
            f"{name} has no weights of COCO: give --weights imagenet, or take a detector's network, such as "
            f"{TORCHVISION_DETECTORS[0]}"
        )
    return load_trunk(name, stride=stride, width=width, weights=weights)


def restore_trunk(spec: dict[str, Any], state: dict[str, Tensor]) -> AnyTrunk:
    """The trunk of a model file; spec: its `spec`, state: its state dict. Raises ModelError."""
    if "onnx" in spec:
        return OnnxTrunk.restore(spec, state["content"])
    if "categories" in spec:
        from sppnet.nn.torchvision_detectors import TorchvisionDetector

        return TorchvisionDetector.restore(spec, state)
    state, content = dict(state), state.get("int8")
    state.pop("int8", None)
    trunk = empty_trunk(**spec)
    load_weights(trunk, state)
    if content is not None:
        parse_model(content.numpy().tobytes(), f"{trunk.name} in 8 bits")
        trunk.int8 = content
    return trunk
