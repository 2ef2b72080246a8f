"""OpenCV's selective search: the same boxes on every call, and no better than ours on photographs."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import ConfigError, MissingExtraError
from sppnet.metrics.recall import recall_curve
from sppnet.proposals.proposers import opencv_search
from sppnet.proposals.selective_search.search import selective_search

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def scene() -> np.ndarray:
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (90, 120, 3))
    image[20:60, 30:90] = rng.integers(0, 40, (40, 60, 3)) + np.array([200, 0, 0])
    return image.astype(np.uint8)


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2.ximgproc", reason="OpenCV's contributed modules are not installed")


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-contrib-python-headless.*sppnet\[opencv\]"):
        opencv_search(scene())


def test_opencv_without_contributed_modules_is_not_enough(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: object())
    with pytest.raises(MissingExtraError, match="opencv-contrib"):
        opencv_search(scene())


def test_another_mode_is_refused():
    with pytest.raises(ConfigError, match="did you mean quality"):
        opencv_search(scene(), "qualty")


@pytest.mark.usefixtures("cv2")
def test_boxes_are_the_same_on_every_call_and_find_the_object():
    boxes = opencv_search(scene(), min_side=10)
    assert boxes.dtype == np.float32
    assert [30, 20, 90, 60] in boxes.tolist()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 10
    assert (boxes.min(axis=0)[:2] >= 0).all()
    assert (boxes.max(axis=0)[2:] <= (120, 90)).all()
    np.testing.assert_array_equal(opencv_search(scene(), min_side=10), boxes)
    np.testing.assert_array_equal(opencv_search(scene(), min_side=10, max_proposals=3), boxes[:3])


@pytest.mark.usefixtures("cv2")
def test_red_and_blue_are_not_exchanged(monkeypatch):
    seen = []

    class Search:
        def __getattr__(self, name):
            return lambda *images: seen.extend(images) or np.zeros((0, 4), np.int32)

    monkeypatch.setattr("sppnet.proposals.proposers._segmentation", lambda: Namespace(Search))
    assert opencv_search(np.full((3, 3, 3), (9, 8, 7), np.uint8)).shape == (0, 4)
    assert seen[0][0, 0].tolist() == [7, 8, 9]


class Namespace:
    def __init__(self, search):
        self.createSelectiveSearchSegmentation = search


# Of OpenCV 5.0.0's fast mode, in the order it gives itself after srand(1): the first 20 test images below, 41
# objects, at 500, 1,000 and 2,000 boxes and IoU 0.5 and 0.7. To run it here would take half a minute.
OPENCV_RECALL = [[0.683, 0.293], [0.878, 0.439], [0.927, 0.585]]


@pytest.mark.shared
def test_ours_finds_no_less_on_photographs():
    if not (SHARED / "voc2007_5cls").is_dir():
        pytest.skip(f"{SHARED / 'voc2007_5cls'} is not there")
    images = open_annotated(SHARED / "voc2007_5cls", "test").take(range(20))
    boxes = [selective_search(path) for path in images.paths]
    ours = recall_curve(boxes, images.truths, [500, 1000, 2000], [0.5, 0.7])
    assert ours.objects == 41
    assert (ours.recall >= OPENCV_RECALL).all(), ours.recall
