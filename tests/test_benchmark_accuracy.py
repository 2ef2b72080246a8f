"""`sppnet benchmark accuracy`: a row a detector, with small detectors whose weights are random."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import small_classifier
from onnx_detectors import CLASSES, write_detector
from sppnet.benchmark import accuracy, detect
from sppnet.benchmark.detection_peers import OnnxDetector, evaluate_peer
from sppnet.benchmark.results import Timing
from sppnet.boxes import box_iou
from sppnet.data.detection_dataset import AnnotatedImages, open_annotated
from sppnet.data.image import read_image
from sppnet.demo import generate_scenes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError, DataError, ModelError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.progress import NullProgress
from sppnet.structures import GroundTruth
from sppnet.svm.linear_svm import LinearSVM

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
YOLOX = SHARED / "weights" / "yolox_nano.onnx"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, "train", 1, seed=1, size_hw=(180, 240))
    generate_scenes(root, "test", 4, seed=0, size_hw=(180, 240))
    return root


def save_detector(path: Path, classes: tuple[str, ...], scale: int, seed: int = 0) -> str:
    """A detector that takes windows at random for objects, so that some are right."""
    config = DetectorConfig(
        trunk="zf5", width=0.0625, stride=None, scales=(scale,), finetune="none", max_proposals=200
    )
    parts = detect.random_detector(config, seed).parts
    length = parts.svm.weight.shape[1]
    weight = torch.randn(len(classes), length, generator=torch.Generator().manual_seed(seed))
    svm = LinearSVM(weight, torch.zeros(len(classes)), classes)
    regressor = BoxRegressor(torch.zeros(len(classes), 4, length), torch.zeros(len(classes), 4), classes)
    Detector(replace(parts, classes=classes, svm=svm, regressor=regressor)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def models(scenes, tmp_path_factory):
    """Two of the data set's classes, of which the second convolves thirty times as many pixels."""
    folder = tmp_path_factory.mktemp("models")
    classes = open_annotated(scenes, "test").classes
    return {
        "small": save_detector(folder / "small.safetensors", classes, 96),
        "large": save_detector(folder / "large.safetensors", classes, 512),
        "part": save_detector(folder / "part.safetensors", (*classes[:1], "unicorn"), 96),
        "other": save_detector(folder / "other.safetensors", ("dragon", "unicorn"), 96),
    }


@pytest.fixture
def held(monkeypatch):
    """Processes that take no time, by what they were asked."""
    asked = []

    def apart(module, *words):
        asked.append((module, *words[:3], len(words[3:])))
        return {"first_bytes": 10_000_000, "bytes": 12_000_000}

    monkeypatch.setattr(accuracy, "run_in_subprocess", apart)
    return asked


def test_a_row_a_model_the_fastest_first(scenes, models):
    chosen = [models["large"], models["small"]]
    result = accuracy.run(scenes, chosen, images=2, rounds=1, memory=False)
    assert [(row.model, row.trunk, row.scales) for row in result.rows] == [
        ("small.safetensors", "zf5", (96,)),
        ("large.safetensors", "zf5", (512,)),
    ]
    assert (result.split, result.images, result.timed, result.skipped) == ("test", 4, 2, ())
    for row, path in zip(result.rows, reversed(chosen), strict=True):
        assert 0 < row.q1_s <= row.median_s <= row.q3_s
        assert row.engine == Detector.load(path).extractor.engine_name
        assert row.classes == result.classes
        assert row.peak_bytes is None


def write_found(folder: Path, detector: Detector, paths: list[Path]) -> Path:
    """A data set in COCO's layout, whose objects are every third of the surest that a detector finds."""
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(detector.classes)]
    pictures = [{"id": index, "file_name": path.name} for index, path in enumerate(paths)]
    marks = []
    for index, path in enumerate(paths):
        (folder / path.name).write_bytes(path.read_bytes())
        marks += detector(path, min_score=0.0)[:30:3].to_coco(index)
    numbered = [{"id": number, **mark} for number, mark in enumerate(marks)]
    file = folder / "found.json"
    file.write_text(json.dumps({"images": pictures, "annotations": numbered, "categories": categories}))
    return file


def test_precision_is_that_of_detect_evaluate(scenes, models, inside, tmp_path):
    """On objects that the one detector is known to find, and the other is not."""
    paths = sorted((scenes / "test").glob("*.jpg"))[:2]
    data = write_found(tmp_path, Detector.load(models["small"]), paths)
    chosen = [models["small"], models["large"]]
    rows = accuracy.run(data, chosen, images=1, rounds=1, memory=False).rows
    for row in rows:
        path = models[row.model.partition(".")[0]]
        code, printed, said = inside("detect", "evaluate", data, "--model", path, "--json", "--no-report")
        assert code == 0, said
        assert row.map == json.loads(printed)["map"]
    found = {row.model.partition(".")[0]: row.map for row in rows}  # the faster of that moment comes first
    assert found["large"] < 0.5 * found["small"]


def test_every_photograph_is_timed_by_all_in_turn(scenes, models, monkeypatch):
    asked = []

    def time_interleaved(calls, rounds):
        asked.append((list(calls), rounds, [call.args[0].name for call in calls.values()]))
        seconds = {"small.safetensors": [1.0, 2.0, 9.0], "large.safetensors": [0.5, 0.1, 0.3]}
        return {name: Timing(0, seconds[name][len(asked) - 1], 0) for name in calls}

    monkeypatch.setattr(accuracy, "time_interleaved", time_interleaved)
    chosen = [models["small"], models["large"]]
    large, small = accuracy.run(scenes, chosen, images=3, rounds=5, memory=False).rows
    assert (small.q1_s, small.median_s, small.q3_s) == (1.5, 2.0, 5.5)
    assert (large.model, large.median_s) == ("large.safetensors", 0.3)
    both = [Path(path).name for path in chosen]
    assert [(names, rounds) for names, rounds, _ in asked] == [(both, 5)] * 3
    photographs = [names for _, _, names in asked]
    assert all(len(set(names)) == 1 for names in photographs)
    assert len({names[0] for names in photographs}) == 3


def test_memory_is_of_a_process_each(scenes, models, held, tmp_path):
    peer = str(write_detector(tmp_path / "peer.onnx"))
    result = accuracy.run(scenes, [models["small"]], images=3, rounds=1, peer_onnx=Path(peer))
    assert {(row.peak_bytes, row.grown_bytes) for row in result.rows} == {(12_000_000, 2_000_000)}
    module = "sppnet.benchmark.detect"
    assert held == [(module, detect.OURS, models["small"], "0", 3), (module, peer, "", "0", 3)]


def test_a_model_of_some_classes_is_judged_on_these(scenes, models, held, inside):
    """And the table says on which not."""
    classes = open_annotated(scenes, "test").classes
    code, printed, said = inside(
        "benchmark", "accuracy", scenes, "--model", models["part"], "--images", 1, "--rounds", 1
    )
    assert code == 0, said
    assert f"part.safetensors: mAP without {', '.join(classes[1:])}, which it does not know" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("part.safetensors  zf5")]
    assert line.split()[-2:] == ["0.01", "2"]


def test_nothing_but_json_is_printed(scenes, models, held, inside, tmp_path):
    names = json.dumps(["Unicorn"] * (CLASSES - 1) + ["griffin"])
    peer = write_detector(tmp_path / "peer.onnx", names=names)
    code, printed, said = inside(
        "benchmark", "accuracy", scenes, "--model", models["small"], "--split", "test", "--images", 2,
        "--rounds", 1, "--peer-onnx", peer, "--json",
    )  # fmt: skip
    assert code == 0, said
    told = json.loads(printed)
    assert (told["benchmark"], told["split"], told["images"], told["timed"]) == ("accuracy", "test", 4, 2)
    rows = {row["model"]: row for row in told["rows"]}
    assert set(rows) == {"small.safetensors", "peer.onnx"}
    assert (rows["peer.onnx"]["map"], rows["peer.onnx"]["classes"]) == (None, [])
    assert (rows["peer.onnx"]["engine"], rows["peer.onnx"]["scales"]) == ("onnx", [64])
    assert [row["median_s"] for row in told["rows"]] == sorted(row["median_s"] for row in told["rows"])


def test_an_image_that_cannot_be_read_is_left_out_and_told(models, held, inside, tmp_path):
    generate_scenes(tmp_path, "test", 2, seed=0, size_hw=(180, 240))
    damaged = sorted((tmp_path / "test").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:60])
    code, printed, said = inside(
        "benchmark", "accuracy", tmp_path, "--model", models["small"], "--rounds", 1, "--json"
    )
    assert code == 0, said
    told = json.loads(printed)
    assert (told["images"], told["timed"], len(told["skipped"])) == (1, 1, 1)
    assert f"left out: {told['skipped'][0]}" in said
    assert damaged.name in said


def test_files_of_one_name_are_told_by_their_folders(scenes, models, tmp_path):
    chosen = [tmp_path / folder / "run" / "detector.safetensors" for folder in ("one", "two")]
    for path in chosen:
        path.parent.mkdir(parents=True)
        path.write_bytes(Path(models["small"]).read_bytes())
    rows = accuracy.run(scenes, list(map(str, chosen)), images=1, rounds=1, memory=False).rows
    assert {row.model for row in rows} == {"one/run/detector.safetensors", "two/run/detector.safetensors"}


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"model": []}, ConfigError, "b.safetensors; got none", id="no model"),
        pytest.param({"data": None}, ConfigError, "name the annotated photographs", id="no data"),
        pytest.param({"split": "tset"}, DataError, "no tset split .*did you mean test", id="no such split"),
        pytest.param({"images": 0}, ConfigError, "must be 1 or more; got 0 and 3", id="no photographs"),
        pytest.param({"rounds": 0}, ConfigError, "must be 1 or more; got 24 and 0", id="no rounds"),
        pytest.param({"model": ["small", "small"]}, ConfigError, "small.safetensors more than", id="twice"),
        pytest.param(
            {"model": ["small", "other"]}, DataError,
            r"^other\.safetensors: .* not trained on: .*it knows dragon, unicorn", id="other classes",
        ),
        pytest.param({"peer_onnx": Path("peer.pt")}, ConfigError, r"got \['peer.pt'\]", id="no ONNX file"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(scenes, models, monkeypatch, options, error, message):
    monkeypatch.setattr(accuracy, "evaluate_detector", None)  # before the work
    given = {"data": scenes, "model": ["small"], **options}
    given["model"] = [models[name] for name in given["model"]]
    with pytest.raises(error, match=message):
        accuracy.run(**given, memory=False)


def test_a_classifier_is_refused(scenes, models, tmp_path):
    path = tmp_path / "classifier.safetensors"
    small_classifier().save(path)
    with pytest.raises(ModelError, match=r"classifier\.safetensors holds a classifier; expected a detector"):
        accuracy.run(scenes, [models["small"], str(path)], memory=False)


# --- the network by its own decoding ---------------------------------------------------------------


def test_boxes_of_a_peer_are_in_pixels_of_the_photograph(scenes, tmp_path):
    """They are among those that the trunk of a detector of ours takes for proposals."""
    peer = OnnxDetector(write_detector(tmp_path / "peer.onnx"))
    path = sorted((scenes / "test").iterdir())[0]
    found = peer(path)
    head = DetectorExtractor(OnnxTrunk.from_file(tmp_path / "peer.onnx"))(read_image(path)).head
    assert head is not None
    surest = found[np.argsort(-found.scores)[:10]]
    assert len(surest) == 10
    assert box_iou(surest.boxes, head.boxes).max(axis=1).min() > 0.84


def test_classes_of_a_peer_go_by_other_names(tmp_path, scenes):
    """What it finds is right for every class that is the same under another name."""
    names = ["motorcycle", "griffin", "tv", "a", "b"]
    peer = OnnxDetector(write_detector(tmp_path / "peer.onnx", names=json.dumps(names)))
    assert peer.known_among(("motorbike", "zebra", "TV")) == ("motorbike", "TV")
    path = sorted((scenes / "test").iterdir())[0]
    found = peer(path, 0.0)
    (tv,) = found[found.labels == 2][:1].boxes.tolist()
    truth = GroundTruth.of([tv], [0])
    images = AnnotatedImages(scenes, ("TV", "motorbike"), (path,), (truth,), ())
    result = evaluate_peer(peer, images, NullProgress())
    assert result.per_class["motorbike"] is None
    assert result.map > 0


@pytest.mark.shared
@pytest.mark.skipif(not YOLOX.exists(), reason="needs ../shared/data/weights/yolox_nano.onnx")
def test_yolox_finds_what_its_description_says():
    """81 % of the whole test split by 11 points (../shared/data/README.md); here 40 photographs of it."""
    images = open_annotated(SHARED / "voc2007_5cls", "test")
    result = evaluate_peer(OnnxDetector(YOLOX), images.take(range(0, 400, 10)), NullProgress())
    assert result.map == pytest.approx(0.81, abs=0.06)
