"""The benchmark of pooling: what it compares and the form of its rows, never how long anything takes."""

import json
import time

import numpy as np
import pytest
import torch

from recording_progress import RecordingProgress
from sppnet.benchmark import pool
from sppnet.benchmark.results import Row, compare, time_interleaved, to_json

ROW = Row(
    case="few",
    peer="a loop",
    ours_s=0.5,
    ours_q1_s=0.25,
    ours_q3_s=1.0,
    peer_s=2.0,
    peer_q1_s=1.5,
    peer_q3_s=2.5,
    floor_s=0.125,
)


def test_rows_become_plain_seconds():
    data = to_json("pool", [ROW])
    assert json.loads(json.dumps(data)) == data
    assert data["benchmark"] == "pool"
    (row,) = data["rows"]
    assert row["ratio"] == 4
    assert row.keys() >= {"case", "ours_s", "peer", "peer_s", "ratio", "floor_s", "ours_q1_s", "peer_q3_s"}


def test_calls_take_turns_in_both_orders():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    timings = time_interleaved(calls, rounds=2, turn_s=0)
    assert "".join(called) == "cba" + "abc" + "cba"
    assert all(0 <= t.q1_s <= t.median_s <= t.q3_s for t in timings.values())


def test_a_quick_call_is_repeated_in_its_turn_and_a_slow_one_is_not():
    called, told = [], RecordingProgress()
    quick, slow = (lambda: called.append("quick")), (lambda: (called.append("slow"), time.sleep(0.02)))
    time_interleaved({"quick": quick, "slow": slow}, rounds=2, turn_s=0.01, progress=told)
    assert called.count("slow") == 3
    assert called.count("quick") > 30
    assert called.index("quick") == 1, "the first round goes backwards"
    assert ([steps for _, steps in told.stages], told.done) == ([6], 6), "a turn is told once"


def test_one_round_is_its_own_quartiles():
    timing = time_interleaved({"only": lambda: None}, rounds=1)["only"]
    assert timing.q1_s == timing.median_s == timing.q3_s


def test_a_row_carries_both_sides_and_the_floor():
    row = compare("nothing", lambda: 1, "sums", lambda: sum(range(20_000)), lambda: None, rounds=3)
    assert (row.case, row.peer) == ("nothing", "sums")
    assert row.ratio == row.peer_s / row.ours_s > 1
    assert row.ratio_spread[0] <= row.ratio <= row.ratio_spread[1]


def test_every_case_is_measured_and_told():
    told = RecordingProgress()
    rows = pool.run(windows=20, channels=8, rounds=1, progress=told)
    assert [row.case for row in rows] == [note for _, note in told.advances] == [
        "20 windows, 8 channels",
        "20 windows, 8 channels, beside a loop",
        "20 windows, 8 channels, bfloat16",
        "20 windows, 16 channels",
        "20 windows, 8 channels, forward and backward",
        "20 windows, 8 channels, five scales",
    ]  # fmt: skip
    assert (told.stages, told.done) == ([("timing", len(rows))], len(rows))
    assert [row.peer for row in rows].count(pool.ROI_POOL) == 3
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)


def test_given_boxes_take_the_place_of_drawn_ones():
    boxes = np.array([[0, 0, 500, 375], [10, 20, 60, 80], [499, 374, 500, 375]])
    rows = pool.run(boxes=boxes, channels=4, rounds=1)
    assert rows[0].case == "3 windows, 4 channels"


def test_a_peer_with_other_numbers_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(pool, "roi_pool", lambda *_: torch.zeros(20, 8, 1, 1))
    monkeypatch.setattr(pool, "LEVELS", (1,))
    with pytest.raises(RuntimeError, match=r"numbers of 4 calls of torchvision\.ops\.roi_pool"):
        pool.run(windows=20, channels=8, rounds=1)


def test_boxes_are_drawn_like_those_of_selective_search():
    """Quantiles of 22,582 boxes of OpenCV's selective search, on 12 photographs of PASCAL VOC 2007."""
    boxes = pool.draw_boxes(20_000)
    assert (boxes == pool.draw_boxes(20_000)).all()
    assert not (boxes == pool.draw_boxes(20_000, seed=1)).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert sides.min() >= 1
    assert (boxes[:, 2:] <= [500, 375]).all()
    shares = np.quantile(sides / [500, 375], [0.1, 0.25, 0.5, 0.75, 0.9], axis=0).T
    assert shares[0] == pytest.approx([0.038, 0.064, 0.130, 0.256, 0.460], rel=0.15)
    assert shares[1] == pytest.approx([0.035, 0.059, 0.112, 0.213, 0.368], rel=0.15)


def test_an_eighth_of_the_boxes_fall_on_the_cells_of_another():
    cells = pool.map_boxes(pool.draw_boxes(2000))
    assert 1 - len(np.unique(cells, axis=0)) / len(cells) == pytest.approx(1 / 8, abs=0.015)
    assert len(pool.draw_boxes(1)) == 1


def test_boxes_map_to_the_cells_of_the_photograph():
    cells = pool.map_boxes(np.array([[0, 0, 500, 375], [0, 0, 3, 3]]))
    assert cells.tolist() == [[0, 0, 56, 42], [0, 0, 1, 1]]
