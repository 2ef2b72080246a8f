"""ONNX files: PyTorch's numbers on sizes that do not divide, what they say of themselves, and no sppnet."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sppnet.classify.classifier import Classifier, Testing
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.errors import MissingExtraError, ModelError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.geometry.grid import CellGrid, boxes_to_cells
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.ops.pooling import pyramid_pool
from sppnet.svm.linear_svm import LinearSVM

onnx_file = pytest.importorskip("sppnet.export.onnx", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from sppnet.export import parity  # noqa: E402
from sppnet.export.networks import trace_cells  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "run_onnx.py"
CLASSES = ("bird", "cat", "dog")
SCALE = 97


def make_classifier(head, levels=(1, 2, 3), size=None):
    torch.manual_seed(0)
    network = SPPNet(load_trunk("zf5", width=0.0625), levels, 3, head=head, hidden=16, size=size).eval()
    if head == "svm":
        nn.init.normal_(network.head.weight)
    return Classifier(network, CLASSES, Testing(scale_px=SCALE, views="full"), {})


def make_detector(layer="fc7", rule="paper", method="spp", trunk="zf5", width=0.0625):
    torch.manual_seed(0)
    finetune = "none" if layer == "pool" else "fc"
    config = DetectorConfig(
        trunk=trunk, width=width, scales=(SCALE,), levels=(1, 2, 3, 6),
        proposals="selective-search", finetune=finetune, svm_layer=layer, hidden=16, box_mapping=rule,
        method=method,
    )  # fmt: skip
    trunk = load_trunk(trunk, width=width).eval()
    length = trunk.channels * 50
    head = None if layer == "pool" else detection_head(length, 16, 3).eval()
    judged = length if layer == "pool" else 16
    svm = LinearSVM(torch.randn(3, judged), torch.randn(3), CLASSES)
    regressor = BoxRegressor(torch.randn(3, 4, length) / 300, torch.zeros(3, 4), CLASSES)
    return Detector(DetectorComponents(CLASSES, config, trunk, None, head, svm, regressor))


@dataclass(frozen=True)
class Exported:
    """Models of each kind with their files; one was written by the command, which ended like this."""

    files: dict[str, tuple[object, Path]]
    command: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx")
    models = {
        "fc": make_classifier("fc"),
        "svm": make_classifier("svm"),
        "fixed": make_classifier("fc", None, 223),
        "detector": make_detector(),
    }
    paths = {name: folder / f"{name}.onnx" for name in models}
    paths["svm"] = folder / "of the command" / "svm.onnx"
    for name in ("fc", "fixed", "detector"):
        onnx_file.export_model(models[name], paths[name])
    models["svm"].save(folder / "svm.safetensors")
    words = ["export", "onnx", "--model", folder / "svm.safetensors", "--out", paths["svm"]]
    command = [sys.executable, "-W", "error", "-m", "sppnet", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Exported({name: (model, paths[name]) for name, model in models.items()}, done)


@pytest.fixture(scope="module")
def files(exported) -> dict[str, tuple[object, Path]]:
    """A model of each kind, and its file."""
    return exported.files


def open_file(path):
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def photograph(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


# --- the operator --------------------------------------------------------------------------------


class Pool(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, features, cells=None):
        return pyramid_pool(features, cells, self.levels)


def pool_in_onnx(levels, cells=False):
    """A graph made with one size, to be run on others: vectors of features, and cells where asked for."""
    inputs = {"features": torch.rand(2, 3, 8, 9)}
    any_size = torch.export.Dim.DYNAMIC
    dynamic = {"features": {0: any_size, 2: any_size, 3: any_size}}
    if cells:
        inputs["cells"] = torch.tensor([[0, 0, 0, 4, 5], [1, 1, 1, 2, 3]])
        dynamic["cells"] = {0: any_size}
    recipe = onnx_file.Recipe(Pool(levels), inputs, ("vectors",), dynamic, {}, lambda run: None)
    session = onnx_file.open_session(onnx_file.convert(recipe))
    return lambda *given: session(dict(zip(inputs, (one.numpy() for one in given), strict=True)))[0]


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param((1, 2, 3, 6), id="levels of which one holds all"),
        pytest.param((4, 7), id="levels that stand alone"),
    ],
)
def test_whole_maps_have_the_bits_of_the_operator(levels):
    pool = pool_in_onnx(levels)
    for height, width in ((57, 10), (1, 5), (13, 2)):
        features = torch.randn(3, 3, height, width)
        assert (pool(features) == pyramid_pool(features, None, levels).numpy()).all()


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (7,)])
def test_windows_have_the_bits_of_the_operator(levels):
    """Seven bins of 57 cells are where regions divided in float32 see one cell too many."""
    features = torch.randn(2, 3, 61, 59)
    rng = np.random.default_rng(0)
    y, x = (np.sort(rng.integers(0, side, (40, 2)), 1) for side in (61, 59))
    cells = np.stack([rng.integers(0, 2, 40), x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], 1)
    cells[0] = [1, 1, 2, 58, 59]
    chosen = torch.from_numpy(cells)
    pool = pool_in_onnx(levels, cells=True)
    assert (pool(features, chosen) == pyramid_pool(features, chosen, levels).numpy()).all()


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_boxes_fall_on_the_cells_they_always_do(rule):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-60, 500, (3000, 2, 2)), 1)
    boxes = np.vstack([corners.reshape(-1, 4), rng.integers(0, 40, (500, 4))]).astype(np.float32)
    for stride, center0 in ((16, 7.5), (7, -3)):
        grid = CellGrid(stride=stride, center0=center0, receptive_field=99)
        found = trace_cells(torch.from_numpy(boxes), grid, torch.tensor([21, 34]), rule)
        assert (found.numpy() == boxes_to_cells(boxes, grid, (34, 21), rule)).all()


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fc", "svm"])
def test_a_classifier_says_of_any_size_what_it_always_said(files, name):
    classifier, path = files[name]
    session = open_file(path)
    for size_hw in ((SCALE, 143), (SCALE, SCALE), (201, SCALE)):
        image = photograph(*size_hw)
        (scores,) = session.run(None, {"pixels": image[None]})
        np.testing.assert_allclose(scores[0], classifier.scores(image).numpy(), rtol=1e-4, atol=1e-5)
    (scores,) = session.run(None, {"pixels": np.stack([image] * 5)})
    assert scores.shape == (5, 3)


def test_a_network_of_one_size_keeps_it(files):
    classifier, path = files["fixed"]
    session = open_file(path)
    assert session.get_inputs()[0].shape[1:] == [223, 223, 3]
    image = photograph(223, 223)
    (scores,) = session.run(None, {"pixels": image[None]})
    expected = classifier.scores(image, views="warp", size_px=223)
    np.testing.assert_allclose(scores[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_detector_scores_and_moves_boxes_as_it_always_did(files):
    detector, path = files["detector"]
    session = open_file(path)
    for number, size_hw in enumerate(((SCALE, 131), (150, SCALE))):
        image = photograph(*size_hw, seed=number)
        boxes = parity.draw_boxes(np.random.default_rng(number), size_hw, 30)
        scores, corrected = session.run(None, {"pixels": image, "boxes": boxes})
        photo = LazyImage(image, detector.extractor)  # whose maps are in half precision
        vectors = detector.roi_extractor(photo, boxes)
        expected = detector.parts.svm.scores(vectors.distinct).numpy()[vectors.roi_of_box]
        np.testing.assert_allclose(scores, expected, atol=0.01 * np.abs(expected).max())
        for label in range(3):
            moved = detector.parts.regressor.apply(
                vectors.take_pooled(np.arange(30)), boxes, np.full(30, label), size_hw
            )
            np.testing.assert_allclose(corrected[:, label], moved, atol=0.5)
    scores, corrected = session.run(None, {"pixels": image, "boxes": np.empty((0, 4), np.float32)})
    assert (scores.shape, corrected.shape) == ((0, 3), (0, 3, 4))


def test_a_detector_on_pooled_vectors_and_released_cells_with_taps_of_several_strides(tmp_path):
    """The check against PyTorch is inside."""
    detector = make_detector("pool", "released", trunk="mobilenet_v2:3+5", width=1.0)
    assert [tap.grid.stride for tap in detector.parts.trunk.taps] == [4, 8]
    onnx_file.export_model(detector, tmp_path / "model.onnx")
    said = open_file(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert said["stride"] == "4,8"


def test_what_a_user_must_know_stands_in_the_file(files):
    said = {name: open_file(path).get_modelmeta().custom_metadata_map for name, (_, path) in files.items()}
    assert {name: meta["kind"] for name, meta in said.items()} == {
        "fc": "classifier", "svm": "classifier", "fixed": "classifier", "detector": "detector",
    }  # fmt: skip
    assert all(json.loads(meta["classes"]) == list(CLASSES) for meta in said.values())
    assert [said[name]["scores"].split()[0] for name in ("fc", "svm", "detector")] == [
        "probabilities", "margins", "margins",
    ]  # fmt: skip
    assert (said["fc"]["views"], said["fc"]["scale_px"]) == ("full", str(SCALE))
    assert (said["fixed"]["views"], said["fixed"]["size_px"]) == ("warp", "223")
    assert json.loads(said["detector"]["scales_px"]) == [SCALE]
    assert (said["detector"]["nms"], said["detector"]["stride"]) == ("0.3", "16")
    assert json.loads(said["detector"]["normalisation"])["std"] == [0.25] * 3


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(lambda found: found + 1, r"differ by \d.* the file is not written", id="numbers"),
        pytest.param(lambda found: found * np.nan, "differ by nan", id="not a number"),
        pytest.param(lambda found: found[:, :2], r"shape \(1, 2\) in ONNX, \(1, 3\) in PyTorch", id="shapes"),
    ],
)
def test_a_file_that_disagrees_is_not_written(files, tmp_path, monkeypatch, wrong, message):
    classifier, exported = files["fc"]
    monkeypatch.setattr(onnx_file, "convert", lambda recipe: exported.read_bytes())  # once is enough
    honest = onnx_file.open_session
    lying = lambda content: lambda inputs: [wrong(found) for found in honest(content)(inputs)]  # noqa: E731
    monkeypatch.setattr(onnx_file, "open_session", lying)
    path = tmp_path / "model.onnx"
    path.write_text("what was there")
    with pytest.raises(ModelError, match=message):
        onnx_file.export_model(classifier, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "what was there")]


def test_a_cell_off_by_one_is_seen():
    """The check compares with the package's own way from boxes to cells."""
    detector = make_detector("pool")

    def run(inputs):
        return parity.judged(detector, inputs["pixels"], inputs["boxes"] + np.float32(8))

    with pytest.raises(ModelError, match="the scores in"):
        parity.check_detector(detector, run)


def test_rcnn_is_refused():
    detector = make_detector("pool")
    detector.roi_extractor = make_roi_extractor(
        DetectorConfig(method="rcnn"), FeatureExtractor(detector.parts.trunk, (SCALE,)), None
    )
    with pytest.raises(ModelError, match=r"R-CNN method .* --method spp"):
        onnx_file.detector_recipe(detector)


def test_what_the_exporter_cannot_is_told_in_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, features):
            return features[features.sum() > 0]

    recipe = onnx_file.Recipe(Odd(), {"pixels": torch.rand(2, 3)}, ("y",), {"pixels": {}}, {}, print)
    with pytest.raises(ModelError, match=r"cannot be exported to ONNX: .+") as caught:
        onnx_file.convert(recipe)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[onnx\]'"):
        onnx_file.export_model(make_classifier("fc"), tmp_path / "model.onnx")


# --- from outside --------------------------------------------------------------------------------


def run_example(path, image):
    """The worked example, where neither sppnet nor torch can be imported."""
    code = (
        "import runpy, sys\n"
        "for name in ('sppnet', 'torch', 'torchvision'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-W", "error", "-c", code, EXAMPLE, path, image]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=2) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", ["fc", "svm", "fixed"])
def test_the_example_classifies_without_sppnet(files, tmp_path, name):
    classifier, path = files[name]
    Image.fromarray(photograph(120, 310)).save(tmp_path / "photo.png")
    how = {"views": "warp", "size_px": 223} if name == "fixed" else {}
    expected = classifier(tmp_path / "photo.png", **how)
    rows = run_example(path, tmp_path / "photo.png")
    assert [row[1] for row in rows] == list(expected.classes)
    assert [float(row[0]) for row in rows] == pytest.approx(expected.scores, abs=2e-3)


def test_the_example_detects_without_sppnet(files, tmp_path):
    _, path = files["detector"]
    Image.fromarray(photograph(120, 310)).save(tmp_path / "photo.png")
    rows = run_example(path, tmp_path / "photo.png")
    assert rows
    assert {row[1] for row in rows} <= set(CLASSES)
    boxes = np.array([json.loads(row[2]) for row in rows])
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= [310, 120, 310, 120]).all()


def test_the_command_writes_the_file_and_tells_where(exported):
    done, (_, path) = exported.command, exported.files["svm"]
    assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert open_file(path).get_modelmeta().custom_metadata_map["kind"] == "classifier"


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from sppnet.cli import main\n"
        "sys.argv = ['sppnet', 'export', 'onnx', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('HEAVY', {'torch', 'numpy', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "HEAVY set()"
