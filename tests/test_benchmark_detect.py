"""The benchmarks of detection and of proposals: what they compare, on a few small photographs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from onnx_detectors import write_detector
from sppnet.benchmark import detect, proposals
from sppnet.benchmark.detection_peers import IN_ONNX, TUNED, find_by_peer
from sppnet.benchmark.photographs import gather
from sppnet.benchmark.roofline import multiply_adds
from sppnet.benchmark.subprocess_runner import run_in_subprocess
from sppnet.data.image import read_image
from sppnet.demo import generate_scenes
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError, ModelError
from sppnet.features.extractor import FeatureExtractor

SMALL = "ssdlite320_mobilenet_v3_large"
TINY = DetectorConfig(
    trunk="zf5", width=0.0625, stride=None, scales=(128,), finetune="none", max_proposals=50
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, "test", 3, seed=0, size_hw=(180, 240))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "detector.safetensors"
    detect.random_detector(TINY).save(path)
    return path


def test_one_photograph_and_several_are_timed(scenes, model):
    rows = detect.run(model, scenes, photographs=2, peers=[SMALL], rounds=1, memory=False)
    assert [(row.case, row.peer) for row in rows] == [
        ("1 photograph", SMALL),
        ("2 photographs", SMALL),
    ]
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)


def test_memory_is_told_of_the_folder(scenes, model, monkeypatch):
    asked = []

    def apart(module, name, *words):
        asked.append((module, name, len(words)))
        return {"first_bytes": 10_000_000, "bytes": 12_000_000 if name == detect.OURS else 5_000_000}

    monkeypatch.setattr(detect, "run_in_subprocess", apart)
    first, folder = detect.run(model, scenes, photographs=2, peers=[SMALL], rounds=1)
    assert first.ours_bytes is None
    assert (folder.ours_bytes, folder.peer_bytes) == (12_000_000, 5_000_000)
    assert folder.note.endswith("our memory grew by 2 MB after the first 2")
    assert asked == [("sppnet.benchmark.detect", name, 4) for name in (detect.OURS, SMALL)]


def test_a_side_tells_what_it_held(scenes, model, capsys):
    path = next((scenes / "test").iterdir())
    detect.main(detect.OURS, str(model), "0", str(path), str(path))
    told = json.loads(capsys.readouterr().out)
    assert 10**7 < told["first_bytes"] <= told["bytes"]


def test_a_process_apart_answers_in_json_or_says_why_not(tmp_path):
    (tmp_path / "told").write_text('{"bytes": 1}')
    assert run_in_subprocess("json.tool", "--compact", str(tmp_path / "told")) == {"bytes": 1}
    with pytest.raises(RuntimeError, match=r"json\.tool .* failed"):
        run_in_subprocess("json.tool", str(tmp_path / "nothing"))


def test_a_random_detector_finds_nothing_and_survives_a_file(model, scenes):
    assert len(Detector.load(model)(next((scenes / "test").iterdir()))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": ["yolo"]}, "peers are one or more of"),
        ({"peers": []}, "peers are one or more of"),
        ({"rounds": 0}, "rounds must be 1 or more; got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        detect.run(**options)


def test_ssdlite_in_onnxruntime_finds_what_it_finds_in_torch(scenes):
    path = next((scenes / "test").iterdir())
    plain, *others = (find_by_peer(SMALL + ending, seed=1)(path)[0] for ending in ("", TUNED, IN_ONNX))
    assert len(plain["scores"]) > 0
    for other in others:
        torch.testing.assert_close(other["scores"], plain["scores"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(other["boxes"], plain["boxes"], rtol=1e-3, atol=0.05)


def test_an_onnx_file_is_a_peer(scenes, tmp_path):
    path = tmp_path / "detector.onnx"
    write_detector(path)
    found = find_by_peer(str(path))(next((scenes / "test").iterdir()))
    assert len(found) > 0
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        find_by_peer(str(tmp_path / "missing.onnx"))


def test_the_floor_counts_convolutions_of_any_engine(model, scenes):
    path = next((scenes / "test").iterdir())
    counts = []
    for engine in ("torch", "onnx"):
        detector = Detector.load(model)
        detector.extractor = FeatureExtractor(detector.parts.trunk, (128,), engine)
        counts.append(multiply_adds(lambda detector=detector: detector(path), [detector.extractor]))
        assert detector.extractor.engine.name == engine
    assert counts[0] == counts[1] > 10**6


# --- photographs ---------------------------------------------------------------------------------


def test_scenes_are_drawn_where_no_photographs_are_given(tmp_path):
    drawn = gather(None, 2, tmp_path)
    assert [read_image(path).shape for path in drawn.paths] == [(375, 500, 3)] * 2
    assert drawn.truths is not None


def test_a_plain_folder_has_no_known_objects(tmp_path, scenes):
    for number, path in enumerate(sorted((scenes / "test").iterdir())):
        Image.fromarray(read_image(path)).save(tmp_path / f"{number}.png")
    plain = gather(tmp_path, 2, tmp_path)
    assert [path.name for path in plain.paths] == ["0.png", "2.png"]
    assert plain.truths is None
    assert plain.recall_in_words("ours", [np.zeros((0, 4), np.float32)] * 2) == ""


def test_an_annotated_folder_tells_recall(scenes):
    known = gather(scenes, 9, scenes)
    assert known.truths is not None
    assert len(known) == 3
    boxes = [truth.boxes for truth in known.truths]
    count = sum(map(len, boxes))
    assert known.recall_in_words("ours", boxes).startswith(f"ours 100.0% and 100.0% of {count} objects")


def test_no_photographs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="photographs must be 1 or more; got 0"):
        gather(tmp_path, 0, tmp_path)


# --- proposals -----------------------------------------------------------------------------------


def test_both_ways_of_ours_stand_beside_opencv(scenes, model):
    pytest.importorskip("cv2", reason="the extra opencv is not installed")
    rows = proposals.run(scenes, model, photographs=2, rounds=1)
    assert [row.case for row in rows] == [
        "2 photographs, selective search",
        "2 photographs, 1,000 learned windows",
    ]
    assert {row.peer for row in rows} == {proposals.PEER}
    assert rows[0].note.startswith("recall at overlaps 0.5 and 0.7: ours ")
    assert proposals.PEER in rows[0].note
    assert "learned" in rows[1].note
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)


def test_a_model_without_learned_windows_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "searching.safetensors"
    parts = detect.random_detector(TINY).parts
    config = DetectorConfig(**{**parts.config.to_json(), "proposals": "selective-search"})
    Detector(type(parts)(**{**vars(parts), "config": config, "windows": None})).save(path)
    with pytest.raises(ConfigError, match="has no learned windows"):
        proposals.run(model=path)
