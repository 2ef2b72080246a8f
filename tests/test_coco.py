"""COCO files as they are in the wild: layouts, ids with gaps, boxes, and what is no COCO."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sppnet.data.detection_dataset import find_annotated_splits, is_annotated, open_annotated
from sppnet.errors import DataError

WIDTH, HEIGHT = 80, 60
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 10, "name": "eel"}]


def save_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def coco(images=("a.jpg",), annotations=(), **more) -> dict:
    """A COCO file of images with ids 100, 103, … and annotations (image, category, bbox, more)."""
    return {
        "info": {},
        "images": [
            {"id": 100 + 3 * i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(images)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": bbox, **dict(*rest)}
            for i, (image, category, bbox, *rest) in enumerate(annotations)
        ],
        "categories": CATEGORIES,
        **more,
    }


def write(path: Path, data: object, folder: Path | None = None) -> Path:
    """A JSON file, and beside it (or in `folder`) the images it lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    for image in data["images"] if folder else ():
        save_image(folder / image["file_name"])
    return path


def test_boxes_crowds_and_ids_with_gaps(tmp_path):
    annotations = [
        (103, 90, [10, 20, 30, 40]),
        (100, 7, [0.5, 0.25, 10, 20.5], {"iscrowd": 1}),
        (103, 7, [0, 0, 80, 60], {"iscrowd": 0, "ignore": 1}),
    ]
    data = coco(["b.jpg", "a.jpg"], annotations)
    write(tmp_path / "annotations/instances.json", data, tmp_path / "images")
    images = open_annotated(tmp_path)
    assert images.classes == ("cat", "eel", "dog")  # by their ids
    assert [path.name for path in images.paths] == ["a.jpg", "b.jpg"]
    first, second = images.truths
    assert first.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 80, 60]]
    assert (first.labels.tolist(), first.difficult.tolist()) == ([2, 0], [False, True])
    assert second.boxes.tolist() == [[0.5, 0.25, 10.5, 20.75]]
    assert (second.crowd.tolist(), first.crowd.tolist()) == ([True], [False, False])
    assert images.problems == ()


@pytest.mark.parametrize(
    ("bbox", "box", "problem"),
    [
        pytest.param(
            [70, 50, 20, 20], [70, 50, 80, 60], "beyond the image; it is clipped", id="over the border"
        ),
        pytest.param([70, 50, 10.3, 10.4], [70, 50, 80, 60], None, id="over the border by rounding"),
        pytest.param([30, 40, -10, -20], [20, 20, 30, 40], "exchanged", id="sides below zero"),
        pytest.param([30, 40, 0, 20], None, "is empty; it is left out", id="no width"),
        pytest.param([90, 70, 5, 5], None, "lies beyond the image", id="beyond the border"),
        pytest.param([1, 2, 3], None, "1 annotations have no bbox of four numbers", id="three numbers"),
        pytest.param([1, "2", "3", "4.0"], [1, 2, 4, 6], None, id="numbers in text"),
        pytest.param([1, 2, 3, "x"], None, "no bbox of four numbers", id="text"),
        pytest.param({"x": 1}, None, "no bbox of four numbers", id="a mapping"),
        pytest.param([1, 2, 3, float("nan")], None, "no bbox of four numbers", id="not a number"),
        pytest.param([1, 2, 3, 10**400], None, "no bbox of four numbers", id="without end"),
        pytest.param(None, None, "no bbox of four numbers", id="nothing"),
    ],
)
def test_what_becomes_of_a_box(tmp_path, bbox, box, problem):
    write(tmp_path / "a.json", coco(annotations=[(100, 7, bbox)]), tmp_path)
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == ([box] if box else [])
    assert [problem in sentence for sentence in images.problems] == ([True] if problem else [])


@pytest.mark.parametrize("width", [None, 0, -5, "80", 80.5, 10**12])
def test_boxes_are_clipped_to_the_image_where_the_file_has_no_size(tmp_path, width):
    data = coco(annotations=[(100, 7, [70, 50, 20, 20])])
    data["images"][0]["width"] = width
    write(tmp_path / "a.json", data, tmp_path)
    assert open_annotated(tmp_path).truths[0].boxes.tolist() == [[70, 50, 80, 60]]


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        pytest.param(
            {"image_id": 1, "category_id": 7}, "of images that are not listed", id="an unknown image"
        ),
        pytest.param(
            {"image_id": 100, "category_id": 8}, "of categories that are not", id="an unknown category"
        ),
        pytest.param({"image_id": [100], "category_id": 7}, "are not understood", id="a list for an id"),
        pytest.param("box", "are not understood", id="text"),
        pytest.param({}, "of images that are not listed", id="nothing"),
    ],
)
def test_odd_annotations_are_counted(tmp_path, annotation, problem):
    data = coco(annotations=[(100, 7, [1, 2, 3, 4])])
    data["annotations"] += [annotation, annotation]
    write(tmp_path / "a.json", data, tmp_path)
    images = open_annotated(tmp_path)
    assert len(images.truths[0]) == 1
    (sentence,) = images.problems
    assert sentence.startswith("2 annotations")
    assert "in a.json, such as annotations[1], annotations[2]; they are left out" in sentence
    assert problem in sentence


def test_odd_images_and_categories_are_counted(tmp_path):
    data = coco(annotations=[(100, 7, [1, 2, 3, 4])])
    write(tmp_path / "a.json", data, tmp_path)
    data["images"].append({"id": 5})
    data["categories"] = [*CATEGORIES, {"name": "x"}, 3]
    write(tmp_path / "a.json", data)
    assert open_annotated(tmp_path).problems == (
        "a.json: 1 of its images have no id or file_name; they are left out",
        "a.json: 2 of its categories have no id or name; they are left out",
    )


@pytest.mark.parametrize("bbox", [None, []])
@pytest.mark.parametrize(
    ("outlines", "box"),
    [
        pytest.param([[10, 20, 30, 20, 30, 41]], [10, 20, 30, 41], id="a triangle"),
        pytest.param([[10, 20, 30, 20, 30, 40], [5, 5, 6, 5, 6, 50]], [5, 5, 30, 50], id="two parts"),
        pytest.param([[10, 20, 30, 20, 30]], None, id="half a point"),
        pytest.param({"counts": "x", "size": [60, 80]}, None, id="a mask"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_an_outline_stands_for_a_box_that_is_missing(tmp_path, bbox, outlines, box):
    data = coco(annotations=[(100, 7, bbox)])
    data["annotations"][0]["segmentation"] = outlines
    write(tmp_path / "a.json", data, tmp_path)
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == ([box] if box else [])
    (sentence,) = images.problems
    assert ("1 annotations have an outline and no bbox in a.json" in sentence) == bool(box)


def test_categories_of_one_name_or_none_are_told(tmp_path):
    data = coco(annotations=[(100, 7, [1, 2, 3, 4])])
    data["categories"] = [{"id": 7, "name": "cat"}, {"id": 8, "name": " cat "}, {"id": 9, "name": None}]
    write(tmp_path / "a.json", data, tmp_path)
    assert open_annotated(tmp_path).counts() == {"cat": 1}
    assert open_annotated(tmp_path).problems == (
        "a.json: 1 of its categories have no id or name; they are left out",
        "a.json names cat twice; those categories are read as one class",
    )


def test_images_that_are_not_there_are_counted(tmp_path):
    write(tmp_path / "a.json", coco(["a.jpg"]), tmp_path)
    write(tmp_path / "a.json", coco(["a.jpg", "b.jpg", "c.jpg"]))
    images = open_annotated(tmp_path)
    assert [path.name for path in images.paths] == ["a.jpg"]
    assert images.problems == (
        "2 images that a.json lists are not in the data set, such as b.jpg, c.jpg; they are left out",
    )


@pytest.mark.parametrize("name", ["../secret.jpg", "x/../../secret.jpg", r"..\secret.jpg", "{absolute}"])
def test_no_image_outside_the_data_set_is_named(tmp_path, name):
    root = tmp_path / "data"
    save_image(tmp_path / "secret.jpg")
    save_image(root / "x/a.jpg")
    name = name.replace("{absolute}", str(tmp_path / "secret.jpg"))
    write(root / "a.json", coco(["x/a.jpg", name]))
    images = open_annotated(root)
    assert [path.name for path in images.paths] == ["a.jpg"]
    assert "not in the data set" in images.problems[0]


def test_an_image_that_is_listed_twice(tmp_path):
    data = coco(["a.jpg", "a.jpg"], [(100, 7, [1, 2, 3, 4]), (103, 7, [5, 6, 7, 8])])
    images = open_annotated(write(tmp_path / "a.json", data, tmp_path))
    assert [truth.boxes.tolist() for truth in images.truths] == [[[1, 2, 4, 6]]]
    (sentence,) = images.problems
    assert sentence.endswith("a.jpg is annotated twice, and not alike; the first counts")


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        pytest.param("annotations/instances_train2017.json", "train2017", id="COCO's own"),
        pytest.param("annotations/instances_train2017.json", "images/train2017", id="below images"),
        pytest.param("annotations/instances_train.json", "images", id="all images in one"),
        pytest.param("annotations/train.json", "train", id="short names"),
        pytest.param("train/_annotations.coco.json", "train", id="beside the images"),
        pytest.param("train.json", "", id="all in one folder"),
        pytest.param("my-train-boxes.json", "images/train", id="a word in the name"),
    ],
)
def test_where_the_images_of_a_split_are(tmp_path, file, folder):
    write(tmp_path / file, coco(["a.jpg"], [(100, 7, [1, 2, 3, 4])]), tmp_path / folder)
    other = file.replace("train", "val")
    write(tmp_path / other, coco(["b.jpg"]), tmp_path / folder.replace("train", "val"))
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval")
    assert open_annotated(tmp_path, "train").paths == (tmp_path / folder / "a.jpg",)
    assert len(open_annotated(tmp_path, "trainval")) == len(open_annotated(tmp_path)) == 2


def test_files_of_other_tasks_are_left_aside(tmp_path):
    write(tmp_path / "annotations/instances_val2017.json", coco(), tmp_path / "val2017")
    for name in ("captions_val2017", "person_keypoints_val2017", "image_info_test2017"):
        (tmp_path / f"annotations/{name}.json").write_text('{"images": [], "annotations": 3}')
    assert find_annotated_splits(tmp_path) == ("val",)


def test_a_file_may_be_named_itself(tmp_path):
    file = write(tmp_path / "annotations/all.json", coco(), tmp_path / "images")
    assert open_annotated(file).paths == (tmp_path / "images/a.jpg",)
    assert find_annotated_splits(file) == ()


def test_categories_of_several_files_are_joined_by_name(tmp_path):
    write(tmp_path / "train.json", coco(["a.jpg"], [(100, 7, [1, 2, 3, 4])]), tmp_path)
    more = [{"id": 1, "name": "fox"}, {"id": 2, "name": "cat"}]
    write(tmp_path / "val.json", coco(["b.jpg"], [(100, 2, [1, 2, 3, 4])], categories=more), tmp_path)
    val = open_annotated(tmp_path, "val")
    assert val.classes == ("cat", "eel", "dog", "fox")
    assert val.truths[0].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is not JSON", id="cut short"),
        pytest.param('"images"' + "[" * 100_000, "is not JSON", id="too deep, and broken"),
        pytest.param("[" * 100_000 + "]" * 100_000, "is not JSON|is not COCO", id="too deep"),
        pytest.param('["images"]', "got a list or value", id="a list"),
        pytest.param(
            '{"images": [], "info": {}}',
            r"no list of annotations and categories \(it has images, info\)",
            id="keys",
        ),
        pytest.param(
            '{"images": {}, "annotations": [], "categories": []}', "no list of images", id="another type"
        ),
    ],
)
def test_what_is_no_coco(tmp_path, text, message):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        open_annotated(file)


def test_other_json_files_make_no_data_set(tmp_path):
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert not is_annotated(tmp_path)
