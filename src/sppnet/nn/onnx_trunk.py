"""A detector's frozen network as a trunk: maps at its strides, and what its head says of each cell."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Array
from sppnet.errors import ConfigError, ModelError, did_you_mean
from sppnet.geometry.grid import CellGrid
from sppnet.nn.coco_classes import COCO_CLASSES
from sppnet.nn.onnx_graph import (
    DetectorGraph,
    cut_detector,
    open_session,
    parse_model,
    read_bytes,
    run_session,
)
from sppnet.nn.trunks import Tap, Trunk, Weights, empty_trunk, load_trunk
from sppnet.nn.weights import load_weights

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class InputConvention:
    """What a network expects of its pixels."""

    bgr: bool
    """Blue first."""
    peak: float
    """Value of white, before the mean is subtracted."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """In the network's order of channels."""
    fill: int
    """Grey value beside an image that does not fill the input, 0..255."""


CONVENTIONS = {
    "yolox": InputConvention(True, 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 114),
    "yolox-legacy": InputConvention(False, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 114),
}
"""By name: of YOLOX since version 0.1.1 and before it."""


class OnnxTrunk(nn.Module):
    """The network of an ONNX file, frozen; it runs in onnxruntime on the CPU."""

    def __init__(
        self,
        name: str,
        graph: DetectorGraph,
        classes: tuple[str, ...] | None = None,
        convention: str = "yolox",
    ) -> None:
        """classes: what the network knows; by default COCO's 80, or class 0, class 1, …

        Raises ModelError or ConfigError for what does not fit.
        """
        super().__init__()
        if convention not in CONVENTIONS:
            raise ConfigError(
                f"unknown input convention {convention!r}: {did_you_mean(convention, CONVENTIONS)}"
            )
        self.name, self.graph, self.convention_name = name, graph, convention
        self.convention = CONVENTIONS[convention]
        self.known_classes = _class_names(graph, classes)
        self.taps = tuple(
            Tap(
                CellGrid(stride=level.stride, center0=(level.stride - 1) / 2, receptive_field=graph.size_px),
                counts[0],
            )
            for level, counts in zip(graph.levels, graph.channels, strict=True)
        )
        content = torch.frombuffer(bytearray(graph.content), dtype=torch.uint8)
        self.register_buffer("content", content)
        self._session: Any = None

    @classmethod
    def from_file(cls, path: str | Path, convention: str = "yolox") -> Self:
        """The trunk of an ONNX file; raises ModelError naming what it is instead."""
        path = Path(path)
        model = parse_model(read_bytes(path), str(path))
        names = {one.key: one.value for one in model.metadata_props}.get("names")
        return cls(path.name, cut_detector(model, str(path)), _parse_names(names), convention)

    @classmethod
    def restore(cls, spec: dict[str, Any], content: Tensor) -> Self:
        """The trunk that has this `spec`, and this tensor for content; raises ModelError."""
        described = spec["onnx"]
        graph = DetectorGraph.from_described(content.numpy().tobytes(), described["graph"])
        parse_model(graph.content, spec["name"])
        classes = tuple(map(str, described["classes"]))
        return cls(str(spec["name"]), graph, classes, described["convention"])

    @property
    def grid(self) -> CellGrid:
        """Of the first tap, the finest."""
        return self.taps[0].grid

    @property
    def channels(self) -> int:
        """Of all taps together."""
        return sum(tap.channels for tap in self.taps)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(level.stride for level in self.graph.levels)

    @property
    def spec(self) -> dict[str, Any]:
        """What `restore` builds this trunk from again, with the content. Fit for JSON."""
        described = {
            "graph": self.graph.described(),
            "classes": list(self.known_classes),
            "convention": self.convention_name,
        }
        return {"name": self.name, "onnx": json.loads(json.dumps(described))}

    @property
    def mean(self) -> tuple[float, float, float]:
        return self.convention.mean

    @property
    def std(self) -> tuple[float, float, float]:
        return self.convention.std

    def extra_repr(self) -> str:
        return f"{self.name}, channels={self.channels}, strides={self.strides}"

    def prepare(self, image: Array) -> Array:
        """(h, w, 3) uint8 RGB → (1, 3, h', w') float32: padded on the right and at the bottom."""
        height, width = image.shape[:2]
        stride = self.strides[-1]
        if self.graph.dynamic:
            sides = -(height // -stride) * stride, -(width // -stride) * stride
        else:
            sides = self.graph.size_px, self.graph.size_px
        if height > sides[0] or width > sides[1]:
            raise ModelError(f"{self.name} takes images of up to {sides[0]}×{sides[1]}; got {height}×{width}")
        how = self.convention
        padded = np.full((*sides, 3), how.fill, np.float32)
        padded[:height, :width] = image[..., ::-1] if how.bgr else image
        if (how.peak, how.mean, how.std) != (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
            padded = (padded * (how.peak / 255) - np.array(how.mean)) / np.array(how.std)
        return np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)

    def run(self, images: Array) -> list[tuple[Array, ...]]:
        """images as `prepare` gives them → for each level (c, h, w) of `HeadLevel.tensors`."""
        if self._session is None:
            self._session = open_session(self.graph.content, torch.get_num_threads())
        names = [one.name for one in self._session.get_outputs()]
        named = dict(zip(names, run_session(self._session, images), strict=True))
        return [tuple(named[name][0] for name in level.tensors) for level in self.graph.levels]


def _class_names(graph: DetectorGraph, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    count = graph.channels[0][3]
    if classes is None:
        return COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {i}" for i in range(count))
    if len(classes) != count:
        raise ModelError(f"the network tells {count} classes apart; {len(classes)} names were given")
    return classes


def _parse_names(text: str | None) -> tuple[str, ...] | None:
    """Class names as exporters write them into the file: a JSON or Python list, or one by number."""
    if not text:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        return None
    values = names.values() if isinstance(names, dict) else names
    return tuple(map(str, values)) if values else None


AnyTrunk = Trunk | OnnxTrunk


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
