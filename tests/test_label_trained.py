"""A session over a trained detector: its classes are suggested as it finds them, others are learned."""

from dataclasses import replace

import numpy as np
import pytest

from browser import until
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.train import train_detector
from sppnet.features.lazy_image import LazyImage
from sppnet.label.learner import Learner
from sppnet.label.model import EARLY_PHOTOS, EARLY_SCORE, LabelModel
from sppnet.label.session import Session
from sppnet.label.store import open_store
from sppnet.label.trained_classes import MIN_TRAINED_SCORE
from sppnet.label.trunk import trunk_of_detector
from sppnet.structures import GroundTruth
from test_detect_train import write_scenes, write_weights


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def model(root):
    config = DetectorConfig(
        trunk="squeezenet1_1:6", stride=None, weights=str(write_weights(root)), scales=(96,), levels=(1, 2),
        max_proposals=60, mirror=False, rounds=1, device="cpu",
    )  # fmt: skip
    data = write_scenes(root / "scenes", 16)
    return train_detector(data, root / "run", config, cache=root / "cache").model


@pytest.fixture(scope="module")
def photos(root):
    """Photographs without annotations."""
    folder = write_scenes(root / "more", 6, first=300)
    for path in folder.glob("*.xml"):
        path.unlink()
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def trunk(model, root, photos):
    return trunk_of_detector(model, "cpu", root / "cache", photos)


def candidates_of(trunk, path):
    learner = Learner([path], trunk)
    return learner.candidates_of(0)


def test_its_detections_are_suggested_before_anything_is_confirmed(trunk, model, photos):
    detector = Detector.load(model)
    classes = ("something new", *reversed(detector.classes))
    labels = LabelModel(trunk.roi_extractor, trained=trunk.trained, classes=classes)
    for path in photos:
        shown = labels.shown(labels.score(candidates_of(trunk, path)))
        expected = detector.detect(LazyImage(path, detector.extractor), MIN_TRAINED_SCORE)
        expected = expected[expected.scores >= 0]
        np.testing.assert_allclose(shown.boxes, expected.boxes)
        names = [classes[label] for label in shown.labels]
        assert names == [detector.classes[label] for label in expected.labels]
    assert len(shown.boxes)


def test_classes_that_the_session_lacks_are_not_suggested(trunk, photos):
    other = LabelModel(trunk.roi_extractor, trained=trunk.trained, classes=("something new",))
    assert not len(other.score(candidates_of(trunk, photos[0])).boxes)


def test_a_new_class_is_learned_beside_them(trunk, model, photos):
    detector = Detector.load(model)
    classes = (*detector.classes, "corner")
    labels = LabelModel(trunk.roi_extractor, trained=trunk.trained, classes=classes)
    corner = GroundTruth.of([[2, 2, 30, 30]], [len(classes) - 1])
    for index, path in enumerate(photos[:2]):
        labels.learn(index, candidates_of(trunk, path), corner, classes)
    candidates = candidates_of(trunk, photos[2])
    scored = labels.score(candidates)
    own = scored.take(np.flatnonzero(scored.labels < len(detector.classes)))
    found = trunk.trained.find(candidates.photo, classes)
    np.testing.assert_array_equal(own.scores, found.scores)
    new = scored.take(np.flatnonzero(scored.labels == len(classes) - 1))
    assert len(new.boxes)
    assert (np.diff(scored.scores) <= 0).all()


def test_thresholds_are_its_own_until_enough_was_judged(trunk, photos):
    name = trunk.trained.detector.classes[0]
    labels = LabelModel(trunk.roi_extractor, trained=trunk.trained, classes=(name, "new"))
    np.testing.assert_array_equal(labels.thresholds(), [0, EARLY_SCORE])
    scores, tags = np.array([2.0, 1.0, 0.5], np.float32), np.array([0, 1, 1])
    for _ in range(EARLY_PHOTOS):
        labels.judged.append((scores, tags, np.array([False, True, False])))
    first, second = labels.thresholds()
    assert first == 0  # nothing of its class was right often enough
    assert 0.5 < second <= 1


def test_a_session_suggests_them_on_its_first_photograph(trunk, photos, tmp_path):
    for path in photos:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    store = open_store(tmp_path, None, list(trunk.trained.detector.classes))
    session = Session(store, trunk)
    session.start()
    try:
        until(lambda: any(session.describe_photo(photo)["suggestions"] for photo in range(len(photos))))
        found = [one for photo in range(len(photos)) for one in session.describe_photo(photo)["suggestions"]]
        assert {one["label"] for one in found} <= set(trunk.trained.detector.classes)
    finally:
        session.close()


def test_without_a_detector_nothing_is_suggested_at_first(trunk, photos):
    plain = replace(trunk, trained=None)
    labels = LabelModel(plain.roi_extractor, trained=plain.trained, classes=("square",))
    assert not len(labels.score(candidates_of(plain, photos[0])).boxes)
