"""`sppnet benchmark`: tables, with what stands below them."""

import importlib
import json
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import pytest

from sppnet.benchmark.label import Stage
from sppnet.benchmark.label_classes import ClassStage
from sppnet.benchmark.results import Row
from sppnet.cli import benchmark
from sppnet.errors import MissingExtraError, SppnetError

ROW = Row(
    case="few", peer="a loop", ours_s=0.5, ours_q1_s=0.25, ours_q3_s=1.0, peer_s=2.0, peer_q1_s=1.5,
    peer_q3_s=2.5, floor_s=0.125, note="and a note",
)  # fmt: skip


@pytest.fixture
def inside(inside):
    return partial(inside, "benchmark")


@pytest.fixture
def made_up(monkeypatch):
    """Benchmarks that take no time: gpu has no rows, proposals lacks its extra, the others have one row."""
    modules = {
        f"sppnet.benchmark.{name}": SimpleNamespace(run=lambda progress: [ROW]) for name in benchmark.EVERY
    }

    def lacking(progress):
        raise MissingExtraError("opencv-contrib-python-headless", "opencv")

    modules["sppnet.benchmark.proposals"].run = lacking
    modules["sppnet.benchmark.gpu"].run = lambda progress: []
    whole = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name, package=None: modules.get(name) or whole(name, package)
    )


TIMED = [name for name in benchmark.EVERY if name not in ("proposals", "gpu")]


@pytest.mark.usefixtures("made_up")
def test_all_is_a_table_each(inside):
    code, printed, said = inside("all")
    assert code == 0
    assert [line.split(":")[0] for line in printed.splitlines() if "medians" in line] == TIMED
    assert printed.count("few ") == printed.count("and a note") == len(TIMED)
    assert "few    500.00  2,000.0   4.0×   1.5–10.0    125.00  a loop" in printed
    assert "proposals is left out" in said
    assert "no GPU" in said


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_one_that_fails_leaves_the_others(inside, monkeypatch, options):
    def failing(progress):
        raise SppnetError("nothing to compare")

    monkeypatch.setattr(importlib.import_module("sppnet.benchmark.svm"), "run", failing)
    code, printed, said = inside("all", *options)
    assert code == 1
    assert printed.count("and a note") == len(TIMED) - 1
    assert "svm failed: nothing to compare" in said


@pytest.mark.usefixtures("made_up")
def test_all_is_one_list_in_json(inside):
    _, printed, _ = inside("all", "--json")
    told = json.loads(printed)
    assert [each["benchmark"] for each in told] == [name for name in benchmark.EVERY if name != "proposals"]
    assert told[0]["rows"][0]["ratio"] == 4
    assert told[-1]["rows"] == []


def test_without_a_gpu_it_says_so(inside, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, printed, said = inside("gpu")
    assert (code, printed) == (0, "")
    assert "no GPU" in said


@pytest.mark.parametrize("ranks", ["1024", "a,b", "1,2,3", "1.5,2"])
def test_ranks_are_two_whole_numbers(inside, ranks):
    code, _, said = inside("rcnn", "--ranks", ranks)
    assert code != 0
    assert "--ranks must be two whole numbers" in said


def test_peers_are_those_of_torchvision(inside):
    code, _, said = inside("detect", "--peers", "ssdlite320_mobilenet_v3_large,yolo")
    assert code != 0
    assert "got ['yolo']" in said


@pytest.mark.parametrize(
    ("name", "stage", "shown"),
    [
        (
            "label",
            Stage(0, 3, 9, 0.5, 0.25, 0.25, 0.1, 0.5, 0.75),
            ["1–3", "9", "50%", "25%", "25%", "0.10", "0.50", "0.75"],
        ),
        ("label-classes", ClassStage(0, 3, 1.0, 0.5, 0.5, 0.75), ["1–3", "100%", "50%", "0.50", "0.75"]),
    ],
)
def test_labelling_replayed_is_a_row_a_stage(inside, monkeypatch, name, stage, shown):
    module = f"sppnet.benchmark.{name.replace('-', '_')}.run"
    monkeypatch.setattr(module, lambda data, progress: [stage])
    code, printed, _ = inside(name, "photos")
    assert code == 0
    assert printed.splitlines()[-1].split() == shown
    code, printed, _ = inside(name, "photos", "--json")
    assert json.loads(printed) == {"benchmark": name, "rows": [asdict(stage)]}
