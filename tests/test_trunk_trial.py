"""Trunks tried on held-out photographs: the one that sees the objects is taken."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnx_detectors import write_detector
from sppnet import train_detector
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.trunk_trial import try_trunks
from sppnet.errors import ConfigError, DataError
from sppnet.nn.trunks import load_trunk
from sppnet.nn.yolox_release import YOLOX_NAMES
from sppnet.structures import Detections
from test_detect_train import write_scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("trials")
    write_scenes(root / "data", 12)
    write_detector(root / "tiny.onnx")
    torch.manual_seed(0)
    torch.save(load_trunk("zf5", width=0.125).state_dict(), root / "zf5.pth")
    return root


@pytest.fixture(scope="module")
def config(root):
    return DetectorConfig(
        trunk=f"zf5, {root / 'tiny.onnx'}", weights=str(root / "zf5.pth"), width=0.125, scales=(96,),
        max_proposals=100, positive_iou=0.4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(root, config):
    return train_detector(root / "data", root / "run", config, cache=root / "maps")


def test_the_best_of_the_trials_is_taken(run, root):
    assert [one.trunk for one in run.trials] == ["zf5", str(root / "tiny.onnx")]
    best = max(run.trials, key=lambda one: one.map)
    assert run.detector.config.trunk == best.trunk
    assert all(one.images == 12 for one in run.trials)
    assert run.trials[0].map != run.trials[1].map


def test_the_page_lists_the_trials(run):
    page = (run.model.parent / "report.html").read_text()
    assert "Trunks that were tried" in page
    assert "tiny.onnx" in page


def test_trials_are_of_frozen_trunks_and_the_same_again(run, root, config):
    jointly = replace(config, joint_steps=10**6)
    again = try_trunks(open_annotated(root / "data"), jointly, root / "maps")
    assert [one.map for one in again] == [one.map for one in run.trials]


def test_a_resumed_run_keeps_its_trunk(run, root, config):
    again = train_detector(root / "data", root / "run", config, resume=True, cache=root / "maps")
    assert again.trials == ()
    assert again.detector.config.trunk == run.detector.config.trunk
    assert torch.equal(again.detector.parts.svm.weight, run.detector.parts.svm.weight)


def test_no_more_photographs_are_looked_at_than_promised(root, config, monkeypatch):
    def find_nothing(seen, held_out, config, cache):
        looked_at.extend([*seen.paths, *held_out.paths])
        nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), seen.classes)
        return [(nothing, truth) for truth in held_out.truths]

    looked_at = []
    monkeypatch.setattr("sppnet.detect.trunk_trial.PHOTOGRAPHS", 16)
    monkeypatch.setattr("sppnet.detect.trunk_trial._judge", find_nothing)
    images = open_annotated(root / "data")
    trials = try_trunks(images.take(np.arange(24) % 12), config, root / "maps")
    assert [trial.images for trial in trials] == [16, 16]
    assert len(looked_at) == 2 * 2 * 16  # by two trunks, once to learn from and once held out


def test_one_photograph_is_too_few(root, config):
    images = open_annotated(root / "data").take([0])
    with pytest.raises(DataError, match="1 photographs are too few to try trunks on"):
        try_trunks(images, config, root / "maps")


def test_what_is_wrong_with_a_listed_trunk_is_said_at_once():
    with pytest.raises(ConfigError, match="vectors head need a detector's network"):
        DetectorConfig(trunk="zf5,net.onnx", vectors="head")


def test_auto_tries_what_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "," not in DetectorConfig().trunk
    (tmp_path / "checkpoints").mkdir()
    write_detector(tmp_path / "checkpoints" / f"{YOLOX_NAMES[0]}.onnx")
    config = DetectorConfig()
    assert config.trunk.split(",")[1:] == [YOLOX_NAMES[0]]
    assert [one.weights for one in config.candidates][1:] == ["coco"]
    assert [one.proposals for one in config.candidates] == ["learned", "auto"]
