"""Evaluating detectors, and several as one: with detectors whose answers are known."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from recording_progress import RecordingProgress
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect import evaluate as evaluating
from sppnet.detect.detector import Detector
from sppnet.detect.ensemble import Ensemble
from sppnet.detect.evaluate import evaluate_detector, match_classes
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.errors import ConfigError, DataError, MissingExtraError
from sppnet.structures import Detections, GroundTruth

CAT, DOG = (2, 2, 30, 20), (40, 8, 60, 50)


@pytest.fixture
def images(tmp_path) -> AnnotatedImages:
    """A cat alone, then a cat and a dog; the data set has a class of which there is none."""
    paths = tuple(tmp_path / f"{name}.png" for name in ("one", "two"))
    for path in paths:
        Image.new("RGB", (64, 56)).save(path)
    truths = (GroundTruth.of([CAT], [0]), GroundTruth.of([CAT, DOG], [0, 2]))
    return AnnotatedImages(tmp_path, ("cat", "cow", "dog"), paths, truths, ())


@dataclass
class Knowing:
    """Finds what it was told to, in images that can be read."""

    classes: tuple[str, ...]
    answers: dict[str, list[tuple[tuple[int, ...], str, float]]]
    extractor: object = None
    seen: list[Path] = field(default_factory=list)

    def detect(self, photo) -> Detections:
        assert photo.pixels.ndim == 3
        self.seen.append(photo.path)
        found = self.answers.get(photo.path.stem, [])
        boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
        labels = [self.classes.index(name) for _, name, _ in found]
        return Detections(boxes, [score for _, _, score in found], labels, self.classes)


EVERYTHING = {"one": [(CAT, "cat", 2.0)], "two": [(DOG, "dog", 1.0), (CAT, "cat", 0.5)]}


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
@pytest.mark.parametrize("classes", [("cat", "dog"), ("dog", "bird", "cat")], ids=" ".join)
def test_labels_are_matched_by_name(images, classes, metric):
    if metric == "coco":
        pytest.importorskip("faster_coco_eval", reason="the extra coco is not installed")
    result = evaluate_detector(Knowing(classes, EVERYTHING), images, metric)
    assert result.to_json()["metric"] == metric
    assert (result.map, result.images, result.skipped) == (1.0, 2, ())
    assert result.per_class == {name: None if name == "bird" else 1.0 for name in classes}


@pytest.mark.parametrize(
    ("answers", "cat", "dog"),
    [
        pytest.param({}, 0.0, 0.0, id="nothing found"),
        pytest.param({"two": EVERYTHING["two"]}, 6 / 11, 1.0, id="one cat of two, so recall up to a half"),
        pytest.param(
            {"one": [(CAT, "dog", 2.0)], "two": [(DOG, "dog", 1.0)]}, 0.0, 0.5, id="a cat for a dog"
        ),
    ],
)
def test_what_is_missed_or_wrong_costs(images, answers, cat, dog):
    result = evaluate_detector(Knowing(("cat", "dog"), answers), images)
    assert result.per_class == pytest.approx({"cat": cat, "dog": dog})
    assert result.map == pytest.approx((cat + dog) / 2)


def test_a_damaged_image_is_left_out_with_its_objects(images):
    images.paths[0].write_bytes(images.paths[0].read_bytes()[:40])
    told = RecordingProgress()
    result = evaluate_detector(Knowing(("cat", "dog"), EVERYTHING), images, progress=told)
    assert (result.map, result.images) == (1.0, 1)
    (reason,) = result.skipped
    assert "one.png" in reason
    assert (told.stages, told.done) == ([("detecting", 2)], 2)


def test_none_of_the_images_can_be_read(images):
    for path in images.paths:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images"):
        evaluate_detector(Knowing(("cat", "dog"), {}), images)


@pytest.mark.parametrize("flag", ["none", "difficult", "crowd"])
def test_images_without_an_object_to_find_are_told_before_the_work(images, flag):
    truth = GroundTruth.of([], []) if flag == "none" else GroundTruth.of([CAT], [0])
    truth = truth if flag == "none" else replace(truth, **{flag: np.array([True])})
    detector = Knowing(("cat", "cow", "dog"), {})
    with pytest.raises(DataError, match=r"no object to find in the 2 images of .*; mark objects in them, or"):
        evaluate_detector(detector, replace(images, truths=(truth, truth)))
    assert detector.seen == []


def test_objects_of_classes_that_the_detector_does_not_know_are_counted(images, caplog):
    """The cats are judged as if no dog were marked; the line says how many dogs were not."""
    result = evaluate_detector(Knowing(("cat", "horse"), {"one": [(CAT, "cat", 2.0)]}), images)
    assert result.per_class == {"cat": pytest.approx(6 / 11), "horse": None}
    assert (result.images, result.skipped) == (2, ())
    assert [len(photo.truth) for photo in result.photos] == [1, 1]
    said = "1 objects are of 1 classes that the model was not trained on and are left out: dog 1"
    assert caplog.messages == [f"{images.root}: {said}"]
    known = match_classes(images, ("cat", "horse"))
    assert (known.classes, known.problems) == (("cat", "horse"), (said,))
    caplog.clear()
    assert match_classes(known, known.classes) is known
    assert caplog.messages == []


def test_none_of_the_objects_is_of_a_class_that_the_detector_knows(images):
    detector = Knowing(("bird", "horse"), EVERYTHING)
    with pytest.raises(DataError, match=r"not trained on: cat 2, dog 1 \(it knows bird, horse\)"):
        evaluate_detector(detector, images)
    assert detector.seen == []


def test_flags_of_objects_are_kept(images):
    crowd = GroundTruth(
        np.array([CAT, DOG]), np.array([2, 0]), np.array([True, False]), np.array([False, True])
    )
    changed = AnnotatedImages(images.root, images.classes, images.paths[:1], (crowd,), ())
    (truth,) = match_classes(changed, ("dog", "cat")).truths
    assert truth.labels.tolist() == [0, 1]
    assert truth.difficult.tolist() == [True, False]
    assert truth.crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        pytest.param("voc7", ConfigError, "must be one of voc07, voc, coco; got 'voc7'", id="misspelt"),
        pytest.param("coco", MissingExtraError, r"sppnet\[coco\]", id="its package is not there"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_before_the_work(images, monkeypatch, metric, error, message):
    monkeypatch.setattr(evaluating, "find_spec", lambda name: None)
    detector = Knowing(("cat", "dog"), EVERYTHING)
    with pytest.raises(error, match=message):
        evaluate_detector(detector, images, metric)
    assert detector.seen == []


# --- several detectors as one --------------------------------------------------------------------


@dataclass
class Scoring:
    """Gives these windows to whoever asks, and selects as every detector does."""

    windows: list[tuple[tuple[int, ...], int, float]]
    classes: tuple[str, ...] = ("cat", "dog")
    config: object = field(default_factory=lambda: SimpleNamespace(nms_iou=0.3, voting_iou=1.0))
    extractor: object = None
    least_score: float = -1.5
    kept: dict[int, int] = field(default_factory=dict)
    parts: object = field(default_factory=lambda: SimpleNamespace(refiner=None, refined=[]))
    select, refine = Detector.select, Detector.refine

    def candidates(self, photo, min_score) -> ScoredBoxes:
        chosen = [window for window in self.windows if window[2] >= min_score]
        return ScoredBoxes(
            np.array([box for box, _, _ in chosen], np.float32).reshape(-1, 4),
            np.array([score for _, _, score in chosen], np.float32),
            np.array([label for _, label, _ in chosen], np.int64),
        )


NEAR_CAT = (3, 2, 31, 20)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([(CAT, 0, 1.0)], [(DOG, 1, 2.0)], [(DOG, 1), (CAT, 0)], id="each adds its own"),
        pytest.param([(CAT, 0, 1.0)], [(NEAR_CAT, 0, 2.0)], [(NEAR_CAT, 0)], id="the surer of two stays"),
        pytest.param([(CAT, 0, 2.0)], [(NEAR_CAT, 0, 2.0)], [(CAT, 0)], id="of equal ones the first's"),
        pytest.param([(CAT, 0, 2.0)], [(CAT, 1, 1.0)], [(CAT, 0), (CAT, 1)], id="classes do not meet"),
        pytest.param([], [], [], id="nothing at all"),
        pytest.param([(CAT, 0, -0.5)], [], [], id="below the least score"),
    ],
)
def test_windows_of_both_are_suppressed_together(first, second, expected):
    image = np.zeros((56, 64, 3), np.uint8)
    found = Ensemble((Scoring(first), Scoring(second)))(image)
    assert found.classes == ("cat", "dog")
    pairs = zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
    assert [(tuple(box), label) for box, label in pairs] == expected


@dataclass
class MirrorScoring(Scoring):
    """Finds the windows in the image, and others in its mirror image."""

    in_mirror: list[tuple[tuple[int, ...], int, float]] = field(default_factory=list)

    def candidates(self, photo, min_score) -> ScoredBoxes:
        return Scoring(self.in_mirror if photo.mirrored else self.windows).candidates(photo, min_score)

    def add_probabilities(self, found: Detections) -> Detections:
        return replace(found, probabilities=np.full(len(found), 0.5))


def test_windows_of_the_mirror_image_are_joined_where_they_lie_in_the_image():
    image = np.zeros((56, 64, 3), np.uint8)
    cat_in_mirror, dog_in_mirror = (34, 2, 62, 20), (4, 8, 24, 50)
    detector = MirrorScoring([(CAT, 0, 1.0)], in_mirror=[(cat_in_mirror, 0, 0.5), (dog_in_mirror, 1, 2.0)])
    alone = Ensemble((detector,))(image)
    both = Ensemble((detector,), mirrored=True)(image)
    assert [tuple(box) for box in alone.boxes.tolist()] == [CAT]
    assert [tuple(box) for box in both.boxes.tolist()] == [DOG, CAT]
    assert both.probabilities.tolist() == [0.5, 0.5]  # one detector's scores have probabilities still


def test_an_ensemble_is_evaluated_as_one_detector(images):
    cats, dogs = Scoring([(CAT, 0, -1.0)]), Scoring([(DOG, 1, 1.0)])
    result = evaluate_detector(Ensemble((cats, dogs)), images, "voc")
    assert result.per_class == {"cat": 1.0, "dog": 0.5}  # the cats below 0 count too; a dog is one too many


def test_detectors_of_other_classes_are_not_combined():
    with pytest.raises(ConfigError, match="the same classes in the same order; got cat, dog and dog, cat"):
        Ensemble((Scoring([]), Scoring([], ("dog", "cat"))))
    with pytest.raises(ConfigError, match="one detector or more"):
        Ensemble(())
