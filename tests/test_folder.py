"""Folders of classes as they are in the wild: order, splits, hold-outs, and what is no such folder."""

from pathlib import Path

import numpy as np
import pytest

from sppnet.data.folder import ImageFolder, hold_out, natural_key, open_folder, split_folder
from sppnet.errors import ConfigError, DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{i}.jpg" for i in range(count)]


def names_of(folder: ImageFolder) -> set[str]:
    return {path.relative_to(folder.root).as_posix() for path in folder.paths}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["10", "9", "1"], ["1", "9", "10"], id="numbers by value"),
        pytest.param(["img10b", "img9", "img"], ["img", "img9", "img10b"], id="numbers within names"),
        pytest.param(["b", "A", "a", "B"], ["A", "a", "B", "b"], id="letters without regard to case"),
        pytest.param(["a01", "a1", "a"], ["a", "a01", "a1"], id="equal numbers by their text"),
        pytest.param(["2x", "x", "é"], ["2x", "x", "é"], id="digits and letters in one place"),
    ],
)
def test_natural_order(names, expected):
    assert sorted(names, key=natural_key) == expected


def test_classes_files_and_labels(tmp_path):
    make_files(
        tmp_path,
        *("10/a.jpg", "2/b10.png", "2/b9.JPEG", "2/deep/er/c.webp", "2/notes.txt"),
        *(".git/x.jpg", "2/.DS_Store", "2/._b9.jpg", "__MACOSX/2/b.jpg", "stray.jpg"),
    )
    folder = open_folder(tmp_path)
    assert folder.classes == ("2", "10")
    names = [path.relative_to(tmp_path).as_posix() for path in folder.paths]
    assert names == ["2/b9.JPEG", "2/b10.png", "2/deep/er/c.webp", "10/a.jpg"]
    assert folder.labels.tolist() == [0, 0, 0, 1]
    assert folder[3] == (tmp_path / "10/a.jpg", 1)
    assert folder.counts() == {"2": 3, "10": 1}
    assert folder.labels.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        folder.labels[0] = 1


def test_links_are_followed_out_of_the_root(tmp_path):
    elsewhere = make_files(tmp_path / "elsewhere", "cat/1.jpg", "2.jpg")
    root = make_files(tmp_path / "root", "dog/3.jpg")
    (root / "cat").symlink_to(elsewhere / "cat")
    (root / "dog" / "2.jpg").symlink_to(elsewhere / "2.jpg")
    assert names_of(open_folder(root)) == {"cat/1.jpg", "dog/2.jpg", "dog/3.jpg"}


def test_a_part_keeps_all_classes(tmp_path):
    folder = open_folder(make_files(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    part = folder.take([2, 0])
    assert part.classes == ("a", "b", "c")
    assert [part[i] for i in range(len(part))] == [folder[2], folder[0]]
    assert len(folder.take([])) == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param([0], "2 images need as many labels", id="a label missing"),
        pytest.param([0, 1], "must be 0..0", id="a label beyond the classes"),
    ],
)
def test_a_folder_is_checked_at_birth(labels, message):
    with pytest.raises(DataError, match=message):
        ImageFolder(Path("."), ("a",), (Path("x"), Path("y")), np.array(labels))


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val"),
    [
        pytest.param("train", "val", id="train and val"),
        pytest.param("train", "valid", id="train and valid"),
        pytest.param("training", "Validation", id="longer names, a capital"),
        pytest.param("train", "test", id="train and test"),
    ],
)
def test_split_folders_are_used(tmp_path, train, val):
    make_files(tmp_path, f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{val}/a/3.jpg", f"{val}/b/4.jpg")
    first, second = split_folder(tmp_path)
    assert (names_of(first), names_of(second)) == ({"a/1.jpg", "b/2.jpg"}, {"a/3.jpg", "b/4.jpg"})
    assert names_of(open_folder(tmp_path, "train")) == names_of(first)
    assert names_of(open_folder(tmp_path, "test" if val == "test" else "val")) == names_of(second)


def test_val_is_preferred_to_test(tmp_path):
    make_files(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "test/a/3.jpg")
    assert names_of(split_folder(tmp_path)[1]) == {"a/2.jpg"}
    assert names_of(open_folder(tmp_path, "test")) == {"a/3.jpg"}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["train/1.jpg", "bus/2.jpg"], id="beside a bus"),
        pytest.param(["train/1.jpg"], id="alone, with images in it"),
        pytest.param(["train/express/1.jpg", "bus/2.jpg"], id="with folders of its own, beside a bus"),
    ],
)
def test_a_class_may_be_called_train(tmp_path, names):
    assert "train" in open_folder(make_files(tmp_path, *names)).classes


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_validation_images_a_share_of_every_class_is_held_out(tmp_path, prefix):
    make_files(tmp_path, *numbered(f"{prefix}a", 50), *numbered(f"{prefix}b", 7), f"{prefix}c/1.jpg")
    train, val = split_folder(tmp_path)
    assert train.counts() == {"a": 40, "b": 6, "c": 1}
    assert val.counts() == {"a": 10, "b": 1, "c": 0}
    assert names_of(train).isdisjoint(names_of(val))
    assert names_of(open_folder(tmp_path, "val")) == names_of(val)


def test_a_hold_out_depends_on_names_and_seed_alone(tmp_path):
    here = open_folder(make_files(tmp_path / "here", *numbered("a", 40), *numbered("b", 40)))
    there = open_folder(make_files(tmp_path / "there", *numbered("b", 40), *numbered("a", 40)))
    assert names_of(hold_out(here, 0.3, 1)[1]) == names_of(hold_out(there, 0.3, 1)[1])
    assert names_of(hold_out(here, 0.3, 1)[1]) != names_of(hold_out(here, 0.3, 2)[1])
    # One class does not follow the other.
    held = names_of(hold_out(here, 0.5, 1)[1])
    assert {name[2:] for name in held if name < "b"} != {name[2:] for name in held if name > "b"}


def test_a_new_image_moves_few_others(tmp_path):
    before = names_of(hold_out(open_folder(make_files(tmp_path, *numbered("a", 100))))[1])
    after = names_of(hold_out(open_folder(make_files(tmp_path, "a/new.jpg")))[1])
    assert len(before - after) <= 1


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_share_lies_between_none_and_all(tmp_path, fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        hold_out(open_folder(make_files(tmp_path, *numbered("a", 4))), fraction)


# --- what is no folder of classes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(["x.jpg", "y.jpg"], "2 images lie in it directly", id="images without folders"),
        pytest.param(["a.txt"], "holds a.txt", id="something else"),
        pytest.param([".hidden"], "holds nothing", id="nothing"),
        pytest.param(
            ["a/1.jpg", "b/notes.txt", "c/x/y.txt"], r"without images in .*: b, c\.", id="empty classes"
        ),
        pytest.param(["Annotations/1.xml", "JPEGImages/1.jpg"], "laid out like VOC", id="VOC"),
        pytest.param(["annotations/train.json", "train2017/1.jpg"], "laid out like COCO", id="COCO"),
        pytest.param(["_annotations.coco.json", "1.jpg"], "laid out like COCO", id="COCO, flat"),
        pytest.param(["images/1.jpg", "labels/1.txt"], "laid out like YOLO", id="YOLO"),
        pytest.param(
            ["train/a/1.jpg", "val/a/2.jpg"], r"holds splits \(train, val\)", id="splits, none asked for"
        ),
    ],
)
def test_other_layouts_are_named(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        open_folder(make_files(tmp_path, *names))


def test_the_classes_of_two_splits_must_agree(tmp_path):
    make_files(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/Cat/1.jpg", "val/dog/1.jpg")
    with pytest.raises(DataError, match=r"train alone has cat, .*val alone has Cat \(did you mean cat\?\)"):
        split_folder(tmp_path)


def test_a_class_in_one_split_alone_is_told_what_to_do_with(tmp_path):
    make_files(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cow/1.jpg", "test/dog/1.jpg")
    with pytest.raises(DataError, match=r"cow.* Add images of it to .*train, or move its folder out of .*te"):
        split_folder(tmp_path)


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        pytest.param("tset", ConfigError, "did you mean test", id="a slip of the pen"),
        pytest.param("test", DataError, "has no test split", id="a split that is not there"),
    ],
)
def test_splits_that_are_not_there(tmp_path, split, error, message):
    with pytest.raises(error, match=message):
        open_folder(make_files(tmp_path, "a/1.jpg"), split)


def test_roots_that_are_no_folders(tmp_path):
    make_files(tmp_path, "flowers/a/1.jpg", "file")
    with pytest.raises(DataError, match=r"flower does not exist; did you mean flowers\?"):
        open_folder(tmp_path / "flower")
    with pytest.raises(DataError, match="is a file"):
        open_folder(tmp_path / "file")


def test_where_nothing_can_be_held_out_validation_is_on_the_images_to_train_on(tmp_path):
    make_files(tmp_path, "a/1.jpg", "b/1.jpg")
    train, val = split_folder(tmp_path)
    assert train is val
    assert names_of(train) == {"a/1.jpg", "b/1.jpg"}
    with pytest.raises(DataError, match="none can be held out"):
        hold_out(train)


@pytest.mark.shared
def test_caltech_is_read_whole():
    root = SHARED / "caltech101_50"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    train, val = split_folder(root)
    assert (len(train), len(val), len(train.classes)) == (1465, 873, 50)
    assert all(
        path.parent.name == train.classes[label]
        for path, label in zip(train.paths, train.labels, strict=True)
    )
