"""An ONNX file read as data: nothing that it names is opened, and nothing in it runs."""

from pathlib import Path
from typing import Any

import numpy as np

from sppnet.errors import ModelError
from sppnet.nn.file_signature import foreign_kind_of
from sppnet.nn.onnx_session import import_extra

MAX_BYTES = 1 << 30
"""Of a file."""
MAX_NAMED = 5
"""Weights that an error names."""


def read_bytes(path: Path) -> bytes:
    """A file of a size that a network may have; raises ModelError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} has {size >> 20} MB; networks of up to {MAX_BYTES >> 20} MB are read")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def parse_model(content: bytes, name: str) -> Any:
    """The onnx.ModelProto of a file's bytes, checked to be a plain network; raises ModelError."""
    onnx = import_extra("onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf has its own errors, which change with its version
        kind = foreign_kind_of(content[:512])
        raise ModelError(
            f"{name} is damaged or no ONNX file" + (f": it is {kind}" if kind else "; copy it again")
        ) from error
    if not model.graph.node:
        raise ModelError(f"{name} is no ONNX file, or one without a network")
    _check_operations(model, name)
    _check_weights(model, name)
    return model


def _check_operations(model: Any, name: str) -> None:
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ModelError(
            f"{name} uses operations of {', '.join(sorted(foreign))}, which are not ONNX's own; export the "
            "network without them"
        )


def _check_weights(model: Any, name: str) -> None:
    """Raises ModelError for weights outside the file: it may point anywhere."""
    onnx = import_extra("onnx")
    outside = [one.name for one in model.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ModelError(
            f"{name} keeps {len(outside)} of its weights in another file, which is not opened; save it as "
            "one file (onnx.save_model with save_as_external_data=False)"
        )
    if broken := [one.name for one in model.graph.initializer if _holds_nan(one, name)]:
        others = " and others" * (len(broken) > MAX_NAMED)
        raise ModelError(
            f"{name} holds NaN in {', '.join(broken[:MAX_NAMED])}{others}: the training "
            "that made it diverged, or the file is damaged; export an earlier checkpoint"
        )


def _holds_nan(weight: Any, name: str) -> bool:
    """Infinity may be a bound that a network clips to; NaN is nothing."""
    to_array = import_extra("onnx.numpy_helper").to_array
    try:
        values = to_array(weight)
    except Exception as error:  # bytes that are not of its type and shape
        raise ModelError(f"{name} is damaged: {weight.name} cannot be read ({error})") from error
    return values.dtype.kind == "f" and bool(np.isnan(values).any())
