"""Annotations written with every change: in all layouts, beside what others wrote, and after kill −9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from labelling import SIZE, make_photos, read_again
from sppnet.data.convert import convert_annotated
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.voc_xml import read_xml
from sppnet.errors import ConfigError, DataError, ImageError
from sppnet.label.sheets import ConflictError, LabelledBox, StoreError
from sppnet.label.store import open_store

FORMATS = ("voc", "coco", "yolo")
BOX = LabelledBox("apple", (10.0, 20.0, 40.0, 60.5))


@pytest.fixture
def folder(tmp_path):
    make_photos(tmp_path / "photos", 4)
    return tmp_path / "photos"


def boxes_of(sheet):
    return [(box.name, tuple(round(side, 2) for side in box.box)) for box in sheet.boxes]


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_are_there_again_for_every_reader(folder, format):
    store = open_store(folder, format, ["apple", "berry"])
    store.change(0, [BOX, replace(BOX, name="berry", box=(0, 0, *SIZE))], True)
    store.change(1, [], True)
    store.change(2, [BOX], False)
    again = read_again(store)
    assert again.format == format
    assert set(again.classes) >= {"apple", "berry"}
    assert [again.sheet(photo).state for photo in range(4)] == ["done", "done", "started", "open"]
    assert boxes_of(again.sheet(0)) == boxes_of(store.sheet(0))
    images = open_annotated(folder)
    found = dict(zip([path.name for path in images.paths], images.truths, strict=True))
    assert np.allclose(found["photo000.png"].boxes, [BOX.box, (0, 0, *SIZE)])
    assert not len(found["photo001.png"])  # an answer, not a gap


@pytest.mark.parametrize("format", FORMATS)
def test_changes_go_on_from_what_another_session_wrote(folder, format):
    open_store(folder, format, ["apple"]).change(0, [BOX, replace(BOX, box=(50, 5, 70, 25))], True)
    store = open_store(folder)
    _, second = store.sheet(0).boxes
    store.add_class("lemon")
    store.change(0, [replace(second, name="lemon"), replace(BOX, box=(1, 2, 9, 12))], True)
    again = read_again(store)
    assert boxes_of(again.sheet(0)) == [("lemon", second.box), ("apple", (1, 2, 9, 12))]


@pytest.mark.parametrize("format", FORMATS)
def test_an_undone_deletion_is_a_new_box_and_takes_nobody_else_s_place(folder, format):
    store = open_store(folder, format, ["apple"])
    one, two = store.change(0, [BOX, replace(BOX, box=(50, 5, 70, 25))], False).boxes
    store.change(0, [two], False)
    sheet = store.change(
        0, [one, store.sheet(0).boxes[0]], False
    )  # `one` says that it is entry 0, as `two` is
    assert sorted(boxes_of(sheet)) == sorted([("apple", one.box), ("apple", two.box)])
    assert sorted(boxes_of(read_again(store).sheet(0))) == sorted(boxes_of(sheet))


@pytest.mark.parametrize("format", FORMATS)
def test_the_layouts_of_converted_data_sets_are_continued(folder, tmp_path, format):
    open_store(folder, "voc", ["apple"]).change(0, [BOX], True)
    convert_annotated(folder, format, tmp_path / "out")
    store = open_store(tmp_path / "out")
    (photo,) = [number for number in range(len(store)) if store.sheet(number).boxes]
    assert store.format == format
    store.change(photo, [*store.sheet(photo).boxes, replace(BOX, box=(1, 2, 9, 12))], True)
    images = open_annotated(tmp_path / "out")
    assert sum(map(len, images.truths)) == 2


# --- what others wrote --------------------------------------------------------------------------


def test_unknown_fields_of_voc_survive(folder):
    (folder / "Annotations").mkdir()
    path = folder / "Annotations" / "photo000.xml"
    path.write_text(
        "<annotation><owner>me</owner><size><width>120</width><height>90</height><depth>3</depth></size>"
        "<object><name>apple</name><pose>Left</pose><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax>"
        "<ymax>60</ymax></bndbox><part><name>stem</name></part></object>"
        "<object><name>odd</name></object></annotation>"
    )
    store = open_store(folder)
    (box,) = store.sheet(0).boxes
    store.change(0, [replace(box, box=(12, 22, 40, 60)), replace(BOX, box=(1, 1, 9, 9))], True)
    tree = read_xml(path)
    assert tree.findtext("owner") == "me"
    assert tree.findtext("size/depth") == "3"
    first, odd, second = tree.findall("object")
    assert (first.findtext("pose"), first.findtext("part/name")) == ("Left", "stem")
    assert first.findtext("bndbox/xmin") == "13"
    assert odd.findtext("name") == "odd"  # of which nothing is understood
    assert second.findtext("name") == "apple"
    store.change(0, [], True)
    assert [item.findtext("name") for item in read_xml(path).findall("object")] == ["odd"]


def test_unknown_fields_of_coco_survive(folder):
    path = folder / "annotations.json"
    item = {
        "id": 7,
        "image_id": "3",
        "category_id": 5,
        "bbox": [10, 20, 30, 40],
        "area": 1200,
        "attributes": {"ripe": 1},
    }
    path.write_text(json.dumps({
        "info": {"year": 2026},
        "images": [{"id": 3, "file_name": "photo001.png", "width": 120, "height": 90, "coco_url": "x"}],
        "annotations": [item, {"id": 8, "image_id": 3, "caption": "an apple"}],
        "categories": [{"id": 5, "name": "apple", "supercategory": "fruit"}],
    }))  # fmt: skip
    store = open_store(folder)
    (box,) = store.sheet(1).boxes
    store.change(1, [box, replace(BOX, box=(1, 1, 9, 9))], True)
    store.change(2, [BOX], True)
    data = json.loads(path.read_text())
    assert data["info"] == {"year": 2026}
    assert data["categories"][0]["supercategory"] == "fruit"
    assert data["images"][0]["coco_url"] == "x"
    kept, caption, new = [one for one in data["annotations"] if one["image_id"] in (3, "3")]
    assert kept == item
    assert caption["caption"] == "an apple"
    assert (new["id"], new["bbox"]) == (9, [1, 1, 8, 8])
    assert [one["file_name"] for one in data["images"]] == ["photo001.png", "photo002.png"]


def test_lines_of_yolo_that_nobody_changed_stay_as_they_are(folder):
    (folder / "data.yaml").write_text("path: .\nnames: [apple]\nnc: 1\nauthor: me\n")
    (folder / "photo000.txt").write_text("0 0.5 0.5 0.25 0.250\nnonsense\n0 0.2 0.2 0.1 0.1\n")
    store = open_store(folder)
    store.add_class("lemon")
    first, second = store.sheet(0).boxes
    store.change(0, [first, replace(second, name="lemon")], True)
    lines = (folder / "photo000.txt").read_text().splitlines()
    assert lines[:2] == ["0 0.5 0.5 0.25 0.250", "nonsense"]
    assert lines[2].startswith("1 ")
    assert "author: me" in (folder / "data.yaml").read_text()


def test_boxes_are_in_upright_pixels(tmp_path):
    image = Image.new("RGB", (100, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    store = open_store(tmp_path, "voc", ["apple"])
    assert store.header(0).size_hw == (100, 60)
    store.change(0, [replace(BOX, box=(5, 70, 50, 95))], True)
    tree = read_xml(tmp_path / "Annotations" / "turned.xml")
    assert (tree.findtext("size/width"), tree.findtext("size/height")) == ("60", "100")
    assert np.allclose(open_annotated(tmp_path).truths[0].boxes, [(5, 70, 50, 95)])


# --- what cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_what_another_program_wrote_meanwhile_is_not_overwritten(folder, format):
    store = open_store(folder, format, ["apple"])
    store.change(0, [BOX], True)
    (path,) = [
        path for path in folder.rglob("*") if path.suffix in (".xml", ".json") or path.name == "photo000.txt"
    ]
    path.write_text(path.read_text() + "\n")
    with pytest.raises(StoreError, match="changed by another program"):
        store.change(0, [], True)
    assert boxes_of(store.sheet(0)) == [("apple", BOX.box)]


def test_a_file_that_appeared_is_not_overwritten(folder):
    store = open_store(folder, "voc", ["apple"])
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "photo000.xml").write_text("<annotation/>")
    with pytest.raises(StoreError, match="not overwritten"):
        store.change(0, [BOX], True)


def test_a_full_disk_leaves_the_boxes_before(folder, monkeypatch):
    store = open_store(folder, "voc", ["apple"])
    store.change(0, [BOX], True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.change(0, [], True)
    monkeypatch.undo()
    assert boxes_of(store.sheet(0)) == boxes_of(read_again(store).sheet(0)) == [("apple", BOX.box)]
    store.change(0, [], True)
    assert not read_again(store).sheet(0).boxes


def test_a_vanished_photograph_is_told(folder):
    store = open_store(folder, "voc", ["apple"])
    (folder / "photo001.png").unlink()
    with pytest.raises(ImageError, match=r"photo001\.png"):
        store.change(1, [BOX], True)


def test_what_a_page_sends_is_checked(folder):
    store = open_store(folder, "voc", ["apple"])
    with pytest.raises(DataError, match="no class"):
        store.change(0, [replace(BOX, name="pear")], True)
    with pytest.raises(DataError, match="a pixel wide"):
        store.change(0, [replace(BOX, box=(200, 0, 300, 50))], True)
    with pytest.raises(DataError, match="finite"):
        store.change(0, [replace(BOX, box=(0, 0, float("nan"), 50))], True)
    sheet = store.change(0, [replace(BOX, box=(-5, -5, 50, 500))], True)
    assert sheet.boxes[0].box == (0, 0, 50, SIZE[1])
    with pytest.raises(ConflictError, match="changed elsewhere"):
        store.change(0, [], True, revision=sheet.revision - 1)


def test_another_layout_than_there_is_is_refused(folder):
    open_store(folder, "voc", ["apple"]).change(0, [BOX], True)
    with pytest.raises(ConfigError, match="VOC annotations"):
        open_store(folder, "coco")


def test_two_photographs_of_one_stem_have_files_of_their_own(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    store = open_store(tmp_path, "voc", ["apple"])
    store.change(0, [replace(BOX, box=(1, 1, 10, 10))], True)
    store.change(1, [replace(BOX, box=(2, 2, 20, 20))], True)
    again = read_again(store)
    assert [boxes_of(again.sheet(photo)) for photo in (0, 1)] == [
        boxes_of(store.sheet(photo)) for photo in (0, 1)
    ]


# --- kill −9 --------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
from pathlib import Path
from sppnet.label.sheets import LabelledBox
from sppnet.label.store import open_store

def label(folder, format):
    store = open_store(Path(folder), format, ["apple"])
    for number in range(10_000):
        photo = number % len(store)
        corner = number % 70, number // 70 % 50
        boxes = [*store.sheet(photo).boxes, LabelledBox("apple", (*corner, corner[0] + 20, corner[1] + 30))]
        store.change(photo, boxes, True)
        line = f"{photo} {len(boxes)} {corner[0]} {corner[1]}\\n"
        os.write(1, line.encode())  # in one piece: half a line of a killed child would join the next

for line in sys.stdin:  # a child for each: what is imported once serves all
    child = os.fork()
    if not child:
        label(*line.rstrip().split("\\t"))
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""
KILLS = {"voc": 20, "coco": 10, "yolo": 10}


@pytest.fixture(scope="module")
def parent():
    """The process that starts those which are killed."""
    words = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def labelled_until_killed(process, folder, format, seconds):
    """What a child called saved before it was killed: photograph, number of its boxes, corner of the last."""
    process.stdin.write(f"{folder}\t{format}\n")
    process.stdin.flush()
    lines = iter(process.stdout.readline, "dead\n")
    first = next(line for line in lines if line.startswith("child"))
    time.sleep(seconds)
    os.kill(int(first.split()[1]), signal.SIGKILL)
    return [tuple(map(int, line.split())) for line in lines]


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_session_loses_no_box_that_it_called_saved(parent, folder, format):
    rng, counts = random.Random(format), [0] * 4
    for _ in range(KILLS[format]):
        said = labelled_until_killed(parent, folder, format, rng.uniform(0, 0.5))
        store = open_store(folder)
        places = [[tuple(map(round, box.box[:2])) for box in store.sheet(photo).boxes] for photo in range(4)]
        for photo, count, *corner in said:
            assert places[photo][count - 1] == tuple(corner)
            counts[photo] = count
        unsaid = [len(found) - count for found, count in zip(places, counts, strict=True)]
        assert sum(unsaid) in (0, 1)  # what was being written then may be there
        assert all(store.sheet(photo).state == "done" for photo in range(4) if counts[photo])
        counts = list(map(len, places))
    assert sum(counts) > KILLS[format] // 2
