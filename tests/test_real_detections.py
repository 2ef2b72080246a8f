"""A detector trained on real photographs, and its detections judged by other implementations."""

from pathlib import Path

import numpy as np
import pytest

from sppnet.data.detection_dataset import open_annotated
from sppnet.detect.config import DetectorConfig
from sppnet.detect.evaluate import evaluate_detector
from sppnet.detect.train import train_detector
from sppnet.metrics.coco import evaluate_coco
from sppnet.metrics.detection import evaluate_detections
from sppnet.structures import GroundTruth
from test_detection_metrics import coco_average_precision, devkit_average_precision

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository"),
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What a detector of 40 photographs finds in 40 others, and what is there."""
    root = tmp_path_factory.mktemp("run")
    config = DetectorConfig(
        weights=str(SHARED / "weights/mobilenet_v2_imagenet.pth"), scales=(256,), max_proposals=200,
        finetune="none", rounds=1, device="cpu",
    )  # fmt: skip
    data = SHARED / "voc2007_5cls"
    some = [open_annotated(data, split).take(range(0, 400, 10)) for split in ("trainval", "test")]
    detector = train_detector(some[0], root / "run", config, cache=root / "maps").detector
    photos = evaluate_detector(detector, some[1], "voc07").photos
    found, truths = [one.found for one in photos], [one.truth for one in photos]
    assert sum(map(len, found)) > 500
    assert any(truth.difficult.any() for truth in truths)
    return found, truths, detector.classes


@pytest.mark.parametrize("rule", ["voc07", "voc"])
def test_average_precision_is_the_devkit_s(judged, rule):
    found, truths, classes = judged
    result = evaluate_detections(found, truths, classes, rule)
    for label, name in enumerate(classes):
        expected = devkit_average_precision(found, truths, label, rule, 0.5)
        assert result.per_class[name] == pytest.approx(expected, abs=1e-6)
    assert 0.05 < result.map < 1


def test_coco_s_average_precision_is_its_rule_in_loops(judged):
    """Without difficult objects, which VOC leaves out and COCO does not know."""
    found, truths, classes = judged
    plain = [GroundTruth.of(one.boxes[~one.difficult], one.labels[~one.difficult]) for one in truths]
    result = evaluate_coco(found, plain, classes)
    for label, name in enumerate(classes):
        each = [
            coco_average_precision(found, plain, label, overlap) for overlap in np.linspace(0.5, 0.95, 10)
        ]
        assert result.per_class[name] == pytest.approx(np.mean(each), abs=1e-6)
    assert 0.01 < result.map < 1
