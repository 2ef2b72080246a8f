"""sppnet trunk: what it says of an ONNX file, and what it draws."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from typer.testing import CliRunner

from onnx_detectors import write_detector
from sppnet.cli.app import app
from sppnet.data.image import read_image
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.known_classes import detect_known
from sppnet.errors import ConfigError, ModelError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.any_trunk import open_trunk
from sppnet.nn.onnx_check import compare_with_file
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.svm.linear_svm import LinearSVM
from test_torchvision_detectors import SSD, make_network


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx", names='["a", "b", "c", "d", "e"]')


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["trunk", *map(str, arguments)], catch_exceptions=False)


def test_what_was_found_is_told(file):
    said = run(file)
    assert said.exit_code == 0
    assert "8 at stride 8, 8 at stride 16" in said.output
    assert "a, b, c, d, e (5)" in said.output
    assert "64×64, other sizes too; BGR, white is 255 (yolox)" in said.output


def test_the_network_is_compared_and_its_boxes_drawn(file, photo, tmp_path):
    said = run(file, "--photo", photo, "--draw", tmp_path / "drawn.png", "--min-score", 0)
    assert "differs from the file's own output by" in said.output
    drawn, plain = (np.array(Image.open(path)) for path in (tmp_path / "drawn.png", photo))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_drawing_without_a_photograph_is_refused(file, tmp_path):
    said = run(file, "--draw", tmp_path / "drawn.png")
    assert said.exit_code == 2
    assert "give --photo" in said.output


def test_another_network_than_the_files_is_noticed(file, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    other = OnnxTrunk.from_file(write_detector(tmp_path / "other.onnx", seed=1))
    with pytest.raises(ModelError, match="differs from the file's own output by"):
        compare_with_file(other, file, image)
    assert compare_with_file(OnnxTrunk.from_file(file), file, image) < 1e-5


def test_what_the_network_finds_has_its_probabilities(file):
    trunk = OnnxTrunk.from_file(file)
    maps = DetectorExtractor(trunk)(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    found, layout = detect_known(maps, trunk, 0.0), trunk.layout
    assert len(found) > 0
    assert (np.diff(found.scores) <= 0).all()
    of_classes = np.exp(4 * maps.head.vectors[:, layout.first_class : layout.objectness])
    expected = of_classes * np.exp(4 * maps.head.vectors[:, [layout.objectness]])
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        row = np.flatnonzero((maps.head.boxes == box).all(axis=1))[0]
        assert score == pytest.approx(expected[row, label], rel=1e-5)
        assert expected[row].argmax() == label
    assert len(detect_known(maps, trunk, 1.0)) == 0


# --- networks by name ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(make_network(SSD).state_dict(), path)
    return path


def test_a_network_of_torchvision_is_told_compared_and_drawn(weights, photo, tmp_path):
    drawn = tmp_path / "drawn.png"
    said = run(SSD, "--weights", weights, "--photo", photo, "--draw", drawn, "--min-score", 0, "--json")
    facts = json.loads(said.output)
    assert facts["maps"] == [{"stride": 16, "channels": 672}, {"stride": 32, "channels": 480}]
    assert facts["proposals"] == "anchors of the head, 6 a cell, decoded"
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["compared"]["same"] == facts["compared"]["boxes"] > 10
    assert facts["difference"] < 0.05
    assert len(facts["classes"]) == 80
    assert read_image(drawn).shape == read_image(photo).shape
    words = run(SSD, "--weights", weights).output
    assert "proposals anchors of the head, 6 a cell" in words
    assert "input     320×320, other sizes too; RGB, white is 1, stretched (torchvision)" in words


def test_published_weights_are_read_from_the_cache(weights, tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = models.get_model_weights(SSD).DEFAULT.url.rsplit("/")[-1]
    (folder / name).write_bytes(weights.read_bytes())
    assert f"file      {folder / name}" in run(SSD, "--weights", "coco").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([SSD], "give --weights coco", id="no weights"),
        pytest.param(["ssdlite320_mobilenet_large"], f"did you mean {SSD}", id="a name with a slip"),
        pytest.param(["{file}", "--weights", "coco"], "has its weights in it", id="weights of a file"),
    ],
)
def test_what_is_missing_is_said(file, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*(file if one == "{file}" else one for one in arguments))


def test_a_detector_trained_on_a_network_of_torchvision_is_told(weights, photo, tmp_path):
    trunk = open_trunk(SSD, weights=weights)
    config = DetectorConfig(
        trunk=SSD, weights="coco", vectors="head", proposals="trunk", scales=(trunk.size_px,)
    )
    length = trunk.layout.length
    svm = LinearSVM(torch.zeros(1, length), torch.zeros(1), ("cup",))
    regressor = BoxRegressor(torch.zeros(1, 4, length), torch.zeros(1, 4), ("cup",))
    parts = DetectorComponents(("cup",), config, trunk, None, None, svm, regressor)
    Detector(parts).save(tmp_path / "model.safetensors")
    said = run(tmp_path / "model.safetensors", "--photo", photo).output
    assert "anchors of the head" in said
    assert "of torchvision's own" in said
