"""Training a detector from photographs to the file: stages, resuming, and what is left out or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sppnet.boxes import box_iou
from sppnet.data.detection_dataset import default_split, open_annotated
from sppnet.detect import cross_validation
from sppnet.detect import train as train_module
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.detect.evaluate import evaluate_detector
from sppnet.detect.finetune import FinetuneSamples
from sppnet.detect.label_assignment import TrainingImages, _merge_signs, split_boxes
from sppnet.detect.roi_features import RcnnRoIFeatureExtractor
from sppnet.detect.run_folder import DetectorRun
from sppnet.detect.train import add_classes, train_detector
from sppnet.errors import ConfigError, DataError, ModelError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.nn.trunks import load_trunk
from sppnet.structures import GroundTruth

COLOURS = {"red": (230, 40, 40), "green": (40, 210, 60)}
IMAGES = 24
BROKEN = "05.png"
STAGES = ["windows", "proposals", "svm", "boxes", "scores", "refinement"]


def draw_scene(index):
    """Pixels (h, w, 3), and (name, box) of each of its one or two rectangles on dull noise."""
    rng = np.random.default_rng(index)
    height, width = (int(side) for side in rng.integers(96, 140, 2))
    pixels = rng.integers(90, 140, (height, width, 1)) + rng.integers(-15, 16, (height, width, 3))
    things = []
    for name in rng.permutation(list(COLOURS))[: rng.integers(1, 3)]:
        wide, high = (int(side) for side in rng.integers(30, 60, 2))
        x, y = int(rng.integers(0, width - wide)), int(rng.integers(0, height - high))
        box = (x, y, x + wide, y + high)
        if any(box_iou([box], [other]).max() > 0 for _, other in things):
            continue
        pixels[y : y + high, x : x + wide] = np.array(COLOURS[name]) + rng.integers(-20, 21, (high, wide, 3))
        things.append((str(name), box))
    return np.clip(pixels, 0, 255).astype(np.uint8), things


def write_voc(path: Path, things) -> None:
    marks = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in things
    )
    path.with_suffix(".xml").write_text(f"<annotation>{marks}</annotation>")


def write_scenes(root: Path, count: int, first: int = 0) -> Path:
    """A folder of drawn scenes with their VOC files; first: the number of the first."""
    root.mkdir(exist_ok=True)
    for index in range(first, first + count):
        pixels, things = draw_scene(index)
        Image.fromarray(pixels).save(root / f"{index:02}.png")
        write_voc(root / f"{index:02}.png", things)
    return root


def write_weights(folder: Path) -> Path:
    """A file of random weights for the trunk squeezenet1_1:6."""
    torch.manual_seed(0)
    path = folder / "trunk.safetensors"
    save_file(load_trunk("squeezenet1_1:6").body.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Rectangles of two colours with VOC files beside them; one image is half a file."""
    root = tmp_path_factory.mktemp("scenes")
    for index in range(IMAGES):
        pixels, things = draw_scene(index)
        path = root / f"{index:02}.png"
        Image.fromarray(pixels).save(path)
        write_voc(path, things)
    broken = root / BROKEN
    broken.write_bytes(broken.read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DetectorConfig:
    weights = write_weights(tmp_path_factory.mktemp("weights"))
    return DetectorConfig(
        trunk="squeezenet1_1:6", stride=None, weights=str(weights), scales=(96,), levels=(1, 2),
        max_proposals=80, finetune="none", svm_layer="pool", C=1e-3, rounds=2, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """Where the folder of the run `trained` lies as it was after each of its stages, by their number."""
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture(scope="module")
def trained(data, config, cache, stopped, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_each_stage(patch, stopped)
        return train_detector(data, tmp_path_factory.mktemp("runs") / "first", config, cache=cache)


def test_the_detector_finds_what_it_has_not_seen(trained):
    found_of, of = 0, 0
    for index in range(100, 110):
        pixels, things = draw_scene(index)
        found = trained.detector(pixels, min_score=-1.5)
        for name, box in things:
            best = found[[one == name for one in found.names]]
            of += 1
            found_of += bool(len(best)) and box_iou(best.boxes[:1], [box]).max() >= 0.5
    assert found_of / of >= 0.75


def test_it_tells_what_it_was_trained_on(trained):
    things = [
        name for index in range(IMAGES) if f"{index:02}.png" != BROKEN for name, _ in draw_scene(index)[1]
    ]
    assert trained.objects == {name: things.count(name) for name in trained.detector.classes}
    assert trained.recall > 0.75
    (first, second) = DetectorRun(trained.model.parent).load_stage("svm")[0]["rounds"]
    assert first["positives"] == second["positives"] >= sum(trained.objects.values())
    assert second["negatives"] == first["negatives"] + second["joined"]


def test_the_run_folder_holds_all_there_is_to_know(trained, config, data):
    root = trained.model.parent
    assert trained.model == root / "detector.safetensors"
    assert sorted(path.name for path in root.iterdir()) == [
        "config.json", "detector.safetensors", "stages", "times.json",
    ]  # fmt: skip
    assert sorted(path.stem for path in (root / "stages").iterdir()) == sorted(STAGES)
    described = json.loads((root / "config.json").read_text())
    assert (described["data"], described["images"]) == (str(data), IMAGES)
    assert described["trunk"] == config.trunk
    assert list(json.loads((root / "times.json").read_text())) == STAGES
    assert list(trained.seconds) == STAGES


def test_the_file_is_the_detector(trained):
    pixels, _ = draw_scene(200)
    loaded, own = Detector.load(trained.model)(pixels), trained.detector(pixels)
    np.testing.assert_array_equal(loaded.boxes, own.boxes)
    np.testing.assert_array_equal(loaded.scores, own.scores)
    assert loaded.classes == ("green", "red")


def test_a_damaged_image_is_left_out_and_named(trained):
    assert trained.images == IMAGES - 1
    (reason,) = trained.skipped
    assert BROKEN in reason


def test_maps_are_kept_for_the_next_run(trained, cache):
    assert len(list(cache.glob("*/*.safetensors"))) == 2 * (IMAGES - 1)  # mirror images too


class _Stopped(Exception):
    pass


def stop_at(patch, when):
    """Let a run end as soon as it has stored the stage of this number."""
    saved, number = train_module.DetectorRun.save_stage, iter(range(1, 100))

    def stop(self, name, header, tensors):
        saved(self, name, header, tensors)
        if next(number) == when:
            raise _Stopped

    patch.setattr(train_module.DetectorRun, "save_stage", stop)


def keep_each_stage(patch, folder: Path) -> None:
    """Copy a run's folder before its first stage is stored, to 0, and after every one, to its number.

    So one training gives what is left of many that were stopped.
    """
    saved, number = train_module.DetectorRun.save_stage, iter(range(100))

    def keep(self, name, header, tensors):
        if not (folder / "0").exists():
            shutil.copytree(self.root, folder / str(next(number)))
        saved(self, name, header, tensors)
        shutil.copytree(self.root, folder / str(next(number)))

    patch.setattr(train_module.DetectorRun, "save_stage", keep)


def assert_same_tensors(path, other):
    expected, found = load_file(path), load_file(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "ended", range(len(STAGES) + 1), ids=["at the start", *(f"after {s}" for s in STAGES)]
)
def test_a_resumed_run_ends_in_the_same_model(trained, stopped, data, config, cache, tmp_path, ended):
    shutil.copytree(stopped / str(ended), tmp_path / "run")
    assert len(list((tmp_path / "run").glob("stages/*.safetensors"))) == ended
    before = DetectorRun(tmp_path / "run").read_times()
    again = train_detector(data, tmp_path / "run", config, resume=True, cache=cache)
    assert again.skipped == trained.skipped
    assert again.images == trained.images
    assert list(again.seconds) == STAGES
    assert {name: again.seconds[name] for name in STAGES[:ended]} == {
        name: before[name] for name in STAGES[:ended]
    }
    assert_same_tensors(trained.model, again.model)


@pytest.mark.parametrize(("finetune", "stops"), [("fc", (4, 6)), ("all", (4, 6, 8, 10, 11))])
def test_fine_tuning_resumes_in_its_middle_and_at_its_end(
    data, config, cache, tmp_path, monkeypatch, finetune, stops
):
    """Stored are windows, proposals, tuning so far (three times), tuning, and what stands on it.

    Where the trunk learns, that is the same again: trunk so far (three times), trunk, windows, proposals.
    """
    if finetune == "all":  # folds of layers, the same in both, would be most of the time
        monkeypatch.setattr(cross_validation, "LAYER_FOLDS", 1)
    images = open_annotated(data).take(range(9))
    tuned = replace(
        config,
        finetune=finetune,
        svm_layer="fc7",
        hidden=16,
        steps=3,
        trunk_steps=3,
        rounds=1,
        max_proposals=40,
    )
    with monkeypatch.context() as patch:
        keep_each_stage(patch, tmp_path)
        whole = train_detector(images, tmp_path / "whole", tuned, cache=cache)
    assert not list(tmp_path.glob("whole/stages/*so far*"))
    for ended in stops:
        again = train_detector(images, tmp_path / str(ended), tuned, resume=True, cache=cache)
        assert_same_tensors(whole.model, again.model)
    before = load_file(config.weights)
    same = [
        torch.equal(tensor, load_file(whole.model)[f"trunk.body.{name}"]) for name, tensor in before.items()
    ]
    assert all(same) == (finetune == "fc")


@pytest.fixture(scope="module")
def tuned_rcnn(data, config, cache, tmp_path_factory):
    """R-CNN with fine-tuned layers, its folder after each stage by number, and the windows convolved."""
    root, convolved, pooled = tmp_path_factory.mktemp("rcnn"), [], RcnnRoIFeatureExtractor.pooled

    def watched(self, photo, boxes):
        convolved.extend((photo.path.name, photo.mirrored, *box) for box in boxes.tolist())
        return pooled(self, photo, boxes)

    images = open_annotated(data).take(range(9))
    tuned = replace(
        config,
        method="rcnn",
        finetune="fc",
        svm_layer="auto",
        hidden=16,
        steps=3,
        max_proposals=20,
        mirror=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        keep_each_stage(patch, root)
        patch.setattr(RcnnRoIFeatureExtractor, "pooled", watched)
        whole = train_detector(images, root / "whole", tuned, cache=cache)
    return SimpleNamespace(images=images, config=tuned, root=root, training=whole, convolved=convolved)


def test_a_fine_tuned_rcnn_finds_what_its_file_finds(tuned_rcnn):
    whole = tuned_rcnn.training
    pixels, _ = draw_scene(200)
    loaded, own = (one(pixels, min_score=-10.0) for one in (Detector.load(whole.model), whole.detector))
    assert len(own)
    np.testing.assert_array_equal(loaded.boxes, own.boxes)
    np.testing.assert_array_equal(loaded.scores, own.scores)
    extractor = whole.detector.roi_extractor
    assert isinstance(extractor, RcnnRoIFeatureExtractor)
    assert list(dict(extractor.layers.named_children())) == ["standardise", "fc6", "relu6", "fc7", "relu7"]
    assert whole.detector.parts.svm.weight.shape[1] == 16


def test_windows_of_rcnn_are_convolved_once(tuned_rcnn):
    """In fine-tuning, mining, box regression and the folds together."""
    convolved = tuned_rcnn.convolved
    assert convolved
    assert len(set(convolved)) == len(convolved)


def test_rcnn_is_fine_tuned_on_the_vectors_of_its_extractor(tuned_rcnn, cache):
    """The windows and labels of every step are those that SPP-net draws."""
    parts, extractor = tuned_rcnn.training.detector.parts, tuned_rcnn.training.detector.extractor
    run = DetectorRun(tuned_rcnn.root / "whole")
    stage = run.load_stage("proposals")[1]
    proposals = split_boxes(stage["boxes"].numpy(), stage["counts"].numpy())
    images = tuned_rcnn.images.take([index for index in range(9) if index != int(BROKEN[:2])])
    photos = TrainingImages(images, extractor, MapCache(recipe_of(extractor), cache), False, run.vectors)
    windows = FinetuneSamples(photos, proposals, parts.config)
    (part, *_), plain = windows.train.draw(1), RcnnRoIFeatureExtractor(extractor, parts.config.levels)
    vectors, labels = windows.draw(windows.train, 1, windows.of_frozen_trunk())
    expected = plain(photos.photo(part.image), windows.boxes(part.image)).distinct[part.windows]
    torch.testing.assert_close(vectors[: len(expected)], expected.half().float())
    spp = FinetuneSamples(photos, proposals, replace(parts.config, method="spp"))
    of_maps, same = spp.draw(spp.train, 1, spp.of_frozen_trunk())
    assert torch.equal(labels, same)
    assert of_maps.shape == vectors.shape
    assert not torch.equal(of_maps, vectors)


@pytest.mark.parametrize(
    ("ended", "vectors"), [(2, "kept"), (4, "kept"), (4, "deleted"), (6, "kept"), (7, "kept")]
)
def test_fine_tuning_of_rcnn_resumes(tuned_rcnn, cache, tmp_path, ended, vectors):
    """After proposals, within fine-tuning, after it, after the SVMs: vectors are read or made again."""
    shutil.copytree(tuned_rcnn.root / str(ended), tmp_path / "run")
    run = DetectorRun(tmp_path / "run")
    if vectors == "deleted":
        shutil.rmtree(run.vectors, ignore_errors=True)
    again = train_detector(tuned_rcnn.images, run.root, tuned_rcnn.config, resume=True, cache=cache)
    assert_same_tensors(tuned_rcnn.training.model, again.model)


def test_a_class_is_added_to_a_fine_tuned_rcnn(tuned_rcnn, data, cache, tmp_path):
    old = tuned_rcnn.training.detector
    images = replace(tuned_rcnn.images, classes=("leaf", "brick"))
    added = add_classes(old, images, tmp_path / "run", ["brick"], cache=cache)
    assert added.detector.classes == ("green", "red", "brick")
    assert torch.equal(added.detector.parts.svm.weight[:2], old.parts.svm.weight)
    assert len(Detector.load(added.model)(draw_scene(200)[0], min_score=-10.0))


def test_a_fine_tuned_rcnn_is_evaluated_and_compressed(tuned_rcnn):
    detector = tuned_rcnn.training.detector
    result = evaluate_detector(detector, tuned_rcnn.images)
    assert set(result.per_class) == {"green", "red"}
    assert len(detector.compress((8, 0))(draw_scene(200)[0], min_score=-10.0))


def test_a_run_that_an_error_ends_goes_on_from_there(trained, data, config, cache, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(_Stopped):
            train_detector(data, tmp_path, config, cache=cache)
    assert {path.stem for path in tmp_path.glob("stages/*")} == set(STAGES[:2])
    again = train_detector(data, tmp_path, config, resume=True, cache=cache)
    assert_same_tensors(trained.model, again.model)


def test_a_folder_with_a_run_in_it_is_refused(trained, data, config, cache):
    before = trained.model.read_bytes()
    with pytest.raises(ConfigError, match="holds a run already; resume it"):
        train_detector(data, trained.model.parent, config, cache=cache)
    with pytest.raises(ConfigError, match="max_proposals was 80"):
        train_detector(data, trained.model.parent, replace(config, max_proposals=7), resume=True, cache=cache)
    assert trained.model.read_bytes() == before


# --- what cannot be trained ----------------------------------------------------------------------


def test_a_class_without_objects_is_told_and_left_out(data, trained, config, cache, tmp_path, caplog):
    images = open_annotated(data)
    truths = tuple(
        GroundTruth(truth.boxes, truth.labels + 1, truth.difficult, truth.crowd) for truth in images.truths
    )
    images = replace(images, classes=("blue", *images.classes), truths=truths)
    result = train_detector(images, tmp_path / "run", config, cache=cache)
    assert caplog.messages == [f"no objects of blue in the {IMAGES} images; trained without"]
    assert result.detector.classes == trained.detector.classes
    assert torch.equal(result.detector.parts.svm.weight, trained.detector.parts.svm.weight)


def test_images_without_any_object_are_refused(data, config, cache, tmp_path):
    images = open_annotated(data)
    nothing = replace(images, truths=tuple(GroundTruth.of([], []) for _ in images.paths))
    with pytest.raises(DataError, match=f"no object is marked in the {IMAGES} images to train on"):
        train_detector(nothing, tmp_path / "run", config, cache=cache)
    assert not (tmp_path / "run").exists()


def test_images_of_which_none_can_be_read_are_refused(config, cache, tmp_path):
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        write_voc(tmp_path / f"{index}.png", [("red", (1, 1, 9, 9))])
    with pytest.raises(DataError, match="none of the images could be read"):
        train_detector(open_annotated(tmp_path), tmp_path / "run", config, cache=cache)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"weights": None}, ConfigError, "needs trained weights", id="a random frozen trunk"),
        pytest.param({"weights": "no.pth"}, ModelError, r"no weights file at no\.pth", id="no weights there"),
        pytest.param({"trunk": "squeeze"}, ModelError, "no trunk is called 'squeeze'", id="a trunk unknown"),
    ],
)
def test_trunks_that_cannot_be_used_are_refused(data, config, cache, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        train_detector(data, tmp_path / "run", replace(config, **options), cache=cache)


def make_splits(root: Path, *names: str) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(root / "JPEGImages/a.png")
    (root / "Annotations/a.xml").write_text("<annotation></annotation>")
    for name in names:
        (root / "ImageSets/Main" / f"{name}.txt").write_text("a\n")
    return root


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        pytest.param(("train", "val", "test"), "trainval", id="train and val make trainval"),
        pytest.param(("trainval", "test"), "trainval", id="trainval"),
        pytest.param(("train", "test"), "train", id="train alone"),
        pytest.param((), None, id="no splits: everything"),
    ],
)
def test_the_split_to_train_on(tmp_path, splits, expected):
    assert default_split(make_splits(tmp_path, *splits)) == expected


def test_splits_of_other_names_are_to_be_chosen_from(tmp_path):
    with pytest.raises(DataError, match="has the splits test; choose one with --split"):
        default_split(make_splits(tmp_path, "test"))


# --- signs of distinct windows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signs", "merged"),
    [
        pytest.param([-1, -1], -1, id="negatives: negative"),
        pytest.param([-1, 0], 0, id="one not used: not used"),
        pytest.param([0, 1], 1, id="one positive: positive"),
        pytest.param([1, -1], 1, id="positive beside negative: positive"),
        pytest.param([-1, 0, 1], 1, id="all three: positive"),
    ],
)
def test_signs_of_boxes_on_the_same_cells_are_merged(signs, merged):
    column = np.array([[-1], *([sign] for sign in signs)], np.int8)
    of_box = np.array([1, *[0] * len(signs)])
    assert _merge_signs(column, of_box, 2).tolist() == [[merged], [-1]]
    assert _merge_signs(column[::-1], of_box[::-1], 2).tolist() == [[merged], [-1]]


def test_signs_are_merged_class_by_class():
    signs = np.array([[1, -1, 0], [-1, -1, -1]], np.int8)
    merged = _merge_signs(signs, np.array([0, 0]), 1)
    assert merged.dtype == np.int8
    assert merged.tolist() == [[1, -1, 0]]
