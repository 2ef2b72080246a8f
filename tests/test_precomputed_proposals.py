"""Boxes from files: what is written is read again, in order, by any name; what is wrong is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sppnet.errors import ConfigError, DataError
from sppnet.features.lazy_image import LazyImage
from sppnet.proposals.precomputed import read_boxes, write_boxes
from sppnet.proposals.proposers import make_proposer

BOXES = {
    "a/one.jpg": [[0, 0, 10, 20], [5.5, 0.25, 9, 3]],
    'b/tw"o, ü.png': [[1, 2, 3, 4]],
    "none.png": [],
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".json", ".csv", ".JSON"])
def test_what_is_written_is_read(tmp_path, suffix):
    file = tmp_path / f"boxes{suffix}"
    write_boxes(file, {name: np.array(rows, np.float32) for name, rows in BOXES.items()})
    given = read_boxes(file)
    assert {name: array.tolist() for name, array in given.boxes.items()} == BOXES
    assert all(array.shape[1] == 4 and array.dtype == np.float32 for array in given.boxes.values())
    assert "5.5" in file.read_text(encoding="utf-8")
    assert "10.0" not in file.read_text(encoding="utf-8")


def test_the_mirror_image_has_the_boxes_mirrored(tmp_path):
    photo = tmp_path / "one.png"
    Image.new("RGB", (64, 40)).save(photo)
    file = tmp_path / "boxes.json"
    write_boxes(file, {"one.png": np.array([[0, 0, 10, 20], [30, 5, 60, 40]], np.float32)})
    propose = make_proposer(str(file), max_proposals=10)
    found = [propose(LazyImage(photo, None, mirrored=mirrored)).boxes.tolist() for mirrored in (False, True)]
    assert found == [[[0, 0, 10, 20], [30, 5, 60, 40]], [[54, 0, 64, 20], [4, 5, 34, 40]]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("x.json", '{"i": [[0, 0, 3, 3], [0, 0, 2, 2], [0, 0, 1, 1]]}', id="JSON, a list"),
        pytest.param(
            "x.json",
            '{"i": {"boxes": [[0, 0, 1, 1], [0, 0, 3, 3], [0, 0, 2, 2]], "scores": [-1, 0.5, 0.25]}}',
            id="JSON, by scores",
        ),
        pytest.param(
            "x.json", '\ufeff{"i": {"boxes": [[0,0,3,3],[0,0,2,2],[0,0,1,1]]}}', id="a byte order mark"
        ),
        pytest.param("x.csv", "i,0,0,3,3\ni,0,0,2,2\ni,0,0,1,1", id="CSV without names"),
        pytest.param(
            "x.csv", "image,x0,y0,x1,y1\n\ni,0,0,3,3\r\ni,0,0,2,2\ni,0,0,1,1\n", id="CSV with names"
        ),
        pytest.param(
            "x.csv", "i,0,0,2,2,0.5\ni,0,0,3,3,9\ni,0,0,1,1,0.5\n", id="CSV, by scores, equal ones in order"
        ),
    ],
)
def test_boxes_come_best_first(tmp_path, name, text):
    boxes = read_boxes(write(tmp_path, name, text)).of("i")
    assert boxes.tolist() == [[0, 0, 3, 3], [0, 0, 2, 2], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("image", "root", "expected"),
    [
        pytest.param("train/a.jpg", None, 1, id="the path"),
        pytest.param("/data/train/a.jpg", "/data", 1, id="the path below a root"),
        pytest.param("/elsewhere/test/a.jpg", "/elsewhere", 2, id="another of that name below a root"),
        pytest.param("/data/deep/b.jpg", "/data", 3, id="a file name that is there once"),
        pytest.param("b.jpg", None, 3, id="a bare file name"),
    ],
)
def test_images_are_found_by_path_then_by_file_name(tmp_path, image, root, expected):
    sides = {"train/a.jpg": 1, "test/a.jpg": 2, "x/b.jpg": 3}
    file = write(tmp_path, "x.json", json.dumps({name: [[0, 0, side, side]] for name, side in sides.items()}))
    assert read_boxes(file).of(image, root).tolist() == [[0, 0, expected, expected]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param("a.jpg", r"2 images called a.jpg \(train/a.jpg, test/a.jpg\)", id="two of that name"),
        pytest.param("c.jpg", "no boxes for c.jpg; did you mean", id="none of that name"),
    ],
)
def test_images_that_are_not_found(tmp_path, image, message):
    file = write(tmp_path, "x.json", '{"train/a.jpg": [], "test/a.jpg": []}')
    with pytest.raises(DataError, match=message):
        read_boxes(file).of(image)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("x.json", "{", "x.json is not JSON: .*line 1", id="half a JSON file"),
        pytest.param("x.json", "[" * 100_000, "is not JSON", id="JSON too deep"),
        pytest.param("x.json", "[[0, 0, 1, 1]]", "must hold an object.*got a list", id="no names"),
        pytest.param(
            "x.json", '{"i": 3}', 'x.json, "i" must be a list of boxes.*got a number', id="a number"
        ),
        pytest.param("x.json", '{"i": [[0, 0, 1]]}', r'"i": boxes must have shape', id="three sides"),
        pytest.param("x.json", '{"i": [[0, 0, 1, 1], [0]]}', '"i": ', id="boxes of several lengths"),
        pytest.param("x.json", '{"i": [[0, 0, 1, "a"]]}', '"i": could not convert', id="a letter"),
        pytest.param("x.json", '{"i": [[0, 0, 1, 1], [4, 0, 4, 9]]}', '"i": .*box 1 is', id="an empty box"),
        pytest.param("x.json", '{"i": [[0, 0, NaN, 1]]}', '"i": .*finite', id="not a number"),
        pytest.param("x.json", '{"i": [], "i": []}', '"i" twice', id="an image twice"),
        pytest.param("x.json", '{"i": {"boxes": [], "score": []}}', "'score' beside boxes", id="a slip"),
        pytest.param(
            "x.json",
            '{"i": {"boxes": [[0, 0, 1, 1]], "scores": []}}',
            "need as many finite",
            id="a score missing",
        ),
        pytest.param("x.csv", "i,0,0,1\n", "line 1: expected image,x0.*got 4 fields", id="a field missing"),
        pytest.param(
            "x.csv", "i,0,0,1,1\ni,0,0,1,1,3", "line 2: expected 5 fields", id="a score now and then"
        ),
        pytest.param(
            "x.csv", "i,0,0,1,1\ni,0,0,a,1\n", "line 2: expected a number; got 'a'", id="a letter, CSV"
        ),
        pytest.param(
            "x.csv", "i,0,0,1,1\n\ni,5,0,1,1\n", "line 3: a box needs x0 < x1", id="sides exchanged"
        ),
        pytest.param("x.csv", "i,0,0,inf,1\n", "line 1: .*finite", id="an infinite side"),
        pytest.param("x.csv", "image,x,y,w,h\n", "line 1: the columns are", id="other columns"),
        pytest.param("x.csv", 'i,0,0,1,1\n"i,0,0', "line 2: ", id="a quote left open"),
    ],
)
def test_faults_are_named_with_their_place(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_boxes(write(tmp_path, name, text))
    assert str(tmp_path / name) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_boxes(tmp_path / "no.json")
    with pytest.raises(ConfigError, match=r"ends in .json or .csv; got boxes.txt"):
        read_boxes(tmp_path / "boxes.txt")
    with pytest.raises(ConfigError, match=r"ends in .json or .csv"):
        write_boxes(tmp_path / "boxes", {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "image,x0,y0,x1,y1\nKätzchen 1.jpg,0,0,1,1\n"),
        ("x.json", '{"Kätzchen 1.jpg": [[0, 0, 1, 1]]}'),
    ],
)
def test_text_of_any_encoding_is_read(tmp_path, encoding, name, text):
    """A spreadsheet saves Windows-1252 or UTF-16, and PowerShell writes UTF-16."""
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_boxes(tmp_path / name).of("Kätzchen 1.jpg").tolist() == [[0, 0, 1, 1]]
