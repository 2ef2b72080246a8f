"""sppnet trunk"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.destinations import check_picture, write_picture
from sppnet.cli.options import Json
from sppnet.cli.trunk_facts import describe_trunk, facts_in_words

if TYPE_CHECKING:
    from sppnet.arrays import Array
    from sppnet.nn.detector_trunk import DetectorTrunk


def trunk(
    file: Annotated[
        Path,
        typer.Argument(
            help="ONNX file, yolox_nano (downloaded once), a detection network of torchvision, or a detector "
            "trained on one of these."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Of a network by name: coco (downloaded once), or a file with a state dict."),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option(
            help="A photograph to compare the network with the file's own output on, or torchvision's."
        ),
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
    """Say what detect train --trunk FILE would find in a detector's network, and check it."""
    from sppnet.cli.output import print_json

    if draw is not None:
        if photo is None:
            raise typer.BadParameter("--draw needs a photograph: give --photo")
        check_picture(draw, "--draw", [photo, file])
    found, held = _open(str(file), weights, trunk_input)
    digest = hashlib.sha256(held.read_bytes()).hexdigest()
    facts = {"file": str(held), "sha256": digest, **describe_trunk(found)}
    if photo is not None and found.has_head:
        facts |= _compare(found, held, photo)
        if draw is not None:
            _draw(found, photo, draw, min_score)
            facts["drawn"] = str(draw)
    if as_json:
        print_json(facts)
    else:
        for line in facts_in_words(facts):
            typer.echo(line)


def _open(name: str, weights: str | None, convention: str | None) -> tuple["DetectorTrunk", Path]:
    """The trunk, and the file that holds its weights."""
    from sppnet.errors import ConfigError
    from sppnet.nn.any_trunk import is_detector
    from sppnet.nn.detector_names import TORCHVISION_DETECTORS
    from sppnet.nn.onnx_trunk import OnnxTrunk
    from sppnet.nn.yolox_release import YOLOX_NAMES, released_file

    if name in TORCHVISION_DETECTORS:
        from sppnet.nn.torchvision_detectors import TorchvisionDetector, weights_file

        loaded = TorchvisionDetector.load(name, weights)  # says what is wrong with the weights
        assert weights is not None
        return loaded, weights_file(name, weights)
    if weights is not None and name not in YOLOX_NAMES:
        raise ConfigError(f"--weights is for networks by name; {name} has its weights in it")
    if name in YOLOX_NAMES:
        name = str(released_file(name, weights or "coco"))
    if name.endswith(".safetensors"):
        return _trunk_of_model(Path(name)), Path(name)
    if not Path(name).exists() and not is_detector(name):
        raise ConfigError(_no_trunk(name))
    return OnnxTrunk.from_file(name, convention), Path(name)


def _no_trunk(name: str) -> str:
    from sppnet.errors import did_you_mean
    from sppnet.nn.detector_names import TORCHVISION_DETECTORS
    from sppnet.nn.yolox_release import YOLOX_NAMES

    known = (*TORCHVISION_DETECTORS, *YOLOX_NAMES)
    return f"{name} is no file, and no detector's network by name: {did_you_mean(name, known)}"


def _trunk_of_model(file: Path) -> "DetectorTrunk":
    from sppnet.detect.detector import Detector
    from sppnet.errors import ModelError
    from sppnet.nn.detector_trunk import DetectorTrunk

    found = Detector.load(file).parts.trunk
    if not isinstance(found, DetectorTrunk):
        raise ModelError(f"the trunk of {file} is {found.name}; this command tells of detectors' networks")
    return found


def _compare(trunk: "DetectorTrunk", file: Path, photo: Path) -> dict[str, Any]:
    """How far it differs from the file's own output, or torchvision's; {} where that is not at hand."""
    from dataclasses import asdict

    from sppnet.nn.onnx_trunk import OnnxTrunk

    image = _resized(trunk, photo)
    if isinstance(trunk, OnnxTrunk):
        from sppnet.nn.onnx_check import compare_with_file

        in_model = file.suffix == ".safetensors"
        return {} if in_model else {"difference": compare_with_file(trunk, file, image)}
    from sppnet.nn.torchvision_check import compare_with_torchvision
    from sppnet.nn.torchvision_detectors import TorchvisionDetector

    assert isinstance(trunk, TorchvisionDetector)
    compared = compare_with_torchvision(trunk, image)
    return {"difference": compared.pixels, "compared": asdict(compared)}


def _resized(trunk: "DetectorTrunk", photo: Path) -> "Array":
    from sppnet.data.image import read_image
    from sppnet.data.transforms import resize_to

    image = read_image(photo)
    return resize_to(image, trunk.fit_size((image.shape[0], image.shape[1]), trunk.size_px))


def _draw(trunk: "DetectorTrunk", photo: Path, out: Path, min_score: float) -> None:
    from sppnet.data.image import read_image
    from sppnet.detect.known_classes import detect_known
    from sppnet.features.detector_extractor import DetectorExtractor

    image = read_image(photo)
    write_picture(detect_known(DetectorExtractor(trunk)(image), trunk, min_score).draw(image), out)
