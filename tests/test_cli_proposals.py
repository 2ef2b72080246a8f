"""The command `sppnet proposals`: what it writes, prints, draws and says."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sppnet.data.image import read_image
from sppnet.proposals.precomputed import read_boxes
from sppnet.proposals.selective_search.search import selective_search

OBJECT = (30, 20, 100, 70)

XML = """<annotation><filename>{name}.png</filename><size><width>120</width><height>90</height></size>
<object><name>thing</name><difficult>0</difficult><bndbox>
<xmin>31</xmin><ymin>21</ymin><xmax>100</xmax><ymax>70</ymax></bndbox></object></annotation>"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set in the VOC layout: two images with one object each, and half a file."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir()
    for seed, name in enumerate(("one", "two")):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(80, 120, (90, 120, 3)).astype(np.uint8)
        pixels[OBJECT[1] : OBJECT[3], OBJECT[0] : OBJECT[2]] = (220, 30, 30)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name=name))
    whole = (root / "JPEGImages/one.png").read_bytes()
    (root / "half.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def inside(inside):
    return partial(inside, "proposals")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_boxes_are_written_as_they_are_found(inside, data, tmp_path, suffix):
    out = tmp_path / f"boxes{suffix}"
    images = data / "JPEGImages"
    assert inside(images, "--out", out, "--max-proposals", 9)[:2] == (0, f"{out}\n")
    given = read_boxes(out)
    assert len(given) == 2
    for path in sorted(images.iterdir()):
        np.testing.assert_array_equal(given.of(path), selective_search(read_image(path), max_proposals=9))


def test_a_damaged_image_is_named_and_the_others_are_done(inside, data, tmp_path):
    out = tmp_path / "boxes.json"
    code, printed, told = inside(data / "half.png", data / "JPEGImages/one.png", "--out", out)
    assert (code, printed) == (1, f"{out}\n")
    assert "left out: " in told
    assert "half.png" in told
    assert [Path(name).name for name in json.loads(out.read_text())] == ["one.png"]


def test_recall_is_printed_for_images_that_are_marked(inside, data, tmp_path):
    images = data / "JPEGImages"
    code, printed, _ = inside(images, "--out", tmp_path / "b.json", "--annotations", data)
    assert code == 0
    _, title, header, *rows = printed.splitlines()
    assert title.startswith("recall of 2 objects; ")
    assert header.split() == ["first", "boxes", "IoU", "0.5", "IoU", "0.7"]
    assert [row.split() for row in rows] == [[n, "100.0%", "100.0%"] for n in ("500", "1000", "2000")]


def test_drawings_have_names_of_their_own(inside, data, tmp_path):
    first, again = data / "JPEGImages/one.png", tmp_path / "one.jpg"
    Image.open(first).save(again)
    drawn = tmp_path / "drawn"
    code, _, _ = inside(first, again, "--out", tmp_path / "b.json", "--draw", drawn)
    assert code == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["one-2.png", "one.png"]
    difference = np.abs(read_image(drawn / "one.png").astype(int) - read_image(first))
    assert difference.max() > 50
    assert read_image(drawn / "one.png").shape == (90, 120, 3)


def test_opencv_proposes_too(inside, data, tmp_path):
    pytest.importorskip("cv2.ximgproc", reason="OpenCV's contributed modules are not installed")
    out = tmp_path / "boxes.json"
    assert inside(data / "JPEGImages/one.png", "--out", out, "--method", "opencv")[0] == 0
    assert list(OBJECT) in read_boxes(out).of("one.png").tolist()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["{data}"], 2, "--out", id="no file to write"),
        pytest.param(
            ["{data}", "--out", "b.json", "--method", "edges"], 2, "selective-search", id="another kind"
        ),
        pytest.param(
            ["{data}", "--out", "b.json", "--max-proposals", "0"], 2, "--max-proposals", id="none of the best"
        ),
        pytest.param(["{data}", "--out", "b.txt"], 1, "ends in .json or .csv", id="another format"),
        pytest.param(["{data}/no.png", "--out", "b.json"], 1, "no.png does not exist", id="no image"),
        pytest.param(
            ["{data}/JPEGImages", "--out", "b.json", "--annotations", "{data}/JPEGImages"],
            1,
            "is no annotated data set",
            id="no data set",
        ),
    ],
)
def test_wrong_use(inside, data, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    got, printed, told = inside(*(argument.format(data=data) for argument in arguments))
    assert got == code
    assert message in told
    assert (printed, list(tmp_path.iterdir())) == ("", [])


def test_images_that_are_not_marked(inside, data, tmp_path):
    stray = tmp_path / "stray.png"
    Image.new("RGB", (30, 30)).save(stray)
    code, _, told = inside(stray, "--out", tmp_path / "b.json", "--annotations", data)
    assert code == 1
    assert "marks none of these images" in told


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from sppnet.cli import main\n"
        "sys.argv = ['sppnet', 'proposals', '--help']\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print({'torch', 'numba', 'numpy', 'PIL', 'cv2'} & set(sys.modules))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    assert "--annotations" in done.stdout
