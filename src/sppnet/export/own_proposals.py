"""A detector around the network of an ONNX file as one graph: image → boxes, scores, labels.

The network's own boxes are the proposals, so nothing is left to do outside: they are scored, corrected,
suppressed and averaged in the graph. Where windows are proposed beside them, those are a second input.
"""

import math
from dataclasses import dataclass

import numpy as np

from sppnet.arrays import Ints
from sppnet.boxes import MAX_LOG_SCALE
from sppnet.detect.box_refinement import PASSES
from sppnet.detect.detector import Detector
from sppnet.detect.postprocess import COPY_IOU, MAX_PER_CLASS, VOTE_MARGIN, VOTE_SHARPNESS
from sppnet.detect.probabilities import LOGIT_SHARE, MIN_KEPT_PROBABILITY
from sppnet.detect.roi_features import HeadRoIFeatureExtractor
from sppnet.export.trunk_graphs import (
    halves_of,
    size_of,
    write_clipped,
    write_own_boxes,
    write_pixels,
    write_pyramid,
)
from sppnet.features.head_boxes import OWN_NMS_IOU
from sppnet.nn.graph_writer import GraphWriter, TensorInfo, Value, at_opset, chain
from sppnet.nn.onnx_trunk import OnnxTrunk

OPSET = 18
"""The oldest version of ONNX's operators that is written; of a newer network its own."""

PREFIX = "trunk/"
"""Of the names of the embedded network."""

OUTPUTS = "boxes", "scores", "labels", "probabilities"


def make_graph(detector: Detector, trunk: OnnxTrunk) -> object:
    """pixels (h, w, 3) uint8 → OUTPUTS, as an onnx.ModelProto.

    boxes (n, 4), scores (n,), labels (n,), probabilities (n,): all that score `least_score` or more, the
    surest first. Another input is windows (m, 4), where `takes_windows`. Raises ModelError.
    """
    from onnx.compose import add_prefix  # needs the extra

    network, opset = at_opset(trunk.graph.content, OPSET)
    network = add_prefix(network, PREFIX)
    first = GraphWriter(opset, "before/")
    first.named("images", write_pixels(first, trunk, "pixels"))
    first.named("size", size_of(first, "pixels"))
    pixels = TensorInfo("pixels", np.uint8, ("height", "width", 3))
    images = TensorInfo("images", np.float32, (1, 3, "rows", "columns"))
    size = TensorInfo("size", np.float32, (2,))
    before = first.model([pixels], [images, size])
    maps = {one.name: one.name for one in network.graph.output}
    whole = chain(before, network, {"images": network.graph.input[0].name}, [*maps, "size"])
    return chain(whole, _write_end(detector, trunk, list(maps), opset), {**maps, "size": "size"})


def takes_windows(detector: Detector) -> bool:
    """Whether windows are to be given beside the image."""
    return detector.config.proposals != "trunk"


def _write_end(detector: Detector, trunk: OnnxTrunk, maps: list[str], opset: int) -> object:
    """From what the network gives to detections."""
    op = GraphWriter(opset, "behind/")
    given = [TensorInfo(name, np.float32, (1, "", "", "")) for name in maps]
    given.append(TensorInfo("size", np.float32, (2,)))
    if takes_windows(detector):
        given.append(TensorInfo("windows", np.float32, ("windows", 4)))
    boxes, vectors = _write_vectors(op, detector, trunk)
    for name, value in zip(OUTPUTS, _write_detections(op, detector, boxes, vectors), strict=True):
        op.named(name, value)
    kinds = np.float32, np.float32, np.int64, np.float32
    shapes = ("detections", 4), *[("detections",)] * 3
    return op.model(given, [TensorInfo(*one) for one in zip(OUTPUTS, kinds, shapes, strict=True)])


def _write_vectors(op: GraphWriter, detector: Detector, trunk: OnnxTrunk) -> tuple[Value, Value]:
    """Proposals (n, 4) and their vectors (n, d)."""
    config, maker = detector.config, detector.roi_extractor
    of_head = isinstance(maker, HeadRoIFeatureExtractor)
    levels = maker.levels if isinstance(maker, HeadRoIFeatureExtractor) else config.levels
    own = vectors = ""
    if of_head or config.proposals in ("trunk", "joined"):
        own, vectors = write_own_boxes(op, trunk, "size", PREFIX)
    boxes = own
    if takes_windows(detector):
        joined = config.proposals == "joined"
        boxes = op.Concat(own, "windows", axis=0) if joined else "windows"
        boxes = op.Slice(boxes, op.ints(0), op.ints(config.max_proposals), op.ints(0))
        if of_head:
            nearest = op.ArgMax(_iou(op, boxes, op.Unsqueeze(own, op.ints(0))), axis=1, keepdims=0)
            vectors = op.Gather(vectors, nearest, axis=0)
    parts = [vectors] if of_head else []
    if levels:
        parts.append(write_pyramid(op, trunk, boxes, levels, config.box_mapping, PREFIX))
    return boxes, op.Concat(*parts, axis=1) if len(parts) > 1 else parts[0]


def _iou(op: GraphWriter, boxes: Value, others: Value) -> Value:
    """boxes (n, 4), others (1 or n, m, 4) → (n, m) intersection over union."""
    one = op.Unsqueeze(boxes, op.ints(1))
    (low, high), (other_low, other_high) = halves_of(op, one), halves_of(op, others)
    sides = op.Max(op.Sub(op.Min(high, other_high), op.Max(low, other_low)), op.constant(0))
    areas = [op.Sub(high, low), op.Sub(other_high, other_low), sides]
    of_one, of_other, shared = (op.ReduceProd(side, op.ints(-1), keepdims=0) for side in areas)
    return op.Div(shared, op.Sub(op.Add(of_one, of_other), shared))


# --- scores ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """Every proposal as every class has it."""

    boxes: Value
    """(k, n, 4) corrected."""
    scores: Value
    """(k, n); −inf where the class is not asked for."""

    def take(self, op: GraphWriter, labels: Ints) -> "_Candidates":
        chosen = op.constant(labels, np.int64)
        return _Candidates(op.Gather(self.boxes, chosen, axis=0), op.Gather(self.scores, chosen, axis=0))


def _write_detections(
    op: GraphWriter, detector: Detector, boxes: Value, vectors: Value
) -> tuple[Value, Value, Value, Value]:
    """`score_and_refine`, `postprocess` and `add_probabilities`."""
    candidates = _write_candidates(op, detector, boxes, vectors)
    labels, config = np.arange(len(detector.classes)), detector.config
    kept = np.isin(labels, list(detector.kept))
    groups = (labels[~kept], config.nms_iou, config.voting_iou), (labels[kept], OWN_NMS_IOU, 1.0)
    least = op.constant([detector.least_score])
    found = [_select(op, candidates, least, *group) for group in groups if len(group[0])]
    together = [op.Concat(*parts, axis=0) for parts in zip(*found, strict=True)]
    scores, order = op.two("TopK", together[1], op.Shape(together[1]), axis=0)
    of_boxes, of_labels = (op.Gather(one, order, axis=0) for one in (together[0], together[2]))
    if detector.parts.refined:
        of_boxes = _refined(op, detector, of_boxes, of_labels)
        stay = _without_copies(op, detector, of_boxes, scores, of_labels)
        of_boxes, scores, of_labels = (op.Gather(one, stay, axis=0) for one in (of_boxes, scores, of_labels))
    return of_boxes, scores, of_labels, _probabilities(op, detector, scores, of_labels, kept)


def _write_candidates(op: GraphWriter, detector: Detector, boxes: Value, vectors: Value) -> _Candidates:
    svm, regressor, count = detector.parts.svm, detector.parts.regressor, len(detector.classes)
    weight, bias = svm.weight.numpy().T, svm.bias.numpy()
    scores = op.Transpose(op.Add(op.MatMul(vectors, op.constant(weight)), op.constant(bias)), perm=[1, 0])
    if detector.kept:
        scores = op.Where(_wanted(op, detector, vectors), scores, op.constant(-np.inf))
    weight = regressor.weight.flatten(0, 1).numpy().T
    deltas = op.Add(op.MatMul(vectors, op.constant(weight)), op.constant(regressor.bias.flatten().numpy()))
    deltas = op.Transpose(op.Reshape(deltas, op.ints(-1, count, 4)), perm=[1, 0, 2])
    every = op.Unsqueeze(boxes, op.ints(0))
    moved = _moved(op, every, deltas)
    if detector.kept:
        still = np.isin(np.arange(count), list(detector.kept))[:, None, None]
        moved = op.Where(op.constant(still, np.bool_), every, moved)
    return _Candidates(moved, scores)


def _wanted(op: GraphWriter, detector: Detector, vectors: Value) -> Value:
    """(k, n) whether a box may be of a class: of a kept one only if it is the network's likeliest."""
    assert isinstance(detector.parts.trunk, OnnxTrunk)
    layout = detector.parts.trunk.layout
    log = op.Slice(vectors, op.ints(layout.first_class), op.ints(layout.objectness), op.ints(1))
    likeliest = op.ArgMax(log, axis=1, keepdims=0)
    columns = np.full((len(detector.classes), 1), -1)
    for label, column in detector.kept.items():
        columns[label] = column
    asked = op.constant(columns, np.int64)
    return op.Or(op.Equal(asked, likeliest), op.constant(columns < 0, np.bool_))


def _moved(op: GraphWriter, boxes: Value, deltas: Value) -> Value:
    """`decode_boxes` and `clip_boxes`: boxes (1, n, 4), deltas (k, n, 4) → (k, n, 4)."""
    limit, half = math.log(MAX_LOG_SCALE), op.constant(0.5)
    low, high = halves_of(op, boxes)
    shift, grow = halves_of(op, deltas)
    sides = op.Sub(high, low)
    centres = op.Add(op.Mul(op.Add(low, high), half), op.Mul(shift, sides))
    grown = op.Exp(op.Clip(grow, op.constant(-limit), op.constant(limit)))
    halves = op.Mul(op.Mul(sides, half), grown)
    return write_clipped(op, op.Concat(op.Sub(centres, halves), op.Add(centres, halves), axis=-1), "size")


# --- what stays ------------------------------------------------------------------------------------


def _select(
    op: GraphWriter, candidates: _Candidates, least: Value, labels: Ints, nms_iou: float, voting_iou: float
) -> tuple[Value, Value, Value]:
    """Boxes, scores and labels of what stays of some classes; least: (1,) score."""
    own = candidates.take(op, labels)
    chosen = op.NonMaxSuppression(
        own.boxes, op.Unsqueeze(own.scores, op.ints(1)), op.ints(MAX_PER_CLASS), op.constant([nms_iou]),
        least,
    )  # fmt: skip
    place = op.Gather(chosen, op.ints(0, 2), axis=1)  # class and proposal
    of_class = op.Gather(chosen, op.constant(0, np.int64), axis=1)
    boxes, scores = op.GatherND(own.boxes, place), op.GatherND(own.scores, place)
    if voting_iou < 1:
        boxes = _voted(op, own, of_class, boxes, scores, voting_iou)
    return boxes, scores, op.Gather(op.constant(labels, np.int64), of_class, axis=0)


def _voted(
    op: GraphWriter, own: _Candidates, of_class: Value, boxes: Value, scores: Value, voting_iou: float
) -> Value:
    """`vote_boxes`: boxes (m, 4) averaged with the candidates of their class."""
    others, their_scores = op.Gather(own.boxes, of_class, axis=0), op.Gather(own.scores, of_class, axis=0)
    lead = op.Sub(their_scores, op.Unsqueeze(scores, op.ints(1)))
    near = op.GreaterOrEqual(_iou(op, boxes, others), op.constant(voting_iou))
    votes = op.And(near, op.GreaterOrEqual(lead, op.constant(-VOTE_MARGIN)))
    weights = op.Exp(op.Mul(op.Min(lead, op.constant(0)), op.constant(VOTE_SHARPNESS)))
    weights = op.Where(votes, weights, op.constant(0))
    total = op.MatMul(op.Unsqueeze(weights, op.ints(1)), others)  # (m, 1, 4)
    mean = op.Div(total, op.ReduceSum(op.Unsqueeze(weights, op.ints(2)), op.ints(1), keepdims=1))
    return op.Squeeze(mean, op.ints(1))


def _refined(op: GraphWriter, detector: Detector, boxes: Value, labels: Value) -> Value:
    """`BoxRefiner`: boxes (m, 4) that are found corrected, but for classes whose boxes stay."""
    parts = detector.parts
    assert parts.refiner is not None
    assert isinstance(parts.trunk, OnnxTrunk)
    regressor, moved = parts.refiner.regressor, boxes
    weight, bias = (op.constant(one.numpy()) for one in (regressor.weight[0].T, regressor.bias[0]))
    for _ in range(PASSES):
        vectors = write_pyramid(op, parts.trunk, moved, parts.refiner.levels, parts.refiner.rule, PREFIX)
        deltas = op.Unsqueeze(op.Add(op.MatMul(vectors, weight), bias), op.ints(0))
        moved = op.Squeeze(_moved(op, op.Unsqueeze(moved, op.ints(0)), deltas), op.ints(0))
    refined = np.isin(np.arange(len(detector.classes)), parts.refined)[:, None]
    return op.Where(op.Gather(op.constant(refined, np.bool_), labels, axis=0), moved, boxes)


def _without_copies(op: GraphWriter, detector: Detector, boxes: Value, scores: Value, labels: Value) -> Value:
    """`without_copies`: (n,) which of the detections (m,) stay, in their order."""
    count = len(detector.classes)
    of_class = op.Equal(op.constant(np.arange(count)[:, None], np.int64), op.Unsqueeze(labels, op.ints(0)))
    of_each = op.Where(of_class, scores, op.constant(-np.inf))  # (k, m)
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, op.ints(0)), op.Unsqueeze(of_each, op.ints(0)), op.ints(MAX_PER_CLASS),
        op.constant([COPY_IOU]), op.constant([np.finfo(np.float32).min]),
    )  # fmt: skip
    which = op.Gather(chosen, op.constant(2, np.int64), axis=1)
    none = op.Expand(op.ints(0), op.Shape(labels))
    stays = op.ScatterElements(none, which, op.Expand(op.ints(1), op.Shape(which)), axis=0)
    others = op.constant(~np.isin(np.arange(count), detector.parts.refined), np.bool_)
    stays = op.Or(op.Greater(stays, op.ints(0)), op.Gather(others, labels, axis=0))
    return op.Squeeze(op.NonZero(stays), op.ints(0))


def _probabilities(
    op: GraphWriter, detector: Detector, scores: Value, labels: Value, kept: np.ndarray
) -> Value:
    """(n,) as `add_probabilities` gives them; NaN where none are known."""
    known = detector.parts.score_probabilities
    slopes, intercepts = (op.constant(one) for one in (known.slopes, known.intercepts))
    slopes, intercepts = (op.Gather(one, labels, axis=0) for one in (slopes, intercepts))
    odds = op.Sigmoid(op.Add(op.Mul(slopes, scores), intercepts))
    if not kept.any():
        return odds
    log = op.Add(op.Div(scores, op.constant(LOGIT_SHARE)), op.constant(math.log(MIN_KEPT_PROBABILITY)))
    own = op.Exp(op.Min(log, op.constant(0)))
    return op.Where(op.Gather(op.constant(kept, np.bool_), labels, axis=0), own, odds)
