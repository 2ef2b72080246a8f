"""Class folders, split folders and tables of labels as archives bring them: what is a class, what is told."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sppnet.data.check import check_folder
from sppnet.data.class_files import find_layout, split_of
from sppnet.data.files import (
    SYSTEM_FOLDERS,
    find_images,
    is_image_name,
    list_images,
    name_from_text,
    writable_name,
)
from sppnet.data.folder import find_splits, open_folder, split_folder
from sppnet.data.label_table import read_table
from sppnet.errors import DataError, printable

LATIN = os.fsdecode(b"caf\xe9")
DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "gâteau") for form in ("NFD", "NFC"))


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def make_images(root: Path, *names: str) -> Path:
    make_files(root, *names)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def two(folder: str) -> list[str]:
    return [f"{folder}/blue/1.jpg", f"{folder}/red/2.jpg"]


def classes_of(root: Path) -> dict[str, dict[str, int]]:
    """Images of every class of every split."""
    return {
        split: {name: len(paths) for name, paths in each.files.items()}
        for split, each in find_splits(root).items()
    }


def told(root: Path) -> list[str]:
    return [each.reason for listed in find_splits(root).values() for each in listed.omitted]


BOTH = {"blue": 1, "red": 1}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(two("photos/photos"), {"": BOTH}, id="a folder in a folder"),
        pytest.param(two("photos"), {"": BOTH}, id="one folder around the classes"),
        pytest.param(two("a/b/c/d"), {"": BOTH}, id="four folders around them"),
        pytest.param(
            two("seg_train/seg_train") + two("seg_test/seg_test"), {"train": BOTH, "test": BOTH}, id="Intel"
        ),
        pytest.param(
            two("training_set/training_set") + two("test_set/test_set"),
            {"train": BOTH, "test": BOTH},
            id="sets",
        ),
        pytest.param(
            two("archive/Train") + two("archive/VALID") + two("archive/Testing"),
            {"train": BOTH, "val": BOTH, "test": BOTH},
            id="any case, inside an archive",
        ),
        pytest.param(
            [*two("train"), "test/1.jpg", "test/2.jpg"], {"train": BOTH}, id="beside a flat test folder"
        ),
        pytest.param([*two("train"), "test1/1.jpg"], {"train": BOTH}, id="beside test1, as on Kaggle"),
        pytest.param(
            [*two("train2017"), *two("val_2017")], {"train": BOTH, "val": BOTH}, id="years behind the words"
        ),
        pytest.param([*two("train"), "images/1.jpg"], {"train": BOTH}, id="train beside a flat folder"),
        pytest.param([*two("train"), *two("photos")], {"train": BOTH}, id="train beside the same, unsplit"),
        pytest.param(
            [*two("train/train"), *two("val")], {"train": BOTH, "val": BOTH}, id="one split is doubled"
        ),
        pytest.param([*two("val"), *two("test")], {"val": BOTH, "test": BOTH}, id="no train split"),
        pytest.param(
            ["train/1.jpg", "bus/2.jpg"], {"": {"bus": 1, "train": 1}}, id="a train is a class beside a bus"
        ),
        pytest.param(
            ["test_tube/1.jpg", "train_station/2.jpg"],
            {"": {"test_tube": 1, "train_station": 1}},
            id="classes with the words in their names",
        ),
        pytest.param(["cat/1.jpg", "cat/old/2.jpg"], {"": {"cat": 2}}, id="one class"),
        pytest.param(
            [f"{DECOMPOSED}/1.jpg", f"{COMPOSED}/2.jpg", "pain/3.jpg"],
            {"": {COMPOSED: 2, "pain": 1}},
            id="one class in two compositions",
        ),
        pytest.param(
            [f"{LATIN}/1.jpg", "b/1.jpg"], {"": {"b": 1, r"caf\xe9": 1}}, id="a class whose name is not UTF-8"
        ),
    ],
)
def test_classes_and_splits_are_found(tmp_path, names, expected):
    assert classes_of(make_files(tmp_path, *names)) == expected


@pytest.mark.parametrize(
    "folder", [*sorted(SYSTEM_FOLDERS), ".Trash", ".ipynb_checkpoints", "@eaDir", "Thumbs.db"]
)
def test_folders_of_the_system_are_no_classes(tmp_path, folder):
    make_images(tmp_path, "blue/1.jpg", f"blue/{folder}/1.jpg", "red/2.jpg", f"{folder}/blue/3.jpg")
    assert classes_of(tmp_path) == {"": BOTH}
    assert [path.name for path in find_images(tmp_path)] == ["1.jpg", "2.jpg"]
    report = check_folder(tmp_path)
    assert report.ignored == {folder: 2}  # the one among the classes and the one inside a class


def test_classes_that_differ_in_composition_across_splits_are_one(tmp_path):
    make_files(tmp_path, f"train/{DECOMPOSED}/1.jpg", "train/pain/2.jpg")
    make_files(tmp_path, f"val/{COMPOSED}/3.jpg", "val/pain/4.jpg")
    train, val = split_folder(tmp_path)
    assert train.classes == val.classes == (COMPOSED, "pain")


def test_validation_may_lack_a_class(tmp_path):
    make_files(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/2.jpg", "val/a/2.jpg")
    train, val = split_folder(tmp_path)
    assert val.classes == train.classes == ("a", "b", "c")
    assert val.counts() == {"a": 1, "b": 0, "c": 1}


def test_what_lies_beside_splits_and_classes_is_told(tmp_path):
    make_files(tmp_path, *two("train"), "train/stray.jpg", "test/1.jpg", "test/2.jpg", "more/3.jpg")
    stray, flat, beside = told(tmp_path)
    assert stray.startswith("1 image is beside the class folders, such as ")
    assert flat == f"2 images in {tmp_path / 'test'} without class folders"
    assert beside == f"1 image in {tmp_path / 'more'} beside the splits"
    assert [each.count for each in open_folder(tmp_path, "train").omitted] == [1, 2, 1]


def test_a_link_back_to_a_folder_above_is_not_followed(tmp_path):
    make_files(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "all").symlink_to("..", target_is_directory=True)
    assert open_folder(tmp_path).counts() == {"a": 1, "b": 1}


def test_flat_splits_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"train and test in .* hold no folders of classes\. Make a folder"):
        open_folder(make_files(tmp_path, "train/1.jpg", "test/2.jpg"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        pytest.param("Train", "train", id="case"),
        pytest.param("seg_pred", None, id="another word"),
        pytest.param("train_val", None, id="two words"),
        pytest.param("contest", None, id="inside a word"),
        pytest.param("images-VALIDATION-2", "val", id="between others"),
    ],
)
def test_names_that_tell_a_split(name, split):
    found = split_of(name)
    assert (found and found[0]) == split


def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photos").symlink_to(tmp_path)
    assert find_layout(tmp_path).splits == {}


# --- what is left out ----------------------------------------------------------------------------


def test_formats_that_are_not_read_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("sppnet.data.image_formats.reads_heic", lambda: False)
    make_images(tmp_path, *two("."))
    make_files(tmp_path, "red/IMG_1.HEIC", "blue/IMG_0.heic", "blue/x.CR2", "blue/notes.txt")
    raw, heic = told(tmp_path)
    assert raw.startswith(f"1 .cr2 file is not read, such as {tmp_path / 'blue/x.CR2'}; ")
    assert raw.endswith("develop them to JPEG or TIFF")
    assert heic.startswith(f"2 .heic files are not read, such as {tmp_path / 'blue/IMG_0.heic'}; ")
    assert "pip install pillow-heif" in heic
    assert [(each.count, each.reason) for each in list_images(tmp_path).omitted] == [(1, raw), (2, heic)]
    assert [each.count for each in list_images(str(tmp_path / "*" / "*")).omitted] == [1, 2]
    assert check_folder(tmp_path).omitted == (raw, heic)
    with pytest.raises(DataError, match=r"holds no images .*1 \.heic file is not read"):
        list_images(make_files(tmp_path / "only", "1.heic"))


def test_images_without_the_suffix_of_one_are_counted(tmp_path):
    make_images(tmp_path, *two("."), "red/5.png")
    names = ("red/4.jif", "red/6.mpo", "red/photo", "red/1.jpg?raw=1", "blue/7.jpg_large", "blue/8.txt")
    for name in names:
        (tmp_path / name).write_bytes((tmp_path / "red/2.jpg").read_bytes())
    make_files(tmp_path, "red/README", "blue/8.mov")
    assert classes_of(tmp_path) == {"": {"blue": 1, "red": 4}}
    video, unnamed = told(tmp_path)
    assert video.endswith("videos are not read: write their frames as JPEG or PNG")
    assert unnamed == (
        f"3 images are named without an image's suffix, such as {tmp_path / 'blue/7.jpg_large'}; "
        "add .jpg, .png or the like"
    )


def test_a_reason_can_be_written_whatever_the_name(tmp_path):
    make_files(tmp_path, *two("."), f"red/{LATIN}.cr2")
    (reason,) = told(tmp_path)
    assert r"caf\xe9.cr2" in reason


def test_a_plugin_makes_a_format_readable(tmp_path, monkeypatch):
    monkeypatch.setattr("sppnet.data.image_formats.reads_heic", lambda: True)
    assert is_image_name(Path("1.HEIC"))


def test_heic_in_class_folders_is_read_like_any_image(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    make_images(tmp_path, *two("."))
    with Image.open(tmp_path / "red/2.jpg") as image:
        pillow_heif.from_pillow(image).save(tmp_path / "blue/IMG_3.HEIC")
    assert classes_of(tmp_path) == {"": {"blue": 2, "red": 1}}
    report = check_folder(tmp_path)
    assert (report.splits, report.damaged, report.omitted) == ({"": {"blue": 2, "red": 1}}, (), ())
    assert (report.width.max, report.height.max) == (9, 8)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    make_files(tmp_path, *two("."), "red/more/9.jpg")
    deny(monkeypatch, tmp_path / "red/more")
    (reason,) = told(tmp_path)
    folder = tmp_path / "red/more"
    assert reason == f"the folder {folder} cannot be listed (Permission denied), so its images are left out"
    deny(monkeypatch, tmp_path / "red")
    with pytest.raises(DataError, match=r"class folders that cannot be listed: .*red \(Permission denied\)"):
        find_splits(tmp_path)


def deny(monkeypatch, denied: Path) -> None:
    """os.walk meets a folder that may not be listed; root may list all, so modes would not do."""
    scandir = os.scandir

    def refuse(path="."):
        if Path(path) == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


# --- tables of labels ----------------------------------------------------------------------------


PHOTOS = ["images/1.jpg", "images/2.jpg", "images/3.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("filename,label\n1.jpg,a\n2.jpg,b\n3.jpg,a\n", id="names"),
        pytest.param("id,breed\n1,a\n2,b\n3,a\n", id="no suffixes, as on Kaggle"),
        pytest.param("Image_ID;Class\r\n1.jpg;a\r\n2.jpg;b\r\n3.jpg;a\r\n", id="semicolons, capitals"),
        pytest.param(
            "index\tpath\ttarget\n0\timages/1.jpg\ta\n1\timages/2.jpg\tb\n2\timages/3.jpg\ta", id="tabs"
        ),
        pytest.param(
            "\ufefffile,class_id,class name\n1.jpg,0,a\n2.jpg,1,b\n3.jpg,0,a\n", id="numbers and names"
        ),
        pytest.param(
            r"path,label" "\n" r"C:\data\images\1.jpg,a" "\n" r"..\2.jpg,b" "\n/x/3.jpg,a\n",
            id="foreign paths",
        ),
        pytest.param("1.jpg,a\n2.jpg,b\n3.jpg,a\n", id="no line of names"),
        pytest.param("sep=;\nfilename;label\n1.jpg;a\n2.jpg;b\n3.jpg;a\n", id="of Excel"),
        pytest.param("# by hand\n#\n#filename,label\n1.jpg,a\n2.jpg,b\n3.jpg,a\n", id="remarks"),
        pytest.param("filename,label\n1.jpg,a,\n2.jpg,b,,\n3.jpg,a\n", id="commas at the ends"),
        pytest.param("filename,a,b\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,1,0\n", id="a column for each class"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_are_read(tmp_path, text, encoding):
    make_files(tmp_path, *PHOTOS)
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    folder = open_folder(tmp_path)
    assert folder.classes == ("a", "b")
    assert [path.name for path in folder.paths] == ["1.jpg", "3.jpg", "2.jpg"]
    assert folder.labels.tolist() == [0, 0, 1]
    assert folder.omitted == ()
    assert open_folder(tmp_path / "labels.csv").paths == folder.paths


def test_what_a_table_lacks_is_told(tmp_path):
    make_files(tmp_path, *PHOTOS, "photos/2.jpg", "images/4.jpg", "images/5.jpg")
    rows = ["1.jpg,a", "2.jpg,b", "3.jpg,b", "gone.jpg,a", "4.jpg,", "3.jpg,b", "1.jpg,b"]
    (tmp_path / "train.csv").write_text("\n".join(["filename,label", *rows, "images/2.jpg,b"]))
    folder = open_folder(tmp_path)
    assert folder.counts() == {"b": 2}
    assert [each.reason.partition(", such")[0] for each in folder.omitted] == [
        "1 image is listed in the table of labels but not there",
        "1 image is listed by a name that several images have; give their paths",
        "1 image is listed without a class, with several, or in a longer line",
        "1 image is listed twice, with two classes",
        "2 images are without a line in train.csv",
    ]


@pytest.mark.parametrize("line", ["2.jpg,NaN", "2.jpg", "2.jpg,b,c", '2.jpg,""'])
def test_a_line_without_one_class_labels_nothing(tmp_path, line):
    make_files(tmp_path, *PHOTOS)
    (tmp_path / "labels.csv").write_text(f"filename,label\n1.jpg,a\n3.jpg,b\n{line}\n")
    folder = open_folder(tmp_path)
    assert folder.counts() == {"a": 1, "b": 1}
    (told,) = folder.omitted
    assert told.reason.startswith("1 image is listed without a class, with several, or in a longer line")


def test_splits_by_tables_and_by_a_column(tmp_path):
    make_files(tmp_path / "two", "train/1.jpg", "train/2.jpg", "test/1.jpg")
    (tmp_path / "two/train.csv").write_text("id,label\n1,a\n2,b\n")
    (tmp_path / "two/test.csv").write_text("id,label\n1,b\n")
    (tmp_path / "two/sample_submission.csv").write_text("id,label\n1,a\n")
    assert classes_of(tmp_path / "two") == {"test": {"b": 1}, "train": {"a": 1, "b": 1}}
    assert open_folder(tmp_path / "two", "test").paths == (tmp_path / "two/test/1.jpg",)
    make_files(tmp_path / "one", *PHOTOS)
    (tmp_path / "one/all.csv").write_text(
        "path,label,data set\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,a,valid\n"
    )
    assert classes_of(tmp_path / "one") == {"train": {"a": 1, "b": 1}, "val": {"a": 1}}


@pytest.mark.parametrize("place", ["", "train"])
@pytest.mark.parametrize("split", [None, "train"])
def test_class_folders_come_before_a_table_and_that_is_told(tmp_path, caplog, place, split):
    make_files(tmp_path, *two(place or "."), f"{place or '.'}/blue/2.jpg", f"{place or '.'}/red/1.jpg")
    (tmp_path / place / "labels.csv").write_text("filename,label\n1.jpg,x\n2.jpg,y\n")
    (tmp_path / "sizes.csv").write_text("filename,width\n9.jpg,4\n")  # of images that are not there
    said = (
        "labels.csv (columns filename and label) is not read: the class folders tell the classes; "
        "name the file as DATA to read it"
    )
    assert classes_of(tmp_path) == {place: {"blue": 2, "red": 2}}
    assert check_folder(tmp_path).unread_tables == (said,)
    assert caplog.messages == []
    folder = split_folder(tmp_path)[0] if split is None else open_folder(tmp_path, split)
    assert caplog.messages == [f"{tmp_path}: {said}"]
    assert folder.classes == tuple(BOTH)


def test_tables_beside_class_folders_are_told_once(tmp_path, caplog):
    make_files(tmp_path, *two("train"), *two("val"))
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("filename,label\n1.jpg,x\n2.jpg,y\n")
    split_folder(tmp_path)
    (said,) = caplog.messages
    assert "train.csv (columns filename and label) and val.csv (columns filename and label) are not" in said


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("filename,class,xmin,ymin,xmax,ymax\n1.jpg,a,0,0,2,2\n", id="boxes"),
        pytest.param("filename,width,height\n1.jpg,4,4\n", id="no classes"),
        pytest.param("a,b\n", id="other names"),
        pytest.param("", id="nothing"),
    ],
)
def test_other_tables_are_not_taken_for_labels(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    assert read_table(tmp_path / "t.csv") is None
    with pytest.raises(DataError, match="columns of file names and of classes, as in filename,label"):
        open_folder(tmp_path / "t.csv")


def test_a_table_of_images_that_are_not_there_is_refused(tmp_path):
    make_files(tmp_path, "images/x.jpg")
    (tmp_path / "labels.csv").write_text("filename,label\n1.jpg,a\n")
    with pytest.raises(DataError, match=r"labels no image below .* its column 'filename' holds '1\.jpg'"):
        open_folder(tmp_path)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(LATIN, r"caf\xe9", id="a byte that is not UTF-8"),
        pytest.param("café", "café", id="a name in UTF-8"),
        pytest.param("a\\b", "a\\b", id="a backslash"),
        pytest.param(os.fsdecode(b"\xff/\x80.jpg"), r"\xff/\x80.jpg", id="a path"),
    ],
)
def test_names_can_be_written_and_read_back(name, text):
    assert writable_name(name) == writable_name(Path(name)) == text
    assert name_from_text(text) == name
    text.encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param(LATIN, r"caf\xe9", id="a byte that is not UTF-8"),
        pytest.param(os.fsdecode(b"caf\xe9\x1b[0m"), r"caf\xe9\x1b[0m", id="and an escape of terminals"),
        pytest.param("a\ud800\udcff", r"a\ud800\xff", id="and half a pair of UTF-16"),
        pytest.param("写真 café 🐕", "写真 café 🐕", id="letters of any script"),
    ],
)
def test_names_in_messages_can_be_read(name, shown):
    assert printable(name) == shown
    assert str(DataError(f"{name} is there")) == f"{shown} is there"
    printable(name).encode()


def test_half_a_pair_of_utf_16_can_be_written():
    assert writable_name("a\ud800") == r"a\ud800"
