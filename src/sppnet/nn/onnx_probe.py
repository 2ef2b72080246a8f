"""What a network of an ONNX file gives for images, before it is known what it is."""

import math

import numpy as np

from sppnet.errors import ModelError
from sppnet.nn.onnx_session import open_session, run_session
from sppnet.nn.onnx_shapes import infer_shapes

MAX_NUMBERS = 1 << 29
"""Of one tensor: more are a damaged file, or an attack on the memory."""


def probe_shapes(content: bytes, size_px: int, name: str) -> list[tuple[int, ...]]:
    """Shapes (1, c, h, w) of the outputs, for a grey square."""
    refuse_large(content, size_px, name)
    outputs = run_session(open_session(content), np.full((1, 3, size_px, size_px), 114, np.float32))
    wrong = [one.shape for one in outputs if one.ndim != 4]
    if wrong:
        raise ModelError(f"{name}: feature maps (1, channels, height, width) were expected; got {wrong[0]}")
    return [one.shape for one in outputs]


def refuse_large(content: bytes, size_px: int, name: str) -> None:
    """Raises ModelError for a network with a tensor that no memory holds."""
    for tensor, shape in infer_shapes(content, size_px).items():
        if math.prod(shape) > MAX_NUMBERS:
            raise ModelError(
                f"{name}: the tensor {tensor} would have the shape {shape}, too large to compute"
            )


def takes_any_size(content: bytes, size_px: int) -> bool:
    """Whether a higher and narrower image gives maps of its own shape."""
    height, width = size_px + 64, max(64, size_px - 64)
    try:
        outputs = run_session(open_session(content), np.zeros((1, 3, height, width), np.float32))
    except ModelError:
        return False
    return all(one.shape[2] * width == one.shape[3] * height for one in outputs)
