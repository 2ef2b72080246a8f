"""Every layout into every other and back: the same images, classes, splits and boxes to the last digit."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recording_progress import RecordingProgress
from sppnet.cli.app import main
from sppnet.data.convert import convert_annotated
from sppnet.data.detection_dataset import find_annotated_splits, open_annotated
from sppnet.errors import ConfigError, DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LAYOUTS = ("voc", "coco", "yolo")
CLASSES = ["zebra", "cat & dog <1>", "Katze ä"]


def save_image(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "green").save(path)


def make_coco(root: Path, *, marks: bool = False, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Images of odd sizes, boxes whole and broken, one without any, and names that are hard to write."""
    rng = np.random.default_rng(0)
    for split in splits:
        images, annotations = [], []
        for number, name in enumerate(("b 2.jpg", "b10.PNG", "empty.jpg")):
            width, height = (int(side) for side in rng.integers(40, 700, 2))
            save_image(root / split / f"{split}-{name}", width, height)
            images.append({"id": number, "file_name": f"{split}-{name}", "width": width, "height": height})
            for label in range(0 if "empty" in name else 6):
                corners = np.sort(rng.random((2, 2)) * (width, height), axis=0)
                corners = corners if label % 2 else np.floor(corners) + np.array([[0], [1]])
                (x0, y0), (x1, y1) = np.minimum(corners, (width, height)).astype(np.float32).astype(float)
                more = {"iscrowd": int(label == 3), "ignore": int(label == 4)} if marks else {}
                box = [x0, y0, x1 - x0, y1 - y0]
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": label % 3,
                        "bbox": box,
                        **more,
                    }
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/{split}.json").write_text(json.dumps(data))
    return root


def table_of(data: Path, split: str | None = None) -> dict[str, tuple]:
    images = open_annotated(data, split)
    return {
        path.name: (
            truth.boxes.tolist(),
            [images.classes[label] for label in truth.labels],
            truth.difficult.tolist(),
            truth.crowd.tolist(),
        )
        for path, truth in zip(images.paths, images.truths, strict=True)
    }


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_nothing_is_lost_on_the_way(tmp_path, first, second):
    origin = make_coco(tmp_path / "origin")
    before = bytes_of(origin)
    for start, to, end in (("origin", first, "one"), ("one", second, "two"), ("two", "coco", "three")):
        result = convert_annotated(tmp_path / start, to, tmp_path / end)
        assert (result.splits, result.objects) == ({"train": 3, "val": 3}, 24)
        assert (result.skipped, result.notes) == ((), ())
        assert list(open_annotated(tmp_path / end).classes) == CLASSES
        assert open_annotated(tmp_path / end).problems == ()
        assert find_annotated_splits(tmp_path / end) == ("train", "val", "trainval")
        for split in ("train", "val"):
            assert table_of(tmp_path / end, split) == table_of(origin, split)
    assert bytes_of(origin) == before
    copies = {path.name: path.read_bytes() for path in open_annotated(tmp_path / "three").paths}
    assert copies == {path.name: path.read_bytes() for path in open_annotated(origin).paths}


@pytest.mark.parametrize(
    ("to", "note", "difficult", "crowds", "objects"),
    [
        pytest.param("coco", None, 4, 4, 24, id="COCO"),
        pytest.param("voc", "VOC cannot mark 4 crowds; they are marked difficult", 8, 0, 24, id="VOC"),
        pytest.param(
            "yolo",
            "YOLO cannot mark 4 difficult objects and 4 crowds; they are left out",
            0,
            0,
            16,
            id="YOLO",
        ),
    ],
)
def test_difficult_objects_and_crowds(tmp_path, to, note, difficult, crowds, objects):
    result = convert_annotated(make_coco(tmp_path / "origin", marks=True), to, tmp_path / "out")
    assert result.notes == ((note,) if note else ())
    truths = open_annotated(tmp_path / "out").truths
    assert sum(int(truth.difficult.sum()) for truth in truths) == difficult
    assert sum(int(truth.crowd.sum()) for truth in truths) == crowds
    assert sum(map(len, truths)) == result.objects == objects


@pytest.mark.parametrize("to", LAYOUTS)
def test_one_split_alone(tmp_path, to):
    origin = make_coco(tmp_path / "origin")
    assert convert_annotated(origin, to, tmp_path / "out", "val").splits == {"val": 3}
    assert find_annotated_splits(tmp_path / "out") == ("val",)
    assert table_of(tmp_path / "out") == table_of(origin, "val")


def test_a_data_set_without_splits(tmp_path):
    origin = make_coco(tmp_path / "origin", splits=("all",))
    assert find_annotated_splits(origin) == ()
    for to, splits in (("voc", ()), ("coco", ()), ("yolo", ("train",))):
        assert convert_annotated(origin, to, tmp_path / to).splits == {"": 3}
        assert find_annotated_splits(tmp_path / to) == splits
        assert table_of(tmp_path / to) == table_of(origin)


def test_images_in_several_splits_or_none(tmp_path):
    origin = tmp_path / "origin"
    (origin / "ImageSets/Main").mkdir(parents=True)
    (origin / "Annotations").mkdir()
    for name in "abcd":
        save_image(origin / f"JPEGImages/{name}.jpg", 10, 10)
        (origin / f"Annotations/{name}.xml").write_text("<annotation/>")
    for split, text in (("trainval", "a\nb\n"), ("test", "b\nc\n")):
        (origin / f"ImageSets/Main/{split}.txt").write_text(text)
    result = convert_annotated(origin, "coco", tmp_path / "out")
    assert result.splits == {"trainval": 2, "test": 1}
    assert result.notes == (
        "1 images are in no split and are left out",
        "1 images of test are in trainval too, such as b.jpg; they count in trainval alone; "
        "a score on test would be too high",
    )
    assert convert_annotated(origin, "yolo", tmp_path / "yolo").splits == {"train": 2, "test": 1}


def test_files_of_one_name_are_kept_apart(tmp_path):
    origin = make_coco(tmp_path / "origin", splits=())
    images = [{"id": i, "file_name": f"{place}/a.{end}"} for i, (place, end) in enumerate(
        (("x", "jpg"), ("y", "jpg"), ("y", "PNG"), ("x", "png")))]  # fmt: skip
    for i, image in enumerate(images):
        save_image(origin / "images" / image["file_name"], 20, 20 + i)
    box = {"category_id": 0, "bbox": [0, 0, 5, 5]}
    annotations = [{"id": i, "image_id": i, **box, "bbox": [0, 0, 5, 6 + i]} for i in range(4)]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "cat"}]}
    (origin / "annotations").mkdir(parents=True)
    (origin / "annotations/all.json").write_text(json.dumps(data))
    convert_annotated(origin, "voc", tmp_path / "out")
    result = open_annotated(tmp_path / "out")
    assert len({path.stem for path in result.paths}) == 4
    for path, truth in zip(result.paths, result.truths, strict=True):
        with Image.open(path) as image:
            assert truth.boxes.tolist() == [[0, 0, 5, image.height - 14]]


ODD_NAMES = {
    "000001": "without a suffix",
    "b.v2": "with a suffix of another kind",
    ".hidden.jpg": "a dot before it",
    " spaces .jpg": "spaces around it",
    "tab\tand\nline.jpg": "on two lines",
    "back\\slash.jpg": "a slash of Windows",
    "a -1.jpg": "a number behind it, as in split files",
    "x" * 251 + ".jpg": "as long as can be",
    "写" * 83 + ".png": "as long as can be, in Chinese",
    "z" * 255: "as long as can be, without a suffix",
    "100%.jpg": "a percent sign",
    "a:b?.jpg": "signs that Windows refuses",
    "\udcff\udcfe.jpg": "bytes that are no text",
    "cafe\u0301.jpg": "an accent apart",
    "a.jpg.jpg": "two suffixes",
    "\u2028.jpg": "a line separator",
}


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("name", ODD_NAMES, ids=ODD_NAMES.values())
def test_whatever_an_image_is_called_it_is_read_back(tmp_path, to, name):
    origin = make_odd(tmp_path / "origin", [name, "plain.jpg"])
    assert len(open_annotated(origin)) == 2
    result = convert_annotated(origin, to, tmp_path / "out")
    assert (result.splits, result.objects, result.skipped) == ({"": 2}, 2, ())
    back = open_annotated(tmp_path / "out")
    assert back.problems == ()
    assert sorted(truth.boxes.tolist()[0][2] for truth in back.truths) == [10, 11]
    assert [path.name for path in back.paths if path.name == "plain.jpg"] == ["plain.jpg"]


def make_odd(root: Path, names: list[str]) -> Path:
    """A COCO data set of images with these names, whose boxes are 10, 11, … pixels wide."""
    (root / "images").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (60, 40)).save(root / "images" / name, "PNG")
    boxes = [[0, 0, 10 + number, 10] for number in range(len(names))]
    data = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "all.json").write_text(json.dumps(data))
    return root


def test_renamed_images_are_told(tmp_path):
    origin = make_odd(tmp_path / "origin", ["000001", "000001.png", "plain.jpg"])
    result = convert_annotated(origin, "voc", tmp_path / "out")
    assert result.notes == (
        "1 images have a name that not all layouts can hold, such as 000001 (now 000001.png); "
        "they are renamed",
    )
    assert {path.name for path in open_annotated(tmp_path / "out").paths} == {
        "000001.png",
        "images_000001.png",
        "plain.jpg",
    }


@pytest.mark.parametrize("to", LAYOUTS)
def test_names_that_are_too_long_together(tmp_path, to):
    name, long = "写" * 60 + ".png", "日" * 50
    origin = make_odd(tmp_path / "origin", ["plain.png"])
    entries = [{"id": 0, "file_name": "plain.png"}]
    for number, folder in enumerate((f"x{long}", f"y{long}", f"z{long}"), 1):
        save_image(origin / "images" / folder / name, 60, 40)
        entries.append({"id": number, "file_name": f"{folder}/{name}"})
    data = {**json.loads((origin / "all.json").read_text()), "images": entries}
    (origin / "all.json").write_text(json.dumps(data))
    convert_annotated(origin, to, tmp_path / "out")
    names = {path.name for path in open_annotated(tmp_path / "out").paths}
    assert names == {"plain.png", name, f"{'写' * 60}_2.png", f"{'写' * 60}_3.png"}


@pytest.mark.parametrize("to", LAYOUTS)
def test_splits_and_classes_of_any_name_are_read_back(tmp_path, to):
    origin = make_coco(tmp_path / "origin", splits=("train", "minival"))
    for file in (origin / "annotations").iterdir():
        data = json.loads(file.read_text())
        for category, name in zip(data["categories"], ("no", "007", "~"), strict=True):
            category["name"] = name
        file.write_text(json.dumps(data))
    assert convert_annotated(origin, to, tmp_path / "out").splits == {"train": 3, "minival": 3}
    assert open_annotated(tmp_path / "out").classes == ("no", "007", "~")
    for split in ("train", "minival"):
        assert table_of(tmp_path / "out", split) == table_of(origin, split)


def test_an_empty_split_is_not_converted(tmp_path):
    origin = make_coco(tmp_path / "origin")
    file = origin / "annotations/val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "images": [], "annotations": []}))
    result = convert_annotated(origin, "yolo", tmp_path / "out")
    assert result.splits == {"train": 3}
    assert "no image of the val split is there" in result.notes
    with pytest.raises(DataError, match="has no images in its val split"):
        convert_annotated(origin, "yolo", tmp_path / "other", "val")


def test_links_lead_to_the_originals(tmp_path):
    origin = make_coco(tmp_path / "origin")
    convert_annotated(os.path.relpath(origin), "yolo", tmp_path / "out", link=True)
    linked = open_annotated(tmp_path / "out").paths
    assert all(path.is_symlink() for path in linked)
    assert {path.resolve() for path in linked} == {path.resolve() for path in open_annotated(origin).paths}


def test_damaged_images_are_left_out_and_named(tmp_path):
    origin = make_coco(tmp_path / "origin")
    (origin / "train/train-b 2.jpg").write_bytes(b"no image")
    told = RecordingProgress()
    result = convert_annotated(origin, "voc", tmp_path / "out", progress=told)
    assert result.splits == {"train": 2, "val": 3}
    (sentence,) = result.skipped
    assert "train-b 2.jpg is not an image" in sentence
    assert (told.stages, told.done) == ([("writing", 6)], 6)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        pytest.param("origin/new", ConfigError, "lies within the data set", id="within the data"),
        pytest.param("origin/../origin/x/y", ConfigError, "lies within the data set", id="roundabout"),
        pytest.param("link/new", ConfigError, "lies within the data set", id="within, by a link"),
        pytest.param("full", ConfigError, "is not an empty folder", id="a folder that is not empty"),
        pytest.param("origin", ConfigError, "is not an empty folder", id="the data itself"),
        pytest.param("full/file", ConfigError, "is not an empty folder", id="a file"),
    ],
)
def test_what_is_not_written_to(tmp_path, out, error, message):
    origin = make_coco(tmp_path / "origin")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    (tmp_path / "link").symlink_to(origin)
    before = bytes_of(tmp_path)
    with pytest.raises(error, match=message):
        convert_annotated(origin, "voc", tmp_path / out)
    assert bytes_of(tmp_path) == before


def test_what_is_not_read_or_known(tmp_path):
    origin = make_coco(tmp_path / "origin")
    with pytest.raises(ConfigError, match="must be voc, coco, yolo; got 'csv'"):
        convert_annotated(origin, "csv", tmp_path / "out")
    with pytest.raises(DataError, match="has no test split"):
        convert_annotated(origin, "voc", tmp_path / "out", "test")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    origin = make_coco(tmp_path / "origin", marks=True)
    (tmp_path / "out").mkdir()
    command = ["convert", str(origin), "--to", "voc", "--out", str(tmp_path / "out"), "--link"]
    monkeypatch.setattr(sys, "argv", ["sppnet", *command])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    printed = capsys.readouterr()
    assert printed.out == f"train: 3\nval: 3\n24 objects in {tmp_path / 'out'}\n"
    assert "VOC cannot mark 4 crowds; they are marked difficult" in printed.err
    with pytest.raises(SystemExit, match=r"^sppnet: .* is not an empty folder"):
        main()


@pytest.mark.shared
def test_a_real_data_set_there_and_back(tmp_path):
    root = SHARED / "bccd"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    convert_annotated(root, "coco", tmp_path / "one", "val", link=True)
    convert_annotated(tmp_path / "one", "yolo", tmp_path / "two", link=True)
    convert_annotated(tmp_path / "two", "voc", tmp_path / "three", link=True)
    assert table_of(tmp_path / "three", "val") == table_of(root, "val")
