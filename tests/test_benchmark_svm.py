"""The benchmark of SVMs: what it compares, never how long it takes."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest

from sppnet.benchmark import svm
from sppnet.benchmark.results import to_json
from sppnet.benchmark.subprocess_runner import run_in_subprocess
from sppnet.errors import ConfigError, SppnetError


def fit_here(side, sizes, folder):
    """As `svm._fit_apart`, without a process of its own."""
    with redirect_stdout(io.StringIO()) as printed:
        svm.main(side, str(folder), *map(str, sizes))
    return json.loads(printed.getvalue())


def test_both_sides_reach_one_objective_in_processes_of_their_own(monkeypatch):
    """Fits from nothing in such processes, refits here: a process takes seconds to start."""
    apart = svm._fit_apart
    monkeypatch.setattr(svm, "_fit_apart", lambda side, sizes, folder: (
        (fit_here if len(sizes) > 1 else apart)(side, sizes, folder)
    ))  # fmt: skip
    rows = svm.run(vectors=120, length=60, classes=3)
    assert [row.case for row in rows] == [
        "120 × 60, 3 classes, from nothing",
        "120 × 60, 3 classes, refitted as 12 vectors arrive 3 times",
    ]
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)
    assert all(min(row.ours_bytes, row.peer_bytes) >= 120 * 60 * 4 for row in rows)
    assert json.loads(json.dumps(to_json("svm", rows)))["rows"][0]["peer"] == svm.PEER


def test_vectors_are_like_those_of_a_detector():
    rows, labels = svm.draw(1200, 80, 3)
    assert rows.dtype == np.float32
    assert (rows == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(20)
    assert set(labels) == {0, 1, 2}
    means = np.stack([rows[labels == k].mean(axis=0) for k in range(3)])
    nearest = ((rows[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.5  # something can be learned


@pytest.mark.parametrize(("ours", "refused"), [(2.01, True), (1.99, False)])
def test_worse_objectives_of_ours_stop_the_benchmark(monkeypatch, ours, refused):
    """Better ones took us longer, and nobody else."""
    told = {"seconds": 1.0, "floor_s": 1.0, "bytes": 1}
    monkeypatch.setattr(
        svm, "_fit_apart", lambda side, *_: {**told, "objectives": [1.0, ours if side == "ours" else 2.0]}
    )
    if refused:
        with pytest.raises(SppnetError, match=r"fit_svm is 0\.50% above that of sklearn"):
            svm.run(vectors=80, length=4, classes=3)
    else:
        assert len(svm.run(vectors=80, length=4, classes=3)) == 2


def test_a_measurement_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)json\.tool .*gone\.json failed: .*No such file"):
        run_in_subprocess("json.tool", str(tmp_path / "gone.json"))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"vectors": 59, "classes": 3}, id="too few vectors"),
        pytest.param({"vectors": 100, "classes": 2}, id="two classes"),
        pytest.param({"length": 0}, id="vectors of nothing"),
        pytest.param({"rounds": 0}, id="no rounds"),
    ],
)
def test_sizes_that_teach_nothing_are_refused(sizes):
    with pytest.raises(ConfigError, match="needs 3 classes or more"):
        svm.run(**sizes)
