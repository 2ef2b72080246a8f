"""A detector out of its parts: examples, vectors, the run folder, and the one file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sppnet.boxes import box_area
from sppnet.data.transforms import to_tensor
from sppnet.detect import detector as detector_module
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.detect.label_assignment import (
    assign_distinct_labels,
    assign_labels,
    joined_boxes,
    match_objects,
    split_boxes,
    training_boxes,
)
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.detect.roi_features import (
    CONTEXT_PX,
    CROP_PX,
    CachedRoIFeatureExtractor,
    RcnnRoIFeatureExtractor,
    RoIFeatures,
    layers_up_to,
    warp_crop,
)
from sppnet.detect.run_folder import DetectorRun
from sppnet.errors import ConfigError, ImageError, ModelError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.model_file import load_model, read_header, save_model
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.precomputed import write_boxes
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.structures import GroundTruth
from sppnet.svm.linear_svm import LinearSVM

CLASSES = ("cat", "dog")
CONFIG = DetectorConfig(
    trunk="zf5", stride=None, width=0.1, scales=(96, 128), levels=(1, 2), max_proposals=60, finetune="none",
    svm_layer="pool", positive_iou=0.7, negative_iou=0.3, nms_iou=0.3,
)  # fmt: skip
WINDOWS = WindowConfig(sizes=(2, 4), shapes=(0.5, 1.0, 2.0), hidden=8)


def make_detector(seed=0, config=CONFIG, learned=True, classes=CLASSES):
    """Random everywhere; SVMs say yes to about half of all windows."""
    torch.manual_seed(seed)
    trunk = load_trunk(config.trunk, stride=config.stride, width=config.width).eval()
    length = trunk.channels * sum(n * n for n in config.levels)
    k = len(classes)
    head = None if config.finetune == "none" else detection_head(length, config.hidden, k).eval()
    judged = length if config.svm_layer == "pool" else config.hidden
    return Detector(
        DetectorComponents(
            classes=classes,
            config=config,
            trunk=trunk,
            windows=ProposalHead(trunk.channels, WINDOWS).eval() if learned else None,
            head=head,
            svm=LinearSVM(torch.randn(k, judged) / 10, torch.zeros(k), classes),
            regressor=BoxRegressor(torch.randn(k, 4, length) / 500, torch.zeros(k, 4), classes),
        )
    )


def photograph(height=100, width=150, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def detector():
    return make_detector()


# --- what windows are examples of ----------------------------------------------------------------

CAT, DOG = 0, 1
TABLE = [
    # The object is (0, 0, 100, 100); a box (0, 0, 100, y) overlaps it by y / 100.
    pytest.param((CAT, "plain"), 100, [1, -1], id="its own box"),
    pytest.param((CAT, "plain"), 70, [1, -1], id="overlap 0.7: positive"),
    pytest.param((CAT, "plain"), 69, [0, -1], id="overlap 0.69: not used"),
    pytest.param((CAT, "plain"), 30, [0, -1], id="overlap 0.3: not used"),
    pytest.param((CAT, "plain"), 29, [-1, -1], id="overlap 0.29: negative"),
    pytest.param((DOG, "plain"), 100, [-1, 1], id="another class"),
    pytest.param((CAT, "difficult"), 100, [0, -1], id="difficult: not used"),
    pytest.param((CAT, "difficult"), 29, [-1, -1], id="hardly on a difficult one: negative"),
    pytest.param((CAT, "crowd"), 80, [0, -1], id="in a crowd: not used"),
]


def truth_of(label, kind):
    flags = {name: np.array([kind == name]) for name in ("difficult", "crowd")}
    return GroundTruth(np.array([[0, 0, 100, 100]]), np.array([label]), **flags)


@pytest.mark.parametrize(("thing", "height", "signs"), TABLE)
def test_signs_of_boxes(thing, height, signs):
    truth = truth_of(*thing)
    proposals = np.array([[0, 0, 100, height], [200, 200, 220, 220]], np.float32)
    boxes = training_boxes(truth, proposals)
    found = assign_labels(boxes, truth, 2, CONFIG)
    assert found.dtype == np.int8
    assert found[1].tolist() == signs
    assert found[2].tolist() == [-1, -1]
    assert found[0, thing[0]] == (1 if thing[1] == "plain" else 0)


def test_with_the_papers_rule_only_objects_are_positive():
    truth = truth_of(CAT, "plain")
    boxes = training_boxes(truth, np.array([[0, 0, 100, 99]], np.float32))
    assert assign_labels(boxes, truth, 1, replace(CONFIG, positive_iou=1.0)).tolist() == [[1], [0]]


def test_an_object_is_positive_for_its_class_and_unused_for_one_it_overlaps():
    truth = GroundTruth.of([[0, 0, 100, 100], [0, 0, 100, 50]], [CAT, DOG])
    signs = assign_labels(training_boxes(truth, np.empty((0, 4), np.float32)), truth, 2, CONFIG)
    assert signs.tolist() == [[1, 0], [0, 1]]


def test_a_plain_object_counts_more_than_a_difficult_one_at_its_place():
    truth = GroundTruth(
        np.array([[0, 0, 100, 100], [0, 0, 100, 90]]), np.array([CAT, CAT]), np.array([False, True]),
        np.zeros(2, bool),
    )  # fmt: skip
    assert assign_labels(truth.boxes, truth, 1, CONFIG)[0].tolist() == [1]


def test_difficult_objects_make_no_positives_beside_plain_ones():
    truth = GroundTruth(
        np.array([[200, 200, 300, 300], [0, 0, 100, 100]]), np.array([CAT, CAT]), np.array([False, True]),
        np.zeros(2, bool),
    )  # fmt: skip
    boxes = training_boxes(truth, np.array([[0, 0, 100, 90]], np.float32))
    assert assign_labels(boxes, truth, 1, CONFIG).tolist() == [[1], [0], [0]]


@pytest.mark.parametrize(
    ("redundant", "signs"),
    [
        pytest.param(1.0, [-1, -1, -1, -1, 1], id="all stay by default"),
        pytest.param(
            0.7, [-1, 0, -1, -1, 1], id="the paper's rule drops the later of two that overlap by 0.8"
        ),
        pytest.param(0.5, [-1, 0, 0, -1, 1], id="a lower limit drops more"),
    ],
)
def test_negatives_that_overlap_another_may_be_dropped(redundant, signs):
    truth = GroundTruth.of([[200, 200, 300, 300]], [CAT])
    heights = [[0, 0, 100, 80], [0, 0, 100, 60]]
    boxes = np.array([[200, 200, 300, 300], [0, 0, 100, 100], *heights, [0, 200, 50, 250]], np.float32)
    distinct = np.array([4, 0, 1, 2, 3])
    found = assign_distinct_labels(boxes, distinct, truth, 1, replace(CONFIG, negative_nms=redundant))
    assert found[:, 0].tolist() == signs


def test_a_dropped_negative_takes_no_other_on_its_cells_with_it():
    """Two boxes on the same cells are one example, whichever of them stands first."""
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 99], [300, 0, 400, 100]], np.float32)
    signs = assign_distinct_labels(
        boxes, np.array([1, 1, 0]), GroundTruth.of([], []), 1, replace(CONFIG, negative_nms=0.7)
    )
    assert signs.tolist() == [[-1], [-1]]


def test_without_objects_every_box_is_negative():
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    assert assign_labels(boxes, GroundTruth.of([], []), 2, CONFIG).tolist() == [[-1, -1]]


def test_boxes_are_matched_to_plain_objects():
    truth = GroundTruth(
        np.array([[0, 0, 100, 100], [0, 0, 100, 50], [200, 200, 300, 300]]), np.array([0, 1, 0]),
        np.array([True, False, False]), np.zeros(3, bool),
    )  # fmt: skip
    overlap, nearest = match_objects(np.array([[0, 0, 100, 100], [200, 200, 300, 280]], np.float32), truth)
    np.testing.assert_allclose(overlap, [0.5, 0.8])
    assert nearest.tolist() == [1, 2]
    nothing, none = match_objects(np.array([[0, 0, 9, 9]], np.float32), truth[:1])
    assert (nothing.tolist(), none.tolist()) == ([0], [-1])


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0], [1], [0, 4]], ids=str)
def test_joined_boxes_come_apart_again(counts):
    several = [np.full((n, 4), i, np.float32) for i, n in enumerate(counts)]
    boxes, found = joined_boxes(several)
    assert found.tolist() == counts
    for one, other in zip(split_boxes(boxes, found), several, strict=True):
        np.testing.assert_array_equal(one, other)


# --- vectors -------------------------------------------------------------------------------------


def test_the_box_lands_on_the_inner_pixels_of_a_crop():
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[60:190, 100:230] = 255
    crop = warp_crop(pixels, np.array([100, 60, 230, 190], np.float32))
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    inner = slice(CONTEXT_PX, CROP_PX - CONTEXT_PX)
    bright = crop[..., 0] > 127
    assert bright[inner, inner].all()
    assert bright.sum() == 195**2


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((100, 60, 230, 190), id="square"),
        pytest.param((101.25, 60.5, 120.75, 190), id="tall, with fractions"),
        pytest.param((50, 50, 53, 52), id="a few pixels"),
    ],
)
def test_crops_are_warped_evenly(box):
    """On an image whose brightness is its x, a crop tells where each of its columns comes from."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    x0, y0, x1, y1 = box
    for pixels, low, high in ((ramp, x0, x1), (ramp.transpose(1, 0, 2), y0, y1)):
        crop = warp_crop(np.ascontiguousarray(pixels), np.array(box, np.float32))
        along = crop[100, :, 0] if pixels is ramp else crop[:, 100, 0]
        expected = low + (np.arange(CROP_PX) + 0.5 - CONTEXT_PX) * (high - low) / 195 - 0.5
        np.testing.assert_allclose(along, expected, atol=0.6)


def test_context_beyond_the_image_repeats_its_border():
    pixels = photograph()
    crop = warp_crop(pixels, np.array([0, 0, 150, 100], np.float32))
    np.testing.assert_array_equal(crop[:, 0], crop[:, CONTEXT_PX - 2])
    np.testing.assert_array_equal(crop[0], crop[CONTEXT_PX - 2])
    assert warp_crop(pixels[:1, :1], np.array([0, 0, 1, 1], np.float32)).shape == (227, 227, 3)


def test_vectors_of_the_baseline_are_the_definitions(detector):
    extractor = FeatureExtractor(detector.parts.trunk, (96,))
    pixels = photograph()
    boxes = np.array([[10, 10, 60, 90], [0, 0, 150, 100], [10, 10, 60, 90]], np.float32)
    vectors = RcnnRoIFeatureExtractor(extractor, (1, 2))(LazyImage(pixels, extractor), boxes)
    assert vectors.roi_of_box.tolist() == [0, 1, 2]
    trunk = detector.parts.trunk
    for box, vector in zip(boxes, vectors.distinct, strict=True):
        with torch.inference_mode():
            features = trunk(to_tensor(warp_crop(pixels, box), trunk.mean, trunk.std)[None])
        expected = torch.cat([F.adaptive_max_pool2d(features, n).flatten() for n in (1, 2)])
        torch.testing.assert_close(vector, expected, rtol=1e-3, atol=1e-4)
    assert RcnnRoIFeatureExtractor(extractor, (1, 2))(
        LazyImage(pixels, extractor), boxes[:0]
    ).distinct.shape == (
        0,
        trunk.channels * 5,
    )


@pytest.mark.parametrize("damaged", [False, True], ids=["read again", "made again where damaged"])
def test_vectors_of_the_baseline_are_stored(detector, tmp_path, monkeypatch, damaged):
    pixels = np.random.default_rng(4).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    photo = LazyImage(tmp_path / "photo.png", detector.extractor)
    boxes = np.array([[5, 5, 60, 50], [0, 0, 90, 60]], np.float32)
    made = RcnnRoIFeatureExtractor(detector.extractor, (1, 2))
    stored = CachedRoIFeatureExtractor(made, tmp_path / "vectors")
    first = stored(photo, boxes)
    assert torch.equal(first.distinct, made(photo, boxes).distinct.half().float())
    (file,) = (tmp_path / "vectors").iterdir()
    if damaged:
        file.write_bytes(file.read_bytes()[:50])
    else:
        monkeypatch.setattr(RcnnRoIFeatureExtractor, "pooled", lambda *_: pytest.fail("made again"))
    again = stored(photo, boxes)
    assert torch.equal(again.distinct, first.distinct)
    assert again.roi_of_box.tolist() == [0, 1]
    assert len(list((tmp_path / "vectors").iterdir())) == 1


def test_stored_vectors_are_looked_up_by_box(detector, tmp_path, monkeypatch):
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    photo = LazyImage(tmp_path / "photo.png", detector.extractor)
    mirrored = LazyImage(tmp_path / "photo.png", detector.extractor, mirrored=True)
    boxes = np.array([[5, 5, 60, 50], [0, 0, 90, 60], [20, 10, 80, 70]], np.float32)
    plain = RcnnRoIFeatureExtractor(detector.extractor, (1, 2))
    expected, of_mirror = (plain(one, boxes).distinct.half().float() for one in (photo, mirrored))
    convolved, pooled = [], RcnnRoIFeatureExtractor.pooled

    def watched(self, photo, boxes):
        convolved.extend((photo.mirrored, *box) for box in boxes.tolist())
        return pooled(self, photo, boxes)

    monkeypatch.setattr(RcnnRoIFeatureExtractor, "pooled", watched)
    layers = layers_up_to(detection_head(expected.shape[1], 12, 2), "fc6")
    stored = CachedRoIFeatureExtractor(plain, tmp_path / "vectors")
    deeper = CachedRoIFeatureExtractor(replace(plain, layers=layers), tmp_path / "vectors")
    step = {"rtol": 2**-10, "atol": 1e-4}  # of half precision: other batches may round to the next number
    for chosen in ([0, 1], [1], [2, 0], [2, 1, 0]):  # one more joins those that are kept
        torch.testing.assert_close(stored(photo, boxes[chosen]).distinct, expected[chosen], **step)
    torch.testing.assert_close(stored(mirrored, boxes).distinct, of_mirror, **step)
    assert sorted(convolved) == sorted((side, *box) for side in (False, True) for box in boxes.tolist())
    assert torch.equal(deeper(photo, boxes).pooled, stored(photo, boxes).distinct)
    torch.testing.assert_close(deeper(photo, boxes).distinct, layers(stored(photo, boxes).distinct))
    for one in (stored, deeper):
        expect_on_demand(one, photo, boxes)
    assert len(convolved) == 6


def test_vectors_of_windows_are_pooled_from_the_maps(detector):
    photo = LazyImage(photograph(), detector.extractor)
    boxes = np.array([[10, 10, 60, 90], [0, 0, 150, 100], [10, 10, 60, 90]], np.float32)
    vectors = detector.roi_extractor(photo, boxes)
    assert len(vectors.distinct) == 2
    expected = photo.maps.pool(boxes, CONFIG.levels).float()
    assert torch.equal(vectors.take_pooled(np.arange(3)), expected)
    assert torch.equal(vectors.distinct[vectors.roi_of_box], expected)


@pytest.mark.parametrize(("layer", "last"), [("fc6", "relu6"), ("fc7", "relu7")])
def test_layers_end_where_they_are_asked_to(layer, last):
    head = detection_head(20, 12, 2).eval()
    head.get_submodule("standardise").measure(3 + 2 * torch.randn(50, 20))
    vectors = torch.randn(5, 20)
    expected = vectors
    for name, part in head.named_children():
        expected = part(expected)
        if name == last:
            break
    found = layers_up_to(head.train(), layer)
    assert torch.equal(found(vectors), expected)
    assert not any(isinstance(part, nn.Dropout) for part in found)


def test_vectors_go_through_the_layers_asked_for(detector):
    head = detection_head(detector.parts.trunk.channels * 5, 12, 2)
    photo = LazyImage(photograph(), detector.extractor)
    boxes = np.array([[10, 10, 60, 90]], np.float32)
    for layer, length in (("fc6", 12), ("fc7", 12), ("pool", detector.parts.trunk.channels * 5)):
        config = replace(CONFIG, finetune="fc", svm_layer=layer)
        vectors = make_roi_extractor(config, detector.extractor, head)(photo, boxes)
        assert vectors.distinct.shape == (1, length)
        assert torch.equal(vectors.pooled, photo.maps.pool(boxes, CONFIG.levels).float())


BOXES = np.array([[10, 10, 60, 90], [0, 0, 150, 100], [10, 10, 60, 90], [30, 5, 140, 80]], np.float32)


@pytest.mark.parametrize("layer", ["pool", "fc6"])
def test_vectors_on_demand_are_those_of_all(detector, layer):
    head = detection_head(detector.parts.trunk.channels * 5, 12, 2)
    photo = LazyImage(photograph(), detector.extractor)
    config = replace(CONFIG, finetune="fc", svm_layer=layer)
    for made in (make_roi_extractor(config, detector.extractor, head), detector.roi_extractor):
        expect_on_demand(made, photo, BOXES)


@pytest.mark.parametrize("layer", ["pool", "fc6", "fc7"])
def test_vectors_of_crops_go_through_the_layers_asked_for(detector, layer):
    head = detection_head(detector.parts.trunk.channels * 5, 12, 2)
    photo = LazyImage(photograph(), detector.extractor)
    config = replace(CONFIG, method="rcnn", finetune="fc", svm_layer=layer)
    plain = RcnnRoIFeatureExtractor(detector.extractor, CONFIG.levels)(photo, BOXES).pooled
    vectors = make_roi_extractor(config, detector.extractor, head)(photo, BOXES)
    assert torch.equal(vectors.pooled, plain)
    expected = plain if layer == "pool" else layers_up_to(head, layer)(plain)
    torch.testing.assert_close(vectors.distinct, expected)


def test_vectors_of_crops_on_demand(detector):
    pixels = photograph()
    made = RcnnRoIFeatureExtractor(detector.extractor, (1, 2))
    expect_on_demand(made, LazyImage(pixels, detector.extractor), BOXES)


def expect_on_demand(extractor, photo, boxes):
    every, asked = extractor(photo, boxes), extractor.on_demand(photo, boxes)
    assert np.array_equal(asked.roi_of_box, every.roi_of_box)
    for rois in ([2, 0], [1], [], [0, 0]):
        found = asked.take(np.array(rois, np.int64))
        torch.testing.assert_close(found, every.distinct[rois], rtol=1e-5, atol=1e-6)


# --- detection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 100], ids=["the best two", "all"])
def test_candidates_are_scored_and_the_best_corrected(detector, monkeypatch, most):
    monkeypatch.setattr(detector_module, "MAX_CORRECTED", most)
    boxes = np.array([[0, 0, 50, 50], [2, 0, 50, 50], [60, 40, 140, 90], [60, 0, 100, 30]], np.float32)
    pooled = torch.randn(3, detector.parts.svm.weight.shape[1], generator=torch.Generator().manual_seed(0))
    vectors = RoIFeatures(pooled, pooled, np.array([0, 1, 2, 0]))
    scores = detector.parts.svm.scores(pooled).numpy()[vectors.roi_of_box]
    found = detector.score_and_refine(boxes, vectors, (100, 150), -100.0)
    for label in range(2):
        own = np.argsort(-scores[:, label], kind="stable")[:most]
        moved = detector.parts.regressor.apply(
            pooled[vectors.roi_of_box[own]], boxes[own], np.full(len(own), label), (100, 150)
        )
        np.testing.assert_allclose(found.boxes[found.labels == label], moved, rtol=1e-5)
        np.testing.assert_array_equal(found.scores[found.labels == label], scores[own, label])
    assert len(found.labels) == 2 * min(most, 4)


def test_detections_fall_in_score_and_lie_in_the_image(detector):
    found = detector(photograph(), min_score=-10.0)
    assert len(found) > 5
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.min() >= 0
    assert (found.boxes <= [150, 100, 150, 100]).all()
    assert set(found.labels) == {0, 1}
    assert found.classes == CLASSES


def test_the_least_score_is_a_bound(detector):
    every = detector(photograph(), min_score=-10.0)
    bound = float(np.median(every.scores))
    above = detector(photograph(), min_score=bound)
    assert 0 < len(above) < len(every)
    assert above.scores.min() >= bound
    by_default = detector(photograph(), min_score=0.0)
    np.testing.assert_array_equal(by_default.boxes, detector(photograph()).boxes)
    none = detector(photograph(), min_score=1e9)
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (200, 20)], ids=str)
def test_images_of_every_size_can_be_searched(detector, size_hw):
    found = detector(photograph(*size_hw), min_score=-100.0)
    assert (box_area(found.boxes) > 0).all()


def test_a_damaged_image_is_named(detector, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        detector(tmp_path / "bad.jpg")


BOX = [0, 0, 10, 10]


def one(box, score, label):
    return ScoredBoxes(np.array([box], np.float32), np.array([score], np.float32), np.array([label]))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param(one(BOX, 1, 0), one(BOX, 2, 0), [(2, 0)], id="one object, the surer detector"),
        pytest.param(one(BOX, 1, 0), one(BOX, 1, 0), [(1, 0)], id="one object, equally sure"),
        pytest.param(one(BOX, 1, 0), one(BOX, 2, 1), [(2, 1), (1, 0)], id="of two classes: both"),
        pytest.param(one(BOX, 1, 0), one([50, 50, 60, 60], 2, 0), [(2, 0), (1, 0)], id="two places: both"),
    ],
)
def test_two_detectors_are_joined_by_suppression(detector, first, second, kept):
    found = detector.postprocess(LazyImage(photograph(), detector.extractor), [first, second])
    assert list(zip(found.scores.tolist(), found.labels.tolist(), strict=True)) == kept


def test_a_detector_joined_with_itself_changes_nothing(detector):
    photo = LazyImage(photograph(), detector.extractor)
    alone = detector.detect(photo)
    candidates = detector.candidates(photo)
    both = detector.postprocess(photo, [candidates, candidates])
    np.testing.assert_array_equal(both.boxes, alone.boxes)
    np.testing.assert_array_equal(both.scores, alone.scores)


def test_two_detectors_together_find_what_either_finds(detector):
    photo = LazyImage(photograph(), detector.extractor)
    other = make_detector(seed=3)
    found = detector.postprocess(photo, [detector.candidates(photo), other.candidates(photo)])
    single = max(detector.detect(photo).scores[0], other.detect(photo).scores[0])
    assert found.scores[0] == single
    assert len(detector.postprocess(photo, [])) == 0


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "learned"),
    [
        pytest.param(CONFIG, True, id="learned windows"),
        pytest.param(replace(CONFIG, proposals="selective-search"), False, id="selective search"),
        pytest.param(replace(CONFIG, method="rcnn", scales=(96,), max_proposals=8), True, id="the baseline"),
        pytest.param(
            replace(CONFIG, method="rcnn", max_proposals=8, finetune="fc", svm_layer="fc6", hidden=12),
            True,
            id="the baseline with fine-tuned layers",
        ),
        pytest.param(
            replace(CONFIG, finetune="fc", svm_layer="fc7", hidden=12), True, id="fine-tuned layers"
        ),
        pytest.param(
            replace(CONFIG, trunk="mobilenet_v2:15", stride=8, width=1.0, scales=(96,)), True, id="dilated"
        ),
    ],
)
def test_a_loaded_detector_finds_the_same(tmp_path, config, learned):
    detector = make_detector(config=config, learned=learned)
    detector.save(tmp_path / "d.safetensors", {"images": 3})
    loaded = Detector.load(tmp_path / "d.safetensors")
    expected, found = (one(photograph(), min_score=-10.0) for one in (detector, loaded))
    assert len(expected)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert (loaded.config, loaded.classes) == (config, CLASSES)
    assert repr(loaded) == f"Detector(cat, dog; {config.trunk})"


def test_the_header_tells_what_it_is(tmp_path, detector):
    from safetensors import safe_open

    detector.save(tmp_path / "d.safetensors", {"images": 3})
    with safe_open(tmp_path / "d.safetensors", "pt") as file:
        header = json.loads(file.metadata()["sppnet"])
    assert header["kind"] == "detector"
    assert header["classes"] == list(CLASSES)
    assert header["config"]["levels"] == [1, 2]
    assert header["trained"] == {"images": 3}
    assert header["trunk"]["name"] == "zf5"


def test_the_header_names_no_path_of_the_machine_that_trained(tmp_path):
    boxes = tmp_path / "boxes.json"
    write_boxes(boxes, {"a.png": [[0, 0, 9, 9]]})
    config = replace(CONFIG, weights=str(tmp_path / "trunk.pth"), proposals=str(boxes))
    make_detector(config=config, learned=False).save(tmp_path / "d.safetensors")
    header = read_header(tmp_path / "d.safetensors")
    assert str(tmp_path) not in json.dumps(header)
    assert header["config"]["weights"] == "trunk.pth"
    assert header["config"]["proposals"] == "file"


@pytest.mark.parametrize("written", ["file", "/somebody/elses/boxes.json", "boxes.json"])
def test_a_detector_trained_on_a_file_of_boxes_is_given_another(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "a.png"
    Image.fromarray(photograph()).save(image)
    write_boxes("boxes.json", {"a.png": [[10, 10, 60, 60], [30, 20, 90, 80]]})
    path = tmp_path / "d.safetensors"
    make_detector(config=replace(CONFIG, proposals="boxes.json"), learned=False).save(path)
    header, tensors = load_model(path, "detector")
    config = {**header["config"], "proposals": written}  # a path is what version 0.1.0 wrote
    save_model(path, "detector", {**header, "config": config}, tensors)
    detector = Detector.load(path)
    with pytest.raises(ConfigError, match=r"trained on boxes from a file.*--proposals"):
        detector(image)
    given = Detector.load(path, proposals="boxes.json")
    found = given(image, min_score=-100.0)
    assert 1 <= len(found) <= 2 * len(CLASSES)
    searched = Detector.load(path, proposals="selective-search")
    assert len(searched(image, min_score=-100.0)) > len(found)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        pytest.param("classifier", {}, "holds a classifier; expected a detector", id="another kind"),
        pytest.param("detector", {"classes": ["cat"]}, "does not hold what its header", id="a class less"),
        pytest.param("detector", {"config": {"levels": [1]}}, "does not hold what", id="settings missing"),
        pytest.param("detector", {"config": None}, "does not hold what its header", id="no settings"),
        pytest.param("detector", {"trunk": {"name": "zf6"}}, "did you mean zf5", id="an unknown trunk"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, detector, kind, change, message):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    header, tensors = load_model(path, "detector")
    rest = {name: value for name, value in header.items() if name not in ("kind", "format", "sppnet")}
    save_model(path, kind, {**rest, **change}, tensors)
    with pytest.raises(ModelError, match=message):
        Detector.load(path)


@pytest.mark.parametrize("lost", ["svm.weight", "regressor.bias", "windows.first.weight"])
def test_files_without_all_tensors_are_refused(tmp_path, detector, lost):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    header, tensors = load_model(path, "detector")
    del tensors[lost]
    rest = {name: value for name, value in header.items() if name not in ("kind", "format", "sppnet")}
    save_model(path, "detector", rest, tensors)
    with pytest.raises(ModelError, match="does not hold what its header describes"):
        Detector.load(path)


# --- the run folder ------------------------------------------------------------------------------


def test_a_run_folder_is_used_once_or_resumed(tmp_path):
    run = DetectorRun(tmp_path / "run")
    run.start(CONFIG, {"data": "d"}, resume=False)
    assert json.loads(run.config.read_text())["scales"] == [96, 128]
    with pytest.raises(ConfigError, match="holds a run already; resume it"):
        run.start(CONFIG, {"data": "d"}, resume=False)
    run.start(replace(CONFIG, device="cpu"), {"data": "d"}, resume=True)
    with pytest.raises(ConfigError, match=r"max_proposals was 60.* Resume with those"):
        run.start(replace(CONFIG, max_proposals=5), {"data": "d"}, resume=True)
    with pytest.raises(ConfigError, match="data was 'd'"):
        run.start(CONFIG, {"data": "e"}, resume=True)


def test_resuming_nothing_begins(tmp_path):
    run = DetectorRun(tmp_path / "run")
    run.start(CONFIG, {}, resume=True)
    assert run.config.is_file()


def test_stages_come_back(tmp_path):
    run = DetectorRun(tmp_path)
    assert run.load_stage("svm") is None
    run.save_stage("svm", {"rounds": 3}, {"weight": torch.eye(2)})
    header, tensors = run.load_stage("svm")
    assert header["rounds"] == 3
    assert torch.equal(tensors["weight"], torch.eye(2))
    run.write_times({"svm": 1.5})
    assert json.loads((tmp_path / "times.json").read_text()) == {"svm": 1.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"method": "yolo"}, "method must be one of auto, spp, rcnn, fast, faster", id="method"),
        pytest.param({"svm_layer": "fc7"}, "svm_layer fc7 needs fc layers", id="a layer that is not there"),
        pytest.param(
            {"method": "rcnn", "finetune": "all"},
            "trunk of the R-CNN baseline stays frozen: give --finetune fc, or --method spp",
            id="a trunk of the baseline",
        ),
        pytest.param({"finetune": "all", "scales": (96, 128)}, "at one scale", id="all at two scales"),
        pytest.param({"max_proposals": 0}, "max_proposals must be 1 or more; got 0", id="no proposals"),
        pytest.param({"nms_iou": 0}, "nms_iou is an IoU above 0", id="nms of 0"),
        pytest.param(
            {"negative_iou": 1.5}, "negative_iou is an IoU above 0 and up to 1", id="negative of 1.5"
        ),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **options)


def test_settings_survive_json():
    assert DetectorConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG
