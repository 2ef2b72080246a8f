"""Weights of convolutions rounded to 8 bits so that their errors cancel on photographs.

Each weight of an output is rounded in turn, and what it is off by is made up by those still to come, by how
the numbers that they are multiplied with go together on photographs (GPTQ, Frantar et al. 2023, algorithm 1;
after Hassibi and Stork 1993). Maps of EfficientNet-Lite1 are half as far off then as with plain rounding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sppnet.arrays import Array, Doubles, Floats
from sppnet.nn.onnx_session import import_extra, open_session
from sppnet.rng import Stream, generator
from sppnet.torch_defaults import one_thread

LARGEST = 127
"""Weight in units of its scale."""

PAIR_LIMIT = 126
"""Of the sum of two neighbours of one sign. AVX2 adds two products of 8 bits to 16, where 255 × 128 fits; two
units are left for what rounding makes up."""

MAX_INPUTS = 4096
"""Of an output, beyond which weights are rounded plainly: the time grows with the cube."""

SAMPLED, SAMPLED_PATCHES = 512, 128
"""Places of an image whose inputs are compared, by convolutions of 1×1 and by depthwise ones."""

DAMPING = 0.01
"""Of the mean of the diagonal, added to it."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """One of a graph."""

    input: str
    weight_name: str
    weight: Floats
    """(outputs, inputs of one, h, w)"""
    groups: int
    dilation: tuple[int, int]

    @property
    def depthwise(self) -> bool:
        return self.weight.shape[1] == 1 and self.groups == len(self.weight)

    @property
    def compared(self) -> bool:
        """Whether its rounding looks at photographs."""
        _, inputs, height, width = self.weight.shape
        return self.depthwise or (self.groups == height == width == 1 and inputs <= MAX_INPUTS)

    @property
    def scale(self) -> Doubles:
        """(outputs,) unit of the weights of each."""
        weight = self.weight.astype(np.float64)
        rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # in the order of the sums
        single: Doubles = np.abs(rows).max(axis=1).clip(1e-9) / LARGEST
        if self.depthwise or rows.shape[1] == 1:  # onnxruntime multiplies these in 16 bits
            return single
        signed = np.stack([rows.clip(0), (-rows).clip(0)])
        pairs = (signed[..., 1:] + signed[..., :-1]).max(axis=(0, 2))
        scale: Doubles = np.maximum(single, pairs / PAIR_LIMIT)
        return scale

    def sample(self, inputs: Floats, rng: np.random.Generator) -> Doubles | None:
        """(groups, n, n) sums of products of the numbers that an output is made of.

        inputs: (channels, h, w). None where they are smaller than the kernel.
        """
        height, width = inputs.shape[1:]
        rows, columns = self.weight.shape[2:]
        high = height - (rows - 1) * self.dilation[0]
        wide = width - (columns - 1) * self.dilation[1]
        if min(high, wide) < 1:
            return None
        count = SAMPLED_PATCHES if self.depthwise else SAMPLED
        y, x = rng.integers(high, size=count), rng.integers(wide, size=count)
        if not self.depthwise:
            return _products(inputs[None, :, y, x])
        patches = np.stack(
            [
                inputs[:, y + row * self.dilation[0], x + column * self.dilation[1]]
                for row in range(rows)
                for column in range(columns)
            ],
            axis=1,
        )
        return _products(patches)

    def rounded(self, products: Doubles | None) -> Floats:
        """The weight on its scale; products: as `sample` gives, or None to round plainly."""
        scale, shape = self.scale, self.weight.shape
        if products is None:
            whole = np.round(self.weight / scale[:, None, None, None])
        else:
            rows = self.weight.reshape(len(products), -1, products.shape[-1]).astype(np.float64)
            units = scale.reshape(len(products), -1)
            whole = round_rows(rows / units[..., None], products).reshape(shape)
        return (whole.clip(-LARGEST, LARGEST) * scale[:, None, None, None]).astype(np.float32)


def _products(taken: Floats) -> Doubles:
    """(groups, n, places) → (groups, n, n)"""
    given = torch.from_numpy(np.ascontiguousarray(taken))
    with one_thread():
        products: Doubles = torch.bmm(given, given.mT).double().numpy()
    return products


def round_rows(rows: Doubles, products: Doubles) -> Doubles:
    """Integers (groups, outputs, n) whose products with inputs come near those of rows of the same shape.

    products: (groups, n, n) sums of products of those inputs.
    """
    count = products.shape[-1]
    diagonal = products.diagonal(axis1=1, axis2=2).mean(axis=1)
    damped = products + (DAMPING * diagonal + 1e-12)[:, None, None] * np.eye(count)
    with one_thread():
        upper = torch.linalg.cholesky(torch.linalg.inv(torch.from_numpy(damped)), upper=True).numpy()
    left, whole = rows.copy(), np.empty_like(rows)
    for column in range(count):
        whole[..., column] = np.round(left[..., column]).clip(-LARGEST, LARGEST)
        off = (left[..., column] - whole[..., column]) / upper[:, None, column, column]
        left[..., column + 1 :] -= off[..., None] * upper[:, None, column, column + 1 :]
    return whole


Overrides = dict[str, list[dict[str, Any]]]


def round_weights(model: Any, kept: Sequence[str], images: Iterable[Array]) -> Overrides:
    """Round the weights of the convolutions of an ONNX graph, except those of the nodes `kept`.

    images: (1, 3, h, w) float32 each. Gives what onnxruntime's quantisation is to know of these weights.
    """
    onnx, quantization = import_extra("onnx"), import_extra("onnxruntime.quantization")
    stored = {one.name: one for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv" and node.name not in kept]
    found = [_read(node, stored) for node in nodes]
    products = _compare(model, [one for one in found if one.compared], images)
    for one in found:
        weight = one.rounded(products.get(one.weight_name))
        stored[one.weight_name].CopyFrom(onnx.numpy_helper.from_array(weight, one.weight_name))
    common = {"quant_type": quantization.QuantType.QInt8, "axis": 0, "zero_point": np.array(0, np.int8)}
    return {
        one.weight_name: [common | {"scale": np.array(scale, np.float32)} for scale in one.scale]
        for one in found
    }


def _read(node: Any, stored: dict[str, Any]) -> Convolution:
    onnx = import_extra("onnx")
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    weight = np.array(onnx.numpy_helper.to_array(stored[node.input[1]]), np.float32)
    dilation = tuple(attributes.get("dilations", (1, 1)))
    return Convolution(node.input[0], node.input[1], weight, attributes.get("group", 1), dilation)


def _compare(model: Any, found: Sequence[Convolution], images: Iterable[Array]) -> dict[str, Doubles]:
    """Sums of products of each convolution's inputs over the images, by the name of its weight."""
    onnx = import_extra("onnx")
    if not found:
        return {}
    names = list(dict.fromkeys(one.input for one in found))
    looked = onnx.ModelProto()
    looked.CopyFrom(model)
    del looked.graph.output[:]
    looked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(looked.SerializeToString())
    products: dict[str, Doubles] = {}
    for index, image in enumerate(images):
        inputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: image}), strict=True))
        rng = generator(0, Stream.ROUNDED_WEIGHTS, index)
        for one in found:
            sums = one.sample(inputs[one.input][0], rng)
            if sums is not None:
                products[one.weight_name] = products.get(one.weight_name, 0) + sums
    return products
