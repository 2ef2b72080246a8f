"""sppnet trunk: what it says of an ONNX file, and what it draws."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from onnx_detectors import write_detector
from sppnet.cli.app import app
from sppnet.detect.known_classes import detect_known
from sppnet.errors import ModelError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.nn.onnx_check import compare_with_file
from sppnet.nn.onnx_trunk import OnnxTrunk


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
