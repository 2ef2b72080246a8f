"""sppnet trunk"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.destinations import check_picture, write_picture
from sppnet.cli.options import Json

if TYPE_CHECKING:
    from sppnet.nn.onnx_trunk import OnnxTrunk

NAMED = 10
"""Classes that are listed."""


def trunk(
    file: Annotated[
        Path,
        typer.Argument(help="ONNX file, yolox_nano (downloaded once), or a detector trained on one."),
    ],
    photo: Annotated[
        Path | None,
        typer.Option(help="Compare the network with the file's own output on this photograph."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw what the network finds in the photograph by itself (PNG).")
    ] = None,
    min_score: Annotated[float, typer.Option(help="Probability from which on it is drawn.")] = 0.3,
    trunk_input: Annotated[
        str | None, typer.Option(help="What the file expects of its pixels, as for detect train.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what detect train --trunk FILE would find in a detector's ONNX file, and check it."""
    from sppnet.cli.output import print_json
    from sppnet.nn.onnx_trunk import OnnxTrunk
    from sppnet.nn.yolox_release import YOLOX_NAMES, released_file

    if draw is not None:
        if photo is None:
            raise typer.BadParameter("--draw needs a photograph: give --photo")
        check_picture(draw, "--draw", [photo, file])
    if str(file) in YOLOX_NAMES:
        file = released_file(str(file), "coco")
    found = _trunk_of_model(file) if file.suffix == ".safetensors" else OnnxTrunk.from_file(file, trunk_input)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    facts = {"file": str(file), "sha256": digest, **_described(found)}
    if photo is not None and found.has_head and file.suffix != ".safetensors":
        facts["difference"] = _compare(found, file, photo)
    if photo is not None and draw is not None and found.has_head:
        _draw(found, photo, draw, min_score)
        facts["drawn"] = str(draw)
    if as_json:
        print_json(facts)
    else:
        for line in _in_words(facts):
            typer.echo(line)


def _trunk_of_model(file: Path) -> "OnnxTrunk":
    from sppnet.detect.detector import Detector
    from sppnet.errors import ModelError
    from sppnet.nn.onnx_trunk import OnnxTrunk

    found = Detector.load(file).parts.trunk
    if not isinstance(found, OnnxTrunk):
        raise ModelError(f"the trunk of {file} is {found.name}; this command tells of ONNX files")
    return found


def _described(trunk: "OnnxTrunk") -> dict[str, Any]:

    graph = trunk.graph
    head = _head(trunk) if trunk.has_head else {"refusal": trunk.refusal}
    return {
        "maps": [{"stride": tap.grid.stride, "channels": tap.channels} for tap in trunk.taps],
        **head,
        "classes": list(trunk.known_classes),
        "size_px": graph.size_px,
        "any_size": graph.dynamic,
        "input": {"name": trunk.convention_name, **asdict(trunk.convention)},
        "licence": trunk.licence,
    }


def _head(trunk: "OnnxTrunk") -> dict[str, Any]:
    return {
        "class_features": trunk.layout.class_features,
        "box_features": trunk.layout.box_features,
        "vector_length": trunk.layout.length,
    }


def _in_words(facts: dict[str, Any]) -> Iterator[str]:
    how, classes = facts["input"], facts["classes"]
    maps = (f"{one['channels']} at stride {one['stride']}" for one in facts["maps"])
    yield f"file      {facts['file']}"
    yield f"SHA-256   {facts['sha256']}"
    yield f"licence   {_licence_in_words(facts['licence'])}"
    yield f"maps      {', '.join(maps)}"
    if "refusal" in facts:
        yield f"head      none: {facts['refusal']}"
    else:
        yield (
            f"head      {facts['class_features']} class features, {facts['box_features']} box features a "
            f"cell; vectors of {facts['vector_length']} numbers"
        )
        yield f"classes   {', '.join(classes[:NAMED])}{', …' * (len(classes) > NAMED)} ({len(classes)})"
    yield (
        f"input     {facts['size_px']}×{facts['size_px']}, "
        f"{'other sizes too' if facts['any_size'] else 'no other size'}; "
        f"{'BGR' if how['bgr'] else 'RGB'}, white is {how['peak']:g}"
        f"{', stretched' * how['stretch']} ({how['name']})"
    )
    if "difference" in facts:
        difference = facts["difference"]
        yield (
            "compared  not possible: the file's own output is not that of YOLOX"
            if difference is None
            else f"compared  differs from the file's own output by {difference:.1g} at most"
        )
    if "drawn" in facts:
        yield facts["drawn"]


def _licence_in_words(licence: dict[str, str] | None) -> str:
    from sppnet.nn.licence_text import licence_title

    if licence is None:
        return "none beside the file"
    return f"{licence_title(licence['text'])} ({licence['file']})"


def _compare(trunk: "OnnxTrunk", file: Path, photo: Path) -> float | None:
    from sppnet.data.image import read_image
    from sppnet.data.transforms import resize_to
    from sppnet.nn.onnx_check import compare_with_file

    image = read_image(photo)
    size_hw = trunk.fit_size((image.shape[0], image.shape[1]), trunk.size_px)
    return compare_with_file(trunk, file, resize_to(image, size_hw))


def _draw(trunk: "OnnxTrunk", photo: Path, out: Path, min_score: float) -> None:
    from sppnet.data.image import read_image
    from sppnet.detect.known_classes import detect_known
    from sppnet.features.detector_extractor import DetectorExtractor

    image = read_image(photo)
    write_picture(detect_known(DetectorExtractor(trunk)(image), trunk, min_score).draw(image), out)
