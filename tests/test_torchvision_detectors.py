"""torchvision's detection networks as trunks, weights at random: what is read off them, and whole runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.ops import clip_boxes_to_image

from sppnet.boxes import box_iou
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.evaluate import evaluate_detector
from sppnet.detect.known_classes import detect_known, find_known_classes
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError, ModelError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.features.head_boxes import choose_boxes
from sppnet.label.trunk import open_trunk as open_for_labels
from sppnet.nn.any_trunk import open_trunk, restore_trunk
from sppnet.nn.coco_classes import COCO_CLASSES
from sppnet.nn.detector_names import TORCHVISION_DETECTORS
from sppnet.nn.head_output import LOG_SHARE
from sppnet.nn.torchvision_check import compare_with_torchvision
from sppnet.nn.torchvision_detectors import TorchvisionDetector
from test_detect_train import draw_scene, write_scenes

FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
SSD = "ssdlite320_mobilenet_v3_large"
FAMILIES = (FASTER, SSD, "retinanet_resnet50_fpn", "fcos_resnet50_fpn")


def make_network(name, categories=91):
    """Random weights whose last layers spread, as after training."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=categories)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "cls_score" in key or "cls_logits" in key or "classification_head.module_list" in key:
                parameter += torch.randn_like(parameter) * 0.05
        if hasattr(network, "roi_heads"):
            network.roi_heads.box_predictor.bbox_pred.weight *= 5
    return network.eval()


def seeing_network(name):
    """Weights at random that tell images apart: batch norms have the statistics of scenes."""
    network = make_network(name)
    scenes = [torch.from_numpy(draw_scene(index)[0]).permute(2, 0, 1) / 255 for index in range(6)]
    size = 320 if name == SSD else 96
    images = torch.stack([torch.nn.functional.interpolate(one[None], (size, size))[0] for one in scenes])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean
            module.reset_running_stats()
    with torch.no_grad():
        network.backbone.train()(images * 4 - 2)
    return network.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """TORCH_HOME with the published files' names, and weights at random in them."""
    root = tmp_path_factory.mktemp("torch")
    folder = root / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (FASTER, SSD):
        published = models.get_model_weights(name).DEFAULT.url.rsplit("/")[-1]
        torch.save(seeing_network(name).state_dict(), folder / published)
    return root


@pytest.fixture
def in_home(home, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(home))


def photograph(height=96, width=128, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- what the network itself gives -----------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """A network, and the trunk of its weights."""
    network = make_network(request.param)
    return network, TorchvisionDetector.load(request.param, network.state_dict())


@torch.inference_mode()
def own_detections(network, image):
    """What torchvision gives for an image that it does not resize; everything, however unlikely."""
    how = network.transform
    if how.fixed_size is None:
        how.min_size, how.max_size = (min(image.shape[:2]),), 4000
    chief = network.roi_heads if hasattr(network, "roi_heads") else network
    chief.score_thresh, chief.detections_per_img = 0.0, 100
    if network.__class__.__name__ == "FasterRCNN":
        network.rpn.score_thresh = 0.0
    (found,) = network([torch.from_numpy(image).permute(2, 0, 1) / 255])
    return {key: value.numpy() for key, value in found.items()}


def test_boxes_and_scores_are_the_networks_own(pair):
    network, trunk = pair
    image = photograph(320, 320) if trunk.name == SSD else photograph(96, 128)
    if trunk.name == FASTER:
        trunk.network.rpn.score_thresh = 0.0  # before the first image
    expected = own_detections(network, image)
    output = trunk.look(image)
    boxes = clip_boxes_to_image(torch.from_numpy(output.boxes), image.shape[:2]).numpy()
    vectors = output.vectors(np.arange(len(boxes)))
    layout = trunk.layout
    assert vectors.shape == (len(boxes), layout.length)
    of_classes = vectors[:, layout.first_class : layout.objectness]
    scores = np.exp((of_classes + vectors[:, [layout.objectness]]) / LOG_SHARE)
    compared = 0
    for box, score, label in zip(expected["boxes"], expected["scores"], expected["labels"], strict=True):
        if label not in trunk.columns:
            continue
        column = trunk.columns.index(label)
        near = np.flatnonzero(np.abs(boxes - box).max(1) < 1e-2)
        if trunk.name == FASTER and not len(near):
            continue  # torchvision moves a proposal for every class, the trunk for the likeliest
        assert np.abs(scores[near, column] - score).min() < 1e-3
        compared += 1
    assert compared > 10


def test_the_comparison_finds_what_torchvision_finds(pair):
    network, trunk = pair
    image = photograph(320, 320) if trunk.name == SSD else photograph(96, 128)
    compared = compare_with_torchvision(trunk, image)
    assert compared.same > 10
    assert compared.same == compared.boxes or trunk.name == FASTER  # whose weights make all classes likely
    assert compared.pixels < 0.05
    assert compared.probability < 1e-3
    expected = own_detections(network, image)
    assert compared.boxes == sum(label in trunk.columns for label in expected["labels"])


def test_other_boxes_are_noticed(monkeypatch):
    trunk, image = TorchvisionDetector.load(SSD, make_network(SSD).state_dict()), photograph(320, 320)
    output = trunk.look(image)
    monkeypatch.setattr(trunk, "look", lambda image: replace(output, boxes=output.boxes + 3))
    with pytest.raises(ModelError, match=r"0 of torchvision's .* boxes were found again"):
        compare_with_torchvision(trunk, image)


def test_maps_lie_at_their_strides(pair):
    network, trunk = pair
    image = photograph(*trunk.fit_size((96, 128), 320 if trunk.name == SSD else 96))
    output = trunk.look(image)
    assert [one.shape[0] for one in output.maps] == [tap.channels for tap in trunk.taps]
    padded = trunk.prepare(image).shape[2:]
    for one, stride in zip(output.maps, trunk.strides, strict=True):
        assert tuple(one.shape[1:]) == tuple(-(-side // stride) for side in padded)
    assert set(trunk.strides) <= {8, 16, 32}
    assert trunk.mean == tuple(network.transform.image_mean)


def test_classes_are_cocos(pair):
    _, trunk = pair
    assert set(trunk.known_classes) == set(COCO_CLASSES)
    assert trunk.layout.classes == 80
    assert 0 not in trunk.columns


def test_a_trunk_is_built_again_from_its_spec_and_tensors(pair):
    _, trunk = pair
    again = restore_trunk(trunk.spec, trunk.state_dict())
    image = photograph(*trunk.fit_size((96, 128), 320 if trunk.name == SSD else 96))
    one, other = trunk.look(image), again.look(image)
    assert np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.vectors(np.arange(9)), other.vectors(np.arange(9)))
    assert all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (211, 2), (57, 91)])
def test_any_size_goes_through(size):
    trunk = TorchvisionDetector.load(SSD, make_network(SSD).state_dict())
    maps = DetectorExtractor(trunk)(photograph(*size))
    assert maps.sizes_hw == ((320, 320),)
    assert len(maps.head.boxes) > 0
    assert (maps.head.boxes <= [size[1], size[0], size[1], size[0]]).all()


def test_sizes_are_those_of_torchvision():
    network = make_network(FASTER)
    trunk = TorchvisionDetector.load(FASTER, network.state_dict())
    for size in ((480, 640), (640, 480), (100, 900), (900, 100), (333, 517), (1200, 1600)):
        resized, _ = network.transform([torch.zeros(3, *size)])
        assert trunk.fit_size(size, trunk.size_px) == tuple(resized.image_sizes[0])
        assert trunk.prepare(np.zeros((*resized.image_sizes[0], 3), np.uint8)).shape == resized.tensors.shape


def test_pixels_are_those_of_torchvision():
    network = make_network(FASTER)
    trunk = TorchvisionDetector.load(FASTER, network.state_dict())
    image = photograph(320, 400)
    images, _ = network.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
    assert trunk.prepare(image) == pytest.approx(images.tensors.numpy(), abs=1e-6)


# --- weights ---------------------------------------------------------------------------------------


def test_published_weights_come_from_the_cache(home, in_home):
    trunk = open_trunk(FASTER, weights="coco")
    assert isinstance(trunk, TorchvisionDetector)
    assert trunk.strides == (32, 32)
    assert trunk.channels == 512
    (file,) = (home / "hub" / "checkpoints").glob("fasterrcnn*")
    expected = torch.load(file, weights_only=True)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in trunk.network.state_dict().items())


def test_a_file_of_other_classes_is_understood(tmp_path):
    for name in (FASTER, SSD, "fcos_resnet50_fpn"):
        torch.save({"model": make_network(name, 4).state_dict()}, tmp_path / "own.pth")
        trunk = open_trunk(name, weights=tmp_path / "own.pth")
        assert trunk.known_classes == ("class 1", "class 2", "class 3")


def test_masks_and_keypoints_are_left_out():
    for name, count in (("maskrcnn_resnet50_fpn", 80), ("keypointrcnn_resnet50_fpn", 1)):
        categories = 2 if count == 1 else 91
        trunk = TorchvisionDetector.load(name, make_network(name, categories).state_dict())
        assert len(trunk.known_classes) == count
        assert not any("mask" in key or "keypoint" in key for key in trunk.state_dict())


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(ConfigError, match="give --weights coco"):
        open_trunk(SSD, weights="imagenet")
    with pytest.raises(ConfigError, match="give --weights coco"):
        open_trunk(SSD)
    with pytest.raises(ConfigError, match="resnet18 has no weights of COCO"):
        open_trunk("resnet18", weights="coco")
    with pytest.raises(ModelError, match="did you mean fasterrcnn_resnet50_fpn"):
        open_trunk("fasterrcnn_resnet_50_fpn", weights="imagenet")
    with pytest.raises(ModelError, match="a trunk of detectors alone; name it whole"):
        open_trunk(f"{SSD}:3", weights="imagenet")
    with pytest.raises(ModelError, match="are they for another network than ssdlite"):
        TorchvisionDetector.load(SSD, make_network(FASTER).state_dict())
    with pytest.raises(ModelError, match="no weights file"):
        open_trunk(SSD, weights=str(tmp_path / "missing.pth"))
    with pytest.raises(ConfigError, match="32 pixels or more"):
        DetectorExtractor(TorchvisionDetector.load(SSD, make_network(SSD).state_dict()), (16,))
    with pytest.raises(ConfigError, match="stays as it is"):
        DetectorConfig(trunk=SSD, weights="coco", finetune="fc")


@pytest.mark.parametrize("spec", [
    {"name": "zf5", "categories": 91}, {"name": SSD, "categories": "91"}, {"name": SSD, "categories": 10**12},
    {"name": SSD, "categories": 1},
])  # fmt: skip
def test_a_spec_that_says_anything_is_refused(spec):
    with pytest.raises(ModelError, match="categor"):
        restore_trunk(spec, {})


# --- whole runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6)


@pytest.mark.parametrize("name", [FASTER, SSD])
def test_photographs_become_a_detector_in_one_file(name, data, tmp_path, in_home):
    scales = (96,) if name == FASTER else ()
    config = DetectorConfig(trunk=name, weights="coco", scales=scales, positive_iou=0.4, levels=(1, 2))
    assert (config.proposals, config.vectors) == ("auto", "auto")
    run = train_detector(data, tmp_path / "run", config, cache=tmp_path / "maps")
    loaded = Detector.load(run.model)
    one, other = (each(data / "00.png", min_score=-8) for each in (run.detector, loaded))
    assert len(one) > 0
    for part in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(one, part), getattr(other, part))
    result = evaluate_detector(loaded, open_annotated(data))
    assert result.images == 6
    assert result.map > 0.1  # colours are seen through random weights too; blind ones give 0.02
    assert loaded.config.weights == "coco"


def test_a_known_class_begins_from_the_networks_score(data, tmp_path, in_home):
    trunk = open_trunk(SSD, weights="coco")
    (known,) = find_known_classes(("forklift", "car"), trunk)
    assert known.label == 1
    maps = DetectorExtractor(trunk)(photograph())
    own = known.own_scores(torch.from_numpy(maps.head.vectors))
    found = detect_known(maps, trunk, 0.0)
    cars = found.scores[[name == "car" for name in found.names]]
    assert len(cars) == 0 or cars.max() <= math.exp(float(own.max())) + 1e-3
    assert own.max() <= 0


def test_labelling_stands_on_it(data, tmp_path, in_home):
    paths = open_annotated(data).paths
    trunk = open_for_labels(SSD, "coco", cache=tmp_path, photos=paths)
    photo = trunk.open_photo(Path(paths[0]))
    boxes = trunk.proposer(photo).boxes
    vectors = trunk.roi_extractor(photo, boxes)
    assert trunk.name == SSD
    assert len(vectors.roi_of_box) == len(boxes) > 0


def test_kept_boxes_are_no_copies_of_one_another():
    trunk = TorchvisionDetector.load(SSD, make_network(SSD).state_dict())
    head = choose_boxes(trunk.look(photograph(320, 320)), np.ones(4, np.float32), (320, 320))
    overlap = box_iou(head.boxes, head.boxes)
    assert (overlap - np.eye(len(overlap)) <= 0.85 + 1e-5).all()


def test_the_names_are_torchvisions():
    """A version of torchvision with more of them should be looked at."""
    assert list(TORCHVISION_DETECTORS) == models.list_models(module=models.detection)
