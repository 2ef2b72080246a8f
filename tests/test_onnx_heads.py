"""Heads with distributions and with anchors in ONNX files: what is cut out, and the boxes that it gives."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

from onnx_families import (
    CLASSES,
    SIZE_PX,
    NanoDet,
    NanoDetPlus,
    PicoDet,
    Yolov5,
    Yolov8,
    distances_to_boxes,
    make_family,
    write_family,
)
from sppnet.benchmark.detection_peers import OnnxDetector
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import train_detector
from sppnet.errors import ModelError
from sppnet.export.onnx import export_model
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.nn.any_trunk import restore_trunk
from sppnet.nn.head_output import LOG_SHARE
from sppnet.nn.onnx_check import compare_with_file
from sppnet.nn.onnx_graph import DetectorGraph
from sppnet.nn.onnx_head_cut import cut_head
from sppnet.nn.onnx_head_outputs import integrate
from sppnet.nn.onnx_trunk import OnnxTrunk
from test_detect_train import write_scenes
from test_export_trunk import random_detector

FAMILIES = {
    NanoDetPlus: "nanodet",
    NanoDet: "nanodet",
    PicoDet: "picodet",
    Yolov8: "yolov8",
    Yolov5: "yolov5",
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda one: one.__name__)
def found(request, tmp_path_factory):
    """A network, its file, and the trunk that was read from it."""
    network = make_family(request.param)
    path = write_family(network, tmp_path_factory.mktemp("onnx") / f"{request.param.__name__}.onnx")
    return network, path, OnnxTrunk.from_file(path)


def photograph(height=SIZE_PX, width=SIZE_PX, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected_boxes(network, images):
    """Boxes (n, 4) xyxy in pixels and class scores (n, k), by the definitions of the network's project."""
    if hasattr(network, "raw"):
        logits, numbers = network.raw(images)
        boxes = distances_to_boxes(numbers, network.strides, network.bins, network.centre)
        return boxes.numpy(), torch.cat([one.sigmoid().flatten(2)[0].T for one in logits]).numpy()
    rows = network(images)[0].numpy()
    centres, halves = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([centres - halves, centres + halves], 1), rows[:, 5:] * rows[:, 4:5]


def test_the_head_is_read_by_what_the_file_gives(found):
    network, _, trunk = found
    assert trunk.graph.family == FAMILIES[type(network)]
    assert trunk.strides == network.strides
    assert all(tap.channels == 16 for tap in trunk.taps)
    assert trunk.layout.classes == CLASSES
    assert trunk.graph.dynamic
    assert len(trunk.graph.levels) == len(network.strides) * (3 if isinstance(network, Yolov5) else 1)
    features = trunk.layout.class_features, trunk.layout.box_features
    assert features == {Yolov8: (10, 12), NanoDet: (16, 16)}.get(type(network), (16, 0))
    convention = {"yolov8": "yolo", "yolov5": "yolo"}.get(trunk.graph.family, trunk.graph.family)
    assert trunk.convention_name == convention


@pytest.mark.parametrize("size_hw", [(SIZE_PX, SIZE_PX), (192, 64)])
def test_boxes_and_scores_are_the_networks_own(found, size_hw):
    network, _, trunk = found
    image = photograph(*size_hw)
    boxes, scores = expected_boxes(network, torch.from_numpy(trunk.prepare(image)))
    output = trunk.look(image)
    assert output.boxes == pytest.approx(boxes, abs=1e-2)
    layout, vectors = trunk.layout, output.vectors(np.arange(len(boxes)))
    log = vectors[:, layout.first_class : layout.objectness] + vectors[:, [layout.objectness]]
    assert np.exp(log / LOG_SHARE) == pytest.approx(scores, abs=1e-4)
    assert np.array_equal(layout.likeliest(vectors), scores.argmax(1))
    assert vectors.shape[1] == layout.length
    ranks = scores.max(1) if trunk.graph.family != "yolov5" else None
    if ranks is not None:
        assert 1 / (1 + np.exp(-output.objectness)) == pytest.approx(ranks, abs=1e-5)
    maps = network.pyramid(torch.from_numpy(trunk.prepare(image)))
    for one, other in zip(output.maps, maps, strict=True):
        assert one.numpy() == pytest.approx(other[0].numpy(), abs=1e-3)


def test_as_a_peer_it_finds_what_its_own_decoding_gives(found, tmp_path):
    network, path, trunk = found
    photo = tmp_path / "photo.png"
    Image.fromarray(photograph()).save(photo)
    seen = OnnxDetector(path)(photo, 0.0)
    boxes, scores = expected_boxes(network, torch.from_numpy(trunk.prepare(photograph())))
    clipped = np.clip(boxes, 0, SIZE_PX)
    assert seen.scores.max() == pytest.approx(scores.max(), abs=1e-4)
    for box, score, label in zip(seen.boxes, seen.scores, seen.labels, strict=True):
        same = (np.abs(clipped - box) < 0.05).all(1) & (np.abs(scores[:, label] - score) < 1e-4)
        assert same.any()


def test_the_files_own_output_is_compared(found, monkeypatch):
    _, path, trunk = found
    assert compare_with_file(trunk, path, photograph()) < 1e-2
    decode = trunk.decode
    monkeypatch.setattr(trunk, "decode", lambda levels: decode(levels) + 3)
    with pytest.raises(ModelError, match="differs from the file's own output by 3"):
        compare_with_file(trunk, path, photograph())


def test_a_trunk_is_built_again_from_its_spec(found):
    _, _, trunk = found
    again = restore_trunk(trunk.spec, trunk.state_dict())
    one, other = trunk.look(photograph(90, 70)), again.look(photograph(90, 70))
    assert np.array_equal(one.boxes, other.boxes)
    assert again.spec == trunk.spec


def test_a_detector_around_it_is_exported(found, tmp_path):
    """The check against the package is inside."""
    export_model(random_detector(found[1], ("red", "class 2")), tmp_path / "out.onnx")


def test_photographs_become_a_detector(found, tmp_path):
    data = write_scenes(tmp_path / "scenes", 6)
    config = DetectorConfig(trunk=str(found[1]), positive_iou=0.4, proposals="trunk", levels=(1, 2))
    run = train_detector(data, tmp_path / "run", config)
    loaded = Detector.load(run.model)
    one, other = (each(data / "00.png", min_score=-8) for each in (run.detector, loaded))
    assert len(one) > 0
    assert np.array_equal(one.boxes, other.boxes)


# --- what is not unique ----------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [64, 80])
def test_as_many_classes_as_numbers_of_a_distribution(tmp_path, classes):
    torch.manual_seed(0)
    network = Yolov8(classes).eval().requires_grad_(False)
    trunk = OnnxTrunk.from_file(write_family(network, tmp_path / "net.onnx"))
    boxes, _ = expected_boxes(network, torch.from_numpy(trunk.prepare(photograph())))
    assert trunk.look(photograph()).boxes == pytest.approx(boxes, abs=1e-2)
    assert len(trunk.known_classes) == classes


@pytest.fixture(scope="module")
def yolov8(tmp_path_factory):
    return write_family(make_family(Yolov8), tmp_path_factory.mktemp("onnx") / "net.onnx")


def test_names_are_read_as_a_python_dictionary(yolov8, tmp_path):
    model = onnx.load(yolov8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", str(dict(enumerate("abcdef")))
    onnx.save(model, tmp_path / "named.onnx")
    assert OnnxTrunk.from_file(tmp_path / "named.onnx").known_classes == tuple("abcdef")
    entry.value = "(" * 10_000
    onnx.save(model, tmp_path / "named.onnx")
    assert OnnxTrunk.from_file(tmp_path / "named.onnx").known_classes[0] == "class 0"


def changed(path, change):
    model = onnx.load(path)
    change(model)
    return model


def double_output(model):
    name = model.graph.output[0].name
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2), "two"))
    model.graph.node.append(helper.make_node("Mul", [name, "two"], ["twice"]))
    model.graph.output[0].name = "twice"


def forbid(model):
    model.graph.node.append(helper.make_node("NonZero", [model.graph.output[0].name], ["places"]))
    model.graph.output[0].name = "places"


def make_enormous(model):
    for one in model.graph.initializer:
        if len(one.dims) == 4:
            values = onnx.numpy_helper.to_array(one) * np.float32(1e12)
            one.CopyFrom(onnx.numpy_helper.from_array(values, one.name))


def take_an_older_version(model):
    model.opset_import[0].version = 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(double_output, "is that of no head that is known", id="other boxes"),
        pytest.param(forbid, "uses NonZero, which a trunk must not", id="an operation that is not run"),
        pytest.param(make_enormous, "give no maps|of no head that is known", id="enormous numbers"),
        pytest.param(take_an_older_version, "is not run|11 or newer was expected", id="old operators"),
    ],
)
def test_what_is_not_understood_is_said(yolov8, change, message):
    with pytest.raises(ModelError, match=message):
        cut_head(changed(yolov8, change), "net.onnx")


def test_a_file_with_other_boxes_gives_maps_alone(yolov8, tmp_path):
    onnx.save(changed(yolov8, double_output), tmp_path / "twice.onnx")
    trunk = OnnxTrunk.from_file(tmp_path / "twice.onnx")
    assert not trunk.has_head
    assert "Of other heads: the output of" in trunk.refusal
    assert DetectorExtractor(trunk, (64,))(photograph(40, 64)).head is None


def test_files_of_before_have_a_yolox_head():
    graph = DetectorGraph(b"", (), 64, True, ())
    described = {key: value for key, value in graph.described().items() if key not in ("family", "centre")}
    assert DetectorGraph.from_described(b"", described) == graph
    assert graph.has_objectness


def test_the_mean_of_a_distribution_is_its_definition():
    numbers = np.random.default_rng(0).normal(0, 30, (4 * 8, 3, 5)).astype(np.float32)
    shares = torch.from_numpy(numbers).view(4, 8, 3, 5).softmax(1)
    expected = (shares * torch.arange(8).view(1, -1, 1, 1)).sum(1)
    assert integrate(numbers, 8) == pytest.approx(expected.numpy(), abs=1e-5)
