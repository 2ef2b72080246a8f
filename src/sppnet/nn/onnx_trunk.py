"""A detector's frozen network as a trunk: maps at its strides, and what its head says of each cell."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array
from sppnet.errors import ConfigError, ModelError
from sppnet.geometry.grid import CellGrid
from sppnet.nn.coco_classes import COCO_CLASSES
from sppnet.nn.detector_trunk import DetectorTrunk, longer_size
from sppnet.nn.head_output import HeadOutput, VectorLayout
from sppnet.nn.input_convention import find_convention
from sppnet.nn.licence_text import find_licence
from sppnet.nn.onnx_cells import cell_vectors, decode_boxes, decode_distances
from sppnet.nn.onnx_file import parse_model, read_bytes
from sppnet.nn.onnx_graph import DetectorGraph, HeadLevel, UnknownHeadError, cut_detector
from sppnet.nn.onnx_head_cut import cut_head
from sppnet.nn.onnx_maps import cut_maps
from sppnet.nn.onnx_session import SharedSession
from sppnet.nn.trunks import Tap

MAX_NAMES = 1 << 20
"""Characters of the names of classes."""

CONVENTION_OF = {
    "yolox": "yolox", "nanodet": "nanodet", "picodet": "picodet", "yolov8": "yolo", "yolov5": "yolo",
}  # fmt: skip
"""What networks expect of their pixels unless it is said, by the family of their head."""


class OnnxTrunk(DetectorTrunk):
    """The network of an ONNX file, frozen; it runs in onnxruntime on the CPU."""

    def __init__(
        self,
        name: str,
        graph: DetectorGraph,
        classes: tuple[str, ...] | None = None,
        convention: str | None = None,
        licence: dict[str, str] | None = None,
    ) -> None:
        """classes: what the network knows; by default COCO's 80, or class 0, class 1, …
        convention: one of `CONVENTIONS`; by default that of the head's family, or imagenet without a head.
        licence: name and text of its file.

        Raises ModelError or ConfigError for what does not fit.
        """
        super().__init__()
        convention = convention or (CONVENTION_OF[graph.family] if graph.has_head else "imagenet")
        self.name, self.graph, self.convention_name, self.licence = name, graph, convention, licence
        self.size_px = graph.size_px
        self.convention = find_convention(convention)
        self.known_classes = _class_names(graph, classes)
        self.taps = tuple(
            Tap(
                CellGrid(stride=level.stride, center0=(level.stride - 1) / 2, receptive_field=graph.size_px),
                graph.channels[index][0],
            )
            for index, level in self.map_levels
        )
        content = torch.frombuffer(bytearray(graph.content), dtype=torch.uint8)
        self.register_buffer("content", content)
        self.refusal = ""
        """Why its head is not understood."""
        self._session = SharedSession(graph.content)

    @classmethod
    def from_file(cls, path: str | Path, convention: str | None = None) -> Self:
        """The trunk of an ONNX file, which gives maps alone where its head is not understood.

        Raises ModelError naming what it is instead.
        """
        path = Path(path)
        if convention is not None:
            find_convention(convention)
        model = parse_model(read_bytes(path), str(path))
        names = {one.key: one.value for one in model.metadata_props}.get("names")
        licence = find_licence(path)
        try:
            graph, refusal = _cut(model, str(path)), ""
        except UnknownHeadError as error:
            graph, refusal, names = cut_maps(model, str(path)), str(error), None
        trunk = cls(path.name, graph, _parse_names(names), convention, licence)
        trunk.refusal = refusal
        return trunk

    @classmethod
    def restore(cls, spec: dict[str, Any], content: Tensor) -> Self:
        """The trunk that has this `spec`, and this tensor for content; raises ModelError."""
        described = spec["onnx"]
        graph = DetectorGraph.from_described(content.numpy().tobytes(), described["graph"])
        parse_model(graph.content, spec["name"])
        classes = tuple(map(str, described["classes"]))
        licence = described.get("licence")
        if licence is not None:
            licence = {key: str(licence[key]) for key in ("file", "text")}
        return cls(str(spec["name"]), graph, classes, described["convention"], licence)

    @property
    def has_head(self) -> bool:
        return self.graph.has_head

    @property
    def map_levels(self) -> list[tuple[int, HeadLevel]]:
        """The levels of the head that have a map of their own, with their numbers: anchors share theirs."""
        first = {level.map: index for index, level in reversed(list(enumerate(self.graph.levels)))}
        return [(index, self.graph.levels[index]) for index in sorted(first.values())]

    @property
    def layout(self) -> VectorLayout:
        if not self.has_head:
            raise ConfigError(
                f"{self.name} gives maps alone: give --proposals learned --vectors pyramid. {self.refusal}"
            )
        _, class_features, box_features, classes, *_ = self.graph.channels[0]
        return VectorLayout(class_features, box_features, classes, len(self.graph.levels))

    @property
    def spec(self) -> dict[str, Any]:
        """What `restore` builds this trunk from again, with the content. Fit for JSON."""
        described = {
            "graph": self.graph.described(),
            "classes": list(self.known_classes),
            "convention": self.convention_name,
        }
        if self.licence is not None:
            described["licence"] = self.licence
        return {"name": self.name, "onnx": json.loads(json.dumps(described))}

    @property
    def mean(self) -> tuple[float, float, float]:
        return self.convention.mean

    @property
    def std(self) -> tuple[float, float, float]:
        return self.convention.std

    def check_scales(self, scales: tuple[int, ...]) -> None:
        super().check_scales(scales)
        if not self.graph.dynamic and max(scales) > self.size_px:
            raise ConfigError(
                f"{self.name} takes images of up to {self.size_px} pixels a side; got scales {scales}"
            )

    def fit_size(self, size_hw: tuple[int, int], scale_px: int) -> tuple[int, int]:
        """scale_px: the longer side, or all sides of what is stretched."""
        if self.convention.stretch:
            return scale_px, scale_px
        return longer_size(size_hw, scale_px)

    def look(self, image: Array) -> HeadOutput:
        levels = self.run(self.prepare(image))
        maps = tuple(torch.from_numpy(levels[index][0]) for index, _ in self.map_levels)
        if not self.has_head:
            return HeadOutput(maps)
        boxes = self.decode(levels)
        return HeadOutput(
            maps,
            boxes,
            np.concatenate([level[5].ravel() for level in levels]),
            lambda cells: cell_vectors(levels, cells, boxes[cells], self.graph.has_objectness),
        )

    def decode(self, levels: Sequence[tuple[Array, ...]]) -> Array:
        """What `run` gives → (n, 4) xyxy of all cells, in the network's pixels."""
        strides = [level.stride for level in self.graph.levels]
        if self.graph.family == "yolox":
            return decode_boxes(levels, strides)
        return decode_distances(levels, strides, self.graph.centre)

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
        padded = np.full((1, 3, *sides), how.fill, np.float32)
        padded[0, :, :height, :width] = (image[..., ::-1] if how.bgr else image).transpose(2, 0, 1)
        if (how.peak, how.mean, how.std) != (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
            mean, std = (np.array(numbers)[:, None, None] for numbers in (how.mean, how.std))
            padded = ((padded * (how.peak / 255) - mean) / std).astype(np.float32)
        return padded

    def run(self, images: Array) -> list[tuple[Array, ...]]:
        """images as `prepare` gives them → for each level (c, h, w) of `HeadLevel.tensors`."""
        named = self._session.run(images)
        levels = []
        for level_names in self.graph.levels:
            some = tuple(named[name][0] if name else None for name in level_names.tensors)
            nothing = np.empty((0, *named[level_names.map].shape[2:]), np.float32)
            levels.append(tuple(nothing if one is None else one for one in some))
        for level in levels:
            if len({one.shape[1:] for one in level}) > 1:
                raise ModelError(f"{self.name} gives maps of several sizes at one stride for {images.shape}")
        return levels


def _cut(model: Any, name: str) -> DetectorGraph:
    """With its head; raises UnknownHeadError where that is none that is known."""
    try:
        return cut_detector(model, name)
    except UnknownHeadError as error:
        try:
            return cut_head(model, name)
        except UnknownHeadError as other:
            raise UnknownHeadError(f"{error}. Of other heads: {other}") from error


def _class_names(graph: DetectorGraph, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    if not graph.has_head:
        return ()
    count = graph.channels[0][3]
    if classes is None:
        return COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {i}" for i in range(count))
    if len(classes) != count:
        raise ModelError(f"the network tells {count} classes apart; {len(classes)} names were given")
    return classes


def _parse_names(text: str | None) -> tuple[str, ...] | None:
    """Class names as exporters write them into the file: a JSON or Python list, or one by number."""
    if not text or len(text) > MAX_NAMES:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        try:
            names = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    values = names.values() if isinstance(names, dict) else names
    return tuple(map(str, values)) if values and not isinstance(values, str | bytes | int | float) else None
