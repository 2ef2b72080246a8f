"""A trunk's graph with 8-bit numbers: little more than half the time on a CPU, for maps a little off.

onnxruntime's static quantisation does it: weights with a scale for each channel, which `weight_rounding` has
rounded, and activations with one scale for each tensor, from the smallest to the largest number met on
photographs.
"""

import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.errors import ConfigError, ModelError, SppnetError
from sppnet.nn.engines import missing_for_onnx
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.onnx_session import first_line, import_extra
from sppnet.nn.onnx_translation import INPUT, translate_body
from sppnet.nn.trunks import Trunk
from sppnet.nn.weight_rounding import round_weights

KEPT_CONVOLUTIONS = 3
"""The first ones stay float32: in 8 bits they double the error of the maps, in hardly less time. Keeping four
to seven brings a point of 8 %, in up to a third more time."""


def quantise_trunk(trunk: Trunk, images: Iterable[Tensor]) -> None:
    """Give a trunk the graph that the engine int8 runs, as its buffer `int8`.

    images: (1, 3, h, w) each, of any sizes, normalised: weights are rounded, and ranges measured, on them.
    Raises ConfigError for a trunk that onnxruntime cannot run, and without onnxruntime.
    """
    if problem := missing_for_onnx(next(trunk.parameters()).device):
        raise ConfigError(f"--engine int8 needs onnxruntime: {problem}")
    try:
        content = translate_body(fuse_conv_bn(trunk.body).cpu())
        quantised = quantise(content, (image.float().contiguous().numpy() for image in images))
    except ModelError as error:
        raise ConfigError(f"the engine int8 cannot run {trunk.name}: {error}; leave it at auto") from error
    trunk.int8 = torch.frombuffer(bytearray(quantised), dtype=torch.uint8)


def quantise(content: bytes, images: Iterable[Array]) -> bytes:
    """An ONNX file of a graph with one input, and the same with 8-bit convolutions.

    images: (1, 3, h, w) float32 each. The same images give the same bytes. Raises ModelError.
    """
    quantization = import_extra("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "int8.onnx"
        try:
            model = _prepared(content, Path(folder))
            kept = [node.name for node in model.graph.node if node.op_type == "Conv"][:KEPT_CONVOLUTIONS]
            given = list(images)
            weights = round_weights(model, kept, given)
            quantization.quantize_static(
                model, str(path), _reader(quantization, given), per_channel=True, nodes_to_exclude=kept,
                weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8,
                extra_options={"TensorQuantOverrides": weights},
            )  # fmt: skip
        except SppnetError:  # of an image
            raise
        except Exception as error:
            raise ModelError(f"onnxruntime does not quantise it: {first_line(error)}") from error
        return path.read_bytes()


def _prepared(content: bytes, folder: Path) -> Any:
    """The graph as onnxruntime simplifies it, with a name for each node.

    A padding that stays beside its convolution would have numbers of its own, and cost all that is gained.
    """
    onnx = import_extra("onnx")
    prepare = import_extra("onnxruntime.quantization.shape_inference").quant_pre_process
    given, simplified = folder / "given.onnx", folder / "simplified.onnx"
    given.write_bytes(content)
    prepare(str(given), str(simplified), skip_symbolic_shape=True)
    model = onnx.load(simplified)
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    return model


def _reader(quantization: Any, images: Iterable[Array]) -> Any:
    """What onnxruntime asks for one image after the other."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image}

    return Reader()
