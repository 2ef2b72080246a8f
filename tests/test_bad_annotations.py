"""Hostile and broken annotations: told in one line each, never run, never led out of the data set."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import cuts, flips, tears, writes
from reading_damaged import READERS, blank, place
from sppnet.data.annotations import fit_box
from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import DataError
from test_bad_images import run, snapshot

ANNOTATED = ("voc", "coco", "yolo", "boxes")
LONG = "x" * 5000
UNPRINTED = "\ud800\x1b[31m\n\u2028"
BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


@pytest.mark.parametrize("reader", ANNOTATED)
def test_damaged_files_are_read_or_refused_in_one_line(reader, tmp_path):
    rng = np.random.default_rng(1)
    tried = 0
    for seed in READERS[reader].seeds():
        ways = (flips(seed, rng, 30), writes(seed, rng, 12), tears(seed, rng, 12))
        for data in (seed, *(cut for _, cut in cuts(seed, rng, 20)), *(each for way in ways for each in way)):
            READERS[reader].read(data, tmp_path)
            tried += 1
    assert tried > 250


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200), text=st.text(max_size=60), number=st.floats(width=64))
@pytest.mark.parametrize("reader", ANNOTATED)
def test_any_content_is_read_or_refused(reader, data, text, number, tmp_path):
    written = json.dumps(text)
    for content in {
        "voc": (f"<a><object><name>{text}</name>{BOX.format(number, text)}</object></a>",),
        "coco": (
            f'{{"images":[{{"id":1,"file_name":{written}}},{{"id":1,"file_name":"a.png"}}],'
            f'"annotations":[{{"image_id":1,"category_id":{written},"bbox":[0,0,{number},9]}}],'
            f'"categories":[{{"id":{written},"name":{written}}}]}}',
        ),
        "yolo": (f"names: [{written}]\ntrain: {written}\n\0", f"names: [a]\n\x000 .5 .5 {number} .5\n{text}"),
        "boxes": (f"{{{written}: [[0, 0, {number}, 5]]}}", f"a.jpg,0,0,{number},9\n{text}"),
    }[reader]:
        READERS[reader].read(content.encode("utf-8", "replace"), tmp_path)
    READERS[reader].read(data, tmp_path)


@given(
    st.tuples(*[st.floats(width=64)] * 4),
    st.one_of(st.none(), st.tuples(st.integers(1, 2**20), st.integers(1, 2**20))),
    st.booleans(),
)
def test_a_box_is_whole_in_its_image_or_left_out(written, size_hw, one_based):
    box, done = fit_box(written, size_hw, one_based)
    assert "\n" not in done
    if box is None:
        assert done.endswith("left out")
        return
    x0, y0, x1, y1 = np.asarray(box, np.float32)
    assert 0 <= x0 < x1 < np.inf
    assert 0 <= y0 < y1 < np.inf
    if size_hw:
        assert x1 <= size_hw[1]
        assert y1 <= size_hw[0]


# --- found by fuzzing ----------------------------------------------------------------------------


def coco(**changes: object) -> bytes:
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    return json.dumps({**whole, **changes}).encode()


def images(name: str) -> list[dict[str, object]]:
    return [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": name}]


@pytest.mark.parametrize(
    ("reader", "data"),
    [
        pytest.param("coco", coco(images=images(LONG)), id="an image of a name that no system takes"),
        pytest.param("coco", coco(images=images(UNPRINTED)), id="an image of a name that cannot be encoded"),
        pytest.param("coco", coco(categories=[{"id": 1, "name": UNPRINTED}]), id="such a category"),
        pytest.param(
            "coco",
            coco(
                categories=[{"id": 1, "name": "a\nb"}],
                annotations=[{"image_id": 1, "category_id": 1, "bbox": [-9, 0, 20, 20]}],
            ),
            id="a problem of a class of two lines",
        ),
        pytest.param(
            "voc",
            f"<a><object><name>a&#10;b</name>{BOX.format(700, 9)}</object></a>".encode(),
            id="such a class in XML",
        ),
        pytest.param("voc", b'<?xml version="1.0" encoding="hex"?><a/>', id="a codec that is no alphabet"),
        pytest.param("voc", b'<?xml version="1.0" encoding="punycode"?><a>\xff</a>', id="a slow codec"),
        pytest.param("voc", f"<a/>\0{LONG}\n\xff".encode("latin-1"), id="a long line in a split"),
        pytest.param("yolo", f"names: [a]\ntrain: {LONG}\n\0".encode(), id="a long path in data.yaml"),
        pytest.param("yolo", f"names: [a]\ntrain: list.txt\n\0{LONG}".encode(), id="a long path in a list"),
        pytest.param(
            "yolo", b'names: ["a\\nb", "\\uD800", "\\e[31m"]\n\x000 .5 .5 1.09 .5\n', id="names in YAML"
        ),
        pytest.param("yolo", b"names: [!!timestamp 'x', !!int '', !!bool 'x']\n\0", id="tags with no value"),
        pytest.param("boxes", b'{"a": [[0, 0, 1e300, 1e300]]}', id="a side beyond float32"),
        pytest.param("boxes", b"a,0,0,1e300,1e300\n", id="the same in CSV"),
        pytest.param("boxes", b'{"a": [[0, 0, 1, ' + b"9" * 400 + b"]]}", id="a side beyond float64"),
        pytest.param("boxes", b'{"a\\n\\ud800": [[0, 0, "x", 1]]}', id="a name that cannot be printed"),
        pytest.param("boxes", b'"a\nb",0,0,5,5\n', id="a name of two lines in CSV"),
    ],
)
def test_what_fuzzing_found_stays_mended(reader, data, tmp_path):
    READERS[reader].read(data, tmp_path)


# --- out of the data set ---------------------------------------------------------------------------

CLIMBING = ("../outside", "../../outside", "x/../../outside", "{root}/../outside", "{outside}", r"..\outside")


def voc_folder(root: Path, name: str) -> Path:
    place(root, "JPEGImages/a.png", blank())
    thing = f"<object><name>cat</name>{BOX.format(50, 40)}</object>"
    place(root, "Annotations/a.xml", f"<annotation>{thing}</annotation>".encode())
    place(root, "Annotations/b.xml", f"<annotation><filename>{name}</filename>{thing}</annotation>".encode())
    place(root, "ImageSets/Main/train.txt", f"a\nb\n{name}\n".encode())
    return root


def coco_folder(root: Path, name: str) -> Path:
    place(root, "a.png", blank())
    place(root, "all.json", coco(images=images(name)))
    return root


def yolo_folder(root: Path, name: str) -> Path:
    place(root, "images/a.png", blank())
    place(root, "labels/a.txt", b"0 .5 .5 .5 .5\n")
    place(root, "list.txt", f"images/a.png\n{name}\n".encode())
    place(root, "data.yaml", b"names: [cat]\ntrain: list.txt\n")
    return root


@pytest.mark.parametrize("make", [voc_folder, coco_folder, yolo_folder])
@pytest.mark.parametrize("climb", CLIMBING)
def test_paths_that_climb_out_are_left_out_and_told(make, climb, tmp_path):
    outside = place(tmp_path, "outside.png", blank())
    root = tmp_path / "data"
    make(root, climb.format(root=root, outside=outside.with_suffix("")) + ".png")
    before = snapshot(tmp_path)
    found = open_annotated(root)
    assert [path.name for path in found.paths] == ["a.png"]
    assert len(found.problems) == 1
    assert "left out" in found.problems[0]
    assert snapshot(tmp_path) == before


# --- nothing runs, nothing grows -------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            "names: !!python/object/apply:pathlib.Path.touch [!!python/object/new:pathlib.Path ['{ran}']]"
        ),
        pytest.param("names: !!python/object/apply:os.system ['touch {ran}']"),
        pytest.param("!!python/object/apply:subprocess.run\nargs: [['touch', '{ran}']]"),
        pytest.param("names: [a]\nx: !!python/name:os.system"),
        pytest.param("names: [a]\ndownload: 'touch {ran}'"),
    ],
)
def test_nothing_in_yaml_is_run(settings, tmp_path):
    root = tmp_path / "data"
    place(root, "images/a.png", blank())
    place(root, "data.yaml", settings.format(ran=tmp_path / "ran").encode())
    with suppress(DataError):  # the last two are a data set without what is not understood
        open_annotated(root)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


WATCHER = """
import resource, sys
from pathlib import Path
from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import SppnetError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 2**20,) * 2)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_annotated(folder)
    except SppnetError:
        print(folder.name, "refused")
"""


def test_bombs_take_no_memory(tmp_path):
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = (
        f'<!DOCTYPE a [<!ENTITY l0 "lol">{lol}]><annotation><object><name>&l11;</name></object></annotation>'
    )
    anchors = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    files = {
        "xml-bomb": ("Annotations/a.xml", bomb),
        "xml-outside": (
            "Annotations/a.xml",
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///dev/zero">]><a>&x;</a>',
        ),
        "xml-large": ("Annotations/a.xml", "<a>" + " " * 17 * 2**20 + "</a>"),
        "json-deep": ("all.json", '{"images": ' + "[" * 2_000_000),
        "json-line": ("all.json", '{"images": [], "annotations": [], "x": "' + "y" * 2**24),
        "yaml-bomb": ("data.yaml", f"a0: &a0 [x]\n{anchors}names: *a11\n"),
        "yaml-deep": ("data.yaml", "names: " + "{a: " * 100_000),
        "yaml-large": ("data.yaml", "names: [" + "a, " * 2**20 + "]"),
        "yaml-count": ("data.yaml", "nc: 1000000000000000\n"),
    }
    for name, (file, text) in files.items():
        place(tmp_path / name, "JPEGImages/a.png" if "xml" in name else "images/a.png", blank())
        place(tmp_path / name, file, text.encode())
    command = [sys.executable, "-W", "error", "-c", WATCHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[::2] == sorted(files)


# --- the commands ------------------------------------------------------------------------------------

HOSTILE = {
    "voc": lambda root: voc_folder(root, f"{UNPRINTED}.png".encode("utf-8", "replace").decode()),
    "coco": lambda root: coco_folder(root, LONG),
    "yolo": lambda root: yolo_folder(root, LONG),
}


@pytest.mark.parametrize("layout", HOSTILE)
@pytest.mark.parametrize("command", ["check {data}", "detect train {data} --out {out}/run --trunk zf5"])
def test_commands_tell_it_in_lines(layout, command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = HOSTILE[layout](tmp_path / "data")
    if layout == "voc":
        place(root, "Annotations/c.xml", b'<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    before = snapshot(root)
    code, printed, told = run(*command.format(data=root, out=tmp_path / "out").split())
    assert "Traceback" not in printed + told
    assert code == ("train" in command)
    assert snapshot(root) == before
    if code:
        assert told.splitlines()[-1].startswith("sppnet: ")


@pytest.mark.parametrize("name", ["all.json", "data.yaml", "Annotations/a.xml"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"[[[[", b"\0" * 99, b"<a>", b"names: !!python/x"]
)
def test_a_folder_of_one_broken_file_is_one_line(name, content, tmp_path):
    place(tmp_path / "data", name, content)
    place(tmp_path / "data", "JPEGImages/a.png" if "xml" in name else "images/a.png", blank())
    for command in ("check", "detect train --out {out} --device cpu"):
        words = command.format(out=tmp_path / "run").split()
        code, printed, told = run(*words, tmp_path / "data")
        assert "Traceback" not in printed + told
        if code:
            assert len([line for line in told.splitlines() if line.startswith("sppnet: ")]) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "run"}
