"""Detectors trained on an ONNX network: whole runs on generated scenes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onnx_detectors import write_detector
from sppnet.boxes import box_iou
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.image import read_image
from sppnet.detect import vector_choice
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.detect.evaluate import evaluate_detector
from sppnet.detect.known_classes import (
    LOGIT_SHARE,
    MIN_KEPT_PROBABILITY,
    detect_known,
    find_known_classes,
)
from sppnet.detect.roi_features import StandardisedRoIFeatureExtractor
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError, ModelError
from sppnet.export.onnx import export_model
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.standardisation import Standardisation
from sppnet.image_vectors import SPPFeatures
from sppnet.nn.model_file import load_model, read_header, save_model
from sppnet.serve.predictor import Question, ServedDetector, Stopwatch
from sppnet.svm.mining import mine_svms
from sppnet.svm.vector_store import LabelledVectors, MiningConfig
from test_detect_train import write_scenes

KNOWN = json.dumps(["RED", "b", "c", "d", "e"])
BOTH_KNOWN = json.dumps(["green", "red", "c", "d", "e"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 10)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """One run for each of: classes that are new, one of two that is known, both known."""
    root = tmp_path_factory.mktemp("runs")
    runs = {}
    for name, names in (("new", None), ("one", KNOWN), ("both", BOTH_KNOWN)):
        trunk = write_detector(root / f"{name}.onnx", names=names)
        config = DetectorConfig(trunk=str(trunk), positive_iou=0.4)
        runs[name] = train_detector(data, root / name, config, cache=root / "maps")
    return runs


def same(one: Detector, other: Detector, image) -> bool:
    a, b = one(image, min_score=-8), other(image, min_score=-8)
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(("name", "vectors"), [("new", "both"), ("one", "both"), ("both", "head")])
def test_the_file_is_the_whole_detector(trained, data, name, vectors):
    run = trained[name]
    loaded = Detector.load(run.model)
    assert loaded.config.vectors == vectors
    assert len(loaded(data / "00.png", min_score=-8).boxes) > 0
    assert same(run.detector, loaded, data / "00.png")
    header = read_header(run.model)
    assert str(run.model.parent.parent) not in json.dumps(header)
    assert header["config"]["trunk"] == f"{name}.onnx"


def test_objects_score_higher_than_other_boxes_of_the_network(trained, data):
    """Even a network of random weights sees colours."""
    detector = trained["new"].detector
    images = open_annotated(data)
    objects, others = [], []
    for path, truth in zip(images.paths, images.truths, strict=True):
        photo = LazyImage(path, detector.extractor)
        boxes = photo.maps.head.boxes
        vectors = detector.roi_extractor(photo, boxes)
        scores = detector.parts.svm.scores(vectors.distinct).max(1).values.numpy()[vectors.roi_of_box]
        overlap = box_iou(boxes, truth.boxes).max(1)
        objects += scores[overlap >= 0.5].tolist()
        others += scores[overlap < 0.2].tolist()
    assert len(objects) > 5
    assert np.mean(objects) > np.mean(others) + 0.2


@pytest.mark.parametrize("name", ["new", "both"], ids=["both", "head"])
def test_vectors_on_demand_are_those_of_all(trained, data, name):
    detector = trained[name].detector
    photo = LazyImage(data / "00.png", detector.extractor)
    boxes = np.concatenate([[[3, 4, 40, 50]], photo.maps.head.boxes]).astype(np.float32)
    mean = torch.full((detector.roi_extractor(photo, boxes).distinct.shape[1],), 0.5)
    standard = Standardisation(mean, 3 * torch.ones_like(mean))
    for made in (detector.roi_extractor, StandardisedRoIFeatureExtractor(detector.roi_extractor, standard)):
        every, asked = made(photo, boxes), made.on_demand(photo, boxes)
        assert np.array_equal(asked.roi_of_box, every.roi_of_box)
        for rois in ([5, 0, 5], []):
            assert torch.equal(asked.take(np.array(rois, np.int64)), every.distinct[rois])


def test_known_classes_keep_the_boxes_of_the_network(trained):
    parts = trained["one"].detector.parts
    red, green = parts.classes.index("red"), parts.classes.index("green")
    (known,) = find_known_classes(parts.classes, parts.trunk)
    assert known.label == red
    assert parts.regressor.weight[red].abs().sum() == 0
    assert parts.regressor.weight[green].abs().sum() > 0
    assert trained["both"].detector.parts.regressor.weight.abs().sum() == 0


def test_the_score_of_a_known_class_grows_with_the_networks_own(trained):
    parts = trained["both"].detector.parts
    for known in find_known_classes(parts.classes, parts.trunk):
        row = parts.svm.weight[known.label]
        assert row[known.column] != 0
        assert row[known.objectness] != 0


def test_known_classes_can_be_learned_from_nothing(data, trained, tmp_path):
    config = DetectorConfig(trunk=str(trained["both"].model.parent.parent / "both.onnx"), known_classes=False)
    run = train_detector(data, tmp_path / "run", replace(config, positive_iou=0.4))
    assert run.detector.config.vectors == "both"
    assert run.detector.parts.regressor.weight.abs().sum() > 0


def tensors_of(path):
    return load_model(path, "detector")[1]


@pytest.mark.parametrize("name", ["one", "both"])
@pytest.mark.parametrize("last", ["windows", "vectors", "svm", "boxes"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(trained, data, tmp_path, name, last):
    source, order = (
        trained[name].model.parent,
        ["windows", "proposals", "vectors", "svm", "boxes", "scores", "refinement"],
    )
    for path in ("config.json", "times.json", *(f"stages/{stage}.safetensors" for stage in order)):
        kept = path.startswith(("config", "times")) or order.index(path[7:-12]) <= order.index(last)
        if kept:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes((source / path).read_bytes())
    config = DetectorConfig(trunk=str(source.parent / f"{name}.onnx"), positive_iou=0.4)
    run = train_detector(data, tmp_path, config, resume=True, cache=source.parent / "maps")
    before, after = tensors_of(trained[name].model), tensors_of(run.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "a.onnx", "finetune": "fc"}, "stays as it is"),
        ({"trunk": "a.onnx", "method": "rcnn"}, "stays as it is"),
        ({"trunk": "zf5", "proposals": "trunk"}, "proposals trunk need a detector's network"),
        ({"trunk": "zf5", "vectors": "both", "proposals": "trunk"}, "proposals trunk and vectors both need"),
    ],
)
def test_what_only_some_trunks_can_do_is_said_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**options)


@pytest.mark.parametrize("name", ["new", "both"])
def test_a_server_answers_as_the_detector(trained, data, name):
    detector = trained[name].detector
    served, pixels = ServedDetector(detector), read_image(data / "03.png")
    maps = served.convolve(pixels)
    photo = LazyImage.from_maps(maps, pixels, detector.extractor)
    question = Question(min_score=0.0, overlap=None)
    answer = served.answer(photo, question, Stopwatch())
    found = detector(pixels)
    assert answer["proposals"] == len(maps.head.boxes)
    assert [one["score"] for one in answer["detections"]] == found.scores.tolist()
    boxes = maps.head.boxes[:3]
    scores, moved = served.score(maps, boxes)
    assert scores.shape == (3, 2)
    assert moved.shape == (3, 4)
    assert len(served.windows(maps, boxes).roi_of_box) == 3


@pytest.mark.parametrize("name", ["new", "one", "both"])
def test_such_a_detector_is_exported(trained, name, tmp_path):
    """The check against the package is inside; tests/test_export_trunk.py has more."""
    export_model(trained[name].detector, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").is_file()


def test_what_cannot_be_done_with_such_a_detector_is_said(trained):
    with pytest.raises(ConfigError, match="gives no vectors of whole images"):
        SPPFeatures(model=trained["new"].model).fit()


def test_two_such_detectors_work_as_one(trained, data):
    both = Ensemble((trained["new"].detector, trained["one"].detector))
    assert both.least_score == trained["new"].detector.least_score
    assert len(both(data / "00.png", min_score=-8)) > 0
    assert evaluate_detector(both, open_annotated(data)).images == 10


def test_a_damaged_network_in_a_model_file_is_named(trained, tmp_path):
    header, tensors = load_model(trained["new"].model, "detector")
    tensors["trunk.content"] = tensors["trunk.content"][:1000]
    path = tmp_path / "damaged.safetensors"
    save_model(path, "detector", header, tensors)
    with pytest.raises(ModelError, match="damaged"):
        Detector.load(path)


def test_kept_classes_are_found_as_the_network_finds_them(data, trained, tmp_path):
    trunk = trained["one"].model.parent.parent / "one.onnx"
    config = DetectorConfig(trunk=str(trunk), positive_iou=0.4, keep=("RED", "d"))
    run = train_detector(data, tmp_path / "run", config, cache=tmp_path.parent / "maps")
    detector = Detector.load(run.model)
    assert detector.classes == ("green", "red", "RED", "d")
    found_any = False
    for path in sorted(data.glob("*.png"))[:4]:
        photo = LazyImage(path, detector.extractor)
        own = detect_known(photo.maps, detector.parts.trunk, 0.0)
        found = detector.detect(photo, -8)
        for name in ("RED", "d"):
            label = detector.classes.index(name)
            boxes = found.boxes[found.labels == label]
            expected = own.boxes[np.array(own.names) == name][: len(boxes)]
            assert np.array_equal(boxes, expected)
            scores = found.scores[found.labels == label]
            assert np.all(np.diff(scores) <= 0)
            probabilities = own.scores[np.array(own.names) == name][: len(boxes)]
            assert np.allclose(np.exp(scores / LOGIT_SHARE) * MIN_KEPT_PROBABILITY, probabilities, rtol=1e-4)
            found_any |= len(boxes) > 0
    assert found_any


def test_kept_classes_are_not_learned(data, trained, tmp_path):
    trunk = trained["one"].model.parent.parent / "one.onnx"
    config = DetectorConfig(trunk=str(trunk), positive_iou=0.4, keep=("red",))
    run = train_detector(data, tmp_path / "run", config)
    assert run.detector.classes == ("green", "red")
    assert set(run.objects) == {"green"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "zf5", "keep": ("car",)}, "keep car need a detector's network"),
        ({"trunk": "a.onnx", "keep": ("car",), "vectors": "pyramid"}, "keep needs the network's own boxes"),
    ],
)
def test_what_cannot_be_kept_is_said_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**options)


def test_a_class_that_the_network_does_not_know_cannot_be_kept(data, trained, tmp_path):
    config = DetectorConfig(trunk=str(trained["one"].model.parent.parent / "one.onnx"), keep=("raccoon",))
    with pytest.raises(ConfigError, match=r"one\.onnx knows no raccoon; it knows 5 classes"):
        train_detector(data, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


# --- which vectors ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough photographs to choose on."""
    return write_scenes(tmp_path_factory.mktemp("many"), 24)


def train_choosing(many, root, monkeypatch, gains, **options):
    """A run in which cross-validation finds these gains over both parts: trials as they came, and the run."""
    seen = []
    honest = vector_choice.choose_vectors

    def choose(trials):
        seen.extend(trials)
        both = trials[0].map
        return honest([replace(one, map=both + gains.get(one.vectors, 0)) for one in trials])

    monkeypatch.setattr(vector_choice, "choose_vectors", choose)
    trunk = write_detector(root / "net.onnx", names=options.pop("names", None))
    config = DetectorConfig(trunk=str(trunk), positive_iou=0.4, **options)
    return seen, train_detector(many, root / "run", config, cache=root / "maps")


@pytest.mark.parametrize(
    ("gains", "taken"),
    [({"head": 0.005}, "both"), ({"head": 0.02}, "head"), ({"pyramid": 0.05, "head": 0.02}, "pyramid")],
)
def test_vectors_are_taken_that_do_better_on_photographs_held_out(many, tmp_path, monkeypatch, gains, taken):
    seen, run = train_choosing(many, tmp_path, monkeypatch, gains)
    assert [one.vectors for one in seen] == ["both", "head", "pyramid"]
    assert all(one.images == 24 and 0 < one.map < 1 for one in seen)
    assert run.detector.config.vectors == taken
    loaded = Detector.load(run.model)
    assert loaded.config.vectors == taken
    assert same(run.detector, loaded, many / "00.png")
    assert [one["vectors"] for one in run.vector_trials] == ["both", "head", "pyramid"]
    monkeypatch.undo()
    for stage in ("scores", "boxes"):  # stopped before
        (run.model.parent / "stages" / f"{stage}.safetensors").unlink()
    before = tensors_of(run.model)
    config = DetectorConfig(trunk=str(tmp_path / "net.onnx"), positive_iou=0.4)
    again = train_detector(many, tmp_path / "run", config, resume=True, cache=tmp_path / "maps")
    after = tensors_of(again.model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_known_and_kept_classes_need_the_head(many, tmp_path, monkeypatch):
    seen, run = train_choosing(many, tmp_path, monkeypatch, {"pyramid": 0.5, "head": 0.1}, names=KNOWN)
    assert [one.vectors for one in seen] == ["both", "head"]
    assert run.detector.config.vectors == "head"
    parts = run.detector.parts
    (known,) = find_known_classes(parts.classes, parts.trunk)
    assert parts.svm.weight[known.label, known.column] != 0


def test_few_photographs_take_both(trained):
    assert trained["new"].vector_trials == ()
    assert trained["new"].detector.config.vectors == "both"


def test_svms_of_a_part_are_those_that_are_trained_on_it_alone():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(0, 1, (60, 7)).astype(np.float32))
    signs = np.where(rng.random((60, 1)) < 0.3, 1, -1).astype(np.int8)
    vectors[:, 0] += torch.from_numpy(2.0 * signs[:, 0])

    def source_of(block):
        def source(index):
            rows = slice(10 * index, 10 * index + 10)
            return LabelledVectors.of(vectors[rows, block], signs[rows])

        return source

    config = MiningConfig(rounds=1, random_negatives=9, folds=3, tolerance=1e-5)
    block = slice(0, 3)
    whole = mine_svms(source_of(slice(None)), 6, ("a",), config, blocks=(block,))
    alone = mine_svms(source_of(block), 6, ("a",), config)
    (part,) = whole.of_blocks
    assert part.svm.weight.numpy() == pytest.approx(alone.svm.weight.numpy(), abs=1e-3)
    for one, other in zip(part.folds, alone.folds, strict=True):
        assert one.weight.numpy() == pytest.approx(other.weight.numpy(), abs=1e-3)
