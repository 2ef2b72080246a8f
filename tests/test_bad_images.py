"""Odd, damaged and hostile images: read correctly, or refused with their name and a reason."""

import io
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import corpus
from pictures import pictures
from reading_damaged import READERS, place, read_one_image
from sppnet.classify.classifier import Classifier
from sppnet.cli import main
from sppnet.data.image import read_header, read_image
from sppnet.errors import ImageError
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, its size and when it was written."""
    stats = ((path, path.lstat()) for path in sorted(root.rglob("*")))
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in stats}


def run(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: code, stdout, stderr."""
    out, told = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(told):
        patch.setattr(sys, "argv", ["sppnet", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    if isinstance(code, str):
        return 1, out.getvalue(), f"{told.getvalue()}{code}\n"
    return int(code), out.getvalue(), told.getvalue()


# --- the corpus ----------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", pictures(), ids=lambda picture: f"{picture.name} {picture.format}")
def test_odd_images_are_read_as_arithmetic_has_them(picture, tmp_path):
    path = place(tmp_path, picture.file_name, picture.data)
    for source in (picture.data, path):  # Pillow takes other ways for files
        pixels = read_image(source)
        assert pixels.shape == picture.pixels.shape
        assert abs(pixels.astype(int) - picture.pixels).max() <= picture.tolerance
        assert read_header(source).size_hw == pixels.shape[:2]


def faults_of(bad, path: Path) -> str:
    """What is wrong about how a bad image was taken; "" for nothing."""
    try:
        pixels = read_image(path)
    except ImageError as error:
        told = str(error)
        if path.name not in told or "\n" in told:
            return f"refused, but with {told!r}"
        if bad.reason and not re.search(bad.reason, told):
            return f"refused for another reason: {told}"
        return "a sound image is refused" if "renamed" in bad.name else ""
    if bad.reason:
        return f"read as {pixels.shape}"
    if read_header(path).size_hw != pixels.shape[:2]:
        return "its header tells another size"
    if bad.pixels is None:
        return ""
    if pixels.shape != bad.pixels.shape or abs(pixels.astype(int) - bad.pixels).max() > bad.tolerance:
        return "read, but as another image"
    return ""


def test_thousands_of_bad_images_are_refused_by_name_or_read_whole(tmp_path):
    names, faults = Counter(), {}
    for bad in corpus():
        names[bad.name] += 1
        path = tmp_path / bad.name
        path.write_bytes(bad.data)
        if fault := faults_of(bad, path):
            faults[bad.name] = fault
        assert path.read_bytes() == bad.data
        path.unlink()
    assert faults == {}
    print(f"{len(names):,} bad images")
    assert len(names) > 5000
    assert set(names.values()) == {1}
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.integers(0, 10**6),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6)), max_size=8),
    rest=st.binary(max_size=40),
)
def test_any_bytes_are_refused_or_an_image(which, edits, rest):
    seeds = READERS["image"].seeds()
    data = bytearray(seeds[which % len(seeds)])
    for at, written in edits:
        start = at % (len(data) + 1)
        data[start : start + len(written)] = written
    read_one_image(bytes(data) + rest, Path())
    read_one_image(rest, Path())


# --- what lies where an image should ---------------------------------------------------------------


@pytest.fixture
def places(tmp_path) -> Path:
    """A folder of names that are no plain files, beside a sound image that lies outside."""
    (tmp_path / "outside.png").write_bytes(pictures()[0].data)
    root = tmp_path / "photos" / "things"
    root.mkdir(parents=True)
    (root / "folder.jpg").mkdir()
    (root / "linked.png").symlink_to(tmp_path / "outside.png")
    (root / "dangling.png").symlink_to(tmp_path / "gone.png")
    (root / "ring.png").symlink_to(root / "ring.png")
    (root / "device.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("folder.jpg", "is a folder", id="a folder"),
        pytest.param("dangling.png", "does not exist", id="a link to nothing"),
        pytest.param("ring.png", "symbolic links", id="a link to itself"),
        pytest.param("device.png", "not a regular file", id="a device without end"),
        pytest.param("pipe.png", "not a regular file", id="a pipe that nobody writes to"),
        pytest.param("a\0b.png", "null", id="a zero in the name"),
        pytest.param("x" * 300 + ".png", "too long", id="a name that no system takes"),
    ],
)
def test_what_is_no_file_is_refused(places, name, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(places / name)
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_followed_and_nothing_written(places):
    before = snapshot(places.parents[1])
    assert np.array_equal(read_image(places / "linked.png"), pictures()[0].pixels)
    assert snapshot(places.parents[1]) == before


# --- memory ------------------------------------------------------------------------------------------

WATCHER = """
import resource, sys
from pathlib import Path
from sppnet.data.image import read_image
from sppnet.errors import ImageError
grown = 512 * 2**20
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + grown, used + grown))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_image(path)
        print(path.name, "was read")
    except ImageError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_take_no_memory(tmp_path):
    for bad in corpus():
        if bad.name.startswith(("huge", "little-data")):
            (tmp_path / bad.name).write_bytes(bad.data)
    assert len(list(tmp_path.iterdir())) > 15
    command = [sys.executable, "-W", "error", "-c", WATCHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 350, "MiB; little-data.png declares 9000×9000, which is allowed"


# --- the commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = SPPNet(load_trunk("zf5", width=1 / 96), (1, 2), num_classes=2, hidden=3)
    Classifier(network.eval(), ("cat", "dog")).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> tuple[Path, int, int]:
    """A folder of classes, and how many of its images are sound and bad."""
    sound = [picture for picture in pictures() if picture.name.startswith(("rgb", "alpha", "cmyk"))]
    bad = [each for each in corpus() if each.reason or each.name.startswith("cut-8-")]
    for label, chosen in (
        ("sound", [(p.file_name, p.data) for p in sound]),
        ("bad", [(b.name, b.data) for b in bad]),
    ):
        for name, data in chosen:
            path = tmp_path / "photos" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return tmp_path / "photos", len(sound), len(bad)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("check {photos}", id="check"),
        pytest.param("classify predict {photos} --model {model} --json --device cpu", id="predict"),
        pytest.param(
            "classify evaluate {photos} --model {model} --no-report --json --device cpu", id="evaluate"
        ),
        pytest.param(
            "features {photos} --model {model} --out {out}/v.safetensors --device cpu", id="features"
        ),
        pytest.param("proposals {photos}/bad --out {out}/boxes.json", id="proposals"),
    ],
)
def test_commands_leave_bad_images_out_and_go_on(photos, model, tmp_path, command):
    root, sound, bad = photos
    if command.startswith("classify evaluate"):  # of the classes that the model knows
        (root / "sound").rename(root / "cat")
        (root / "bad").rename(root / "dog")
    out = tmp_path / "out"
    out.mkdir()
    before = snapshot(root)
    code, printed, told = run(*command.format(photos=root, model=model, out=out).split())
    assert "Traceback" not in printed + told
    assert snapshot(root) == before
    assert code in (0, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}
    if "predict" in command:
        assert code == 1
        assert printed.count('"image":') == sound
        assert len(re.findall("left out: ", told)) == bad
    if command.startswith("check"):
        assert f"{bad} damaged" in printed


PRINTER = """
import sys
from sppnet.cli import main
data, model, out = sys.argv[1:]
shown = ["classify", "predict", data, "--model", model, "--device", "cpu"]
for words in (
    ["check", f"{data}/.."], ["check", f"{data}/..", "--json"], shown, [*shown, "--json"],
    [*shown, "--csv", f"{out}/x.csv"], ["proposals", data, "--out", f"{out}/x.json"],
    ["proposals", data, "--out", f"{out}/y.csv"],
):
    sys.argv = ["sppnet", *words]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 1, words
    else:
        raise AssertionError(words)
"""


def test_names_that_are_not_text_can_be_printed(model, tmp_path):
    names = (b"latin-\xe9.png", b"two\nlines.png", b"escape-\x1b[31m.png", b"bad-\xff.png")
    (tmp_path / "a").mkdir()
    for name in names:
        content = b"" if name.startswith(b"bad") else pictures()[0].data
        Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/" + name)).write_bytes(content)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PRINTER, str(tmp_path / "a"), str(model), str(tmp_path / "out")],
        capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").iterdir())) == 3
