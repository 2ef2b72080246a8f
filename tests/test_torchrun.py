"""Training by several processes of torchrun's is that of one, and goes on when one of them is killed."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sppnet.classify.config import TrainingConfig
from sppnet.classify.distributed import Workers
from sppnet.classify.train import train
from sppnet.demo import generate
from sppnet.errors import ConfigError

TINY = TrainingConfig(
    width=0.0625, hidden=16, sizes="64,48", scale_px=224, epochs=3, batch_size=4, learning_rate=0.02,
    dropout=0.0, workers=1, device="cpu",
)  # fmt: skip
OPTIONS = [
    "--width", "0.0625", "--hidden", "16", "--sizes", "64,48", "--scale", "224", "--epochs", "3",
    "--batch-size", "4", "--learning-rate", "0.02", "--dropout", "0", "--workers", "1", "--device", "cpu",
]  # fmt: skip
HOST = str(Path(__file__).with_name("torchrun_host.py"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Images of six classes, two of them damaged, so that shares of a batch are unequal or empty."""
    root = tmp_path_factory.mktemp("data")
    generate(root / "train", images_per_class=4, seed=0)
    generate(root / "val", images_per_class=2, seed=1)
    for name in ("dots/1.jpg", "rings/2.jpg"):
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:300])
    return root


def run_two(*commands: list[str], kills: object = (), restarts: int = 0) -> tuple[str, str]:
    """Two processes on this machine's loopback; what they printed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    torchrun += ["--nproc-per-node", "2", "--max-restarts", str(restarts), "--monitor-interval", "0.05"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "KILLS": json.dumps(kills),
    }
    done = subprocess.run(
        [*torchrun, HOST, json.dumps(commands)],
        capture_output=True, text=True, check=False, timeout=150, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def command(data: Path, out: Path, *options: str) -> list[str]:
    return ["classify", "train", str(data), "--out", str(out), *OPTIONS, *options]


@pytest.fixture(scope="module")
def two(data, tmp_path_factory) -> Path:
    """Runs of two processes that nothing disturbed, one on squares, one on whole images."""
    root = tmp_path_factory.mktemp("two")
    whole = command(data, root / "whole images", "--shape", "full", "--epochs", "1")
    told, notes = run_two(command(data, root / "squares"), whole)
    # One of them reports.
    assert told.splitlines() == [
        str(root / name / "best.safetensors") for name in ("squares", "whole images")
    ]
    assert notes.count("epoch 3/3") == 1
    return root


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def assert_like_one(one: Path, two: Path) -> None:
    """To float tolerance: two processes add the gradients of an epoch's batches in another order."""
    left, right = rows_of(one), rows_of(two)
    for key in ("epoch", "size", "learning_rate", "images"):
        assert [row[key] for row in right] == [row[key] for row in left]
    assert [float(row["loss"]) for row in right] == pytest.approx([float(r["loss"]) for r in left], abs=1e-5)
    a, b = load_file(one / "last.safetensors"), load_file(two / "last.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-5)


def test_two_processes_train_like_one(data, two, tmp_path):
    train(data, tmp_path / "one", TINY)
    assert_like_one(tmp_path / "one", two / "squares")
    left = {path.name for path in (two / "squares").iterdir()} - {"report.html"}  # the command's
    assert left == {path.name for path in (tmp_path / "one").iterdir()}


def test_whole_images_in_batches_smaller_than_the_group_are_trained_on(data, two, tmp_path):
    train(data, tmp_path / "one", replace(TINY, shape="full", epochs=1))
    assert_like_one(tmp_path / "one", two / "whole images")


def lose_and_go_on(data: Path, two: Path, out: Path, kills: list[list[int]]) -> None:
    _, notes = run_two(command(data, out), kills=kills, restarts=len(kills))
    assert notes.count("(exitcode: -9)") == len(kills), notes
    assert rows_of(out) == rows_of(two / "squares")
    for name in ("best", "last", "checkpoint"):
        a, b = (load_file(run / f"{name}.safetensors") for run in (two / "squares", out))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


STEPS = 6
"""Of an epoch: 24 images in fours."""


def test_a_group_that_loses_its_leader_goes_on_to_the_same_weights(data, two, tmp_path):
    lose_and_go_on(data, two, tmp_path / "run", [[0, 0, STEPS + 2]])


@pytest.mark.crash
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([[0, 1, 2], [1, 1, STEPS]], id="the follower, before the first checkpoint"),
        pytest.param([[0, 1, STEPS + 2], [1, 0, STEPS + 3]], id="the follower, then the leader"),
        pytest.param([[0, 0, STEPS + 1], [1, 1, 1], [2, 0, 2 * STEPS]], id="three times"),
    ],
)
def test_a_group_that_loses_processes_again_goes_on_to_the_same_weights(data, two, tmp_path, kills):
    lose_and_go_on(data, two, tmp_path / "run", kills)


# --- a group, without starting one ---------------------------------------------------------------


def group(monkeypatch, rank: int, count: int) -> Workers:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))
    return Workers()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [0, 1, 5, 12])
def test_the_shares_of_a_batch_are_the_batch(monkeypatch, count, images):
    shares = [group(monkeypatch, rank, count).own(range(images)) for rank in range(count)]
    assert sorted(index for share in shares for index in share) == list(range(images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_gradients_of_all_are_added_in_the_layout_of_each(monkeypatch):
    workers = group(monkeypatch, 0, 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(2))  # another with the same
    filters = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    bias, idle = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    filters.grad = torch.arange(120.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    bias.grad = torch.arange(3.0)
    totals = workers.add_up([filters, bias, idle], torch.tensor([1.5, 2, 3], dtype=torch.float64))
    np.testing.assert_array_equal(totals, [3, 4, 6])
    np.testing.assert_array_equal(filters.grad, 2 * torch.arange(120.0).view(2, 3, 4, 5))
    assert filters.grad.stride() == filters.stride()
    np.testing.assert_array_equal(bias.grad, [0, 2, 4])
    np.testing.assert_array_equal(idle.grad, [0, 0])


def test_a_batch_smaller_than_the_group_is_refused(monkeypatch):
    with pytest.raises(
        ConfigError, match="batch of 2 leaves some of 3 processes without an image; raise --b"
    ):
        group(monkeypatch, 0, 3).check_images(["a", "b"], batch_size=2)
