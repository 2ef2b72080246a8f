"""What all layouts have in common: which one it is, classes, splits, and names that climb out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sppnet.cli.app import app
from sppnet.data.annotations import fit_box
from sppnet.data.detection_dataset import (
    AnnotatedImages,
    find_annotated_splits,
    is_annotated,
    open_annotated,
)
from sppnet.data.lookup import Lookup
from sppnet.errors import DataError
from sppnet.structures import GroundTruth

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


def make_pairs(root: Path, **names: str) -> Path:
    """Images with XML files beside them, each with objects of the classes named."""
    root.mkdir(parents=True, exist_ok=True)
    for name, classes in names.items():
        Image.new("RGB", (20, 20)).save(root / f"{name}.png")
        things = "".join(f"<object><name>{name}</name>{BOX}</object>" for name in classes.split())
        (root / f"{name}.xml").write_text(f"<annotation>{things}</annotation>")
    return root


def test_images_and_truths_go_together(tmp_path):
    images = open_annotated(make_pairs(tmp_path, a="cat dog", b="", c="dog"))
    path, truth = images[0]
    assert (len(images), path.name, truth.labels.tolist()) == (3, "a.png", [0, 1])
    assert images.counts() == {"cat": 1, "dog": 2}
    part = images.take(np.array([2, 0]))
    assert [part[i][0].name for i in range(len(part))] == ["c.png", "a.png"]
    assert part.classes == images.classes
    assert part.truths[1] is truth
    assert len(images.take([])) == 0


def test_plain_objects_are_neither_difficult_nor_crowds():
    truth = GroundTruth([[0, 0, 9, 9]] * 4, [0, 0, 1, 1], [False, True, False, False], [False] * 3 + [True])
    images = AnnotatedImages(Path(), ("cat", "dog", "hen"), (Path("a"),), (truth,), ())
    assert images.counts() == {"cat": 2, "dog": 2, "hen": 0}
    assert images.counts(plain=True) == {"cat": 1, "dog": 1, "hen": 0}


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        pytest.param((), "1 images need as many truths; got 0", id="a truth missing"),
        pytest.param((GroundTruth.of([[0, 0, 1, 1]], [1]),), r"must be 0\.\.0; got 1", id="a label too high"),
    ],
)
def test_a_data_set_is_checked_at_birth(truths, message):
    with pytest.raises(DataError, match=message):
        AnnotatedImages(Path("."), ("cat",), (Path("x"),), truths, ())


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "classes", "left_out"),
    [
        pytest.param(None, ("cat", "dog_2", "dog_10"), None, id="none listed: those found, in natural order"),
        pytest.param("dog_10\ncat\n", ("dog_10", "cat"), "1 objects are", id="listed: those, in that order"),
        pytest.param(
            "\ufeffcat\r\n\r\n cat \n", ("cat",), "2 objects are", id="a mark, repeats, empty lines"
        ),
        pytest.param("\n", ("cat", "dog_2", "dog_10"), None, id="an empty list counts as none"),
        pytest.param("eel", ("eel",), "3 objects are", id="only what is not there"),
    ],
)
def test_classes(tmp_path, listed, classes, left_out):
    make_pairs(tmp_path, a="cat dog_10", b="dog_2")
    if listed is not None:
        (tmp_path / "classes.txt").write_text(listed)
    images = open_annotated(tmp_path)
    assert images.classes == classes
    if left_out:
        (sentence,) = images.problems
        assert sentence.startswith(left_out)
        assert "other classes than classes.txt lists and are left out: " in sentence
    else:
        assert images.problems == ()


def test_a_list_may_lie_beside_the_annotations(tmp_path):
    pairs = make_pairs(tmp_path / "x", a="dog cat")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    (pairs / "a.xml").rename(tmp_path / "Annotations/a.xml")
    (pairs / "a.png").rename(tmp_path / "JPEGImages/a.png")
    (tmp_path / "Annotations/classes.txt").write_text("dog\n")
    assert open_annotated(tmp_path).classes == ("dog",)


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "asked", "message"),
    [
        pytest.param(
            ("train", "test"), "val", r"no val split \(it holds train, test\); known: test", id="missing"
        ),
        pytest.param(("train", "test"), "tset", "did you mean test", id="a slip of the pen"),
        pytest.param((), "train", "has no splits, so no train; read it whole", id="none at all"),
    ],
)
def test_splits_that_are_not_there(tmp_path, splits, asked, message):
    if not splits:
        make_pairs(tmp_path, a="cat")
    for split in splits:
        make_pairs(tmp_path / split, a="cat")
    assert find_annotated_splits(tmp_path) == splits
    with pytest.raises(DataError, match=message):
        open_annotated(tmp_path, asked)


# --- what is no annotated data set ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param([], "It holds nothing", id="nothing"),
        pytest.param(["cat/1.jpg", "dog/2.jpg"], "It holds cat, dog", id="class folders"),
        pytest.param(
            ["Annotations/1.txt", "JPEGImages/1.jpg"], "It holds Annotations, JPEGImages", id="no XML"
        ),
        pytest.param(["x.xml", "y.jpg"], "It holds x.xml, y.jpg", id="files that are no pair"),
        pytest.param(["images/1.jpg", "labels/1.txt"], "It holds images, labels", id="YOLO without names"),
    ],
)
def test_other_folders_are_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not is_annotated(tmp_path)
    with pytest.raises(DataError, match=r"looked for VOC .*; COCO .*; YOLO .*" + message):
        open_annotated(tmp_path)


@pytest.mark.parametrize("below", ["VOC2007", "VOCdevkit/VOC2007", "a/b/c"])
def test_a_data_set_in_the_only_folder_is_read(tmp_path, below):
    make_pairs(tmp_path / below, a="cat")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.txt").write_text("unpacked")
    images = open_annotated(tmp_path)
    assert (images.root, images.counts(), images.problems) == (tmp_path / below, {"cat": 1}, ())
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.stdout.startswith(f"data set: {below}\nlayout: VOC\n")


def test_of_two_data_sets_none_is_read(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make_pairs(tmp_path / "VOCdevkit" / year, a="cat")
    with pytest.raises(DataError, match=r"Did you mean .*VOCdevkit/VOC2007\?"):
        open_annotated(tmp_path)
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert "boxes are marked in VOCdevkit/VOC2007, VOCdevkit/VOC2012; check each folder" in done.stdout


def test_objects_that_are_marked_twice_are_told(tmp_path):
    make_pairs(tmp_path, a="cat", b="cat")
    note = tmp_path / "b.xml"
    text = note.read_text()
    mark = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    note.write_text(text.replace(mark, mark * 3))
    images = open_annotated(tmp_path)
    assert images.counts() == {"cat": 4}
    assert images.problems == (
        "2 objects are marked twice, such as b.png, b.png; each mark counts as an object",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("nowhere", "does not exist", id="nothing"),
        pytest.param("a.txt", r"neither a COCO \.json nor a YOLO \.yaml file", id="another file"),
    ],
)
def test_other_paths_are_refused(tmp_path, name, message):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=message):
        open_annotated(tmp_path / name)


def test_a_data_set_of_which_nothing_can_be_read_says_why(tmp_path):
    make_pairs(tmp_path, a="cat")
    (tmp_path / "a.xml").write_text("<a")
    with pytest.raises(DataError, match=r"holds no images with VOC annotations; .*a\.xml is not XML"):
        open_annotated(tmp_path)


# --- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        pytest.param("a.jpg", "a.jpg", id="a file"),
        pytest.param(r"x\y/./a.jpg", "x/y/a.jpg", id="folders, either way"),
        pytest.param("a..b.jpg", "a..b.jpg", id="dots within a name"),
        pytest.param("../a.jpg", "a.jpg", id="climbing out"),
        pytest.param("x/../a.jpg", "a.jpg", id="climbing at all"),
        pytest.param(r"..\..\y\a.jpg", "a.jpg", id="climbing out, on Windows"),
        pytest.param("/content/data/x/y/a.jpg", "x/y/a.jpg", id="of another machine"),
        pytest.param(r"C:\me\x\y\a.jpg", "x/y/a.jpg", id="of another machine, on Windows"),
        pytest.param(r"\\server\share\a.jpg", "a.jpg", id="of a server"),
        pytest.param("A.JPG", "a.jpg", id="other letters"),
        pytest.param("X/Y/a.Jpg", "x/y/a.jpg", id="folders in other letters"),
        pytest.param("cafe\u0301.jpg", "caf\u00e9.jpg", id="composed otherwise"),
        pytest.param("my%20cat.jpg", "my cat.jpg", id="as in a URL"),
        pytest.param("100%.jpg", "100%.jpg", id="with a percent sign"),
        pytest.param(" a.jpg ", "a.jpg", id="with spaces around it"),
        pytest.param("TWO.jpg", None, id="two files differ in letters alone"),
        pytest.param("two.JPG", "two.JPG", id="one of two, exactly"),
        pytest.param("../secret.jpg", None, id="climbing to what is there"),
        pytest.param("{tmp}/secret.jpg", None, id="absolute, and there"),
        pytest.param("/etc/passwd", None, id="a file of the system"),
        pytest.param("a\0.jpg", None, id="a null"),
        pytest.param(" ", None, id="nothing"),
        pytest.param("..", None, id="the folder above"),
        pytest.param("x", None, id="a folder"),
        pytest.param("b.jpg", None, id="what is not there"),
        pytest.param("n" * 5000, None, id="a name that no system takes"),
    ],
)
def test_names_stay_inside(name, inside, tmp_path):
    root = tmp_path / "root"
    (root / "x/y").mkdir(parents=True)
    files = (
        "a.jpg",
        "a..b.jpg",
        "x/y/a.jpg",
        "caf\u00e9.jpg",
        "my cat.jpg",
        "100%.jpg",
        "two.jpg",
        "two.JPG",
    )
    for file in (*files, "../secret.jpg"):
        (root / file).touch()
    found = Lookup().file([root], name.replace("{tmp}", str(tmp_path)))
    assert found == (None if inside is None else root / inside)


def test_a_box_too_thin_for_float32_is_empty():
    assert fit_box((100_000.0, 0, 100_000.001, 1), None) == (None, "is empty; it is left out")
