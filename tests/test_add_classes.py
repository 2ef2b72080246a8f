"""Classes added to a detector: what it knew stays bit for bit, and the new ones are found."""

import numpy as np
import pytest
import torch

from onnx_detectors import write_detector
from sppnet import add_classes
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import train_detector
from sppnet.errors import ConfigError
from test_detect_train import write_scenes

RED_IS_KNOWN = '["red", "b", "c", "d", "e"]'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 10)


CONFIGS = {
    "learned": {
        "trunk": "zf5",
        "finetune": "all",
        "scales": (96,),
        "steps": 40,
        "trunk_steps": 2,
        "hidden": 16,
    },
    "onnx": {"positive_iou": 0.4},
    "known": {"positive_iou": 0.4},
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def runs(request, data, tmp_path_factory):
    """A detector of red things, and the same with green ones added."""
    root, options = tmp_path_factory.mktemp(request.param), CONFIGS[request.param]
    if request.param != "learned":
        names = RED_IS_KNOWN if request.param == "known" else None
        options = {**options, "trunk": str(write_detector(root / "trunk.onnx", names=names))}
    reds = open_annotated(data).of_classes(("red",))
    first = train_detector(reds, root / "red", DetectorConfig(**options), cache=root / "maps")
    second = add_classes(first.model, data, root / "both", cache=root / "maps")
    return first, second


def test_what_was_known_stays_bit_for_bit(runs):
    before, after = (Detector.load(run.model) for run in runs)
    assert after.classes == ("red", "green")
    for part in ("svm", "regressor"):
        old, new = getattr(before.parts, part), getattr(after.parts, part)
        length = old.weight.shape[-1]
        assert torch.equal(new.weight[:1, ..., :length], old.weight)
        assert not new.weight[:1, ..., length:].any()  # the pyramid, which only the new class weighs
        assert torch.equal(new.bias[:1], old.bias)
    trunks = [one.parts.trunk.state_dict() for one in (before, after)]
    assert all(torch.equal(trunks[0][name], trunks[1][name]) for name in trunks[0])


def test_what_was_known_is_found_as_before(runs, data):
    before, after = (Detector.load(run.model) for run in runs)
    found = before(data / "00.png", min_score=before.least_score)
    both = after(data / "00.png", min_score=after.least_score)
    reds = both.labels == 0
    assert len(found) > 0
    assert np.allclose(both.boxes[reds], found.boxes, atol=1e-3)
    assert np.allclose(both.scores[reds], found.scores, atol=1e-5)


def test_the_new_class_is_learned(runs, data):
    after = runs[1].detector
    assert runs[1].objects.keys() == {"green"}
    row = after.parts.svm.weight[1]
    assert row.abs().sum() > 0
    images = open_annotated(data)
    right = wrong = 0
    for path, truth in zip(images.paths, images.truths, strict=True):
        found = after(path, min_score=after.least_score)
        best = {name: found.scores[np.array(found.names) == name].max(initial=-9) for name in after.classes}
        for name in images.classes:
            if (truth.labels == images.classes.index(name)).any():
                right += 1
            elif best[name] >= 0:
                wrong += 1
    assert wrong <= right


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("red",), "the detector knows red already"),
        (("blue",), "the data set marks no blue, it marks"),
    ],
)
def test_classes_that_cannot_be_added(runs, data, tmp_path, classes, message):
    with pytest.raises(ConfigError, match=message):
        add_classes(runs[0].model, data, tmp_path / "out", classes)
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_to_add(runs, data, tmp_path):
    with pytest.raises(ConfigError, match="the detector knows all classes of the data set: green, red"):
        add_classes(runs[1].model, data, tmp_path / "out")


def test_a_stopped_addition_ends_with_the_same_bits(runs, data, tmp_path):
    first, second = runs
    (tmp_path / "stages").mkdir()
    root = second.model.parent
    for name in ("config.json", "times.json", "stages/windows.safetensors", "stages/proposals.safetensors"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    again = add_classes(first.model, data, tmp_path, resume=True, cache=root.parent / "maps")
    assert torch.equal(again.detector.parts.svm.weight, second.detector.parts.svm.weight)
    assert torch.equal(again.detector.parts.svm.bias, second.detector.parts.svm.bias)
    assert torch.equal(again.detector.parts.regressor.weight, second.detector.parts.regressor.weight)


def test_the_page_says_how(runs):
    page = (runs[1].model.parent / "report.html").read_text()
    assert "sppnet.add_classes(" in page
