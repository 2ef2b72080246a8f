"""Split folders, lists and keys by all their usual names, in whatever letters: splits, never classes."""

from pathlib import Path

import pytest
from PIL import Image

from sppnet.data.detection_dataset import default_split, find_annotated_splits, open_annotated
from sppnet.data.folder import find_splits, split_folder
from test_detection_layouts import LINE, coco, lay, xml

NAMES = [
    pytest.param({"train": "train", "dev": "val"}, id="dev"),
    pytest.param({"Train": "train", "DEV": "val", "Test": "test"}, id="capitals"),
    pytest.param({"training": "train", "Evaluation": "val"}, id="evaluation"),
    pytest.param({"Training": "train", "validation": "val", "Testing": "test"}, id="endings"),
    pytest.param({"train": "train", "eval": "val", "test": "test"}, id="eval beside test"),
]


def voc(root: Path, name: str) -> None:
    lay(root, f"{name}/{name}1.jpg", **{f"{name}/{name}1.xml": xml()})


def voc_lists(root: Path, name: str) -> None:
    lay(root, f"JPEGImages/{name}1.jpg")
    lay(root, **{f"Annotations/{name}1.xml": xml(), f"ImageSets/Main/{name}.txt": f"{name}1\n"})


def coco_files(root: Path, name: str) -> None:
    lay(root, f"{name}/{name}1.jpg", **{f"annotations/instances_{name}.json": coco(f"{name}1.jpg")})


def coco_folders(root: Path, name: str) -> None:
    lay(root, f"{name}/{name}1.jpg", **{f"{name}/_annotations.coco.json": coco(f"{name}1.jpg")})


def yolo_folders(root: Path, name: str) -> None:
    lay(root, f"{name}/images/{name}1.jpg", **{f"{name}/labels/{name}1.txt": LINE, "classes.txt": "cat\n"})


def yolo_yaml(root: Path, name: str) -> None:
    lay(root, f"{name}/images/{name}1.jpg", **{f"{name}/labels/{name}1.txt": LINE})
    with open(root / "data.yaml", "a") as file:
        file.write(f"{name}: {name}/images\n" if file.tell() else f"Names: [cat]\n{name}: {name}/images\n")


def darknet(root: Path, name: str) -> None:
    lay(root, f"obj_train_data/{name}1.jpg", **{f"obj_train_data/{name}1.txt": LINE, "obj.names": "cat\n"})
    lay(root, **{f"{name}.txt": f"data/obj_train_data/{name}1.jpg\n"})


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize(
    "layout", [voc, voc_lists, coco_files, coco_folders, yolo_folders, yolo_yaml, darknet]
)
def test_splits_of_boxes(layout, names, tmp_path):
    for name in names:
        layout(tmp_path, name)
    assert set(find_annotated_splits(tmp_path)) == {*names.values(), "trainval"}
    for name, split in names.items():
        opened = open_annotated(tmp_path, split)
        assert [path.stem for path in opened.paths] == [f"{name}1"]
        assert (len(opened.truths[0]), opened.classes) == (1, ("cat",))
    assert default_split(tmp_path, ("trainval", "train")) == "trainval"


def test_lists_whose_usual_name_is_taken_keep_their_own(tmp_path):
    for name in ("train", "val", "dev"):
        voc_lists(tmp_path, name)
    assert set(find_annotated_splits(tmp_path)) == {"train", "val", "trainval", "dev"}


def lay_classes(root: Path, *splits: str) -> None:
    for split in splits:
        for number, name in enumerate(("cat", "dog")):
            file = root / split / name / f"{split}.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(file)


@pytest.mark.parametrize("names", NAMES)
def test_splits_of_classes(names, tmp_path):
    lay_classes(tmp_path, *names)
    found = find_splits(tmp_path)
    assert set(found) == set(names.values())
    for name, split in names.items():
        files = found[split].files
        assert {key: [path.stem for path in paths] for key, paths in files.items()} == {
            "cat": [name],
            "dog": [name],
        }
    _, held = split_folder(tmp_path)
    assert {path.stem for path in held.paths} == {next(name for name, of in names.items() if of == "val")}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("dev eval", {"val": "dev", "test": "eval"}),
        ("train val eval", {"train": "train", "val": "val", "test": "eval"}),
        ("val validation", {"val": "val"}),
        ("trainval test", {"train": "trainval", "test": "test"}),
        ("train val trainval", {"train": "train", "val": "val"}),
        ("trainset testset", {"train": "trainset", "test": "testset"}),
        ("eval", {"val": "eval"}),
    ],
)
def test_class_folders_of_splits_whose_words_mean_the_same(folders, splits, tmp_path):
    lay_classes(tmp_path, *folders.split())
    found = find_splits(tmp_path)
    assert {split: listed.root.name for split, listed in found.items()} == splits
    unused = set(folders.split()) - set(splits.values())
    told = " ".join(omission.reason for listed in found.values() for omission in listed.omitted)
    assert all(f"2 images in {tmp_path / folder} beside the splits" in told for folder in unused)
