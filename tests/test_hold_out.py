"""Which images are held out: a share, by their names and a seed alone."""

import math
from pathlib import Path

import pytest

from sppnet.data.class_files import HOLD_OUT, draw_held_out
from sppnet.errors import ConfigError


def held_of(count: int, fraction: float = HOLD_OUT, seed: int = 0, root: str = "/data", step: int = 1):
    """Names of those of 0.jpg to (count − 1).jpg that are held out."""
    paths = [Path(root) / f"{i}.jpg" for i in range(count)][::step]
    return {paths[i].name for i in draw_held_out(paths, Path(root), fraction, seed)}


def test_it_depends_on_names_and_seed_alone():
    assert held_of(60, 0.3, 1) == held_of(60, 0.3, 1, "/elsewhere", step=-1)
    assert held_of(60, 0.3, 1) != held_of(60, 0.3, 2)
    # Fixed for good: a model trained today is judged on the same images tomorrow.
    assert held_of(8, 0.25) == {"2.jpg", "6.jpg"}
    assert len(held_of(100) - held_of(101)) <= 1


@pytest.mark.parametrize(
    ("count", "fraction", "held"),
    [(50, 0.2, 10), (2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 3), (3, 0.5, 2), (1, 0.5, 0), (0, 0.5, 0)],
)
def test_one_image_at_least_is_held_out_and_one_kept(count, fraction, held):
    assert len(held_of(count, fraction)) == held


@pytest.mark.parametrize("fraction", [0, 1, -1, math.nan])
def test_a_share_lies_between_none_and_all(fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        held_of(4, fraction)
