"""Labelling on a detector's network: its boxes are proposed, its vectors are learned from."""

import numpy as np
import pytest
import torch
from PIL import Image

from onnx_detectors import write_detector
from sppnet import Detector, train_detector
from sppnet.benchmark.label import replay
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.known_classes import LOGIT_SHARE, find_known_classes
from sppnet.errors import ConfigError, DataError
from sppnet.label.model import LabelModel
from sppnet.label.suggesting import Candidates
from sppnet.label.trunk import open_trunk, trunk_of_detector
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.structures import GroundTruth
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


def test_an_onnx_file_gets_the_pixels_that_it_is_said_to_expect(tmp_path, images):
    file, photos = str(write_detector(tmp_path / "tiny.onnx")), images.paths[:2]
    plain, other = (
        open_trunk(file, cache=tmp_path / str(name), photos=photos, trunk_input=name)
        for name in (None, "yolo")
    )
    first, second = (np.asarray(one.open_photo(photos[0]).maps.head.vectors) for one in (plain, other))
    assert first.shape != second.shape or np.abs(first - second).max() > 1e-3
    with pytest.raises(ConfigError, match="trunk_input is for ONNX files"):
        open_trunk("mobilenet_v2:14+18", "imagenet", trunk_input="yolo")


def test_photographs_that_cannot_be_read_are_no_measure(tmp_path, images):
    file, broken = write_detector(tmp_path / "tiny.onnx"), tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert open_trunk(str(file), cache=tmp_path, photos=[broken, *images.paths]).name == "tiny.onnx"
    with pytest.raises(DataError, match="none of the photographs could be read"):
        open_trunk(str(file), cache=tmp_path, photos=[broken])


def learned(trunk, images, known):
    """After four photographs; and the head's vectors of the next, as they come and standardised."""
    model = LabelModel(trunk.roi_extractor, known=known)
    for index in range(4):
        photo = trunk.open_photo(images.paths[index])
        boxes = trunk.proposer(photo).boxes
        candidates = Candidates(photo, boxes, trunk.roi_extractor(photo, boxes), photo.size_hw)
        found = GroundTruth.of(photo.maps.head.boxes[:2], [0, 1])  # so that the network is right about some
        model.learn(index, candidates, found, images.classes)
    head = trunk.open_photo(images.paths[4]).maps.head
    vectors = trunk.roi_extractor(trunk.open_photo(images.paths[4]), head.boxes)
    return model.svm, vectors, torch.from_numpy(head.vectors)


def test_a_class_that_the_network_knows_scores_as_the_network_does(images, tmp_path):
    named = f'["{images.classes[0]}", "b", "c", "d", "e"]'
    file = write_detector(tmp_path / "named.onnx", names=named)
    trunk = open_trunk(str(file), cache=tmp_path, photos=images.paths)
    svm, vectors, head = learned(trunk, images, trunk.make_known())
    plain, *_ = learned(trunk, images, None)
    (one,) = find_known_classes(images.classes, OnnxTrunk.from_file(file))
    scores = svm.scores(vectors.distinct)[torch.from_numpy(vectors.roi_of_box)]
    own = one.own_scores(head)
    assert torch.allclose(scores[:, 0], LOGIT_SHARE * own, atol=1e-3)  # too few to correct them
    others = plain.scores(vectors.distinct)[torch.from_numpy(vectors.roi_of_box)]
    assert not torch.allclose(others[:, 0], LOGIT_SHARE * own, atol=1e-3)


@pytest.mark.parametrize("vectors", ["both", "head", "pyramid"])
def test_a_session_goes_on_from_a_trained_detector_on_such_a_network(images, tmp_path, vectors):
    file = write_detector(tmp_path / "tiny.onnx")
    config = DetectorConfig(trunk=str(file), vectors=vectors, positive_iou=0.4)
    train_detector(images, tmp_path / "run", config, cache=tmp_path, report=False)
    model = tmp_path / "run" / "detector.safetensors"
    trunk = trunk_of_detector(model, cache=tmp_path, photos=images.paths)
    opened = [trunk.open_photo(path) for path in images.paths]
    made = [trunk.roi_extractor(photo, trunk.proposer(photo).boxes).distinct for photo in opened]
    assert made[0].shape[1] == Detector.load(model).parts.svm.weight.shape[1]
    assert torch.cat(made).mean(dim=0).abs().max() < 0.05
    assert len(replay(images, trunk)) == len(images)
