"""Work shared out by Ray: nothing lost, nothing twice, the same numbers, and nobody let in."""

import json
import os
import re
import secrets
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

from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.engine.tables import read_detections
from sppnet.heads.ridge import BoxRegressor
from sppnet.image_vectors import SPPFeatures
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.svm.linear_svm import LinearSVM

PAGE = Path(__file__).parents[1] / "docs/cluster.md"
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
            trunk="zf5", width=0.125, scales=(480,), levels=(1, 2), finetune="none", max_proposals=60
        )
        trunk = load_trunk("zf5", width=0.125).eval()
        length, classes = trunk.channels * 5, ("cat", "dog")
        svm = LinearSVM(torch.randn(2, length), torch.zeros(2), classes)
        regressor = BoxRegressor(torch.randn(2, 4, length) / 500, torch.zeros(2, 4), classes)
        windows = ProposalHead(trunk.channels, WindowConfig()).eval()
    Detector(DetectorComponents(classes, config, trunk, windows, None, svm, regressor)).save(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ray")
    make_images(root / "photos")
    make_detector(root / "model.safetensors")
    (root / "runs/street").mkdir(parents=True)  # as the page calls it
    (root / "runs/street/detector.safetensors").symlink_to(root / "model.safetensors")
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
    printed: str = ""
    told: str = ""
    left: list[int] = field(default_factory=list)
    """Processes that are there when the work is done."""


def kill_a_worker(host: subprocess.Popen[str], folder: Path, outcome: Outcome) -> None:
    """As soon as the first part is written: the others are being worked on, or wait."""
    while host.poll() is None and not (folder / "found").exists():
        busy = [each for each in descendants(host.pid) if title_of(each) == "ray::MapBatches(Block)"]
        if busy and list(folder.glob(".*.unfinished/images-*")):
            outcome.killed.append(title_of(busy[0]))
            os.kill(busy[0], signal.SIGKILL)
            outcome.listened_at = addresses_listened_at([host.pid, *descendants(host.pid)])
            return
        time.sleep(0.01)


def page_command() -> str:
    """The command that the page of clusters shows."""
    (line,) = re.findall(r"^sppnet detect predict .*--executor ray.*$", PAGE.read_text(), re.MULTILINE)
    assert line.endswith("--parquet found")
    return str(line)


@pytest.fixture(scope="module")
def outcome(home) -> Outcome:
    words = "photos --model model.safetensors --executor ray"
    commands = [
        f"{page_command()} --min-score -1 --json --csv found.csv".split()[1:],
        f"features {words} --levels 1,2 --out vectors.parquet".split(),
        ["broken"],
    ]
    result = Outcome(home)
    environment = {**os.environ, **QUIET, "HOME": str(home)}
    with (home / "told").open("w") as told, subprocess.Popen(
        [sys.executable, HOST, "codes", json.dumps(commands)],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=told, text=True,
    ) as host:  # fmt: skip
        try:
            kill_a_worker(host, home, result)
            started = descendants(host.pid)
            result.printed, _ = host.communicate(timeout=600)
        finally:
            host.kill()  # what it started ends with it
    result.told = (home / "told").read_text()
    assert host.returncode == 0, result.told
    result.codes = json.loads((home / "codes").read_text())
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
    told, end = json.JSONDecoder().raw_decode(outcome.printed)
    assert outcome.printed[end:].split() == ["vectors.parquet"]  # and nothing of Ray's
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
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
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
            f"{work} --executor ray --parquet cluster".split(), cwd=home, text=True, stderr=subprocess.PIPE,
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
