"""Places to write to: tried before the work, whole or nothing, and nobody's files replaced."""

import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import small_classifier, small_detector
from sppnet import demo
from sppnet.data.convert import convert_annotated
from sppnet.destination import STAGING, check_destination
from sppnet.errors import ConfigError
from sppnet.nn.model_file import write_file

VOC = (
    "<annotation><object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>40</ymax>"
    "</bndbox></object></annotation>"
)


def draw(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def run(inside, monkeypatch, tmp_path):
    """A command in a folder with a classifier, a detector and images for each kind of work."""
    monkeypatch.chdir(tmp_path)
    small_classifier().save("classifier.safetensors")
    small_detector().save("detector.safetensors")
    for number in range(2):
        draw(Path("photos", f"{number}.png"), number)
        draw(Path("classes", "cat", f"{number}.png"), number)
        draw(Path("classes", "dog", f"{number}.png"), number)
        draw(Path("voc", f"{number}.png"), number)
        Path("voc", f"{number}.xml").write_text(VOC)
    return inside


CLASSIFIER, DETECTOR = "--model classifier.safetensors", "--model detector.safetensors"
WRITERS = {
    "classify predict": f"classify predict photos {CLASSIFIER} --csv {{place}}.csv",
    "classify evaluate": f"classify evaluate classes {CLASSIFIER} --report {{place}}.html",
    "classify train": "classify train classes --out {place} --width 0.0625 --head svm --weights none.pth",
    "detect predict": f"detect predict photos {DETECTOR} --out {{place}}",
    "detect evaluate": f"detect evaluate voc {DETECTOR} --report {{place}}.html",
    "detect parquet": f"detect predict photos {DETECTOR} --parquet {{place}}.parquet",
    "detect train": "detect train voc --out {place} --trunk zf5 --weights none.pth --scales 64",
    "detect compress": f"detect compress {DETECTOR} --out {{place}}.safetensors",
    "features": f"features photos {CLASSIFIER} --out {{place}}.safetensors",
    "proposals": "proposals photos --out {place}.json",
    "drawn proposals": "proposals photos --out boxes.json --draw {place}",
    "convert": "convert voc --to coco --out {place}",
    "export": f"export onnx {CLASSIFIER} --out {{place}}.onnx",
    "demo": "demo --out {place}",
    "bins": "visualize bins --out {place}.png",
    "pyramid": f"visualize pyramid photos/0.png {CLASSIFIER} --out {{place}}.png",
    "filters": f"visualize filters photos {CLASSIFIER} --out {{place}}",
}
PLACES = {
    "below a file": ("file/new/here", r"cannot be made: .*file is a file; choose another place"),
    "below a link to nothing": ("nowhere/here", r"cannot be made: .*nowhere is a link that leads nowhere"),
    "a name too long": (f"{'a' * 300}/here", r"a name is too long for this disk.*; got 300 bytes, a{40}…"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_is_refused_before_the_work(run, name, place, monkeypatch, check_told):
    Path("file").write_text("a file")
    Path("nowhere").symlink_to("gone")
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("the work has begun"))
    path, told = PLACES[place]
    check_told(run(*WRITERS[name].format(place=path).split()), told)
    assert sorted(Path().rglob("*")) == before


@pytest.fixture
def check_told():
    import re

    def check(ended, told: str) -> None:
        code, _, said = ended
        assert code == 1
        assert re.search(rf"--(out|csv|report|parquet|draw): .*{told}", said), said

    return check


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_no_files_is_told_before_the_work(run, name, monkeypatch, check_told):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # os.access lets an administrator do everything
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("the work has begun"))
    check_told(run(*WRITERS[name].format(place="new/here").split()), r"\(Read-only file system\); choose")
    assert not Path("new").exists()


OVER_INPUTS = {
    "features": f"features photos {CLASSIFIER} --out classifier.safetensors",
    "classify predict": f"classify predict photos {CLASSIFIER} --csv classifier.safetensors",
    "classify evaluate": f"classify evaluate classes {CLASSIFIER} --report classifier.safetensors",
    "a table of labels": f"classify evaluate labels.csv {CLASSIFIER} --report labels.csv",
    "detect predict": f"detect predict photos {DETECTOR} --csv ./detector.safetensors",
    "detect parquet": f"detect predict photos {DETECTOR} --parquet detector.safetensors",
    "detect evaluate": f"detect evaluate voc {DETECTOR} --report detector.safetensors",
    "detect compress": f"detect compress {DETECTOR} --out detector.safetensors",
    "export": f"export onnx {CLASSIFIER} --out classifier.safetensors",
}


@pytest.mark.parametrize("name", OVER_INPUTS)
def test_a_model_or_a_table_that_is_read_is_never_written_over(run, name):
    Path("labels.csv").write_text("filename,label\nphotos/0.png,cat\nphotos/1.png,dog\n")
    kept = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    code, _, said = run(*OVER_INPUTS[name].split())
    assert code == 1
    assert "is read by this command; nothing is written over it, choose another name" in said
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == kept


def test_two_results_are_not_one_file(run):
    words = f"detect predict photos {DETECTOR} --csv new.parquet --parquet ./new.parquet"
    code, _, said = run(*words.split())
    assert code == 1
    assert "--csv and --parquet are both new.parquet; name two files" in said


def test_photographs_on_a_disk_that_takes_no_labels_are_told_before_the_work(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("sppnet.label.server.run_label_server", lambda *_: pytest.fail("the page is open"))
    code, _, said = run("label", "photos", "--classes", "cat", "--model", "detector.safetensors")
    assert code == 1
    assert "annotations beside the photographs: nothing can be written to the folder" in said
    assert f"{Path('photos').resolve()} (Read-only file system)" in said


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    check_destination(tmp_path / "new" / "deep", "--out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"--out: 'a\\x00b' is no name of a file"):
        check_destination(Path("a\0b"), "--out")


def test_a_file_may_have_the_longest_name_there_is(tmp_path):
    for name in ("a" * 255, "ä" * 127):
        write_file(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_is_there_is_told_before_the_trunk_is_chosen(run, monkeypatch):
    monkeypatch.setattr("sppnet.detect.train._choose_trunk", lambda *_: pytest.fail("the work has begun"))
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    for words in ("detect train voc --out run", "detect add detector.safetensors voc --out run"):
        code, _, said = run(*words.split())
        assert code == 1
        assert "run holds a run already; resume it (--resume) or choose another --out" in said


@pytest.mark.parametrize(
    ("out", "refused"),
    [
        ("classes/run", True),
        ("classes/runs/1", True),
        ("classes/.run", False),
        ("classes/cat/run", False),
        ("classes", False),
        ("run", False),
    ],
)
def test_a_run_folder_that_would_be_a_class_is_refused(run, out, refused):
    words = f"classify train classes --out {out} --head svm --weights none.pth --scale 64"
    code, _, said = run(*words.split())
    assert code == 1
    assert ("lies beside the class folders of classes, where run" in said) == refused
    assert refused or "none.pth" in said  # which is looked for after
    assert sorted(os.listdir("classes")) == ["cat", "dog"]


# --- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["bins", f"pyramid photos/0.png {CLASSIFIER}"])
def test_a_picture_is_a_png_by_its_name_too(run, words):
    code, _, said = run("visualize", *words.split(), "--out", "new/picture.jpg")
    assert code == 1
    assert "--out is written as PNG; got new/picture.jpg. Name it picture.png" in said
    assert not Path("new").exists()
    for name in ("picture.png", "picture"):
        assert run("visualize", *words.split(), "--out", f"new/{name}")[0] == 0
        with Image.open(Path("new", name)) as picture:
            assert picture.format == "PNG"


def test_a_picture_is_written_whole_or_not_at_all(run, monkeypatch):
    Path("bins.png").write_bytes(b"before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("visualize", "bins", "--out", "bins.png")[0] == 130
    assert Path("bins.png").read_bytes() == b"before"
    assert not list(Path().glob(".*unfinished"))


# --- converting ------------------------------------------------------------------------------------


class Interruption:
    """Progress that ends as Ctrl-C does, once so many images are there."""

    def __init__(self, images: int) -> None:
        self.left = images

    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("there", [False, True], ids=["a new folder", "an empty folder"])
@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_an_interrupted_conversion_leaves_nothing(run, to, there):
    out = Path("made/here")
    if there:
        out.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        convert_annotated("voc", to, out, progress=Interruption(2))
    assert Path("made").exists() == there
    assert not there or list(out.iterdir()) == []
    assert convert_annotated("voc", to, out).objects == 2
    assert STAGING not in os.listdir(out)


def test_what_a_killed_conversion_left_is_replaced(run):
    draw(Path("out", STAGING, "images", "old.png"))
    convert_annotated("voc", "coco", "out")
    assert sorted(os.listdir("out/images")) == ["0.png", "1.png"]
    (notes,) = Path("out/annotations").iterdir()
    assert len(json.loads(notes.read_text())["annotations"]) == 2
    assert sorted(os.listdir("out")) == ["annotations", "images"]


# --- the demo --------------------------------------------------------------------------------------


def test_the_demo_replaces_nothing_of_anybody_elses(run, monkeypatch):
    monkeypatch.setattr(demo, "generate", lambda *_: pytest.fail("the work has begun"))
    draw(Path("mine/images/holiday.png"))
    code, _, said = run("demo", "--out", "mine")
    assert code == 1
    assert "--out mine holds mine/images, which no demo made and none will replace; choose a new" in said
    assert Path("mine/images/holiday.png").is_file()


def test_the_demo_replaces_an_earlier_one(run, monkeypatch):
    draw(Path("demo/images/train/checks/1.png"))
    monkeypatch.setattr(demo, "generate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        demo.run(Path("demo"))
    assert not Path("demo/images").exists()
