"""ONNX files without a head that is understood, released files, conventions of pixels, and licences."""

import json
import time
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from onnx_detectors import SIZE_PX, Builder, make_detector, write_detector
from onnx_mutants import attempt, mutant
from sppnet.cli.app import app
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.evaluate import evaluate_detector
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError, ModelError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.nn.any_trunk import is_detector, open_trunk, restore_trunk
from sppnet.nn.input_convention import CONVENTIONS
from sppnet.nn.model_file import read_header
from sppnet.nn.onnx_trunk import OnnxTrunk
from test_detect_train import write_scenes


def write_classifier(path, seed=0, size_px=SIZE_PX):
    """images (1, 3, h, w) → (1, 7): three blocks to stride 8, one to 16, and a linear layer."""
    build = Builder(seed)
    fine = build.block(build.block(build.block("images", 3, 8, 3, 2), 8, 8, 3, 2), 8, 12, 3, 2)
    coarse = build.block(fine, 12, 16, 3, 2)
    pooled = build.node("Flatten", build.node("GlobalAveragePool", coarse))
    output = build.node("Gemm", pooled, build.constant(np.ones((16, 7), np.float32)))
    save(build, output, path, size_px)
    return path


def write_joined(path):
    """A detector whose classes and boxes come from one convolution of each stride, as NanoDet-Plus's."""
    build = Builder(0)
    fine = build.block(build.block(build.block("images", 3, 8, 3, 2), 8, 8, 3, 2), 8, 12, 3, 2)
    levels = []
    for source in (fine, build.block(fine, 12, 12, 3, 2)):
        said = build.conv(build.block(source, 12, 10), 10, 20, 1)
        levels.append(build.node("Reshape", said, build.constant(np.array([1, 20, -1]))))
    save(build, build.node("Concat", *levels, axis=2), path, SIZE_PX)
    return path


def save(build, output, path, size_px):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size_px, size_px])
    taken = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(build.nodes, "network", [given], [taken], build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def photograph(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- maps alone ------------------------------------------------------------------------------------


def test_a_classifier_gives_its_last_maps(tmp_path):
    trunk = OnnxTrunk.from_file(write_classifier(tmp_path / "net.onnx"))
    assert not trunk.has_head
    assert (trunk.strides, [tap.channels for tap in trunk.taps]) == ((8, 16), [12, 16])
    assert (trunk.convention_name, trunk.known_classes) == ("imagenet", ())
    assert "a detector like YOLOX was expected" in trunk.refusal
    maps = DetectorExtractor(trunk, (96, 64))(photograph())
    assert maps.head is None
    assert [tuple(one.shape) for one in maps.taps[1].maps] == [(16, 5, 6), (16, 3, 4)]
    assert (maps.taps[0].maps[0] >= 0).all()  # after the activation
    with pytest.raises(ConfigError, match="maps alone: give --proposals learned --vectors pyramid"):
        _ = trunk.layout


def test_maps_of_another_detector_stand_before_its_head(tmp_path):
    trunk = OnnxTrunk.from_file(write_joined(tmp_path / "net.onnx"), "nanodet")
    assert not trunk.has_head
    assert [tap.channels for tap in trunk.taps] == [10, 10]
    assert "2 convolutions, of 20, 20 numbers" in trunk.refusal
    assert trunk.fit_size((50, 70), 64) == (64, 64)


def test_a_network_without_a_map_is_said(tmp_path):
    build = Builder(0)
    output = build.node("Relu", build.conv("images", 3, 8, 3))
    save(build, output, tmp_path / "net.onnx", SIZE_PX)
    with pytest.raises(ModelError, match="no feature map of stride 8, 16, 32"):
        OnnxTrunk.from_file(tmp_path / "net.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6)


def test_learned_windows_stand_on_a_classifiers_maps(data, tmp_path):
    trunk = str(write_classifier(tmp_path / "net.onnx"))
    with pytest.raises(ConfigError, match="maps alone"):
        train_detector(data, tmp_path / "no", DetectorConfig(trunk=trunk))
    with pytest.raises(ConfigError, match="maps alone"):
        train_detector(data, tmp_path / "no", DetectorConfig(trunk=trunk, proposals="learned"))
    config = DetectorConfig(
        trunk=trunk, proposals="learned", vectors="pyramid", scales=(128,), trunk_input="yolo"
    )
    run = train_detector(data, tmp_path / "run", config, cache=tmp_path / "maps")
    loaded = Detector.load(run.model)
    assert loaded.parts.trunk.convention_name == "yolo"
    assert loaded.config.trunk_input == "yolo"
    one, other = (each(data / "00.png", min_score=-1) for each in (run.detector, loaded))
    assert np.array_equal(one.boxes, other.boxes)
    assert evaluate_detector(loaded, open_annotated(data)).map > 0.5


# --- files made bad --------------------------------------------------------------------------------


def test_mutants_are_refused_or_taken_whole(tmp_path):
    """`python tests/onnx_mutants.py --minutes 10` tries more of them."""
    found = Counter(attempt(mutant(np.random.default_rng(seed)), tmp_path) for seed in range(120))
    assert set(found) == {"refused", "boxes", "maps"}
    assert found["refused"] > 50
    assert found["boxes"] > 10


@pytest.mark.parametrize("side", [1 << 13, 1 << 20, 1 << 40])
def test_an_enormous_input_is_refused(side, tmp_path):
    model = make_detector()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = side
    onnx.save(model, tmp_path / "d.onnx")
    with pytest.raises(ModelError, match=f"of {side} pixels a side; networks of up to 4096 are run"):
        OnnxTrunk.from_file(tmp_path / "d.onnx")


def test_an_enormous_tensor_is_refused_before_it_is_made(tmp_path):
    model = make_detector()
    pads = next(one for one in model.graph.node[1].attribute if one.name == "pads")
    pads.ints[:] = [60_000] * 4
    onnx.save(model, tmp_path / "d.onnx")
    with pytest.raises(ModelError, match="too large to compute"):
        OnnxTrunk.from_file(tmp_path / "d.onnx")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    model = make_detector()
    weight = model.graph.initializer[3]
    weight.raw_data = np.full(len(weight.raw_data) // 4, np.inf, np.float32).tobytes()
    onnx.save(model, tmp_path / "d.onnx")
    with pytest.raises(ModelError, match="not finite"):
        DetectorExtractor(OnnxTrunk.from_file(tmp_path / "d.onnx"))(photograph())


def test_a_head_that_steps_over_cells_is_not_understood(tmp_path):
    """Its features are not those of the cells that its last convolutions give."""
    model = make_detector()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in (*convolutions[7:10], *convolutions[13:16]):  # the last ones of both strides
        next(one for one in node.attribute if one.name == "strides").ints[:] = [2, 2]
    onnx.save(model, tmp_path / "d.onnx")
    trunk = OnnxTrunk.from_file(tmp_path / "d.onnx")
    assert not trunk.has_head
    assert "stand on maps of other sizes" in trunk.refusal


def test_heads_of_several_widths_are_not_understood(tmp_path):
    """Vectors of one length could not be made of them."""
    model = make_detector()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    tower, logits = convolutions[5], convolutions[7]  # of classes, at stride 8
    widened = {tower.input[1]: (7, 6, 3, 3), tower.input[2]: (7,), logits.input[1]: (5, 7, 1, 1)}
    for weight in model.graph.initializer:
        if weight.name in widened:
            array = np.zeros(widened[weight.name], np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "d.onnx")
    trunk = OnnxTrunk.from_file(tmp_path / "d.onnx")
    assert not trunk.has_head
    assert "as many features were expected" in trunk.refusal


def test_branches_may_share_their_last_features(tmp_path):
    model = make_detector()
    last = [node for node in model.graph.node if node.op_type == "Conv" and node.attribute[0].ints == [1, 1]]
    for logits, box, objectness in (last[1:4], last[5:8]):
        logits.input[0] = box.input[0] = objectness.input[0]
    onnx.save(model, tmp_path / "d.onnx")
    trunk = OnnxTrunk.from_file(tmp_path / "d.onnx")
    assert trunk.has_head
    assert (trunk.layout.class_features, trunk.layout.box_features) == (6, 6)
    vectors = DetectorExtractor(trunk)(photograph()).head.vectors
    assert np.array_equal(vectors[:, :6], vectors[:, 6:12])


# --- conventions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVENTIONS)
def test_pixels_are_as_the_convention_says(name, tmp_path):
    trunk, how = OnnxTrunk.from_file(write_detector(tmp_path / "d.onnx"), name), CONVENTIONS[name]
    image = photograph(16, 16)
    expected = (image[..., ::-1] if how.bgr else image) * (how.peak / 255)
    expected = (expected - np.array(how.mean)) / np.array(how.std)
    assert trunk.prepare(image)[0, :, :16, :16] == pytest.approx(expected.transpose(2, 0, 1), abs=1e-4)
    assert trunk.fit_size((10, 20), 64) == ((64, 64) if how.stretch else (32, 64))
    assert restore_trunk(trunk.spec, trunk.state_dict()).convention == how


def test_a_stretched_image_has_its_boxes_where_they_are(tmp_path):
    trunk = OnnxTrunk.from_file(write_detector(tmp_path / "d.onnx"), "nanodet")
    maps = DetectorExtractor(trunk)(photograph(40, 160))
    assert maps.sizes_hw == ((64, 64),)
    assert maps.head.boxes[:, 2].max() > 100
    assert (maps.head.boxes <= [160, 40, 160, 40]).all()


def test_conventions_that_do_not_fit_are_refused(tmp_path):
    file = write_detector(tmp_path / "d.onnx")
    with pytest.raises(ConfigError, match="did you mean picodet"):
        open_trunk(str(file), convention="picodets")
    with pytest.raises(ConfigError, match="trunk_input is for ONNX files"):
        DetectorConfig(trunk="zf5", trunk_input="yolox")


# --- licences --------------------------------------------------------------------------------------


def test_the_licence_beside_the_file_goes_with_it(tmp_path):
    file = write_detector(tmp_path / "net.onnx")
    assert OnnxTrunk.from_file(file).licence is None
    (tmp_path / "LICENSE.txt").write_text("\n  Of the folder\n")
    assert OnnxTrunk.from_file(file).licence["file"] == "LICENSE.txt"
    (tmp_path / "net_LICENSE").write_text("Apache License\nVersion 2.0")
    trunk = OnnxTrunk.from_file(file)
    assert trunk.licence == {"file": "net_LICENSE", "text": "Apache License\nVersion 2.0"}
    assert restore_trunk(trunk.spec, trunk.state_dict()).licence == trunk.licence


def test_a_model_file_holds_the_licence(data, tmp_path):
    (tmp_path / "net_LICENSE").write_text("Apache License\nVersion 2.0")
    trunk = str(write_detector(tmp_path / "net.onnx"))
    run = train_detector(data, tmp_path / "run", DetectorConfig(trunk=trunk, positive_iou=0.4))
    assert read_header(run.model)["trunk"]["onnx"]["licence"]["text"].startswith("Apache License")
    said = CliRunner().invoke(app, ["trunk", str(run.model)], catch_exceptions=False).output
    assert "licence   Apache License (net_LICENSE)" in said
    assert "8 at stride 8, 8 at stride 16" in said


# --- released files --------------------------------------------------------------------------------


def test_a_released_file_is_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    write_detector(folder / "yolox_nano.onnx")
    assert is_detector("yolox_nano")
    assert open_trunk("yolox_nano", weights="coco").name == "yolox_nano.onnx"
    other = write_detector(tmp_path / "other.onnx", seed=1)
    assert open_trunk("yolox_tiny", weights=str(other)).name == "other.onnx"
    said = CliRunner().invoke(app, ["trunk", "yolox_nano", "--json"], catch_exceptions=False)
    facts = json.loads(said.output)
    assert facts["file"] == str(folder / "yolox_nano.onnx")
    assert len(facts["sha256"]) == 64
    for weights in (None, "imagenet", "w.pth"):
        with pytest.raises(ConfigError, match="give --weights coco"):
            open_trunk("yolox_nano", weights=weights)


def test_without_a_network_one_is_told_what_to_do_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("sppnet.nn.yolox_release.YOLOX_RELEASE", "http://127.0.0.1:9/release")
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be reached.*https_proxy.*copy it to .*yolox_nano\.onnx"):
        open_trunk("yolox_nano", weights="coco")
    assert time.monotonic() - began < 5
    assert not torch.hub.get_dir().startswith("~")
    assert not list(tmp_path.rglob("*.onnx"))


# --- the command -----------------------------------------------------------------------------------


def test_the_command_tells_of_maps_alone(tmp_path):
    file = write_classifier(tmp_path / "net.onnx")
    said = CliRunner().invoke(app, ["trunk", str(file), "--trunk-input", "picodet"], catch_exceptions=False)
    assert said.exit_code == 0
    assert "12 at stride 8, 16 at stride 16" in said.output
    assert "head      none: " in said.output
    assert "RGB, white is 1, stretched (picodet)" in said.output
    assert "licence   none beside the file" in said.output
