"""A tiny detector like YOLOX as an ONNX file: strides 8 and 16, a decoupled head, weights at random."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
WIDTHS = 8, 6  # channels of the maps, and of the head's features
SIZE_PX = 64


class Builder:
    def __init__(self, seed: int) -> None:
        self.rng, self.nodes, self.weights, self.count = np.random.default_rng(seed), [], [], 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        name = self.name("weight")
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(
        self,
        source: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        bias: float = 0,
        spread: float = 1,
    ) -> str:
        weight = self.rng.normal(
            0, spread * (2 / (inputs * kernel**2)) ** 0.5, (outputs, inputs, kernel, kernel)
        )
        names = self.constant(weight.astype(np.float32)), self.constant(np.full(outputs, bias, np.float32))
        pad = kernel // 2
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("Conv", source, *names, **shape)

    def block(self, source: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        return self.node("Relu", self.conv(source, inputs, outputs, kernel, stride))


def make_detector(seed: int = 0, classes: int = CLASSES, names: str | None = None) -> onnx.ModelProto:
    """images (1, 3, 64, 64) → (1, cells, 5 + classes), as YOLOX's: raw boxes, sigmoids of the rest."""
    build = Builder(seed)
    maps, features = WIDTHS
    scaled = build.node("Mul", "images", build.constant(np.float32(1 / 128)))
    fine = build.block(build.block(build.block(scaled, 3, 4, 3, 2), 4, maps, 3, 2), maps, maps, 3, 2)
    levels = []
    for source in (fine, build.block(fine, maps, maps, 3, 2)):
        stem = build.block(source, maps, features, 1)
        of_class, of_box = build.block(stem, features, features), build.block(stem, features, features)
        logits = build.conv(of_class, features, classes, 1, bias=-1)
        box, objectness = (
            build.conv(of_box, features, 4, 1, bias=0.9, spread=0.2),
            build.conv(of_box, features, 1, 1),
        )
        parts = [box, build.node("Sigmoid", objectness), build.node("Sigmoid", logits)]
        joined = build.node("Concat", *parts, axis=1)
        levels.append(build.node("Reshape", joined, build.constant(np.array([1, 5 + classes, -1]))))
    output = build.node("Transpose", build.node("Concat", *levels, axis=2), perm=[0, 2, 1])
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE_PX, SIZE_PX])
    taken = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(build.nodes, "detector", [given], [taken], build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    if names is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = "names", names
    return model


def write_detector(path, **options):
    onnx.save(make_detector(**options), path)
    return path
