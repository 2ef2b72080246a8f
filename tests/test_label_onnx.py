"""Labelling on a detector's network: its boxes are proposed, its vectors are learned from."""

import numpy as np
import pytest
import torch
from PIL import Image

from onnx_detectors import write_detector
from sppnet.benchmark.label import replay
from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import DataError
from sppnet.label.trunk import open_trunk
from test_detect_train import draw_scene, write_voc


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for index in range(6):
        pixels, things = draw_scene(index)
        Image.fromarray(pixels).save(root / f"{index:02}.png")
        write_voc(root / f"{index:02}.png", things)
    return open_annotated(root)


@pytest.fixture(scope="module")
def trunk(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    file = write_detector(folder / "tiny.onnx")
    return open_trunk(str(file), cache=folder / "maps", photos=images.paths)


def test_vectors_are_standardised_on_the_photographs(trunk, images):
    vectors = []
    for path in images.paths:
        photo = trunk.open_photo(path)
        vectors.append(trunk.roi_extractor(photo, trunk.proposer(photo).boxes).distinct)
    deviation, mean = torch.std_mean(torch.cat(vectors)[:, :12], dim=0)  # class and box features
    varied = deviation > 0.01
    assert varied.sum() > 4
    assert mean[varied].abs().max() < 0.05
    assert deviation[varied].numpy() == pytest.approx(np.ones(int(varied.sum())), abs=0.05)


def test_a_session_learns_from_every_photograph(trunk, images):
    steps = replay(images, trunk)
    assert [step.boxes for step in steps] == [len(truth) for truth in images.truths]
    assert trunk.name == "tiny.onnx"


def test_photographs_that_cannot_be_read_are_no_measure(tmp_path, images):
    file, broken = write_detector(tmp_path / "tiny.onnx"), tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert open_trunk(str(file), cache=tmp_path, photos=[broken, *images.paths]).name == "tiny.onnx"
    with pytest.raises(DataError, match="none of the photographs could be read"):
        open_trunk(str(file), cache=tmp_path, photos=[broken])
