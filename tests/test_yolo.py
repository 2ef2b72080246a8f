"""YOLO data sets as they are in the wild: data.yaml from other machines, outlines, and odd lines."""

from pathlib import Path

import pytest
from PIL import Image

from sppnet.data.detection_dataset import find_annotated_splits, is_annotated, open_annotated
from sppnet.errors import DataError

WIDTH, HEIGHT = 80, 60


def save_image(path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, **options)


def make_yolo(root: Path, yaml: str = "names: [dog, cat]", **labels: str | None) -> Path:
    """images/NAME.jpg and labels/NAME.txt for each name ("__" parts folders), and data.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(yaml, encoding="utf-8")
    for name, text in labels.items():
        place = name.replace("__", "/")
        save_image(root / f"images/{place}.jpg")
        if text is not None:
            label = root / f"labels/{place}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text, encoding="utf-8")
    return root


def names_in(root: Path, split: str | None = None) -> list[str]:
    return [path.stem for path in open_annotated(root, split).paths]


@pytest.mark.parametrize(
    ("line", "box", "problem"),
    [
        pytest.param("1 0.5 0.5 0.5 0.5", [20, 15, 60, 45], None, id="a box"),
        pytest.param("1.0 .5 5e-1 0.5 0.5\r", [20, 15, 60, 45], None, id="numbers as tools write them"),
        pytest.param("1 0.5 0.5 0.5 0.5 # a cat", [20, 15, 60, 45], None, id="a remark"),
        pytest.param(
            "# class x y width height\n1 .5 .5 .5 .5", [20, 15, 60, 45], None, id="a line of remark"
        ),
        pytest.param("1 0.5 0.5 1.000001 1", [0, 0, 80, 60], None, id="over the border by rounding"),
        pytest.param("1 0.9 0.5 0.4 0.5", [56, 15, 80, 45], "it is clipped", id="over the border"),
        pytest.param("1 0.5 0.5 0 0.5", None, "is empty; it is left out", id="no width"),
        pytest.param(
            "1 0.25 0.25 0.75 0.25 0.75 0.5 0.5 0.75",
            [20, 15, 60, 45],
            "taken for outlines",
            id="an outline of four corners",
        ),
        pytest.param("1 0.25 0.25 0.75 0.5 0.5 0.75", [20, 15, 60, 45], "taken for outlines", id="of three"),
        pytest.param(
            "2 0.5 0.5 0.5 0.5",
            None,
            "a class number of 0 to 1 was expected, as data.yaml names them; got 2",
            id="an unknown class",
        ),
        pytest.param(
            "-1 0.5 0.5 0.5 0.5", None, "a class number of 0 to 1 was expected", id="a class below 0"
        ),
        pytest.param("1.5 0.5 0.5 0.5 0.5", None, "a class number of 0 to 1 was expected", id="half a class"),
        pytest.param("cat 0.5 0.5 0.5 0.5", None, "a class number of 0 to 1 was expected", id="a name"),
        pytest.param("1 40 30 40 30", None, "got 1 40 30 40 30; pixels are divided by", id="pixels"),
        pytest.param(
            "1 0.5 0.5 0.5",
            None,
            "five numbers were expected, class and four shares from 0 to 1; got 1 0.5 0.5 0.5",
            id="three numbers",
        ),
        pytest.param("1 0.5 0.5 0.5 0.5 0.9", [20, 15, 60, 45], "taken for a confidence", id="five"),
        pytest.param("1 0.5 0.5 x 0.5", None, "five numbers were expected", id="a letter"),
        pytest.param("1 0.5 0.5 nan 0.5", None, "shares from 0 to 1 were expected", id="not a number"),
        pytest.param("1 0.5 0.5 inf 0.5", None, "shares from 0 to 1 were expected", id="without end"),
    ],
)
def test_what_becomes_of_a_line(tmp_path, line, box, problem):
    images = open_annotated(make_yolo(tmp_path, a=f"\ufeff{line}\n\n"))
    (truth,) = images.truths
    assert truth.boxes.tolist() == ([] if box is None else [pytest.approx(box)])
    assert [problem in sentence for sentence in images.problems] == ([True] if problem else [])
    assert all("labels/a.txt, line 1" in sentence for sentence in images.problems)


def test_images_without_a_label_file_have_no_objects(tmp_path):
    images = open_annotated(make_yolo(tmp_path, a="0 .5 .5 .5 .5", b=None, c=""))
    assert [len(truth) for truth in images.truths] == [1, 0, 0]
    assert (images.classes, images.problems) == (("dog", "cat"), ())


def test_labels_that_are_all_missing_are_told(tmp_path):
    images = open_annotated(make_yolo(tmp_path, a=None, b=None))
    assert images.problems == ("none of 2 images has a label file, so none has an object",)


def test_shares_are_of_the_upright_image(tmp_path):
    make_yolo(tmp_path, a="0 0.5 0.5 1 1")
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "images/a.jpg", exif=exif)
    assert open_annotated(tmp_path).truths[0].boxes.tolist() == [[0, 0, 60, 80]]


def test_a_damaged_image_has_no_size_and_so_no_objects(tmp_path):
    make_yolo(tmp_path, a="0 .5 .5 .5 .5", b="0 .5 .5 .5 .5")
    (tmp_path / "images/a.jpg").write_bytes(b"no image")
    images = open_annotated(tmp_path)
    assert [len(truth) for truth in images.truths] == [0, 1]
    assert images.problems[0].endswith("so its size is not known, and its objects are left out")


def test_key_points_are_left_aside(tmp_path):
    yaml = "names: [dog]\nkpt_shape: [2, 3]"
    images = open_annotated(make_yolo(tmp_path, yaml, a="0 .5 .5 .5 .5 .1 .1 2 .2 .2 2"))
    assert (images.truths[0].boxes.tolist(), images.problems) == ([[20, 15, 60, 45]], ())


# --- data.yaml -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaml", "classes"),
    [
        pytest.param("names: [dog, cat]", ("dog", "cat"), id="a list"),
        pytest.param("names:\n  1: cat\n  0: dog", ("dog", "cat"), id="a mapping"),
        pytest.param("names: {'10': eel, '2': cat}", ("cat", "eel"), id="numbers as text, with gaps"),
        pytest.param("names: [1, 2.5, cat]", ("1", "2.5", "cat"), id="names that are numbers"),
        pytest.param("nc: 3", ("0", "1", "2"), id="only how many"),
        pytest.param("nc: 1\nnames: cat", ("cat",), id="the only one, without a list"),
    ],
)
def test_names(tmp_path, yaml, classes):
    assert open_annotated(make_yolo(tmp_path, yaml, a="2 .5 .5 .5 .5")).classes == classes


def test_names_in_a_file_of_their_own(tmp_path):
    (tmp_path / "voc.names").write_text("dog\n\ncat\n")
    root = make_yolo(tmp_path, "names: ../elsewhere/voc.names", a="1 .5 .5 .5 .5")
    assert open_annotated(root).counts() == {"dog": 0, "cat": 1}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("images/train", id="below data.yaml"),
        pytest.param("./images/train/", id="with dots"),
        pytest.param("../images/train", id="one too high, as Roboflow writes"),
        pytest.param("/content/datasets/mine/images/train", id="absolute, on another machine"),
        pytest.param(r"images\train", id="as on Windows"),
        pytest.param("train.txt", id="a list of files"),
        pytest.param("[images/train/a.jpg, images/train/b.jpg]", id="files"),
        pytest.param("[images/train]", id="folders"),
    ],
)
def test_a_split_is_a_path_a_list_or_a_file(tmp_path, entry):
    yaml = f"names: [dog, cat]\ntrain: {entry}\nval: images/val\ntest:\n"
    make_yolo(tmp_path, yaml, train__a="0 .5 .5 .5 .5", train__b="", val__c="")
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n/elsewhere/images/train/b.jpg\n\n")
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval")
    assert names_in(tmp_path, "train") == ["a", "b"]
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert len(open_annotated(tmp_path, "train").truths[0]) == 1


@pytest.mark.parametrize("base", ["sub", "../datasets/sub", "/abs/sub"])
def test_the_path_of_data_yaml(tmp_path, base):
    (make_yolo(tmp_path / "sub", train__a="0 .5 .5 .5 .5") / "data.yaml").unlink()
    (tmp_path / "data.yaml").write_text(f"path: {base}\ntrain: images/train\nnames: [dog]")
    images = open_annotated(tmp_path / "data.yaml", "train")
    assert (names_in(tmp_path, "train"), len(images.truths[0])) == (["a"], 1)


def test_images_and_labels_below_each_split(tmp_path):
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [dog]")
    for split in ("train", "valid"):
        save_image(tmp_path / split / "images/x.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/x.txt").write_text("0 .5 .5 .5 .5")
    assert open_annotated(tmp_path, "val").paths == (tmp_path / "valid/images/x.jpg",)
    assert open_annotated(tmp_path).counts() == {"dog": 2}


def test_without_data_yaml(tmp_path):
    (make_yolo(tmp_path, train__a="1 .5 .5 .5 .5", val__b="") / "data.yaml").unlink()
    assert not is_annotated(tmp_path)
    (tmp_path / "labels/classes.txt").write_text("dog\ncat\n")
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval")
    assert open_annotated(tmp_path).counts() == {"dog": 0, "cat": 1}


def test_no_image_outside_the_data_set_is_named(tmp_path):
    save_image(tmp_path / "outside/secret.jpg")
    root = make_yolo(tmp_path / "data", "names: [dog]\ntrain: list.txt\nval: ../outside", a=None)
    (root / "list.txt").write_text(f"images/a.jpg\n../outside/secret.jpg\n{tmp_path}/outside/secret.jpg\n")
    train = open_annotated(root, "train")
    assert [path.name for path in train.paths] == ["a.jpg"]
    assert any(
        "2 images that list.txt lists are not below data, such as ../outside/secret.jpg" in sentence
        for sentence in train.problems
    )
    with pytest.raises(
        DataError, match=r"the val images, \.\./outside, are not below .*; put data\.yaml beside"
    ):
        open_annotated(root, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("names: [a", "is not YAML", id="cut short"),
        pytest.param("names: !!python/object/apply:os.getcwd []", "is not YAML", id="code"),
        pytest.param("names: 3", "has no names", id="names of another type"),
        pytest.param("names: {a: b}", "has no names", id="names by letters"),
        pytest.param("names: " + "[" * 2**19, "nested more than 20 deep", id="too deep"),
        pytest.param("a: &a [x, x]\nnames: [*a, *a]", r"uses the alias \*a", id="what could be a bomb"),
        pytest.param("a: &a {x: 1}\nb: {<<: [*a, *a]}\nnames: [x]", "uses the alias", id="another"),
        pytest.param("x: '" + "a" * 2**20 + "'", "is larger than", id="too large"),
    ],
)
def test_what_is_no_data_yaml(tmp_path, text, message):
    make_yolo(tmp_path, text, a="")
    with pytest.raises(DataError, match=message):
        open_annotated(tmp_path)


def test_other_yaml_files_make_no_data_set(tmp_path):
    (tmp_path / "mkdocs.yml").write_text("site_name: x\ny: !!python/name:a.b ''")
    assert not is_annotated(tmp_path)
