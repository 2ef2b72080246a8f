"""The second correction of boxes: what it learns from, what it does, and how it is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sppnet import Detector
from sppnet.boxes import box_iou, clip_boxes, decode_boxes
from sppnet.data.detection_dataset import open_annotated
from sppnet.detect import box_refinement
from sppnet.detect.box_refinement import BoxRefiner, choose_images, draw_windows, learn_refinement
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.postprocess import without_copies
from sppnet.errors import GeometryError, ModelError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.ridge import BoxRegressor, fit_boxes
from sppnet.nn.model_file import load_model, save_model
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress
from sppnet.structures import Detections
from test_detect_train import write_scenes
from test_detector import make_detector, photograph

CONFIG = DetectorConfig(trunk="zf5", scales=(256, 160), refine_levels=(1, 2, 4))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    images = open_annotated(write_scenes(tmp_path_factory.mktemp("scenes"), 36))
    torch.manual_seed(0)
    extractor = FeatureExtractor(load_trunk("zf5", width=0.1).eval(), (256, 160))
    return TrainingImages(images, extractor, None, mirrored=True)


def overlaps(boxes, targets):
    """(n,) IoU of each box with its own target."""
    return np.array([box_iou(a[None], b[None])[0, 0] for a, b in zip(boxes, targets, strict=True)])


def test_windows_lie_near_their_objects_and_within_the_image():
    targets = np.repeat(np.array([[10, 20, 60, 90], [0, 0, 3, 3], [100, 0, 200, 150]], np.float32), 500, 0)
    boxes = draw_windows(targets, (150, 200), np.random.default_rng(0))
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 200).all()
    assert (boxes[:, 3] <= 150).all()
    own = np.array(
        [box_iou(box[None], target[None])[0, 0] for box, target in zip(boxes, targets, strict=True)]
    )
    assert 0.7 < own[:500].mean() < 0.9
    assert own[:500].min() > 0.3


def test_objects_give_as_many_windows_each_as_there_is_room_for(photos, monkeypatch):
    objects = {i: len(photos.truth(i).boxes) for i in range(len(photos))}
    chosen, count = choose_images(photos, 0, 3 * sum(objects.values()))
    assert count == 3
    assert sorted(chosen) == list(range(len(photos)))
    chosen, count = choose_images(photos, 0, 5)  # fewer than objects
    assert count == 1
    assert chosen != choose_images(photos, 1, 5)[0]
    assert sum(objects[i] for i in chosen) >= 5 > sum(objects[i] for i in chosen[:-1])
    monkeypatch.setattr(box_refinement, "MAX_IMAGES", 1)
    assert len(choose_images(photos, 0, 5)[0]) == 1


def test_with_a_time_fewer_windows_teach(photos, monkeypatch):
    drawn, objects = [], sum(len(photos.truth(index).boxes) for index in range(len(photos)))

    def fit(rows, *others, **options):
        drawn.append(len(rows))
        return fit_boxes(rows, *others, **options)

    monkeypatch.setattr(box_refinement, "fit_boxes", fit)
    monkeypatch.setattr(box_refinement, "MAX_WINDOWS", 4 * objects)
    for time in (None, "10m"):
        learn_refinement(photos, replace(CONFIG, time=time), NullProgress())
    assert drawn == [4 * objects, 2 * objects]


def test_difficult_objects_and_crowds_do_not_teach(photos):
    truths = [replace(truth, difficult=np.ones(len(truth.boxes), bool)) for truth in photos.images.truths]
    unsure = replace(photos, images=replace(photos.images, truths=truths))
    assert learn_refinement(unsure, CONFIG, NullProgress()) is None


def test_windows_near_objects_are_brought_nearer(photos):
    """Of images that were not learned from."""
    learned_from, others = photos.take(range(30)), photos.take(range(30, 36))
    refiner = learn_refinement(learned_from, CONFIG, NullProgress())
    before, after = [], []
    for index in range(len(others)):
        photo = others.photo(index)
        targets = np.repeat(others.truth(index).boxes, 20, axis=0)
        boxes = draw_windows(targets, photo.size_hw, np.random.default_rng(index))
        before.append(overlaps(boxes, targets))
        after.append(overlaps(refiner(photo.maps, boxes), targets))
    assert np.concatenate(after).mean() > np.concatenate(before).mean() + 0.04


@pytest.mark.parametrize("at_once", [500, 1])
def test_each_pass_is_the_regression_of_what_is_pooled_there(photos, monkeypatch, at_once):
    monkeypatch.setattr(box_refinement, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    maps = photos.photo(0).maps
    boxes = np.array([[3, 4, 60, 50], [10, 20, 30, 90]], np.float32)
    length = maps.channels * 21
    weight = torch.from_numpy(rng.normal(0, 1e-3, (1, 4, length)).astype(np.float32))
    refiner = BoxRefiner(BoxRegressor(weight, torch.full((1, 4), 0.05), ("",)), (1, 2, 4), "paper", "log")
    expected = boxes
    for _ in range(2):
        vectors = maps.pool(expected, (1, 2, 4), "paper", maps.choose_scales(expected, "log")).float()
        deltas = vectors.double() @ weight[0].double().T + 0.05
        expected = clip_boxes(decode_boxes(expected, deltas.numpy()), maps.size_hw)
    np.testing.assert_allclose(refiner(maps, boxes), expected, atol=1e-3)
    assert refiner(maps, boxes[:0]).shape == (0, 4)


# --- in a detector -------------------------------------------------------------------------------


def with_refiner(detector, unmoved=(), growth=0.1):
    """The same, whose boxes grow in each pass, in logarithms; boxes of some classes stay."""
    config = replace(detector.config, refine_levels=(1, 2))
    length = detector.parts.trunk.channels * 5
    refiner = BoxRefiner.read(
        {"weight": torch.zeros(4, length), "bias": torch.tensor([0, 0, growth, growth])}, config
    )
    weight = torch.ones_like(detector.parts.regressor.weight) * 1e-9
    weight[list(unmoved)] = 0
    regressor = replace(detector.parts.regressor, weight=weight)
    return Detector(replace(detector.parts, config=config, regressor=regressor, refiner=refiner))


def test_what_is_found_is_corrected_and_nothing_else_changes():
    detector = with_refiner(make_detector(), unmoved=[1])
    plain = Detector(replace(detector.parts, refiner=None))
    photo = LazyImage(photograph(), detector.extractor)
    selected = plain.select([plain.candidates(photo)])
    found, expected = replace(selected, boxes=detector.refine(photo, selected)), plain.detect(photo)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    moves = found.labels == 0
    assert moves.any()
    assert not moves.all()
    np.testing.assert_array_equal(found.boxes[~moves], expected.boxes[~moves])
    grown = expected.boxes[moves]
    for _ in range(2):
        grown = clip_boxes(decode_boxes(grown, np.tile([0, 0, 0.1, 0.1], (len(grown), 1))), photo.size_hw)
    np.testing.assert_allclose(found.boxes[moves], grown, atol=1e-3)


def test_of_two_boxes_that_came_to_lie_on_one_another_the_surer_stays():
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 4.9]], np.float32
    )
    scores, labels = np.array([3, 2, 1.5, 1, 0.5], np.float32), np.array([0, 0, 1, 0, 0])
    found = Detections(boxes, scores, labels, ("a", "b"))
    assert without_copies(found, [0, 1]).scores.tolist() == [3, 1.5, 1, 0.5]  # 0.49 is no copy
    assert without_copies(found, [1]).scores.tolist() == scores.tolist()
    assert len(without_copies(found[:0], [0])) == 0
    detector = with_refiner(make_detector(), growth=1.0)  # until they fill the image
    photo = LazyImage(photograph(), detector.extractor)
    selected = detector.select([detector.candidates(photo)])
    moved = replace(selected, boxes=detector.refine(photo, selected))
    expected = detector.add_probabilities(without_copies(moved, [0, 1]))
    np.testing.assert_array_equal(detector.detect(photo).boxes, expected.boxes)
    assert len(expected) < len(moved)


def test_a_file_holds_it(tmp_path):
    detector = with_refiner(make_detector())
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors")
    photo = LazyImage(photograph(), detector.extractor)
    np.testing.assert_array_equal(again.detect(photo).boxes, detector.detect(photo).boxes)
    header, tensors = load_model(tmp_path / "d.safetensors", "detector")
    damaged = {**tensors, "refiner.weight": tensors["refiner.weight"][:, 1:].contiguous()}
    save_model(tmp_path / "bad.safetensors", "detector", header, damaged)
    with pytest.raises(ModelError, match="box refinement must take vectors of"):
        Detector.load(tmp_path / "bad.safetensors")


def test_models_from_before_have_none():
    given = {name: value for name, value in CONFIG.to_json().items() if name != "refine_levels"}
    assert DetectorConfig.from_json(given).refine_levels is None
    assert DetectorConfig.from_json(CONFIG.to_json()) == CONFIG


def test_levels_are_checked_and_r_cnn_has_none():
    with pytest.raises(GeometryError, match="levels"):
        DetectorConfig(trunk="zf5", refine_levels=(0,))
    assert DetectorConfig(trunk="zf5", method="rcnn").refine_levels is None
