"""A model as one ONNX file, checked before it is there.

The file takes images as Pillow gives them, so nobody has to normalise; resizing stays outside, since no
ONNX operator resizes as Pillow does. What a user of the file has to know stands in its metadata.
"""

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sppnet import __version__
from sppnet.arrays import Array
from sppnet.classify.classifier import Classifier
from sppnet.data.transforms import MAX_ASPECT
from sppnet.detect.detector import Detector
from sppnet.errors import ModelError
from sppnet.export.networks import PixelClassifier, PixelDetector
from sppnet.export.parity import Run, check_classifier, check_detector, check_whole_detector
from sppnet.nn.model_file import write_file
from sppnet.nn.onnx_session import first_line, import_extra
from sppnet.nn.onnx_session import open_session as open_onnx
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.nn.trunks import Trunk
from sppnet.ops.decomposition import operator_kept
from sppnet.progress import NullProgress, Progress

OPSET = 18
"""The oldest that torch's exporter writes without converting; onnxruntime 1.14 reads it."""

EXAMPLE_PX = (131, 163)
"""Of the image that the network is followed with; any will do that is larger than what it needs."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """What is made into a graph, what it is followed with, and what is said of it."""

    network: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
    """For each input, the names of the axes that may have any length.

    As text, and not as `torch.export.Dim`: those must hold for every length from 0 on, which no network does,
    and the exporter begins again with one whose heights are 16 n − 13.
    """
    metadata: dict[str, str]
    check: Callable[[Run], None]
    """Raises ModelError unless the file agrees with PyTorch."""


def export_model(model: Classifier | Detector, path: str | Path, progress: Progress | None = None) -> None:
    """Write a classifier or detector on the CPU as an ONNX file; it replaces what is there, or nothing.

    Raises ModelError where the network cannot be exported, or its file disagrees with PyTorch on images
    of sizes that do not divide; MissingExtraError without the extra "onnx".
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package)
    progress = progress or NullProgress()
    progress.begin("exporting", 2)
    if isinstance(model, Detector) and isinstance(model.parts.trunk, OnnxTrunk):
        content = around_network(model, model.parts.trunk)
        check: Callable[[Run], None] = functools.partial(check_whole_detector, model)
    else:
        recipe = classifier_recipe(model) if isinstance(model, Classifier) else detector_recipe(model)
        content, check = convert(recipe), recipe.check
    progress.advance(note="compared with PyTorch")
    check(open_session(content))
    progress.advance()
    write_file(path, content)


def convert(recipe: Recipe) -> bytes:
    """The file's content, unchecked; raises ModelError naming what stands against it."""
    from sppnet.export.pooling import translate_pool  # needs the extra

    try:
        with warnings.catch_warnings(), torch.no_grad(), operator_kept():
            warnings.simplefilter("ignore")  # the exporter's own, about its internals
            program = torch.onnx.export(
                recipe.network.eval(),
                tuple(recipe.inputs.values()),
                dynamo=True,
                input_names=list(recipe.inputs),
                output_names=list(recipe.outputs),
                dynamic_shapes=tuple(recipe.dynamic.values()),
                custom_translation_table={torch.ops.sppnet.pyramid_pool.default: translate_pool},
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            return _described(program.model_proto, recipe.metadata)
    except Exception as error:  # the exporter has many words for no
        raise ModelError(f"this network cannot be exported to ONNX: {first_line(error)}") from error


def open_session(content: bytes) -> Run:
    """The file in onnxruntime on the CPU, as a function of its inputs, which raises ModelError."""
    session = open_onnx(content)

    def run(inputs: dict[str, Array]) -> Sequence[Array]:
        try:
            return cast(Sequence[Array], session.run(None, inputs))
        except Exception as error:
            sizes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise ModelError(f"onnxruntime fails on {sizes}: {first_line(error)}. Not written") from error

    return run


def _described(proto: Any, metadata: dict[str, str]) -> bytes:
    proto.producer_name, proto.producer_version = "sppnet", __version__
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


# --- the two kinds -------------------------------------------------------------------------------


def classifier_recipe(classifier: Classifier) -> Recipe:
    """pixels (b, h, w, 3) uint8 → scores (b, classes). A network of one input size keeps that size."""
    network, testing = classifier.network, classifier.testing
    height, width = (network.size, network.size) if network.fixed else EXAMPLE_PX
    assert height is not None
    assert width is not None
    axes = {0: "batch"} if network.fixed else {0: "batch", 1: "height", 2: "width"}
    probabilities = network.head_kind == "fc"
    return Recipe(
        PixelClassifier(classifier),
        {"pixels": _noise(2, height, width)},
        ("scores",),
        {"pixels": axes},
        {
            "kind": "classifier",
            "pixels": "(batch, height, width, 3) uint8 RGB, resized as the views say",
            "scores": "probabilities" if probabilities else "margins of SVMs: above 0 for the class",
            "views": "warp" if network.fixed and testing.views == "full" else testing.views,
            "scale_px": str(testing.shown_px),
            "size_px": str(network.size if network.fixed else testing.size_px),
            **_known(network.trunk, classifier.classes, network.pyramid.levels),
        },
        lambda run: check_classifier(classifier, run),
    )


def detector_recipe(detector: Detector) -> Recipe:
    """pixels (h, w, 3) uint8 and boxes (n, 4) → scores (n, classes), corrected (n, classes, 4)."""
    config, trunk = detector.config, detector.parts.trunk
    if not isinstance(trunk, Trunk):
        raise ModelError(
            f"this detector stands on {trunk.name}, a detector's network of torchvision, and is not exported "
            "yet; one on the ONNX file of a detector is"
        )
    if trunk.int8 is not None:
        return detector_recipe(_in_float32(detector, trunk))
    boxes = torch.tensor([[0.0, 0, 90, 90], [30, 40, 131, 120], [3, 4, 5, 6]])
    return Recipe(
        PixelDetector(detector),
        {"pixels": _noise(*EXAMPLE_PX), "boxes": boxes},
        ("scores", "corrected"),
        {"pixels": {0: "height", 1: "width"}, "boxes": {0: "boxes"}},
        {
            "kind": "detector",
            "pixels": "(height, width, 3) uint8 RGB, its shorter side at one of scales_px",
            "boxes": "(n, 4) float32 x0, y0, x1, y1 in these pixels, half-open",
            "scores": "margins of SVMs: above 0 for the class",
            "corrected": "(n, classes, 4) each box moved to an object of each class, in the same pixels",
            "scales_px": json.dumps(config.scales),
            "resized_side": "shorter",
            "nms": str(config.nms_iou),
            **_known(trunk, detector.classes, config.levels),
        },
        lambda run: check_detector(detector, run),
    )


def _in_float32(detector: Detector, trunk: Trunk) -> Detector:
    """A detector of the engine int8 with the trunk that was quantised, by torch's weights."""
    config = replace(detector.config, engine="auto")
    parts = replace(detector.parts, trunk=trunk.with_body(trunk.body).eval(), config=config)
    return Detector(parts)


def around_network(detector: Detector, trunk: OnnxTrunk) -> bytes:
    """The file of a detector that stands on an ONNX file, whose network and licence are in it, unchecked.

    Raises ModelError for what cannot be put into one graph.
    """
    from sppnet.export.own_proposals import make_graph, takes_windows  # needs the extra

    config, scales = detector.config, detector.extractor.scales
    if len(scales) > 1:
        raise ModelError(
            f"this detector looks at photographs at {len(scales)} scales; one graph has one: train with one "
            "--scales"
        )
    if config.proposals not in ("trunk", "joined", "learned"):
        raise ModelError(f"proposals {config.proposals} cannot be put into a graph: train with others")
    given = {"windows": "(n, 4) float32 x0, y0, x1, y1 of more proposals, in the same pixels; n may be 0"}
    licence = {} if trunk.licence is None else {"trunk_licence": trunk.licence["text"]}
    sides = "both" if trunk.convention.stretch else "longer"
    return _described(
        make_graph(detector, trunk),
        {
            "kind": "whole detector",
            "pixels": f"(height, width, 3) uint8 RGB, {sides} side{'s' * (sides == 'both')} at scales_px",
            **(given if takes_windows(detector) else {}),
            "boxes": "(n, 4) float32 x0, y0, x1, y1 in the same pixels, half-open, the surest first",
            "scores": "(n,) margins: above 0 for the class",
            "labels": "(n,) int64, places in classes",
            "probabilities": "(n,) that each is right; NaN where they are not known",
            "scales_px": json.dumps(scales),
            "resized_side": sides,
            "nms": str(config.nms_iou),
            **_known(trunk, detector.classes, config.levels),
            "resize": "Pillow's bilinear",
            **licence,
        },
    )


def _known(trunk: Trunk | OnnxTrunk, classes: tuple[str, ...], levels: tuple[int, ...]) -> dict[str, str]:
    """What all kinds say; anything but plain text and numbers is JSON."""
    return {
        "sppnet": __version__,
        "classes": json.dumps(classes, ensure_ascii=False),
        "trunk": trunk.name,
        "stride": ",".join(str(tap.grid.stride) for tap in trunk.taps),
        "levels": json.dumps(levels),
        "normalisation": json.dumps({"mean": trunk.mean, "std": trunk.std, "applied": "inside"}),
        "resize": f"Pillow's bilinear; the longer side at most {MAX_ASPECT} times the shorter",
        "max_aspect": str(MAX_ASPECT),
    }


def _noise(*size: int) -> Tensor:
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
