"""The report on a folder: what it counts, and what it finds wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recording_progress import RecordingProgress
from sppnet.cli.app import app, main
from sppnet.data.check import SideRange, check_folder
from sppnet.data.check_detection import BoxRange, check_annotated
from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def save(path: Path, height: int, width: int, mode: str = "RGB", seed: int = 0, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


@pytest.fixture
def troubled(tmp_path):
    """A data set with one of every trouble."""
    save(tmp_path / "train/cat/1.png", 30, 40, seed=1)
    save(tmp_path / "train/cat/2.jpg", 20, 300, "L", seed=2)
    save(tmp_path / "train/cat/10.jpg", 60, 50, "CMYK", seed=3)
    save(tmp_path / "train/dog/4.png", 30, 40, seed=4)
    save(tmp_path / "val/cat/5.png", 10, 10, seed=5)
    for original, copy in (("train/cat/1.png", "val/cat/6.png"), ("train/dog/4.png", "train/cat/dog.png")):
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    whole = (tmp_path / "train/cat/10.jpg").read_bytes()
    (tmp_path / "train/dog/broken.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/dog/empty.jpg").write_bytes(b"")
    (tmp_path / "train/dog/empty too.jpg").write_bytes(b"")
    (tmp_path / "train/dog/notes.txt").write_text("hello")
    (tmp_path / "val/dog").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "val/cat/turned.png", 12, 48, seed=7, exif=exif)
    return tmp_path


def test_every_trouble_is_reported(troubled):
    before = {path: path.read_bytes() for path in troubled.rglob("*") if path.is_file()}
    report = check_folder(troubled)
    assert report.splits == {"train": {"cat": 4, "dog": 4}, "val": {"cat": 3, "dog": 0}}
    # Readable: 40, 300, 50, 40 (dog's copy), 40, 10, 40 (cat's copy) and 12 wide, the last upright.
    assert report.width == SideRange(10, 40, 300)
    assert report.height == SideRange(10, 30, 60)
    assert report.most_extreme == ("train/cat/2.jpg", 300, 20)
    assert report.modes == {"RGB": 6, "L": 1, "CMYK": 1}
    assert [item.path for item in report.damaged] == [
        "train/dog/broken.jpg",
        "train/dog/empty.jpg",
        "train/dog/empty too.jpg",
    ] or {item.path for item in report.damaged} == {
        "train/dog/broken.jpg",
        "train/dog/empty.jpg",
        "train/dog/empty too.jpg",
    }
    assert {
        item.path: ("truncated" in item.reason, "is empty" in item.reason) for item in report.damaged
    } == {
        "train/dog/broken.jpg": (True, False),
        "train/dog/empty.jpg": (False, True),
        "train/dog/empty too.jpg": (False, True),
    }
    assert {(item.paths, item.across_splits, item.across_classes) for item in report.duplicates} == {
        (("train/cat/1.png", "val/cat/6.png"), True, False),
        (("train/cat/dog.png", "train/dog/4.png"), False, True),
    }
    assert report.not_images == ("train/dog/notes.txt",)
    assert report.empty_classes == ("val/dog",)
    assert {path: path.read_bytes() for path in troubled.rglob("*") if path.is_file()} == before


def test_a_report_is_plain_json(troubled):
    data = json.loads(json.dumps(check_folder(troubled).to_json()))
    assert data["splits"]["train"] == {"cat": 4, "dog": 4}
    assert data["width"] == {"min": 10, "median": 40, "max": 300}
    assert data["duplicates"][0]["across_splits"] is True


@pytest.mark.parametrize("workers", [1, 4])
def test_progress_counts_every_image(troubled, workers):
    told = RecordingProgress()
    assert check_folder(troubled, workers, told) == check_folder(troubled)
    assert (told.stages, told.done) == ([("reading", 11)], 11)


def test_a_folder_without_splits_or_trouble(tmp_path):
    save(tmp_path / "a/1.png", 5, 6)
    report = check_folder(tmp_path)
    assert report.splits == {"": {"a": 1}}
    assert report.most_extreme == ("a/1.png", 6, 5)
    assert (report.damaged, report.duplicates, report.not_images, report.empty_classes) == ((), (), (), ())


def test_a_folder_where_nothing_can_be_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"no image")
    report = check_folder(tmp_path)
    assert (report.width, report.height, report.most_extreme) == (None, None, None)
    assert "known format" in report.damaged[0].reason


def test_a_folder_without_classes_is_refused(tmp_path):
    save(tmp_path / "1.png", 5, 6)
    with pytest.raises(DataError, match=r"should hold folders of images, .* 1 images lie in it directly"):
        check_folder(tmp_path)


def test_splits_of_other_classes_are_told(tmp_path):
    for number, folder in enumerate(("train/cat", "train/dog", "val/cat", "val/Dog")):
        (tmp_path / folder).mkdir(parents=True)
        save(tmp_path / folder / "1.png", 5, 6 + number)
    lines = CliRunner().invoke(app, ["check", str(tmp_path)]).output.splitlines()
    assert "classes of val that train has not, so training refuses them: Dog" in lines
    assert "classes of train that val has not: dog" in lines


def test_a_class_name_of_two_lines_is_one_line(tmp_path):
    for name in ("a\nb", "c"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "1.png", 5, 6)
    assert r"a\nb 1" in CliRunner().invoke(app, ["check", str(tmp_path)]).output


ELSEWHERE = [
    pytest.param("1.json", '{"version": "5", "shapes": [{"label": "a", "points": [[1, 2]]}]}', "LabelMe"),
    pytest.param("a/all.xml", '<annotations><version>1.1</version>\n<image id="0">', "CVAT's XML for images"),
    pytest.param("a/boxes.csv", "filename,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
    pytest.param("via.json", '{"1.png": {"shape_attributes": {}}}', "VGG Image Annotator"),
    pytest.param("all.tfrecord", "", "TensorFlow's records"),
    pytest.param("a/b/1.jpg.json", '{"objects": [{"classTitle": "a"}]}', "Supervisely"),
    pytest.param(
        "1.json", '[{"annotations": [{"result": [{"from_name": "a", "to_name": "b"}]}]}]', "Label Studio"
    ),
    pytest.param(
        "1.json", '[{"image": "1.png", "label": [{"x": 1, "rectanglelabels": ["a"]}]}]', "Label Studio"
    ),
    pytest.param(
        "a/_annotations.createml.json",
        '[{"image": "1.png", "annotations": [{"label": "a", "coordinates": {"x": 1}}]}]',
        "CreateML",
    ),
    pytest.param(
        "annotations/default.json", '{"categories": {}, "items": [{"annotations": []}]}', "Datumaro"
    ),
    pytest.param(
        "1.json", '[{"image_id": 1, "category_id": 1, "score": 0.5}]', "a detector's results in COCO's form"
    ),
    pytest.param("1.json", '[{"name": "1.png", "labels": [{"box2d": {"x1": 1}}]}]', "BDD100K or Scalabel"),
    pytest.param("a/metadata.jsonl", '{"file_name": "1.png", "objects": {"bbox": []}}', "lines of JSON"),
    pytest.param("via.csv", "filename,region_shape_attributes,region_attributes\n", "VGG Image Annotator"),
    pytest.param("label_2/1.txt", "Car 0.00 0 -1.5 1 2 20 30 1.5 1.6 3.9 1 1 8 -1.5\n", "KITTI"),
    pytest.param("a/gt.txt", "0--Parade/1.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n", "WIDER FACE"),
    pytest.param("gt/gt.txt", "1,1,10,10,20,20,1,1,1\n", "MOT Challenge"),
    pytest.param("a/1.txt", "684,8,273,116,0,0,0,0\n406,119,265,70,1,4,0,0\n", "VisDrone"),
    pytest.param("a/1.txt", "1 2 3 4 5 6 7 8 plane 0\n", "DOTA"),
    pytest.param("a/_annotations.txt", "1.jpg 1,2,20,30,0 4,5,6,7,1\n", "a list of images with boxes"),
    pytest.param("notes.json", '{"annotations": "none"}', ""),
    pytest.param("notes.txt", "1.jpg is the first of 1,234 photographs\n", ""),
]


@pytest.mark.parametrize(("file", "text", "tool"), ELSEWHERE)
def test_annotations_that_are_not_read_are_named(tmp_path, file, text, tool):
    (tmp_path / "a").mkdir()
    save(tmp_path / "a/1.png", 5, 6)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    said = f"{file} seems to be of {tool}, which is not read; export the boxes as VOC, COCO or YOLO"
    assert check_folder(tmp_path).unread_boxes == (said if tool else "")
    with pytest.raises(DataError) as caught:
        open_annotated(tmp_path)
    assert (said in str(caught.value)) == bool(tool)


@pytest.mark.shared
def test_a_real_data_set_is_sound():
    root = SHARED / "caltech101_50" / "val"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    report = check_folder(root)
    assert sum(report.splits[""].values()) == 873
    assert report.damaged == ()
    assert report.modes["RGB"] + report.modes["L"] == 873


# --- annotated images ----------------------------------------------------------------------------


@pytest.fixture
def annotated(tmp_path):
    """COCO files with one of every trouble; the images are 40×30, the widest 300×20."""
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "eel"}]
    names = {
        "train": ["1.png", "2.png", "10.png", "broken.png"],
        "val": ["3.png", "4.png"],
    }
    boxes = {
        "train": [
            (0, 3, [0, 0, 10, 10], {}),
            (0, 5, [5, 5, 20, 20], {"ignore": 1}),
            (1, 3, [0, 0, 40, 10], {}),
        ],
        "val": [(0, 3, [0, 0, 30, 30], {"iscrowd": 1}), (0, 8, [0, 0, 1, 1], {})],
    }
    for split in names:
        images = [
            {"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names[split])
        ]
        for i, name in enumerate(names[split]):
            wide = name == "10.png"
            save(tmp_path / split / name, *((20, 300) if wide else (30, 40)), seed=i + 4 * (split == "val"))
        annotations = [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, **more}
            for i, (image, category, box, more) in enumerate(boxes[split])
        ]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    for original, copy in (("train/1.png", "val/4.png"), ("train/2.png", "val/3.png")):
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    save(tmp_path / "train/2.png", 30, 20, seed=20)  # narrower than the file says
    (tmp_path / "train/broken.png").write_bytes(b"no image")
    return tmp_path


def test_annotated_images_are_reported(annotated):
    before = {path: path.read_bytes() for path in annotated.rglob("*") if path.is_file()}
    report = check_annotated(annotated)
    train, val = report.splits["train"], report.splits["val"]
    assert (report.layout, list(report.splits)) == ("COCO", ["train", "val"])
    assert (train.images, train.objects) == (4, {"cat": 2, "dog": 1, "eel": 0})
    assert (train.difficult, train.crowds, val.difficult, val.crowds) == (1, 0, 0, 1)
    assert train.without_objects == ("train/10.png", "train/broken.png")
    assert val.without_objects == ("val/4.png",)
    assert report.boxes == {"cat": BoxRange(10, 14.1, 30), "dog": BoxRange(20, 20, 20)}
    assert (report.width, report.height) == (SideRange(20, 40, 300), SideRange(20, 30, 30))
    assert report.most_extreme == ("train/10.png", 300, 20)
    assert report.modes == {"RGB": 5}
    assert [(item.path, "known format" in item.reason) for item in report.damaged] == [
        ("train/broken.png", True)
    ]
    assert [(item.paths, item.across_splits, item.across_classes) for item in report.duplicates] == [
        (("train/1.png", "val/4.png"), True, True)
    ]
    assert report.problems == {
        "train": (
            "train.json, 2.png: the box of cat (0, 0, 40, 10) reaches beyond the image; it is clipped",
            "1 images are of another size than their annotations say, such as 2.png (20×30, train.json says "
            "40×30, width×height); the boxes are kept as written, and may belong to another copy",
        ),
        "val": (
            "1 annotations are of categories that are not listed in val.json, such as annotations[1]; "
            "they are left out",
        ),
    }
    assert json.loads(json.dumps(report.to_json()))["boxes"]["cat"] == {"min": 10, "median": 14.1, "max": 30}
    assert {path: path.read_bytes() for path in annotated.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("workers", [1, 4])
def test_progress_counts_every_annotated_image(annotated, workers):
    told = RecordingProgress()
    check_annotated(annotated, workers, told)
    assert (told.stages, told.done) == ([("reading", 6)], 6)


def test_the_command_tells_annotated_images_from_classes(annotated, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sppnet", "check", str(annotated)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1  # a file is damaged
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "layout: COCO",
        "train: 4 images, 3 objects (1 difficult)",
        "  cat 2, dog 1, eel 0",
        "  without objects: 2, such as train/10.png, train/broken.png",
    ]
    assert "boxes of cat: √area 10 to 30 pixels, median 14.1" in lines
    assert "duplicates across splits marked differently: train/1.png, val/4.png" in lines
    assert sum(line.startswith("problem (train): 1 images are of another size") for line in lines) == 1
    assert lines[-1] == "1 damaged, 1 duplicated"


def test_annotated_images_without_splits_or_objects(tmp_path):
    save(tmp_path / "1.png", 5, 6)
    (tmp_path / "1.xml").write_text("<annotation/>")
    report = check_annotated(tmp_path)
    assert list(report.splits) == [""]
    assert (report.splits[""].images, report.boxes, report.problems) == (1, {}, {"": ()})
