"""Heads other than YOLOX's: read by comparing what the file gives with what each reading would give.

The last convolutions of most detectors hold the same things in other arrangements: distributions of the
distances to the sides of a box (generalised focal loss, as in NanoDet, PicoDet and YOLOv8), or offsets to
anchors (YOLOv5), beside class scores, in one convolution or in two. Which arrangement a file has is not
written in it, but its own output tells: each arrangement is tried on an image of noise, and the one whose
numbers are the file's is taken.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.arrays import Array
from sppnet.errors import ModelError
from sppnet.nn.onnx_graph import OnnxGraph, UnknownHeadError
from sppnet.nn.onnx_head_outputs import (
    FAMILIES,
    integrate,
    is_close,
    sigmoid,
    yolov5_rows,
    yolov8_rows,
)
from sppnet.nn.onnx_probe import refuse_large
from sppnet.nn.onnx_session import open_session, run_session

MAX_BINS, USUAL_BINS = 33, (8, 16, 17)
"""Of the distribution of a distance; those of NanoDet and PicoDet, YOLOv8, and PP-YOLOE and the paper."""
ANCHORS = 3, 4, 2
"""Boxes a cell, of heads with anchors."""
BOX, OBJECTNESS = 4, 1


@dataclass(frozen=True)
class Source:
    """Some of the numbers that a convolution gives for each cell."""

    tensor: str
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class LevelReading:
    """What the last convolutions of one stride hold, for one box a cell."""

    stride: int
    logits: Source
    boxes: Source
    objectness: Source | None = None
    anchor: tuple[float, float] | None = None
    """Width and height in pixels; none where boxes are distributions of distances."""
    scale: float = 1.0
    """Factor of distributions."""


@dataclass(frozen=True)
class HeadReading:
    """What all of them hold."""

    family: str
    levels: tuple[LevelReading, ...]
    bins: int = 0
    """Of the distributions."""

    @property
    def centre(self) -> float:
        """Where in a cell the point lies from which distances count: NanoDet-Plus, of four strides, takes its
        corner, all others its middle."""
        return 0.0 if self.family == "nanodet" and len(self.levels) > NANODET_LEVELS else 0.5


NANODET_LEVELS = 3


@dataclass(frozen=True, eq=False)
class _Stride:
    """The last convolutions of one stride, on an image of noise."""

    stride: int
    values: Mapping[str, Array]
    """(c, h, w) by tensor."""


def read_head(model: Any, name: str) -> HeadReading:
    """How the head of a parsed model is to be read. Raises UnknownHeadError where no reading fits."""
    graph = OnnxGraph(model)
    last = independent(graph, graph.last_convolutions())
    if not last:
        raise UnknownHeadError(f"{name} ends in no convolution")
    size_px = graph.size_px(name)
    tensors = [node.output[0] for node in last]
    given = [one.name for one in graph.graph.output]
    try:
        content = graph.part(list(dict.fromkeys([*tensors, *given])))
        refuse_large(content, size_px, name)
        images = np.random.default_rng(0).random((1, 3, size_px, size_px), np.float32)
        values = run_session(open_session(content), images)
    except ModelError as error:
        raise UnknownHeadError(f"{name} as a whole is not run: {error}") from error
    named = dict(zip(dict.fromkeys([*tensors, *given]), values, strict=True))
    strides = _by_stride({one: named[one] for one in tensors}, size_px, name)
    with np.errstate(all="ignore"):  # what is not finite is not close
        found = next(_readings(strides, [named[one] for one in given]), None)
    if found is not None:
        return found
    raise UnknownHeadError(f"the output of {name} is that of no head that is known: {', '.join(FAMILIES)}")


def _readings(strides: Sequence[_Stride], outputs: Sequence[Array]) -> Iterator[HeadReading]:
    """Those that give the file's outputs."""
    yield from _read_anchors(strides, outputs)
    yield from _read_distributions(strides, outputs)


def independent(graph: OnnxGraph, nodes: Sequence[Any]) -> list[Any]:
    """Without those that stand on others of them, as a convolution that takes the mean of distributions."""
    ends = {node.output[0] for node in nodes}
    return [node for node in nodes if not (graph.before(node.input[0]) & ends)]


def _by_stride(values: Mapping[str, Array], size_px: int, name: str) -> list[_Stride]:
    groups: dict[tuple[int, ...], dict[str, Array]] = defaultdict(dict)
    for tensor, value in values.items():
        if value.ndim != 4 or len(value) != 1 or not np.isfinite(value).all():
            raise UnknownHeadError(f"the last convolutions of {name} give no maps of one image")
        groups[value.shape[2:]][tensor] = value[0]
    found = []
    for cells, some in sorted(groups.items(), reverse=True):
        stride = 1 << max(0, int(np.ceil(np.log2(size_px / max(cells)))))
        if -(size_px // -stride) != cells[0] or cells[0] != cells[1]:
            raise UnknownHeadError(f"the maps of {name} have {cells} cells for {size_px} pixels")
        found.append(_Stride(stride, some))
    return found


# --- anchors ---------------------------------------------------------------------------------------


def _read_anchors(strides: Sequence[_Stride], outputs: Sequence[Array]) -> Iterator[HeadReading]:
    """YOLOv5 and YOLOv7: (1, n, 5 + classes), boxes of a stride after one another by anchor."""
    if any(len(one.values) != 1 for one in strides):
        return
    for output in outputs:
        if output.ndim != 3 or output.shape[2] <= BOX + OBJECTNESS:
            continue
        width, first, levels = output.shape[2], 0, []
        for one in strides:
            ((tensor, values),) = one.values.items()
            count, cells = values.shape[0] // width, values.shape[1] * values.shape[2]
            if count not in ANCHORS or values.shape[0] != count * width:
                break
            for index in range(count):
                rows, first = output[0, first : first + cells], first + cells
                numbers = values[index * width : (index + 1) * width]
                levels.append(_anchored(one.stride, tensor, index * width, numbers, rows))
        found = [one for one in levels if one is not None]
        if len(found) == len(levels) > 0 and first == output.shape[1]:
            yield HeadReading("yolov5", tuple(found))


def _anchored(stride: int, tensor: str, at: int, numbers: Array, rows: Array) -> LevelReading | None:
    """One anchor, whose size the file's own boxes tell; numbers (5 + k, h, w), rows (h·w, 5 + k)."""
    if len(rows) != numbers[0].size:
        return None
    twice = 2 * sigmoid(numbers[2:4].reshape(2, -1).astype(np.float64))
    sizes = np.median(rows[:, 2:4].T / twice**2, axis=1)
    if not np.isfinite(sizes).all() or not (sizes > 0).all():
        return None
    anchor = float(sizes[0]), float(sizes[1])
    if not is_close(yolov5_rows(numbers, stride, anchor), rows):
        return None
    box, objectness, classes = at + BOX, at + BOX + OBJECTNESS, at + len(numbers)
    logits, boxes = Source(tensor, objectness, classes), Source(tensor, at, box)
    return LevelReading(stride, logits, boxes, Source(tensor, box, objectness), anchor)


# --- distributions ---------------------------------------------------------------------------------


def _read_distributions(strides: Sequence[_Stride], outputs: Sequence[Array]) -> Iterator[HeadReading]:
    """NanoDet and PicoDet, whose files give distributions as they are, and YOLOv8, whose files give boxes."""
    for bins, several in _arrangements(strides):
        pairs = list(zip(strides, several, strict=True))
        logits = [_take(one, of_class) for one, (of_class, _) in pairs]
        numbers = [_take(one, of_box) for one, (_, of_box) in pairs]
        given = _as_given(logits, numbers, outputs)
        if given is not None:
            family, scales = given
            levels = [
                LevelReading(one.stride, *sources, scale=scale)
                for (one, sources), scale in zip(pairs, scales, strict=True)
            ]
            yield HeadReading(family, tuple(levels), bins)
        distances = [integrate(one, bins) for one in numbers]
        rows = yolov8_rows(logits, distances, [one.stride for one in strides])
        if any(one.ndim == 3 and (is_close(rows, one[0].T) or is_close(rows, one[0])) for one in outputs):
            yield HeadReading(
                "yolov8", tuple(LevelReading(one.stride, *sources) for one, sources in pairs), bins
            )


def _arrangements(strides: Sequence[_Stride]) -> Iterator[tuple[int, list[tuple[Source, Source]]]]:
    """Numbers of bins, and which numbers of each stride may be class scores and distributions."""
    every = [*USUAL_BINS, *(bins for bins in range(2, MAX_BINS) if bins not in USUAL_BINS)]
    counts = [{tensor: len(values) for tensor, values in one.values.items()} for one in strides]
    for bins in every:
        size = BOX * bins
        for several in _of_one(counts, size) if len(counts[0]) == 1 else _of_two(counts, size):
            if len({(of_class.first, of_class.end) for of_class, _ in several}) == 1:
                yield bins, several


def _of_one(counts: Sequence[Mapping[str, int]], size: int) -> Iterator[list[tuple[Source, Source]]]:
    """Where one convolution a stride has both, classes first or last; counts: of the numbers of each."""
    if any(len(one) != 1 or min(one.values()) <= size for one in counts):
        return
    tensors = [next(iter(one.items())) for one in counts]
    yield [(Source(one, 0, count - size), Source(one, count - size, count)) for one, count in tensors]
    yield [(Source(one, size, count), Source(one, 0, size)) for one, count in tensors]


def _of_two(counts: Sequence[Mapping[str, int]], size: int) -> Iterator[list[tuple[Source, Source]]]:
    """Where each has one of its own."""
    if any(len(one) != 2 for one in counts):
        return
    for turn in (1, -1):
        several = [
            tuple(Source(tensor, 0, count) for tensor, count in list(one.items())[::turn]) for one in counts
        ]
        if all(of_box.end == size for _, of_box in several):
            yield [(of_class, of_box) for of_class, of_box in several]


def _take(one: _Stride, source: Source) -> Array:
    return one.values[source.tensor][source.first : source.end]


def _as_given(
    logits: Sequence[Array], numbers: Sequence[Array], outputs: Sequence[Array]
) -> tuple[str, list[float]] | None:
    """Whether the file's output is class probabilities and distributions: joined, or a tensor for each.

    Then the family, and by what the distributions of each stride are multiplied before they are given.
    """
    scores = [sigmoid(one.reshape(len(one), -1).T) for one in logits]
    boxes = [one.reshape(len(one), -1).T for one in numbers]
    ends = np.cumsum([len(one) for one in scores])[:-1]
    classes, width = scores[0].shape[1], scores[0].shape[1] + boxes[0].shape[1]
    for output in outputs:
        if output.shape == (1, sum(map(len, scores)), width):
            parts = np.split(output[0], ends)
            fits = all(is_close(s, part[:, :classes]) for s, part in zip(scores, parts, strict=True))
            scales = [_scale(b, part[:, classes:]) for b, part in zip(boxes, parts, strict=True)]
            if fits and None not in scales:
                return "nanodet", [one for one in scales if one is not None]
    found = [
        next((scale for one in _rows(outputs, b) if (scale := _scale(b, one)) is not None), None)
        for b in boxes
    ]
    if None in found or not all(any(is_close(s, one) for one in _rows(outputs, s)) for s in scores):
        return None
    return "picodet", [one for one in found if one is not None]


def _scale(numbers: Array, given: Array) -> float | None:
    """By what numbers are multiplied to become those given; None where nothing does."""
    scale = float((numbers * given).sum() / max(float((numbers**2).sum()), 1e-12))
    return scale if scale > 0 and is_close(scale * numbers, given) else None


def _rows(outputs: Sequence[Array], wanted: Array) -> Iterator[Array]:
    """Outputs (1, n, k) or (1, k, h, w) as rows (n, k), of those that have as many numbers as `wanted`."""
    for output in outputs:
        if output.size == wanted.size and output.ndim in (3, 4) and len(output) == 1:
            if output.shape[1:] == wanted.shape:
                yield output[0]
            elif output.shape[1] == wanted.shape[1]:
                yield output[0].reshape(wanted.shape[1], -1).T
