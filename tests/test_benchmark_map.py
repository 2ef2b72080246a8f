"""The benchmark of whole maps: what it compares, never how long it takes."""

import pytest
import torch

from sppnet.benchmark import map as bench


def test_every_size_is_measured_both_ways():
    rows = bench.run(batch=2, channels=3, rounds=1, compiled=False, sizes_hw=[(7, 9), (6, 6)])
    assert [row.case for row in rows] == [
        "2 maps of 7×9, 3 channels",
        "2 maps of 7×9, 3 channels, forward and backward",
        "2 maps of 6×6, 3 channels",
        "2 maps of 6×6, 3 channels, forward and backward",
    ]
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)


def test_compiled_sides_are_measured_beside_eager_ones(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda side, **_: compiled.append(side) or side)
    rows = bench.run(batch=1, channels=2, rounds=1, sizes_hw=[(6, 7)])
    assert [row.case.endswith("compiled") for row in rows] == [False, False, True, False]
    assert rows[3].case == "1 maps of 6×7, 2 channels, compiled, forward and backward"
    assert len(compiled) == 2


def test_a_peer_with_other_numbers_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(bench, "_pool_levels", lambda features: torch.zeros(len(features), 100))
    with pytest.raises(RuntimeError, match=r"of the numbers of F\.adaptive_max_pool2d of every level"):
        bench.run(batch=1, channels=2, rounds=1, compiled=False, sizes_hw=[(6, 6)])
