"""Work shared out by Ray: nothing lost, nothing twice, the same numbers, and nobody let in."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from sppnet.classify.features import SPPFeatures
from sppnet.cli.engines import Engine
from sppnet.cli.predictions import check_engine
from sppnet.cli.vectors import check_suffix
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, Parts
from sppnet.engine.batch import TRIES, Block, _count_blocks, _first_cause
from sppnet.engine.cluster import joined
from sppnet.engine.parts import check_parts, count_done, parts_of, read_parts, unfinished, write_part
from sppnet.engine.tables import detections_table, read_detections, vectors_table
from sppnet.engine.work import Detecting, Extracting, attempt
from sppnet.errors import ConfigError, ImageError, MissingExtraError, SppnetError
from sppnet.learn.ridge import BoxRegressor
from sppnet.learn.svm import LinearSVM
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.windows import WindowConfig
from sppnet.structures import Detections

HOST = str(Path(__file__).with_name("ray_host.py"))
IMAGES = 30
DAMAGED = "7.png"
QUIET = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# --- what there is to do -------------------------------------------------------------------------


def make_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        sides = rng.integers(60, 140, 2)
        pixels = rng.integers(0, 256, (*(sides // 10), 3)).astype(np.uint8)
        Image.fromarray(pixels).resize(sides.tolist()).save(folder / f"{number}.png")
    whole = (folder / DAMAGED).read_bytes()
    (folder / DAMAGED).write_bytes(whole[: len(whole) // 2])


def make_detector(path: Path) -> None:
    """Random weights, whose scores are of two minds: some windows are found in every image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = DetectorConfig(
            trunk="zf5", width=0.125, scales=(480,), levels=(1, 2), finetune="none", most=60
        )
        trunk = load_trunk("zf5", width=0.125).eval()
        length, classes = trunk.channels * 5, ("cat", "dog")
        svm = LinearSVM(torch.randn(2, length), torch.zeros(2), classes)
        regressor = BoxRegressor(torch.randn(2, 4, length) / 500, torch.zeros(2, 4), classes)
        windows = WindowHead(trunk.channels, WindowConfig()).eval()
    Detector(Parts(classes, config, trunk, windows, None, svm, regressor)).save(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ray")
    make_images(root / "photos")
    make_detector(root / "model.safetensors")
    return root


# --- processes -----------------------------------------------------------------------------------


def descendants(process: int) -> list[int]:
    """The processes that one started, and those that they started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = [], [process]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def title_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def addresses_listened_at(processes: list[int]) -> set[str]:
    """In hexadecimal, as /proc has them."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(handle))
            except OSError:
                continue
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@dataclass
class Outcome:
    """Of all commands, in one of which a worker was killed."""

    home: Path
    killed: list[str] = field(default_factory=list)
    """What the workers were doing, by their titles."""
    listened_at: set[str] = field(default_factory=set)
    codes: list[Any] = field(default_factory=list)
    told: str = ""
    left: list[int] = field(default_factory=list)
    """Processes that are there when the work is done."""


def kill_a_worker(host: int, folder: Path, outcome: Outcome) -> None:
    """As soon as the first part is written: the others are being worked on, or wait."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        busy = [each for each in descendants(host) if title_of(each) == "ray::MapBatches(Block)"]
        if busy and list(folder.glob(".*.unfinished/images-*")):
            outcome.killed.append(title_of(busy[0]))
            os.kill(busy[0], signal.SIGKILL)
            outcome.listened_at = addresses_listened_at([host, *descendants(host)])
            return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def outcome(home) -> Outcome:
    words = "photos --model model.safetensors --engine ray"
    commands = [
        f"detect predict {words} --min-score -1 --parquet found --json --csv found.csv".split(),
        f"features {words} --levels 1,2 --out vectors.parquet".split(),
        ["broken"],
    ]
    result = Outcome(home)
    environment = {**os.environ, **QUIET, "HOME": str(home)}
    with (home / "told").open("w") as told, subprocess.Popen(
        [sys.executable, HOST, json.dumps(commands)],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=told, text=True,
    ) as host:  # fmt: skip
        kill_a_worker(host.pid, home, result)
        started = descendants(host.pid)
        printed, _ = host.communicate(timeout=180)
    result.told = (home / "told").read_text()
    assert host.returncode == 0, result.told
    result.codes = json.loads(printed)  # nothing else came to standard output
    result.left = [each for each in started if title_of(each).startswith("ray::")]
    return result


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(pyarrow.parquet.read_table(path, partitioning=None).to_pylist())


def test_a_worker_was_killed_at_its_work(outcome):
    assert outcome.killed == ["ray::MapBatches(Block)"]


def test_no_image_is_lost_or_doubled(outcome):
    rows = rows_of(outcome.home / "found")
    assert [row["number"] for row in rows] == list(range(IMAGES))
    assert [row["image"] for row in rows] == [f"photos/{number}.png" for number in range(IMAGES)]
    assert len(list((outcome.home / "found").iterdir())) > 2


def test_the_numbers_are_those_of_this_process(outcome, monkeypatch):
    monkeypatch.chdir(outcome.home)
    detector = Detector.load("model.safetensors")
    table = pyarrow.parquet.read_table("found", partitioning=None)
    found = read_detections(table, detector.classes)
    assert sum(map(len, found.values())) > IMAGES
    for name, each in found.items():
        here = detector(name, min_score=-1)
        assert each.names == here.names
        np.testing.assert_allclose(each.scores, here.scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(each.boxes, here.boxes, rtol=1e-5, atol=1e-3)


def test_vectors_are_those_of_this_process(outcome, monkeypatch):
    monkeypatch.chdir(outcome.home)
    extractor = SPPFeatures(model="model.safetensors", levels=(1, 2), device="cpu").fit()
    rows = rows_of(Path("vectors.parquet"))
    assert len(rows) == IMAGES
    for row in rows:
        if row["reason"] is None:
            np.testing.assert_allclose(row["vector"], extractor.vector(row["image"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["found", "vectors.parquet"])
def test_a_damaged_image_is_named_in_the_result(outcome, name):
    (row,) = [row for row in rows_of(outcome.home / name) if row["reason"] is not None]
    assert row["image"] == f"photos/{DAMAGED}"
    assert row["reason"].startswith(f"photos/{DAMAGED} ")
    assert row.get("boxes", row.get("vector")) is None
    assert f"left out: {row['reason']}" in outcome.told


def test_exit_codes_say_so_and_what_failed_is_one_line(outcome):
    assert outcome.codes == [1, 1, outcome.codes[2]]
    assert outcome.codes[2].startswith("SppnetError: a worker of Ray failed: ")
    assert "no model file at" in outcome.codes[2]
    assert not (outcome.home / "b").exists()


def test_json_and_csv_come_from_the_same_result(outcome):
    start = outcome.told.index("{\n")
    told, _ = json.JSONDecoder().raw_decode(outcome.told[start:])
    assert len(told["predictions"]) == IMAGES - 1
    assert len(told["skipped"]) == 1
    found = sum(len(each["detections"]) for each in told["predictions"])
    assert (outcome.home / "found.csv").read_text().count("\n") == found + 1


def test_ray_listens_on_the_loopback_alone_and_nothing_stays(outcome):
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert outcome.listened_at
    assert outcome.listened_at <= loopback
    assert outcome.left == []
    assert not list(outcome.home.glob(".*"))  # no token in the home folder, no unfinished result


def test_ray_tells_nothing_of_itself(outcome):
    assert "INFO" not in outcome.told
    assert "Warning" not in outcome.told


# --- a cluster of two machines -------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.crash
def test_a_machine_is_lost_and_no_image_with_it(home):
    """Two nodes of one processor each beside a head without any, as `ray start` makes them; one is killed."""
    port = free_port()
    environment = {
        **os.environ, **QUIET, "HOME": str(home), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64,
    }  # fmt: skip
    nothing = subprocess.DEVNULL
    start = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    head = [f"--port={port}", "--head", "--num-cpus=0", "--node-ip-address=127.0.0.1"]
    head += ["--include-dashboard=false"]
    node = [f"--address=127.0.0.1:{port}", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
    running = []
    try:
        for words in (head, node, node):
            running.append(
                subprocess.Popen([*start, *words], cwd=home, env=environment, stdout=nothing, stderr=nothing)
            )
            time.sleep(15)
        work = f"{sys.executable} -m sppnet detect predict photos --model model.safetensors --min-score -1"
        with subprocess.Popen(
            f"{work} --engine ray --parquet cluster".split(), cwd=home, text=True, stderr=subprocess.PIPE,
            env={**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, stdout=subprocess.PIPE,
        ) as driver:  # fmt: skip
            lost: list[int] = []
            while driver.poll() is None and "ray::MapBatches(Block)" not in map(title_of, lost):
                time.sleep(0.01)
                lost = descendants(running[2].pid) if list(home.glob(".cluster*/images-*")) else []
            assert lost
            for process in (running[2].pid, *lost):
                os.kill(process, signal.SIGKILL)
            printed, told = driver.communicate(timeout=240)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=60)
    assert (driver.returncode, printed) == (1, "cluster\n"), told
    assert [row["number"] for row in rows_of(home / "cluster")] == list(range(IMAGES))


# --- parts ---------------------------------------------------------------------------------------


def part(first: int, count: int, reason: str | None = None) -> Any:
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), ("cat",))  # type: ignore[arg-type]
    found = [None if reason else nothing] * count
    return detections_table([f"{first + i}.jpg" for i in range(count)], found, [reason] * count, first)


def test_a_block_done_again_overwrites_its_part(tmp_path):
    for _ in range(2):
        write_part(tmp_path, part(4, 3))
    write_part(tmp_path, part(0, 4, "cannot be read"))
    assert [path.name for path in parts_of(tmp_path)] == [
        "images-000000000-000000003.parquet",
        "images-000000004-000000006.parquet",
    ]
    assert count_done(tmp_path) == 7
    assert check_parts(tmp_path, 7) == ["cannot be read"] * 4


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        pytest.param([(0, 4), (6, 2)], "of 8 images 2 are missing from the result and 0 are", id="lost"),
        pytest.param([(0, 5), (4, 4)], "0 are missing from the result and 1 are there more", id="doubled"),
        pytest.param([], "8 are missing", id="nothing"),
    ],
)
def test_images_are_counted(tmp_path, blocks, message):
    for first, count in blocks:
        write_part(tmp_path, part(first, count))
    with pytest.raises(SppnetError, match=message):
        check_parts(tmp_path, 8)


def test_a_result_takes_its_name_at_the_end(tmp_path):
    with unfinished(tmp_path / "deep" / "out") as folder:
        write_part(folder, part(0, 1))
        assert not (tmp_path / "deep" / "out").exists()
    assert count_done(tmp_path / "deep" / "out") == 1
    with (
        pytest.raises(ConfigError, match="out is there already; remove it"),
        unfinished(tmp_path / "deep" / "out"),
    ):
        pass


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_detections_are_written_and_read():
    boxes = np.array([[0, 0, 5, 5], [1, 2, 3, 4.5]], np.float32)
    found = Detections(boxes, np.array([2, 1.5]), np.array([1, 0]), ("cat", "dog"))  # type: ignore[arg-type]
    table = detections_table(["a", "b"], [found, None], [None, "damaged"], first=3)
    assert table["number"].to_pylist() == [3, 4]
    assert table["labels"].to_pylist() == [["dog", "cat"], None]
    back = read_detections(table, ("cat", "dog"))
    assert list(back) == ["a"]
    assert back["a"].names == found.names
    np.testing.assert_array_equal(back["a"].boxes, found.boxes)
    np.testing.assert_array_equal(back["a"].scores, found.scores)


def test_vectors_are_written(tmp_path):
    vectors = [np.arange(3, dtype=np.float32), None]
    write_part(tmp_path, vectors_table(["a", "b"], vectors, [None, "damaged"], 3))
    (table,) = read_parts(tmp_path)
    assert table["vector"].to_pylist() == [[0, 1, 2], None]


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "processes", "blocks"),
    [
        pytest.param(1, 8, 1, id="one image"),
        pytest.param(30, 2, 8, id="four blocks a process"),
        pytest.param(6400, 2, 100, id="64 images a block, at most"),
    ],
)
def test_images_are_shared_out(images, processes, blocks):
    assert _count_blocks(images, processes) == blocks


def test_reasons_name_images_as_they_were_named():
    def find(path: str) -> int:
        if path.endswith("bad"):
            raise ImageError(f"{path} is damaged")
        return 1

    assert attempt(find, ["/all/good", "/all/bad"], ["good", "bad"]) == ([1, None], [None, "bad is damaged"])


def test_workers_find_files_from_their_own_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Detecting(("a.model",), 0).on("cpu").models == (str(tmp_path / "a.model"),)
    given = (("weights", "imagenet"), ("model", None), ("trunk", "zf5"))
    assert Extracting(given).on("auto") == Extracting(given, "auto")
    assert dict(Extracting((("weights", "w.pth"),)).on("cpu").parameters) == {
        "weights": str(tmp_path / "w.pth")
    }


@pytest.mark.parametrize(
    ("parquet", "drawings", "message"),
    [
        pytest.param(None, None, "name it with --parquet", id="nowhere to write"),
        pytest.param(Path("a"), Path("b"), "leave out --out", id="drawings"),
    ],
)
def test_what_ray_cannot_do_is_told_before_the_work(parquet, drawings, message):
    with pytest.raises(ConfigError, match=message):
        check_engine(Engine.ray, parquet, drawings)


def test_vectors_of_ray_are_parquet():
    with pytest.raises(
        ConfigError, match=r"a folder of Parquet files, as vectors.parquet; got 'v.safetensors'"
    ):
        check_suffix(Path("v.safetensors"), folder=True)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[ray\]'"), joined():
        pass


def test_a_block_that_kills_every_worker_ends_the_work(tmp_path):
    def die(paths, names, first):
        raise KeyboardInterrupt  # as far as the count goes, the worker is gone

    block = Block(die, str(tmp_path))  # type: ignore[arg-type]
    rows = pyarrow.table({"number": [5, 6], "image": ["a", "b"], "path": ["/a", "/b"]})
    for _ in range(TRIES):
        with pytest.raises(KeyboardInterrupt):
            block(rows)
    with pytest.raises(SppnetError, match="4 workers died on the images a to b"):
        block(rows)


def test_a_block_that_is_done_is_written_and_no_longer_counted(tmp_path):
    block = Block(lambda paths, names, first: part(first, len(names)), str(tmp_path))  # type: ignore[arg-type]
    rows = pyarrow.table({"number": [5, 6], "image": ["a", "b"], "path": ["/a", "/b"]})
    assert block(rows).to_pydict() == {"number": [5, 6]}
    assert [path.name for path in tmp_path.iterdir()] == ["images-000000005-000000006.parquet"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("ray::x (pid=1)\n  File y\nsppnet.errors.ModelError: none\n\nmore", "none", id="raised"),
        pytest.param("worker died\nfor good", "for good", id="no traceback"),
        pytest.param("", "RuntimeError", id="no text"),
    ],
)
def test_the_first_cause_is_told(text, told):
    assert _first_cause(RuntimeError(text)) == told
