"""Fine-tuning on windows of photographs: at which scale a window is met."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sppnet.detect.config import DetectorConfig
from sppnet.detect.finetune import FinetuneSamples
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid
from sppnet.heads.roi_sampler import SampledRoIs

GRID = CellGrid(stride=16, center0=7.5, receptive_field=99)
SCALES = (64, 96, 128)
COUNT = 600


def scales_met(seed: int) -> np.ndarray:
    """The index of the scale at which each of COUNT windows is pooled: every map holds its own index."""
    maps = tuple(torch.full((1, side // 16, side // 16), float(i)) for i, side in enumerate(SCALES))
    features = FeatureMaps.of_one_tap((64, 64), tuple((side, side) for side in SCALES), maps, GRID)
    boxes = np.tile(np.array([[0, 0, 64, 64]], np.float32), (COUNT, 1))
    windows = SimpleNamespace(boxes=lambda image: boxes, config=DetectorConfig(levels=(1,), scales=SCALES))
    part = SampledRoIs(0, np.arange(COUNT), np.zeros(COUNT, np.int64))
    return FinetuneSamples.pool(windows, part, features, np.random.default_rng(seed))[:, 0].numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_window_is_met_at_any_scale_alike(seed):
    counts = np.bincount(scales_met(seed).astype(int), minlength=3)
    assert counts.sum() == COUNT
    assert (abs(counts - COUNT / 3) < 5 * np.sqrt(COUNT * 2 / 9)).all()  # five deviations


def test_scales_follow_the_generator():
    assert np.array_equal(scales_met(0), scales_met(0))
    assert not np.array_equal(scales_met(0), scales_met(1))
