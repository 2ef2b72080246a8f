"""Average precision against the devkit's loops, written out plainly, and against COCO's own."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.errors import ConfigError, DataError, MissingExtraError
from sppnet.metrics.coco import evaluate_coco
from sppnet.metrics.detection import average_precision, evaluate_detections
from sppnet.structures import Detections, GroundTruth

CLASSES = ("cat", "dog", "eel")
HERE, THERE = (0, 0, 10, 10), (50, 50, 60, 60)
HALF = (0, 0, 10, 5)
"""Overlaps HERE by exactly one half."""


def found_of(*rows, classes=CLASSES):
    """Detections from (box, score, label)."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
        classes,
    )


def truth_of(*rows):
    """A GroundTruth from (box, label) or (box, label, "difficult" | "crowd")."""
    kinds = [row[2] if len(row) > 2 else "" for row in rows]
    return GroundTruth(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([kind == "difficult" for kind in kinds], np.bool_),
        np.array([kind == "crowd" for kind in kinds], np.bool_),
    )


# --- the devkit's loops --------------------------------------------------------------------------


def devkit_average_precision(found, truths, label, rule, threshold):
    """VOCevaldet: inclusive corners counted from 1, and + 1 in every width; None without objects."""
    rows = []
    for image, detections in enumerate(found):
        for box, score, own in zip(detections.boxes, detections.scores, detections.labels, strict=True):
            if own == label:
                x0, y0, x1, y1 = (float(value) for value in box)
                rows.append((float(score), image, (x0 + 1, y0 + 1, x1, y1)))
    rows = sorted(rows, key=lambda row: -row[0])  # stable, as MATLAB's
    objects, wanted = [], 0
    for truth in truths:
        own = []
        for box, its_label, difficult in zip(truth.boxes, truth.labels, truth.difficult, strict=True):
            if its_label == label:
                x0, y0, x1, y1 = (float(value) for value in box)
                own.append({"box": (x0 + 1, y0 + 1, x1, y1), "difficult": difficult, "detected": False})
                wanted += not difficult
        objects.append(own)
    if wanted == 0:
        return None
    right, wrong = [], []
    for _, image, (left, top, far, low) in rows:
        best, nearest = -np.inf, None
        for thing in objects[image]:
            a, b, c, d = thing["box"]
            width = min(far, c) - max(left, a) + 1
            height = min(low, d) - max(top, b) + 1
            if width > 0 and height > 0:
                both = (far - left + 1) * (low - top + 1) + (c - a + 1) * (d - b + 1) - width * height
                if width * height / both > best:
                    best, nearest = width * height / both, thing
        is_right = is_wrong = 0
        if best >= threshold:
            if not nearest["difficult"]:
                is_right, is_wrong = int(not nearest["detected"]), int(nearest["detected"])
                nearest["detected"] = True
        else:
            is_wrong = 1
        right.append((right[-1] if right else 0) + is_right)
        wrong.append((wrong[-1] if wrong else 0) + is_wrong)
    points = [(r / wanted, r / (r + w) if r + w else 0.0, r) for r, w in zip(right, wrong, strict=True)]
    if rule == "voc07":
        # In tenths, so that 3 of 10 reach 0.3.
        return sum(
            max((precision for _, precision, r in points if 10 * r >= tenth * wanted), default=0.0) / 11
            for tenth in range(11)
        )
    recalls = [0.0, *(point[0] for point in points), 1.0]
    precisions = [0.0, *(point[1] for point in points), 0.0]
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))


@st.composite
def scenes(draw):
    """Images with few places for boxes and few scores, so that overlaps, repeats and ties abound."""
    edge = st.integers(0, 4)
    size = st.integers(1, 3)
    images = draw(st.integers(1, 4))
    found, truths = [], []
    for _ in range(images):
        boxes = draw(st.lists(st.tuples(edge, edge, size, size, st.integers(0, 2)), max_size=8))
        scores = draw(st.lists(st.integers(0, 4), min_size=len(boxes), max_size=len(boxes)))
        rows = [((x, y, x + w, y + h), s / 4, c) for (x, y, w, h, c), s in zip(boxes, scores, strict=True)]
        found.append(found_of(*rows))
        marked = draw(
            st.lists(st.tuples(edge, edge, size, size, st.integers(0, 2), st.booleans()), max_size=5)
        )
        truths.append(
            truth_of(
                *(((x, y, x + w, y + h), c, "difficult" if hard else "") for x, y, w, h, c, hard in marked)
            )
        )
    truths[0] = truth_of((HERE, 0), *zip(truths[0].boxes, truths[0].labels, strict=True))
    return found, truths


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from(["voc07", "voc"]), st.sampled_from([0.3, 0.5, 0.75]))
def test_average_precision_is_the_devkits(scene, rule, iou):
    found, truths = scene
    result = evaluate_detections(found, truths, CLASSES, rule, iou)
    for label, name in enumerate(CLASSES):
        expected = devkit_average_precision(found, truths, label, rule, iou)
        assert result.per_class[name] == (expected if expected is None else pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("rule", ["voc07", "voc"])
def test_many_detections_are_the_devkits(rule):
    rng = np.random.default_rng(0)
    found, truths = [], []
    for _ in range(40):
        corners = rng.uniform(0, 80, (6, 2))
        truth = np.concatenate([corners, corners + rng.uniform(5, 60, (6, 2))], axis=1)
        near = np.repeat(truth, 4, axis=0) + rng.normal(0, 4, (24, 4))
        near = near[(near[:, 2:] > near[:, :2]).all(axis=1)]
        labels = rng.integers(0, 3, 6)
        truths.append(GroundTruth(truth, labels, rng.random(6) < 0.2, np.zeros(6, bool)))
        found.append(found_of(*((box, rng.random(), rng.integers(0, 3)) for box in near)))
    result = evaluate_detections(found, truths, CLASSES, rule)
    expected = [devkit_average_precision(found, truths, label, rule, 0.5) for label in range(3)]
    assert list(result.per_class.values()) == pytest.approx(expected, abs=1e-9)
    assert result.map == pytest.approx(np.mean(expected), abs=1e-9)
    assert 0.02 < result.map < 0.98


# --- one case at a time --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "truth", "voc07", "area"),
    [
        pytest.param([(HERE, 0.9, 0)], [(HERE, 0)], 1, 1, id="one object, found"),
        pytest.param([], [(HERE, 0)], 0, 0, id="one object, not found"),
        pytest.param([(THERE, 0.9, 0)], [(HERE, 0)], 0, 0, id="one object, looked for elsewhere"),
        pytest.param([(HALF, 0.9, 0)], [(HERE, 0)], 1, 1, id="an overlap of exactly the threshold is enough"),
        pytest.param([(HERE, 0.9, 1)], [(HERE, 0)], 0, 0, id="found as another class"),
        pytest.param(
            [(THERE, 0.9, 0), (HERE, 0.8, 0)], [(HERE, 0)], 1 / 2, 1 / 2, id="a surer mistake halves it"
        ),
        pytest.param([(HERE, 0.9, 0), (THERE, 0.8, 0)], [(HERE, 0)], 1, 1, id="a later mistake is free"),
        pytest.param(
            [(HERE, 0.9, 0), (HERE, 0.8, 0), (THERE, 0.7, 0)],
            [(HERE, 0), (THERE, 0)],
            (6 + 5 * 2 / 3) / 11,
            (1 + 2 / 3) / 2,
            id="the second detection of an object is wrong",
        ),
        pytest.param(
            [(THERE, 0.9, 0), (HERE, 0.8, 0)], [(HERE, 0), (THERE, 0, "difficult")], 1, 1,
            id="a difficult object is neither right nor wrong to find",
        ),
        pytest.param(
            [(THERE, 0.9, 0), (THERE, 0.8, 0), (HERE, 0.7, 0)], [(HERE, 0), (THERE, 0, "difficult")], 1, 1,
            id="nor is finding it twice",
        ),
        pytest.param(
            [(THERE, 0.9, 0), (HERE, 0.8, 0)], [(HERE, 0), (THERE, 0, "crowd")], 1, 1, id="nor is a crowd"
        ),
        pytest.param(
            [(HERE, 0.5, 0), (THERE, 0.5, 0)], [(HERE, 0)], 1, 1, id="of equal scores the first comes first"
        ),
        pytest.param(
            [(THERE, 0.5, 0), (HERE, 0.5, 0)], [(HERE, 0)], 1 / 2, 1 / 2, id="of equal scores, the mistake"
        ),
        pytest.param(
            [(HERE, 0.9, 0), ((0, 0, 10, 9), 0.8, 0)], [(HERE, 0), ((0, 0, 10, 6), 0)], 6 / 11, 1 / 2,
            id="the nearest object counts, though it is taken and another is free",
        ),
    ],
)  # fmt: skip
def test_what_counts(found, truth, voc07, area):
    for rule, expected in (("voc07", voc07), ("voc", area)):
        result = evaluate_detections([found_of(*found)], [truth_of(*truth)], CLASSES, rule)
        assert result.per_class["cat"] == pytest.approx(expected, abs=1e-12)


def test_equal_scores_keep_the_order_of_images():
    detections = [found_of((THERE, 0.5, 0)), found_of((HERE, 0.5, 0))]
    truths = [truth_of(), truth_of((HERE, 0))]
    assert evaluate_detections(detections, truths, CLASSES).per_class["cat"] == pytest.approx(1 / 2)
    assert evaluate_detections(detections[::-1], truths[::-1], CLASSES).per_class["cat"] == 1


@pytest.mark.parametrize("positives", [10, 20, 30, 70, 1000])
def test_a_recall_of_exactly_a_tenth_reaches_it(positives):
    for tenth in range(11):
        right = tenth * positives // 10
        flags = np.ones(right, bool)
        assert average_precision(np.ones(right), flags, ~flags, positives) == pytest.approx(
            (tenth + 1) / 11 if tenth else 0, abs=1e-12
        )


def test_a_class_without_objects_has_no_precision():
    result = evaluate_detections(
        [found_of((HERE, 0.9, 0), (HERE, 0.9, 1))], [truth_of((HERE, 0), (HERE, 1, "difficult"))], CLASSES
    )
    assert result.per_class == {"cat": 1, "dog": None, "eel": None}
    assert result.map == 1


def test_curves_and_json():
    found = [found_of((HERE, 0.75, 0), (THERE, 0.5, 0), ((20, 20, 30, 30), 0.25, 0))]
    truths = [truth_of((HERE, 0), ((20, 20, 30, 30), 0))]
    result = evaluate_detections(found, truths, CLASSES, "voc", skipped=["broken.jpg"])
    curve = result.curves["cat"]
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.scores.tolist() == [0.75, 0.5, 0.25]
    assert len(result.curves["dog"].recall) == 0
    data = json.loads(json.dumps(result.to_json()))
    assert data == {
        "metric": "voc",
        "map": pytest.approx(5 / 6),
        "per_class": {"cat": pytest.approx(5 / 6), "dog": None, "eel": None},
        "f1": {"cat": pytest.approx(4 / 5), "dog": None, "eel": None},
        "f1_at_half": {"cat": None, "dog": None, "eel": None},
        "best_f1": {"cat": pytest.approx(4 / 5), "dog": None, "eel": None},
        "calibration_error": None,
        "images": 1,
        "skipped": ["broken.jpg"],
    }


def test_f1_and_calibration_of_probabilities():
    # Right, wrong, right, of three objects; a fourth detection is of a difficult one, and counts for nothing.
    found = found_of(
        (HERE, 0.75, 0), (THERE, 0.5, 0), ((20, 20, 30, 30), 0.25, 0), ((60, 60, 70, 70), 0.6, 0)
    )
    odds = np.array([0.95, 0.55, 0.35, 0.75], np.float32)
    found = replace(found, probabilities=odds)
    truth = truth_of((HERE, 0), ((20, 20, 30, 30), 0), ((40, 40, 50, 50), 0), ((60, 60, 70, 70), 0))
    truth = replace(truth, difficult=np.array([False, False, False, True]))
    result = evaluate_detections([found], [truth], CLASSES)
    assert result.curves["cat"].probabilities.tolist() == pytest.approx([0.95, 0.55, 0.35])
    assert result.curves["cat"].is_right.tolist() == [True, False, True]
    assert result.f1_at_half() == {"cat": pytest.approx(2 / 5), "dog": None, "eel": None}
    assert result.calibration_error() == pytest.approx((0.05 + 0.55 + 0.65) / 3)
    half = replace(found, probabilities=np.array([0.9, np.nan, 0.9, 0.9], np.float32))
    unknown = evaluate_detections([half], [truth], CLASSES)
    assert (unknown.f1_at_half()["cat"], unknown.calibration_error()) == (None, None)


def test_f1_at_a_threshold_and_at_the_best_one():
    # Right, wrong, right, of three objects.
    found = [found_of((HERE, 0.75, 0), (THERE, -0.5, 0), ((20, 20, 30, 30), -0.75, 0))]
    truths = [truth_of((HERE, 0), ((20, 20, 30, 30), 0), ((40, 40, 50, 50), 0))]
    result = evaluate_detections(found, truths, CLASSES)
    assert result.curves["cat"].f1.tolist() == pytest.approx([2 / 4, 2 / 5, 4 / 6])
    assert result.f1() == {"cat": pytest.approx(2 / 4), "dog": None, "eel": None}
    assert result.f1(-1.0)["cat"] == result.best_f1()["cat"] == pytest.approx(4 / 6)
    assert result.f1(0.9)["cat"] == 0
    assert result.best_scores() == {"cat": -0.75, "dog": None, "eel": None}
    nothing = evaluate_detections([found_of()], truths, CLASSES)
    assert (nothing.f1()["cat"], nothing.best_f1()["cat"]) == (0, 0)
    assert nothing.best_scores()["cat"] is None


@pytest.mark.parametrize(
    ("found", "truths", "options", "error", "message"),
    [
        pytest.param([], [truth_of((HERE, 0))], {}, DataError, "1 images need as many", id="too few lists"),
        pytest.param([found_of()], [truth_of()], {}, DataError, "no object to find in 1", id="no objects"),
        pytest.param(
            [found_of()],
            [truth_of((HERE, 0, "difficult"))],
            {},
            DataError,
            "no object to find",
            id="none easy",
        ),
        pytest.param(
            [found_of(classes=("dog",))], [truth_of((HERE, 0))], {}, DataError, "got dog", id="other classes"
        ),
        pytest.param(
            [found_of()], [truth_of((HERE, 3))], {}, DataError, r"0\.\.2; got 3", id="a label too high"
        ),
        pytest.param(
            [found_of((HERE, np.nan, 0))], [truth_of((HERE, 0))], {}, DataError, "1 scores are NaN", id="NaN"
        ),
        pytest.param(
            [found_of()],
            [truth_of((HERE, 0))],
            {"rule": "coco"},
            ConfigError,
            "voc07 or voc",
            id="another rule",
        ),
        pytest.param(
            [found_of()],
            [truth_of((HERE, 0))],
            {"iou": 0},
            ConfigError,
            "iou must be above 0",
            id="no overlap",
        ),
    ],
)
def test_what_cannot_be_judged(found, truths, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_detections(found, truths, CLASSES, **options)


def test_a_class_needs_objects_and_flags():
    with pytest.raises(DataError, match="needs an object to find; got 0"):
        average_precision([], [], [], 0)
    with pytest.raises(DataError, match="2 scores need as many flags; got 1 and 2"):
        average_precision([1, 2], [True], [False, False], 1)


# --- COCO ----------------------------------------------------------------------------------------


def random_scene(seed, images=30):
    """Objects, and detections somewhere about them; the scores all differ."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        corners = rng.integers(0, 300, (5, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 120, (5, 2))], axis=1)
        labels = rng.integers(0, 3, 5)
        truths.append(truth_of(*zip(boxes, labels, strict=True)))
        near = np.repeat(boxes, 3, axis=0) + rng.normal(0, 6, (15, 4))
        found.append(
            found_of(
                *((box, rng.random(), label) for box, label in zip(near, np.repeat(labels, 3), strict=True))
            )
        )
    return found, truths


def coco_average_precision(found, truths, label, threshold):
    """COCO's rule at one overlap, in loops: each detection takes the free object it overlaps most."""
    rows, wanted = [], 0
    for image, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        wanted += int((truth.labels == label).sum())
        own = detections[detections.labels == label]
        rows += [(float(s), image, b.astype(float)) for s, b in zip(own.scores, own.boxes, strict=True)]
    taken, flags = set(), []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        best, nearest = threshold, None
        for index, (other, its_label) in enumerate(
            zip(truths[image].boxes, truths[image].labels, strict=True)
        ):
            if its_label != label or (image, index) in taken:
                continue
            other = other.astype(float)
            sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
            union = (box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - sides.prod()
            if sides.prod() / union >= best:
                best, nearest = sides.prod() / union, (image, index)
        flags.append(nearest is not None)
        taken.add(nearest)
    right = np.cumsum(flags)
    precision = right / np.arange(1, len(flags) + 1)
    levels = [max(precision[right / wanted >= recall - 1e-9], default=0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(levels))


def test_coco_is_its_rule_in_loops():
    found, truths = random_scene(1)
    result = evaluate_coco(found, truths, CLASSES)
    overlaps = np.linspace(0.5, 0.95, 10)
    for label, name in enumerate(CLASSES):
        each = [coco_average_precision(found, truths, label, overlap) for overlap in overlaps]
        assert result.per_class[name] == pytest.approx(np.mean(each), abs=1e-6)
        assert result.per_class50[name] == pytest.approx(each[0], abs=1e-6)
    assert result.map == pytest.approx(np.mean(list(result.per_class.values())))
    assert 0.05 < result.map75 < result.map < result.map50 < 0.98


def test_coco_and_voc_agree_where_their_rules_do():
    # One object of each class in an image: taking the free object and taking the nearest are then one.
    # The 101 recalls of COCO come close to the area.
    rng = np.random.default_rng(2)
    found, truths = [], []
    for _ in range(300):
        boxes = [(10, 10, 50, 60), (100, 10, 150, 60), (10, 100, 60, 170)]
        truths.append(truth_of(*((box, label) for label, box in enumerate(boxes))))
        moved = [np.array(box) + rng.normal(0, 5, 4) for box in boxes for _ in range(2)]
        found.append(found_of(*((box, rng.random(), i // 2) for i, box in enumerate(moved))))
    ours = evaluate_detections(found, truths, CLASSES, "voc")
    theirs = evaluate_coco(found, truths, CLASSES)
    for name in CLASSES:
        assert theirs.per_class50[name] == pytest.approx(ours.per_class[name], abs=0.01)


def test_what_coco_ignores():
    # The detection in the crowd is free, and so is one part of it; a class without objects has no value.
    found = [found_of((THERE, 0.9, 0), ((51, 51, 54, 54), 0.8, 0), (HERE, 0.7, 0))]
    free = evaluate_coco(found, [truth_of((HERE, 0), (THERE, 0, "crowd"))], CLASSES)
    assert (free.map, free.map50, free.per_class["dog"]) == (pytest.approx(1), pytest.approx(1), None)
    assert evaluate_coco(found, [truth_of((HERE, 0))], CLASSES).map == pytest.approx(1 / 3)


def test_coco_without_detections_is_nothing_found():
    result = evaluate_coco([found_of()], [truth_of((HERE, 0))], CLASSES, skipped=["a.jpg"])
    data = json.loads(json.dumps(result.to_json()))
    assert (data["metric"], data["map"], data["map50"], data["images"]) == ("coco", 0, 0, 1)
    assert data["skipped"] == ["a.jpg"]


def test_without_the_extra_coco_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[coco\]'"):
        evaluate_coco([found_of()], [truth_of((HERE, 0))], CLASSES)
