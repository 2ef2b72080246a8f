"""The demo, made small: what it draws, trains and reports."""

import numpy as np
import pytest
import torch
from PIL import Image

from recording_progress import RecordingProgress
from sppnet import demo
from sppnet.classify.classifier import Classifier
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.folder import open_folder
from sppnet.data.image import read_header
from sppnet.detect.detector import Detector
from sppnet.nn.default_trunk import DEFAULT_LITE, DEFAULT_WITHOUT
from sppnet.nn.efficientnet_lite import has_lite_weights


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """Its result, its folder, and what was told of it."""
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out, told = tmp_path_factory.mktemp("demo"), RecordingProgress()
    (out / "images" / "train" / "of an earlier demo").mkdir(parents=True)
    (out / "images" / "train" / "checks").mkdir()  # by which it is known
    (out / "run").mkdir()
    (out / "run" / "config.json").write_text("of an earlier demo")
    (out / "mine.txt").write_text("somebody's own file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TEST_IMAGES", 2)
        patch.setattr(demo, "TRAINED_SIZES", (64, 48))
        patch.setattr(demo, "TESTED_SIZES", (56, 64))
        patch.setattr(demo, "SCENES", {"train": 8, "test": 7})
        patch.setattr(demo, "SCENE_SCALES", (160,))
        patch.setattr(demo, "DRAWN_SCENES", 2)
        patch.setattr(demo, "default_trunk", lambda _: (DEFAULT_WITHOUT, None))  # as where none are installed
        result = demo.run(out, epochs=1, images_per_class=4, progress=told)
    torch.set_num_threads(threads)
    return result, out, told


def test_rows_tell_how_it_was_tested_and_how_well(small_demo):
    result, _, _ = small_demo
    names = [(name, trained) for name, trained, _ in result.rows]
    assert ("56×56 crop", False) in names
    assert ("64×64 crop", True) in names
    assert sum(name.startswith("full image") for name, _ in names) >= 1
    images = result.test_images
    assert images > 0
    for _, _, accuracy in result.rows:
        assert 0 <= accuracy <= 1
        assert accuracy * images == pytest.approx(round(accuracy * images))
    assert result.seconds > 0


def test_pictures_are_drawn(small_demo):
    result, out, _ = small_demo
    assert [path.name for path in result.pictures] == ["accuracy.png", "predictions.png"]
    for path in result.pictures:
        assert path.parent == out
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 200
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        assert len(colours) > 50, path
        assert counts.max() < 0.95 * len(pixels), path


def test_the_chart_has_a_dark_bar_for_trained_sizes_and_a_light_one_for_others(tmp_path):
    pytest.importorskip("matplotlib")
    from sppnet.report.plots import draw_accuracy_by_size

    def inked(accuracy: float, trained: bool) -> int:
        path = draw_accuracy_by_size([("64×64 crop", trained, accuracy)], tmp_path / "chart.png")
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
        colour = (31, 111, 235) if trained else (158, 197, 254)
        return int((np.abs(pixels - colour).max(1) < 8).sum())

    for trained in (True, False):
        assert inked(0.0, trained) < 200
        assert inked(1.0, trained) == pytest.approx(2 * inked(0.5, trained), rel=0.1)


def test_a_caption_is_green_where_it_is_right(tmp_path):
    from sppnet.report.plots import draw_contact_sheet

    Image.new("RGB", (30, 60), (0, 0, 255)).save(tmp_path / "a.png")
    counts = []
    for right in (True, False):
        sheet = draw_contact_sheet([(tmp_path / "a.png", "a cat", right)], tmp_path / "sheet.png")
        red, green, _ = np.asarray(Image.open(sheet).convert("RGB")).astype(int).transpose(2, 0, 1)
        counts.append([int((green > red + 60).sum()), int((red > green + 60).sum())])
    (green, none), (nothing, red) = counts
    assert green > 20
    assert red > 20
    assert (none, nothing) == (0, 0)


def test_images_differ_in_size_and_shape(small_demo):
    _, out, _ = small_demo
    images = open_folder(out / "images", "train")
    assert len(images) == 4 * len(images.classes)
    sizes = {read_header(path).size_hw for path in images.paths}
    assert len(sizes) > len(images) / 2
    assert min(min(size) for size in sizes) != max(max(size) for size in sizes)


def test_the_same_seed_draws_the_same_images(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo.generate(tmp_path / name, 1, seed)
    files = [sorted((tmp_path / name).rglob("*.jpg")) for name in ("a", "b", "c")]
    content = [[path.read_bytes() for path in paths] for paths in files]
    assert content[0] == content[1]
    assert all(left != right for left, right in zip(content[0], content[2], strict=True))


def test_an_earlier_demo_is_replaced_and_nothing_else(small_demo):
    _, out, _ = small_demo
    assert not (out / "images" / "train" / "of an earlier demo").exists()
    assert (out / "run" / "best.safetensors").is_file()
    assert (out / "mine.txt").read_text() == "somebody's own file"
    made = {"accuracy.png", "detections", "detector", "images", "predictions.png", "run", "scenes"}
    assert {path.name for path in out.iterdir()} == {*made, "mine.txt"}


def test_a_detector_is_trained_on_the_classifiers_trunk_and_tested_on_other_scenes(small_demo):
    result, out, _ = small_demo
    assert result.objects.images == 7
    assert set(result.objects.per_class) == set(demo.PATTERNS)
    assert 0 <= result.objects.map <= 1
    trunk = Detector.load(out / "detector" / "detector.safetensors").parts.trunk.state_dict()
    classifier = Classifier.load(out / "run" / "best.safetensors").network.trunk.state_dict()
    assert all(torch.equal(trunk[name], tensor) for name, tensor in classifier.items())


def test_with_weights_installed_the_detector_finds_nearly_everything(tmp_path):
    if not has_lite_weights("efficientnet_lite1"):
        pytest.skip("the weights extra is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SCENES", {"train": 24, "test": 8})
        patch.setattr(demo, "SCENE_SCALES", (224,))
        trained, objects = demo._find_objects(tmp_path / "unused", tmp_path, 0, RecordingProgress())
    assert trained.detector.parts.trunk.name == DEFAULT_LITE
    assert objects.map > 0.9  # 24 scenes of 3 objects, six classes


def test_scenes_are_drawn_with_what_was_found(small_demo):
    result, out, _ = small_demo
    scenes = open_annotated(out / "scenes", "test")
    assert [path.parent for path in result.scenes] == [out / "detections"] * 2
    for drawn, scene in zip(result.scenes, scenes.paths, strict=False):
        with Image.open(drawn) as picture:
            assert (picture.height, picture.width) == read_header(scene).size_hw


def test_every_object_of_a_scene_is_marked_where_it_is(tmp_path):
    demo.generate_scenes(tmp_path, "train", 12, 0)
    scenes = open_annotated(tmp_path, "train")
    assert scenes.problems == ()
    assert all(scenes.counts().values())
    assert max(map(len, scenes.truths)) > 2
    for path, truth in scenes:
        grey = np.asarray(Image.open(path).convert("L")).astype(float)
        covered = np.zeros(grey.shape, int)
        near = np.zeros(grey.shape, bool)  # where JPEG's blocks may show the object
        for x0, y0, x1, y1 in truth.boxes.astype(int):
            covered[y0:y1, x0:x1] += 1
            near[max(y0 - 16, 0) : y1 + 16, max(x0 - 16, 0) : x1 + 16] = True
            assert grey[y0:y1, x0:x1].std() > 25
        assert covered.max() == 1  # objects do not lie on one another
        assert grey[~near].std() < 15  # plain, but for noise


def test_it_tells_of_every_stage(small_demo):
    _, _, told = small_demo
    assert all(steps > 0 for _, steps in told.stages)
    names = [name for name, _ in told.stages]
    drawn = [name for name in names if name.startswith(("drawing images", "drawing scenes"))]
    assert len(drawn) == 4
    assert names[-1] == "detecting"
    assert sum(name.startswith("epoch 1/1") for name in names) == 1
