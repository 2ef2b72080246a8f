"""The benchmark beside R-CNN: what it compares, at sizes at which nothing takes long."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sppnet.benchmark import rcnn
from sppnet.benchmark.results import Timing
from sppnet.benchmark.roofline import PRODUCT, large_product, multiply_adds
from sppnet.errors import ConfigError, ModelError
from sppnet.nn.trunks import load_trunk

FEW = {"width": 0.0625, "windows": 6, "crops": 2, "hidden": 8, "ranks": (4, 2), "classes": 3, "rounds": 1}


def test_every_way_is_measured_against_the_same_crops():
    rows = rcnn.run(scales=(64, 96), **FEW)
    assert [row.case.removeprefix("zf5, ") for row in rows] == [
        "1 scale, to vectors",
        "2 scales, to vectors",
        "1 scale, fc layers on every window",
        "1 scale, fc layers on distinct windows",
        "… of rank 4 and 2",
        "… at 2 scales",
        "1 scale, SVMs on distinct windows' vectors",
    ]
    assert {row.peer for row in rows} == {"R-CNN, from 2 of 6 crops"}
    assert all(min(row.ours_s, row.peer_s, row.floor_s) > 0 for row in rows)
    assert rows[2].peer_s > rows[0].peer_s == rows[1].peer_s


def test_a_photograph_brings_its_own_boxes():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[10:40, 20:60] = 220
    rows = rcnn.run(image=image, scales=(64,), **{**FEW, "windows": 2, "crops": 9})
    assert rows[0].peer in ("R-CNN, from 1 of 1 crops", "R-CNN, from 2 of 2 crops")


def test_the_time_of_the_crops_is_multiplied_and_that_of_the_layers_is_not():
    timings = {
        "fast": Timing(1, 1, 1),
        rcnn.CROPS: Timing(1, 2, 3),
        rcnn.CROPS_FC: Timing(10, 20, 30),
        rcnn.GEMM: Timing(5, 5, 5),
    }
    product = large_product()
    network = SimpleNamespace(name="zf5", one=None, several=None)
    for scored, expected in ((False, (4, 8, 12)), (True, (14, 28, 42))):
        row = rcnn._row(
            "fast",
            rcnn.Way(product, scored),
            "peer",
            timings,
            4.0,
            network,
        )
        assert (row.peer_q1_s, row.peer_s, row.peer_q3_s) == expected
        assert row.floor_s == 5


@pytest.mark.parametrize("name", ["windows", "crops", "hidden", "classes", "rounds"])
def test_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.*must be 1 or more"):
        rcnn.run(**{**FEW, name: 0})


def test_the_trunk_is_that_of_the_stride_asked_for():
    with pytest.raises(ModelError, match="zf5 has no stage of stride 64"):
        rcnn.run(stride=64, **FEW)


def test_multiply_adds_are_counted():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 4 * 4, 7))
    with torch.inference_mode():
        assert multiply_adds(lambda: layers(torch.zeros(2, 3, 4, 4))) == 2 * (16 * 5 * 27 + 80 * 7)
    assert multiply_adds(large_product()) == PRODUCT


def test_layers_of_lower_rank_take_and_give_as_many_numbers():
    network = rcnn._Networks(load_trunk("zf5", width=0.0625), (64,), 16, (4, 2), 3)
    vectors = torch.rand(5, network.head.fc6.in_features)
    assert network.cheap(vectors).shape == network.head(vectors).shape == (5, 4)
    count = (
        sum(p.numel() for p in network.cheap.parameters()),
        sum(p.numel() for p in network.head.parameters()),
    )
    assert count[0] < count[1]
