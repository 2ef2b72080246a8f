"""A detector around the network of an ONNX file as one graph: image → what the package finds in it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, version_converter
from PIL import Image

from onnx_detectors import make_detector, write_detector
from sppnet.data.image import read_image
from sppnet.data.transforms import resize_to
from sppnet.detect.box_refinement import BoxRefiner
from sppnet.detect.components import DetectorComponents, vector_length
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.known_classes import append_kept, find_known_classes
from sppnet.detect.probabilities import LOGIT_SHARE, ScoreProbabilities
from sppnet.errors import ModelError
from sppnet.export import onnx as onnx_file
from sppnet.export import parity
from sppnet.export.trunk_graphs import write_cells
from sppnet.features.head_boxes import LOG_SHARE
from sppnet.features.lazy_image import LazyImage
from sppnet.geometry.grid import CellGrid, boxes_to_cells, count_bins
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.graph_writer import GraphWriter, TensorInfo
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.structures import Detections
from sppnet.svm.linear_svm import LinearSVM
from test_export import open_file, photograph, run_example

SHARED = Path(__file__).parents[2] / "shared" / "data"
YOLOX = SHARED / "weights" / "yolox_nano.onnx"
needs_yolox = pytest.mark.skipif(not YOLOX.exists(), reason="needs ../shared/data/weights/yolox_nano.onnx")

NAMES = json.dumps(["RED", "b", "c", "d", "e"])


def random_detector(path, classes=("red", "green"), convention=None, **options):
    """A detector whose first class the network knows and whose other weights are at random."""
    trunk = OnnxTrunk.from_file(path, convention)
    config = DetectorConfig(
        **{
            "trunk": "x.onnx",
            "scales": (trunk.size_px,),
            "proposals": "trunk",
            "vectors": "both",
            "levels": (1, 2),
            "refine_levels": None,
            **options,
        }
    )
    rng, length = torch.Generator().manual_seed(0), vector_length(config, trunk)
    weight = torch.randn(len(classes), length, generator=rng) / length**0.5
    if config.vectors != "pyramid":
        for known in find_known_classes(classes, trunk):
            weight[known.label, [known.column, known.objectness]] = LOGIT_SHARE / LOG_SHARE
    svm = LinearSVM(weight, torch.full((len(classes),), 0.1), classes)
    regressor = BoxRegressor(
        torch.randn(len(classes), 4, length, generator=rng) / length / 4,
        torch.zeros(len(classes), 4),
        classes,
    )
    odds = ScoreProbabilities(np.array([1.5, np.nan]), np.array([0.2, np.nan]))
    windows = None
    if config.proposals != "trunk":
        windows = ProposalHead(trunk.channels, WindowConfig())
        for parameter in windows.state_dict().values():
            parameter.zero_()
    refiner = None
    if config.refine_levels is not None:
        count = trunk.channels * count_bins(config.refine_levels)
        tensors = {"weight": torch.randn(4, count, generator=rng) / count / 4, "bias": torch.full((4,), 0.03)}
        refiner = BoxRefiner.read(tensors, config)
    parts = DetectorComponents(classes, config, trunk, windows, None, svm, regressor, odds, refiner)
    return Detector(append_kept(parts))


def find(session, detector, image, **given):
    boxes, scores, labels, odds = session.run(None, {"pixels": image, **given})
    return Detections(boxes, scores, labels, detector.classes, odds)


def is_same(one: Detections, other: Detections) -> None:
    assert len(one) == len(other) > 0
    assert np.array_equal(one.labels, other.labels)
    assert one.boxes == pytest.approx(other.boxes, abs=0.02)
    assert one.scores == pytest.approx(other.scores, abs=2e-3)
    assert one.probabilities == pytest.approx(other.probabilities, abs=2e-3, nan_ok=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx", names=NAMES)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"vectors": "both"}, id="head and pyramid"),
        pytest.param({"vectors": "head"}, id="head"),
        pytest.param({"vectors": "pyramid"}, id="pyramid"),
        pytest.param({"keep": ("c", "d")}, id="kept classes"),
        pytest.param({"voting_iou": 1.0, "box_mapping": "released"}, id="released cells, no votes"),
        pytest.param({"convention": "picodet"}, id="stretched and normalised"),
        pytest.param({"refine_levels": (1, 3)}, id="boxes corrected twice"),
        pytest.param({"refine_levels": (1, 3), "keep": ("c", "d")}, id="boxes corrected, kept classes"),
    ],
)
def test_the_file_finds_what_the_detector_finds(file, tmp_path, options):
    detector = random_detector(file, **options)
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    session = open_file(tmp_path / "out.onnx")
    assert [one.name for one in session.get_inputs()] == ["pixels"]
    for seed, size_hw in enumerate(((64, 47), (31, 64), (64, 64))):
        image = photograph(*((64, 64) if "convention" in options else size_hw), seed)
        is_same(find(session, detector, image), detector.detect(detector_photo(detector, image)))


def detector_photo(detector, image):
    return LazyImage(image, detector.extractor)


@pytest.mark.parametrize("vectors", ["both", "pyramid"])
@pytest.mark.parametrize("proposals", ["joined", "learned"])
def test_windows_are_given_where_the_network_s_own_boxes_do_not_suffice(file, tmp_path, proposals, vectors):
    detector = random_detector(file, proposals=proposals, vectors=vectors, max_proposals=50)
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    session, image = open_file(tmp_path / "out.onnx"), photograph(64, 50)
    windows = parity.draw_boxes(np.random.default_rng(0), (64, 50), 70)
    is_same(find(session, detector, image, windows=windows), parity.find_among(detector, image, windows))
    none = find(session, detector, image, windows=np.empty((0, 4), np.float32))
    assert (len(none) > 0) == (proposals == "joined")


def test_a_network_without_a_head_takes_windows(tmp_path):
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Relu", ["c"], ["m"]),
        helper.make_node("GlobalAveragePool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["out"]),
    ]
    weight = np.random.default_rng(0).normal(0, 0.05, (9, 3, 8, 8)).astype(np.float32)
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    taken = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    weights = [onnx.numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "classifier", [given], [taken], weights)
    path = tmp_path / "plain.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    detector = random_detector(path, proposals="learned", vectors="pyramid")
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    session, image = open_file(tmp_path / "out.onnx"), photograph(64, 50)
    windows = parity.draw_boxes(np.random.default_rng(0), (64, 50), 30)
    is_same(find(session, detector, image, windows=windows), parity.find_among(detector, image, windows))


@needs_yolox
@pytest.mark.shared
@pytest.mark.parametrize("vectors", ["head", "both", "pyramid"])
def test_real_photographs(tmp_path, vectors):
    keep = () if vectors == "pyramid" else ("car", "dog")
    detector = random_detector(YOLOX, ("person", "raccoon"), vectors=vectors, keep=keep, levels=(1, 2, 3))
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    session = open_file(tmp_path / "out.onnx")
    licence = YOLOX.with_name("yolox_nano_LICENSE").read_text()
    assert session.get_modelmeta().custom_metadata_map["trunk_licence"] == licence
    photographs = sorted((SHARED / "voc2007_5cls").rglob("*.jpg"))[:6]
    assert len(photographs) == 6
    for path in photographs:
        whole = read_image(path)
        image = resize_to(whole, detector.parts.trunk.fit_size(whole.shape[:2], 416))
        expected = detector.detect(detector_photo(detector, image))
        got = find(session, detector, image)
        assert parity.share_found(expected, got) > 0.98
        assert parity.share_found(got, expected) > 0.98


def test_what_a_user_must_know_stands_in_the_file(file, tmp_path):
    (file.with_name("tiny_LICENSE")).write_text("Do as you like")
    onnx_file.export_model(random_detector(file), tmp_path / "out.onnx")
    said = open_file(tmp_path / "out.onnx").get_modelmeta().custom_metadata_map
    assert (said["kind"], json.loads(said["classes"])) == ("whole detector", ["red", "green"])
    assert (json.loads(said["scales_px"]), said["resized_side"]) == ([64], "longer")
    assert said["trunk_licence"] == "Do as you like"
    assert "windows" not in said


@pytest.mark.parametrize("proposals", ["trunk", "joined"])
def test_the_example_detects_without_sppnet(file, tmp_path, proposals):
    detector = random_detector(file, proposals=proposals)
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    Image.fromarray(photograph(120, 310)).save(tmp_path / "photo.png")
    rows = run_example(tmp_path / "out.onnx", tmp_path / "photo.png")
    assert rows
    assert {row[1] for row in rows} <= {"red", "green"}
    if proposals == "trunk":
        found = detector(tmp_path / "photo.png")
        assert [row[1] for row in rows] == found.names
        boxes = np.array([json.loads(row[2]) for row in rows])
        assert boxes == pytest.approx(found.boxes, abs=5)  # a pixel of the network is 4.8 of the photograph


def test_a_newer_network_keeps_its_operators(file, tmp_path):
    onnx.save(version_converter.convert_version(make_detector(names=NAMES), 20), tmp_path / "new.onnx")
    detector = random_detector(tmp_path / "new.onnx")
    onnx_file.export_model(detector, tmp_path / "out.onnx")
    assert [one.version for one in onnx.load(tmp_path / "out.onnx").opset_import if not one.domain] == [20]


def test_several_scales_and_a_file_of_boxes_are_refused(file, tmp_path):
    with pytest.raises(ModelError, match="2 scales; one graph has one"):
        onnx_file.export_model(random_detector(file, scales=(64, 96)), tmp_path / "out.onnx")
    detector = random_detector(file)
    object.__setattr__(detector.config, "proposals", "file")
    with pytest.raises(ModelError, match="proposals file cannot be put into a graph"):
        onnx_file.export_model(detector, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_that_finds_other_things_is_not_written(file, tmp_path, monkeypatch):
    detector = random_detector(file)
    honest = onnx_file.open_session

    def open_lying(content):
        run = honest(content)
        return lambda inputs: [one[: len(one) // 2] for one in run(inputs)]

    monkeypatch.setattr(onnx_file, "open_session", open_lying)
    with pytest.raises(ModelError, match="are the same in ONNX and PyTorch: the file is not written"):
        onnx_file.export_model(detector, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_boxes_fall_on_the_cells_they_always_do(rule):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-60, 500, (3000, 2, 2)), 1)
    boxes = np.vstack([corners.reshape(-1, 4), rng.integers(0, 40, (500, 4))]).astype(np.float32)
    for stride, center0 in ((16, 7.5), (7, -3)):
        grid, op = CellGrid(stride=stride, center0=center0, receptive_field=99), GraphWriter(18, "")
        op.named("cells", write_cells(op, "boxes", grid, op.ints(34, 21), rule))
        model = op.model([TensorInfo("boxes", np.float32, ("n", 4))], [TensorInfo("cells", np.int64)])
        (found,) = onnx_file.open_session(model.SerializeToString())({"boxes": boxes})
        assert (found[:, 0] == 0).all()
        assert (found[:, 1:] == boxes_to_cells(boxes, grid, (21, 34), rule)).all()
