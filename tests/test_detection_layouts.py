"""Layouts of detection data sets as exports and people leave them: which image, which boxes, which split."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sppnet.data.detection_dataset import default_split, find_annotated_splits, is_annotated, open_annotated
from sppnet.data.splits import open_splits
from sppnet.errors import DataError

WIDTH, HEIGHT = 80, 60
CORNERS = [[10, 20, 30, 40]]
"""What `XML`, `BBOX` and `LINE` say."""
BOUNDS = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
BBOX = [10, 20, 20, 20]
LINE = "0 0.25 0.5 0.25 0.333333333333\n"


def xml(filename: str = "", name: str = "cat") -> str:
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}<object><name>{name}</name>{BOUNDS}</object></annotation>"


def coco(*names: str, **changes: object) -> str:
    whole = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": BBOX} for number in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    return json.dumps({**whole, **changes})


def lay(root: Path, *images: str, **texts: str) -> Path:
    """Images, and texts by their paths."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / name, "PNG")
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def found_in(root: Path, split: str | None = None) -> dict[str, int]:
    """Objects of every image that is read, by its path."""
    images = open_annotated(root, split)
    for truth in images.truths:
        assert truth.boxes.tolist() in ([], [pytest.approx(CORNERS[0])])
    return {
        path.relative_to(root).as_posix(): len(truth)
        for path, truth in zip(images.paths, images.truths, strict=True)
    }


def problems_of(root: Path, split: str | None = None) -> tuple[str, ...]:
    return open_annotated(root, split).problems


# --- VOC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "notes"),
    [
        pytest.param("images/a.jpg images/b.jpg", "annotations/xmls/a.xml annotations/xmls/b.xml", id="pets"),
        pytest.param("images/a.jpg images/b.jpg", "annots/a.xml annots/b.xml", id="annots"),
        pytest.param("Images/a.jpg Images/b.jpg", "labels/a.xml labels/b.xml", id="XML in labels/"),
        pytest.param("images/a.jpg images/b.jpg", "images/a.xml images/b.xml", id="side by side in images/"),
        pytest.param("a.jpg b.jpg", "Annotations/a.xml Annotations/b.xml", id="images in the root"),
        pytest.param("a.jpg b.jpg", "a.xml b.xml", id="all in the root"),
        pytest.param("photos/a.jpg photos/b.jpg", "annotations/a.xml annotations/b.xml", id="photos/"),
        pytest.param("photos/a.jpg photos/b.jpg", "boxes/a.xml boxes/b.xml", id="folders of any name"),
        pytest.param(
            "JPEGImages/x/a.jpg JPEGImages/y/b.jpg", "Annotations/a.xml Annotations/b.xml", id="deeper"
        ),
        pytest.param("images/a.jpg images/b.jpg", "annotations/A.xml annotations/B.XML", id="other letters"),
    ],
)
def test_voc_without_splits(tmp_path, images, notes):
    lay(tmp_path, *images.split(), **dict.fromkeys(notes.split(), xml()))
    assert found_in(tmp_path) == dict.fromkeys(images.split(), 1)
    assert (problems_of(tmp_path), find_annotated_splits(tmp_path)) == ((), ())


@pytest.mark.parametrize(
    ("images", "notes"),
    [
        pytest.param(
            "images/train/a.jpg images/test/b.jpg", "annotations/a.xml annotations/b.xml", id="images"
        ),
        pytest.param("train/a.jpg test/b.jpg", "annotations/a.xml annotations/b.xml", id="folders of images"),
        pytest.param("images/a.jpg images/b.jpg", "annotations/train/a.xml annotations/test/b.xml", id="XML"),
        pytest.param(
            "images/train/a.jpg images/test/b.jpg", "images/train/a.xml images/test/b.xml", id="both"
        ),
        pytest.param(
            "train/images/a.jpg test/images/b.jpg",
            "train/annotations/a.xml test/annotations/b.xml",
            id="inside",
        ),
        pytest.param("Train/a.jpg Test/b.jpg", "Train/a.xml Test/b.xml", id="other letters"),
    ],
)
def test_voc_with_a_folder_for_each_split(tmp_path, images, notes):
    lay(tmp_path, *images.split(), **dict.fromkeys(notes.split(), xml()))
    assert find_annotated_splits(tmp_path) == ("train", "test")
    assert found_in(tmp_path, "train") == {images.split()[0]: 1}
    assert found_in(tmp_path, "test") == {images.split()[1]: 1}


@pytest.mark.parametrize("place", ["ImageSets/Main", "ImageSets", "imagesets/main", "annotations", "."])
def test_split_files_of_voc(tmp_path, place):
    lists = {f"{place}/trainval.txt": "cat_1 1 1 1\n", f"{place}/test.txt": "# names\nCAT_2.jpg 1 1 2\n"}
    lay(tmp_path, "images/cat_1.jpg", "images/cat_2.jpg", **lists)
    lay(tmp_path, **dict.fromkeys(("annotations/xmls/cat_1.xml", "annotations/xmls/cat_2.xml"), xml()))
    assert find_annotated_splits(tmp_path) == ("trainval", "test")
    assert found_in(tmp_path, "trainval") == {"images/cat_1.jpg": 1}
    assert found_in(tmp_path, "test") == {"images/cat_2.jpg": 1}


@pytest.mark.parametrize(
    ("images", "filename", "taken", "problem"),
    [
        pytest.param("1.jpg", "1.jpg", "1.jpg", "", id="it says so"),
        pytest.param("1.jpg", "1", "1.jpg", "", id="without suffix"),
        pytest.param("1.jpg", "1.JPG", "1.jpg", "", id="in other letters"),
        pytest.param(
            "1.jpg 1.png",
            "1.png",
            "1.png",
            "1 images have no XML file, such as JPEGImages/1.jpg",
            id="one of two",
        ),
        pytest.param(
            "1.jpg 1.JPG", "1.JPG", "1.JPG", "no XML file, such as JPEGImages/1.jpg", id="by its letters"
        ),
        pytest.param("1.jpg 1.png", "", None, "fit several images", id="one of two, unsaid"),
        pytest.param("1.jpg 1.png", "2.png", None, "fit several images", id="neither of two"),
        pytest.param(
            "1.jpg 2.jpg", "2.jpg", "1.jpg", "(2.jpg in <filename>, 1.jpg taken)", id="another image"
        ),
        pytest.param("1.jpg", "old.jpg", "1.jpg", "(old.jpg in <filename>, 1.jpg taken)", id="renamed since"),
        pytest.param("1.jpg", "1.png", "1.jpg", "(1.png in <filename>, 1.jpg taken)", id="another format"),
        pytest.param("p.jpg", r"C:\x\p.jpg", "p.jpg", "", id="named by the file alone"),
        pytest.param("p.jpg", "P", "p.jpg", "", id="named by the file alone, in other letters"),
        pytest.param(
            "p.jpg p.png", "p.png", "p.png", "no XML file, such as JPEGImages/p.jpg", id="that and one of two"
        ),
    ],
)
def test_which_image_an_xml_file_means(tmp_path, images, filename, taken, problem):
    lay(tmp_path, "JPEGImages/0.jpg", *(f"JPEGImages/{name}" for name in images.split()))
    lay(tmp_path, **{"Annotations/0.xml": xml(), "Annotations/1.xml": xml(filename)})
    expected = {"JPEGImages/0.jpg": 1, **({f"JPEGImages/{taken}": 1} if taken else {})}
    assert found_in(tmp_path) == expected
    found = " ".join(problems_of(tmp_path))
    assert problem in found
    assert bool(found) == bool(problem)


def test_a_stem_in_folders_that_differ_is_no_name(tmp_path):
    lay(tmp_path, "JPEGImages/one/1.jpg", "JPEGImages/two/2.jpg")
    lay(tmp_path, **dict.fromkeys(("Annotations/one/1.xml", "Annotations/one/2.xml"), xml()))
    assert found_in(tmp_path) == {"JPEGImages/one/1.jpg": 1}
    assert problems_of(tmp_path) == (
        "1 XML files have no image, such as Annotations/one/2.xml; they are left out",
        "1 images have no XML file, such as JPEGImages/two/2.jpg; they are left out",
    )


# --- COCO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("/content/data/images/a.jpg", id="absolute"),
        pytest.param("../images/a.jpg", id="climbing"),
        pytest.param(r"C:\Users\me\images\a.jpg", id="Windows"),
        pytest.param("C:/Users/me/images/a.jpg", id="Windows, other slashes"),
        pytest.param(r"\\server\share\a.jpg", id="a server"),
        pytest.param("file:///home/me/a.jpg", id="a URL"),
        pytest.param("data/local-files/a.jpg", id="a folder that is not here"),
        pytest.param("A.JPG", id="letters"),
    ],
)
def test_names_of_another_machine_in_coco(tmp_path, name):
    lay(tmp_path, "images/a.jpg", **{"result.json": coco(name)})
    assert found_in(tmp_path) == {"images/a.jpg": 1}
    (sentence,) = problems_of(tmp_path)
    assert sentence.startswith(
        "1 names in result.json have other folders or letters than the images have here"
    )
    assert sentence.endswith("; the images are found by the ends of their names")


def test_paths_that_exist_elsewhere_are_not_followed(tmp_path):
    lay(tmp_path / "elsewhere", "images/a.jpg", "b.jpg")
    root = lay(tmp_path / "data", "images/a.jpg")
    lay(root, **{"all.json": coco(f"{tmp_path}/elsewhere/images/a.jpg", f"{tmp_path}/elsewhere/b.jpg")})
    assert found_in(root) == {"images/a.jpg": 1}
    assert any("1 images that all.json lists are not in the data set" in each for each in problems_of(root))


def test_two_names_for_one_image_are_left_out(tmp_path):
    names = ("/x/one/1.jpg", "/x/two/1.jpg", "/x/two/2.jpg")
    lay(tmp_path, "images/1.jpg", "images/2.jpg", **{"all.json": coco(*names)})
    assert found_in(tmp_path) == {"images/2.jpg": 1}
    assert any(
        "2 names in all.json fit an image that others fit too" in each for each in problems_of(tmp_path)
    )


@pytest.mark.parametrize(
    ("ids", "references", "objects"),
    [
        pytest.param([1, 2], ["1", "2"], [1, 1], id="numbers and text"),
        pytest.param(["1", "2"], [1, 2], [1, 1], id="text and numbers"),
        pytest.param(["000001", "000002"], [1, 2.0], [1, 1], id="zeros before it, and fractions"),
        pytest.param(["a", "b"], ["a", "b"], [1, 1], id="words"),
        pytest.param([1, 1], [1, 1], None, id="one id for two images"),
        pytest.param([1, "1"], [1, 1], None, id="one id for two images, once in text"),
    ],
)
def test_ids_of_images(tmp_path, ids, references, objects):
    images = [{"id": key, "file_name": f"{n}.jpg"} for n, key in enumerate([*ids, 99])]
    marks = [{"image_id": key, "category_id": "1", "bbox": BBOX} for key in references]
    lay(tmp_path, "0.jpg", "1.jpg", "2.jpg", **{"a.json": coco(images=images, annotations=marks)})
    if objects is None:
        assert found_in(tmp_path) == {"2.jpg": 0}
        assert problems_of(tmp_path)[0] == (
            "1 images in a.json share their id with another, such as 1.jpg; "
            "which is meant is not known, and all of that id are left out"
        )
    else:
        assert list(found_in(tmp_path).values()) == [*objects, 0]
        assert problems_of(tmp_path) == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("0", False), ("1", True), (0, False), (1, True), (False, False), (True, True), (None, False)),
        *(("false", False), ("True", True), ("", False), (0.0, False), ([], False), ("no", False)),
    ],
)
def test_flags_of_coco(tmp_path, value, expected):
    mark = {"image_id": 0, "category_id": 1, "bbox": BBOX, "iscrowd": value, "ignore": value}
    lay(tmp_path, "a.jpg", **{"a.json": coco("a.jpg", annotations=[mark])})
    (truth,) = open_annotated(tmp_path).truths
    assert (truth.crowd.tolist(), truth.difficult.tolist()) == ([expected], [expected])


def test_categories_of_one_id_or_none(tmp_path):
    categories = [
        {"id": 0, "name": "pieces", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pieces"},
        {"id": 2, "name": "dog"},
        {"id": 2, "name": "hen"},
    ]
    lay(tmp_path, "a.jpg", **{"a.json": coco("a.jpg", categories=categories)})
    assert open_annotated(tmp_path).counts() == {"pieces": 0, "cat": 1}
    assert problems_of(tmp_path)[0].startswith(
        "1 categories in a.json share their id with another, such as hen"
    )


@pytest.mark.parametrize(
    ("bbox", "box", "problem"),
    [
        pytest.param([10, 20, 50, 50], [10, 20, 60, 60], "would not if they were corners", id="corners"),
        pytest.param(
            [0.1, 0.2, 0.5, 0.5], [0.1, 0.2, 0.6, 0.7], "look like shares of the sides", id="shares"
        ),
        pytest.param([70, 50, 20, 20], [70, 50, 80, 60], "it is clipped", id="beyond the border"),
    ],
)
def test_boxes_in_other_units_are_told(tmp_path, bbox, box, problem):
    images = [{"id": 0, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]
    mark = {"image_id": 0, "category_id": 1, "bbox": bbox}
    lay(tmp_path, "a.jpg", **{"a.json": coco(images=images, annotations=[mark])})
    opened = open_annotated(tmp_path)
    assert opened.truths[0].boxes.tolist() == [pytest.approx(box)]
    assert problem in opened.problems[-1] or problem in opened.problems[0]


def test_images_that_no_file_lists(tmp_path):
    lay(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", **{"train.json": coco("a.jpg")})
    lay(tmp_path, **{"test.json": coco("b.jpg")})
    whole = "1 images are listed in no annotation file, such as images/c.jpg; they are left out"
    assert problems_of(tmp_path) == open_splits(tmp_path).problems == (whole,)
    assert problems_of(tmp_path, "train") == problems_of(tmp_path / "train.json") == ()


# --- YOLO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "images", "splits"),
    [
        pytest.param("classes.txt a.txt b.txt", "a.jpg b.jpg", (), id="labelImg"),
        pytest.param(
            "labels/classes.txt labels/a.txt labels/b.txt", "images/a.jpg images/b.jpg", (), id="labels/"
        ),
        pytest.param("classes.txt Labels/a.txt Labels/b.txt", "Images/a.jpg Images/b.jpg", (), id="letters"),
        pytest.param(
            "images/classes.txt images/a.txt images/b.txt", "images/a.jpg images/b.jpg", (), id="images/"
        ),
        pytest.param(
            "train/classes.txt train/a.txt val/classes.txt val/b.txt",
            "train/a.jpg val/b.jpg",
            ("train", "val", "trainval"),
            id="labelImg in a folder for each split",
        ),
        pytest.param(
            "classes.txt train/labels/a.txt test/labels/b.txt",
            "train/images/a.jpg test/images/b.jpg",
            ("train", "test"),
            id="folders in those of the splits",
        ),
        pytest.param(
            "classes.txt labels/train/a.txt labels/test/b.txt",
            "images/train/a.jpg images/test/b.jpg",
            ("train", "test"),
            id="splits below",
        ),
        pytest.param("labels/classes.txt labels/a.txt labels/b.txt", "a.jpg b.jpg", (), id="labels below"),
        pytest.param("obj.names a.txt b.txt", "a.jpg b.jpg", (), id="darknet without lists"),
    ],
)
def test_yolo_without_data_yaml(tmp_path, files, images, splits):
    texts = {name: "cat\n" if name.endswith(("classes.txt", ".names")) else LINE for name in files.split()}
    lay(tmp_path, *images.split(), **texts)
    assert found_in(tmp_path) == dict.fromkeys(images.split(), 1)
    assert (open_annotated(tmp_path).classes, problems_of(tmp_path)) == (("cat",), ())
    assert find_annotated_splits(tmp_path) == splits
    if splits:
        assert found_in(tmp_path, "train") == {images.split()[0]: 1}


def test_notes_in_json_beside_yolo_are_no_coco(tmp_path):
    notes = {"categories": [{"id": 0, "name": "cat"}], "info": {}}
    lay(
        tmp_path,
        "images/a.jpg",
        **{"labels/a.txt": LINE, "classes.txt": "cat\n", "notes.json": json.dumps(notes)},
    )
    assert found_in(tmp_path) == {"images/a.jpg": 1}


@pytest.mark.parametrize("keys", ["train valid", "train", ""])
def test_the_layout_of_darknet_and_cvat(tmp_path, keys):
    folders = {"train": "obj_train_data", "valid": "obj_valid_data"}
    data = "".join(f"{key} = data/{key}.txt\n" for key in keys.split())
    lay(
        tmp_path,
        **({"obj.data": f"classes = 1\n{data}names = data/obj.names\nbackup = x/\n"} if keys else {}),
    )
    for key, folder in folders.items():
        lay(tmp_path, f"{folder}/{key}.jpg", **{f"{folder}/{key}.txt": LINE})
        lay(tmp_path, **{f"{key}.txt": f"data/{folder}/{key}.jpg\n"})
    lay(tmp_path, **{"obj.names": "cat\n"})
    assert found_in(tmp_path, "train") == {"obj_train_data/train.jpg": 1}
    assert found_in(tmp_path, "val") == {"obj_valid_data/valid.jpg": 1}


def make_yolo(root: Path, yaml: str, *splits: str) -> Path:
    for split in splits:
        lay(root, f"{split}/images/{split}.jpg", **{f"{split}/labels/{split}.txt": LINE})
    return lay(root, **{"data.yaml": yaml})


YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\n"


def test_a_split_that_is_not_there_is_told_and_refused_if_asked_for(tmp_path):
    make_yolo(tmp_path, YAML, "train", "valid")
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval")
    assert default_split(tmp_path, ("test", "val")) == "val"
    sentence = f"the test images, ../test/images, are not below {tmp_path}, and nothing outside is read; "
    for split in (None, "train"):
        (found,) = problems_of(tmp_path, split)
        assert found.startswith(sentence)
        assert found.endswith("; they are left out")
    with pytest.raises(DataError, match=r"the test images, \.\./test/images, are not below"):
        open_annotated(tmp_path, "test")


@pytest.mark.parametrize("entry", ["../test/images", "test/images", "images/test", "/data/test/images"])
def test_images_of_all_splits_are_no_split(tmp_path, entry):
    make_yolo(tmp_path, f"train: images\ntest: {entry}\nnames: [cat]\n")
    lay(tmp_path, "images/a.jpg", **{"labels/a.txt": LINE})
    assert find_annotated_splits(tmp_path) == ("train",)


def test_without_any_of_its_splits_nothing_is_read(tmp_path):
    make_yolo(tmp_path, YAML)
    lay(tmp_path, "images/a.jpg", **{"labels/a.txt": LINE})
    with pytest.raises(DataError, match=r"the train images, \.\./train/images, are not below"):
        open_annotated(tmp_path)


def test_an_empty_split_is_told(tmp_path):
    lay(tmp_path, "images/a.jpg", **{"train.json": coco("a.jpg"), "test.json": coco("b.jpg")})
    splits = open_splits(tmp_path)
    assert {name: len(images) for name, images in splits.sets.items()} == {"train": 1, "test": 0}
    assert splits.problems == ("no image of the test split is there",)
    assert splits.sets["test"].problems[0].startswith("1 images that test.json lists are not in the data set")
    with pytest.raises(DataError, match="holds no images"):
        open_annotated(tmp_path, "test")


def test_an_empty_folder_is_no_split(tmp_path):
    make_yolo(tmp_path, YAML, "train", "valid")
    (tmp_path / "test/images").mkdir(parents=True)
    assert default_split(tmp_path, ("test", "val")) == "val"
    sentence = "the test images, ../test/images, are in a folder without images"
    assert problems_of(tmp_path) == (f"{sentence}; they are left out",)
    with pytest.raises(DataError, match=sentence):
        open_annotated(tmp_path, "test")


def test_splits_that_share_images_are_told(tmp_path):
    make_yolo(
        tmp_path, "train: train/images\nval: [train/images, valid/images]\nnames: [cat]", "train", "valid"
    )
    splits = open_splits(tmp_path)
    assert {name: len(images) for name, images in splits.sets.items()} == {"train": 1, "val": 1}
    (sentence,) = splits.problems
    assert sentence.startswith(
        "1 images of val are in train too, such as train.jpg; they count in train alone"
    )


def test_labels_without_an_image_and_images_in_no_split(tmp_path):
    make_yolo(tmp_path, "train: train/images\nnames: [cat]\n", "train", "valid")
    lay(tmp_path, **{"train/labels/gone.txt": LINE, "train/labels/classes.txt": "cat\n"})
    labels = "1 label files have no image, such as train/labels/gone.txt; they are left out"
    assert problems_of(tmp_path, "train") == (labels,)
    assert problems_of(tmp_path) == (
        labels,
        "1 images are in no split, such as valid/images/valid.jpg; "
        "they are left out; to read them, name their folder in data.yaml",
    )


def test_two_images_of_one_stem_share_no_label(tmp_path):
    lay(tmp_path, "images/a.jpg", "images/a.png", "images/b.jpg", **{"data.yaml": "names: [cat]"})
    lay(tmp_path, **{"labels/a.txt": LINE, "labels/b.txt": LINE})
    assert found_in(tmp_path) == {"images/b.jpg": 1}
    assert problems_of(tmp_path) == (
        "2 images share a label file with others, such as a.jpg (a.txt), a.png (a.txt); "
        "which is meant cannot be known, and they are left out",
    )


@pytest.mark.parametrize(
    ("columns", "box", "problem"),
    [
        pytest.param("0.5 0.5 0.5 0.5 0.93", [20, 15, 60, 45], "taken for a confidence", id="confidence"),
        pytest.param("0.5 0.5 0.5 0.5 0.93 1", [20, 15, 60, 45], "confidence and track", id="track"),
        pytest.param("0.5 0.5 0.5 0.5 0.93 17", [20, 15, 60, 45], "confidence and track", id="track 17"),
        pytest.param("0.5 0.5 0.5 0.5 0.4 0.4 1 0.6 0.6 2", [20, 15, 60, 45], "key points", id="key points"),
        pytest.param("0.5 0.5 0.5 0.5 0.4 0.4 0", [20, 15, 60, 45], "key points", id="one key point"),
        pytest.param("0.25 0.25 0.75 0.25 0.75 0.75", [20, 15, 60, 45], "outlines", id="a triangle"),
        pytest.param("0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", [20, 15, 60, 45], "outlines", id="corners"),
        pytest.param("0.5 0.5 0.5 0.5 0.1 0.2 0.3", None, "five numbers were expected", id="seven numbers"),
        pytest.param(
            "50 50 50 50", None, "pixels are divided by width and height, per cent by 100", id="per cent"
        ),
        pytest.param("0.5, 0.5, 0.5, 0.5", [20, 15, 60, 45], "", id="commas"),
        pytest.param("0,5 0,5 0,5 0,5", None, "five numbers were expected", id="commas for decimal points"),
    ],
)
def test_columns_behind_the_class(tmp_path, columns, box, problem):
    lay(tmp_path, "images/a.jpg", **{"data.yaml": "names: [cat]", "labels/a.txt": f"0 {columns}\n"})
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == ([pytest.approx(box)] if box else [])
    assert problem in " ".join(images.problems)
    assert len(images.problems) == bool(problem)


def test_lines_of_one_length_are_read_in_one_way(tmp_path):
    lines = ("0 0.25 0.25 0.75 0.25 0.75 1\n", "0 0.25 0.25 0.75 0.25 0.75 0.75\n")
    for number, text in enumerate(lines):
        lay(tmp_path, f"images/{number}.jpg", **{f"labels/{number}.txt": text, "data.yaml": "names: [cat]"})
    images = open_annotated(tmp_path)
    assert [truth.boxes.tolist() for truth in images.truths] == [[[20, 15, 60, 60]], [[20, 15, 60, 45]]]
    assert images.problems[0].startswith(
        "2 lines have pairs of numbers, such as labels/0.txt, line 1 (0 0.25"
    )


WORDS = (
    "no",
    "off",
    "on",
    "yes",
    "y",
    "true",
    "null",
    "~",
    "007",
    "1_000",
    "12:30",
    "1e3",
    "0x1F",
    ".5",
    ".inf",
)


@pytest.mark.parametrize("form", ["[{}]", "\n- {}", "mapping"])
def test_names_are_words_whatever_yaml_takes_them_for(tmp_path, form):
    listed = (
        "".join(f"\n  {number}: {name}" for number, name in enumerate(WORDS))
        if form == "mapping"
        else form.format((", " if "[" in form else "\n- ").join(WORDS))
    )
    lay(
        tmp_path,
        "images/a.jpg",
        **{"data.yaml": f"nc: {len(WORDS)}\nnames: {listed}\n", "labels/a.txt": LINE},
    )
    assert (open_annotated(tmp_path).classes, problems_of(tmp_path)) == (WORDS, ())


def test_names_that_do_not_fit_their_number_are_told(tmp_path):
    lay(
        tmp_path,
        "images/a.jpg",
        **{"data.yaml": "nc: 4\nnames: [cat, dog, cat]", "labels/a.txt": f"2{LINE[1:]}"},
    )
    assert open_annotated(tmp_path).counts() == {"cat": 1, "dog": 0}
    assert problems_of(tmp_path) == (
        "data.yaml names cat twice; those numbers are read as one class",
        "data.yaml has nc 4 and 3 names; the names count",
    )


# --- all ------------------------------------------------------------------------------------------


def test_one_name_in_two_forms_is_one_class(tmp_path):
    composed, apart = "g\u00e2teau", "ga\u0302teau"
    notes = {"Annotations/1.xml": xml(name=composed), "Annotations/2.xml": xml(name=apart)}
    lay(tmp_path, "JPEGImages/1.jpg", "JPEGImages/2.jpg", **notes, **{"classes.txt": f"{apart}\n"})
    assert open_annotated(tmp_path).counts() == {composed: 2}


@pytest.mark.parametrize("written", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("there", ["caf\u00e9", "cafe\u0301"])
def test_file_names_in_two_forms(tmp_path, written, there):
    voc, yolo = tmp_path / "voc", tmp_path / "yolo"
    lay(voc, f"JPEGImages/{there}.jpg", **{f"Annotations/{written}.xml": xml(), "train.txt": f"{there}\n"})
    lay(yolo, f"images/{there}.jpg", **{f"labels/{written}.txt": LINE, "data.yaml": "names: [cat]"})
    assert found_in(voc, "train") == {f"JPEGImages/{there}.jpg": 1}
    assert found_in(yolo) == {f"images/{there}.jpg": 1}


def test_classes_that_differ_in_letters_alone_are_told(tmp_path):
    lay(tmp_path, "a.jpg", "b.jpg", **{"a.xml": xml(name="Cat"), "b.xml": xml(name="cat")})
    assert problems_of(tmp_path) == (
        "the classes Cat and cat differ in upper and lower case alone; they are kept apart",
    )


def test_opening_a_data_set_logs_one_line(tmp_path, caplog):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg", **{"a.xml": xml("x.jpg"), "b.xml": xml()})
    open_annotated(tmp_path)
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path}: 2 things are read otherwise than written, or left out: 1 XML files name"
    )
    assert line.endswith("…; `sppnet check` lists all")
    caplog.clear()
    open_splits(tmp_path)  # for commands that print the problems themselves
    assert caplog.messages == []


@pytest.mark.parametrize(
    "files", ["classes.txt cat/1.jpg", "labels.csv 1.jpg", "train/cat/1.jpg train/classes.txt"]
)
def test_folders_of_classes_are_no_boxes(tmp_path, files):
    for name in files.split():
        lay(
            tmp_path,
            *([name] if name.endswith("jpg") else []),
            **({} if name.endswith("jpg") else {name: "cat\n"}),
        )
    assert not is_annotated(tmp_path)


def test_boxes_that_may_be_sizes_or_corners_are_told(tmp_path):
    bounds = "<bndbox><xmin>60</xmin><ymin>50</ymin><xmax>10</xmax><ymax>8</ymax></bndbox>"
    swapped = xml().replace(BOUNDS, bounds)
    voc, yolo = tmp_path / "voc", tmp_path / "yolo"
    for number in range(3):
        lay(voc, f"{number}.jpg", **{f"{number}.xml": swapped})
        lay(yolo, f"images/{number}.jpg", **{f"labels/{number}.txt": "0 0.5 0.5 0.9 0.9\n0 .7 .1 .95 .6\n"})
    lay(yolo, **{"classes.txt": "cat\n"})
    assert (
        "3 of 3 boxes have their corners in the wrong order: they look like x, y, width, height, where "
        "corners were expected"
    ) in problems_of(voc)
    assert (
        "3 of 6 boxes reach beyond their images, and all would be boxes if they were corners x0, y0, x1, y1; "
        "they are read as centre, width, height, as YOLO has them"
    ) in problems_of(yolo)
    lay(yolo, **{"labels/0.txt": "0 0.5 0.5 0.4 0.9\n"})  # no box as corners
    assert not any("corners" in sentence for sentence in problems_of(yolo))
    lay(voc, **{f"{number}.xml": xml() for number in (0, 1)})
    assert not any("boxes have their corners" in sentence for sentence in problems_of(voc))
