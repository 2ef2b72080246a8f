"""The engine int8: a trunk's graph with 8-bit numbers, from training to the model file."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError, DataError, ModelError
from sppnet.export.onnx import export_model
from sppnet.features.cache import recipe_of
from sppnet.features.extractor import FeatureExtractor
from sppnet.nn import engines
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.onnx_session import open_session
from sppnet.nn.onnx_translation import translate_body
from sppnet.nn.quantisation import KEPT_CONVOLUTIONS, quantise, quantise_trunk
from sppnet.nn.trunks import load_trunk
from test_detect_train import assert_same_tensors, draw_scene, stop_at, write_scenes, write_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def noise(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, 70 + 9 * index, 90, generator=generator) for index in range(count)]


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    made = load_trunk("mobilenet_v2:5+8").eval()
    quantise_trunk(made, noise(3))
    return made


def test_maps_are_nearly_those_of_float32(trunk):
    plain = trunk.with_body(trunk.body)
    image = np.random.default_rng(0).integers(0, 256, (95, 133, 3), np.uint8)
    by_int8, by_float = FeatureExtractor(trunk, (64,)), FeatureExtractor(plain, (64,))
    assert (by_int8.engine_name, by_float.engine_name) == ("int8", "onnx")
    for found, expected in zip(by_int8(image).taps, by_float(image).taps, strict=True):
        for one, other in zip(found.maps, expected.maps, strict=True):
            assert one.shape == other.shape
            assert 0 < (one - other).float().norm() < 0.2 * other.float().norm()
    assert recipe_of(by_int8) != recipe_of(by_float)


def test_the_same_images_give_the_same_graph(trunk):
    content = translate_body(fuse_conv_bn(trunk.body))
    first, second = (quantise(content, [image.numpy() for image in noise(3)]) for _ in range(2))
    assert first == second == trunk.int8.numpy().tobytes()
    assert first != quantise(content, [image.numpy() for image in noise(2)])


def test_all_but_the_first_convolutions_have_8_bits(trunk):
    graph = onnx.load_model_from_string(trunk.int8.numpy().tobytes()).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    weights = [makers.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    assert weights == [None] * KEPT_CONVOLUTIONS + ["DequantizeLinear"] * (len(weights) - KEPT_CONVOLUTIONS)
    assert len(weights) > KEPT_CONVOLUTIONS


def test_other_weights_are_not_quantised(trunk):
    assert trunk.with_body(trunk.body).int8 is None
    with pytest.raises(ConfigError, match="the engine int8 needs a quantised trunk"):
        FeatureExtractor(load_trunk("squeezenet1_1:6"), (64,), "int8")


# --- a detector ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DetectorConfig:
    weights = write_weights(tmp_path_factory.mktemp("weights"))
    return DetectorConfig(
        trunk="squeezenet1_1:6", weights=str(weights), scales=(96,), levels=(1, 2), max_proposals=60,
        C=1e-3, rounds=2, device="cpu", engine="int8",
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", 18)


@pytest.fixture(scope="module")
def trained(data, config, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return train_detector(data, root / "whole", config, cache=root / "cache")


def test_the_model_file_holds_the_graph(trained):
    pixels, _ = draw_scene(200)
    loaded = Detector.load(trained.model)
    assert loaded.extractor.engine_name == "int8"
    assert load_file(trained.model)["trunk.int8"].dtype == torch.uint8
    found, own = loaded(pixels, min_score=-1), trained.detector(pixels, min_score=-1)
    assert len(own) > 0
    np.testing.assert_array_equal(found.boxes, own.boxes)
    np.testing.assert_array_equal(found.scores, own.scores)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stopped_run_goes_on_to_the_same_weights(trained, data, config, tmp_path, stage):
    cache = trained.model.parent.parent / "cache"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stage)
        with pytest.raises(Exception, match=r"^$"):
            train_detector(data, tmp_path, config, cache=cache)
    train_detector(data, tmp_path, config, cache=cache, resume=True)
    assert_same_tensors(trained.model, tmp_path / "detector.safetensors")


def test_without_onnxruntime_it_runs_in_float32(trained, monkeypatch):
    pixels, _ = draw_scene(200)
    quantised = trained.detector(pixels, min_score=-1)
    monkeypatch.setattr(engines, "find_spec", lambda package: None)
    plain = Detector.load(trained.model)
    assert plain.extractor.engine_name == "torch"
    found = plain(pixels, min_score=-1)
    assert found.labels[0] == quantised.labels[0]
    np.testing.assert_allclose(found.boxes[0], quantised.boxes[0], atol=4)
    np.testing.assert_allclose(found.scores[0], quantised.scores[0], atol=0.3)


def test_a_damaged_graph_is_refused(trained, tmp_path):
    with safe_open(trained.model, "pt") as file:
        header = file.metadata()
    tensors = load_file(trained.model)
    tensors["trunk.int8"] = tensors["trunk.int8"][:100].clone()
    save_file(tensors, tmp_path / "damaged.safetensors", header)
    with pytest.raises(ModelError, match="damaged"):
        Detector.load(tmp_path / "damaged.safetensors")


def test_the_float32_trunk_is_exported(trained, tmp_path, monkeypatch):
    export_model(Detector.load(trained.model), tmp_path / "model.onnx")
    monkeypatch.setattr(engines, "find_spec", lambda package: None)
    plain = Detector.load(trained.model)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8)
    boxes = np.array([[0, 0, 90, 90], [20, 10, 110, 80]], np.float32)
    session = open_session((tmp_path / "model.onnx").read_bytes())
    scores, _ = session.run(None, {"pixels": pixels, "boxes": boxes})
    maps = plain.extractor(pixels)
    expected = plain.parts.svm.scores(maps.pool(boxes, plain.config.levels, plain.config.box_mapping))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("other", [{"method": "faster"}, {"joint_steps": 3}, {"finetune": "all"}])
def test_a_trunk_that_learns_is_not_quantised(config, other):
    with pytest.raises(ConfigError, match=re.escape("for a trunk that stays as it is")):
        replace(config, **{"method": "auto", **other})


def test_photographs_that_cannot_be_read(config, data, tmp_path):
    for path in data.glob("*"):
        target = tmp_path / path.name
        target.write_bytes(path.read_bytes() if path.suffix == ".xml" else path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"none of 16 photographs could be read, such as .*\.png"):
        train_detector(tmp_path, tmp_path.parent / "run", config)
