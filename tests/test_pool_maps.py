"""Windows of maps of several sizes at once, against each map by itself."""

import numpy as np
import pytest
import torch

from sppnet.errors import GeometryError
from sppnet.ops import pool_maps, pyramid_pool, using

SIZES_HW = ((9, 12), (1, 1), (21, 17))
LEVELS = (1, 2, 3, 6)


def make_maps(channels=70, kind=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(channels, *size, generator=generator).to(kind) for size in SIZES_HW]


def make_cells(count=40, seed=0):
    """(count, 5) windows of all three maps, in no order, some of them twice."""
    rng = np.random.default_rng(seed)
    which = rng.integers(len(SIZES_HW), size=count)
    rows = []
    for index in which:
        height, width = SIZES_HW[index]
        x0, y0 = rng.integers(width), rng.integers(height)
        rows.append((index, x0, y0, rng.integers(x0, width) + 1, rng.integers(y0, height) + 1))
    cells = np.array(rows, np.int64).reshape(-1, 5)
    cells[count // 2 : count // 2 + 3] = cells[:3]
    return cells


def by_map(maps, cells, levels=LEVELS):
    return torch.cat(
        [pyramid_pool(maps[which][None], np.array([cell]), levels) for which, *cell in cells.tolist()]
    )


@pytest.mark.parametrize("name", ["cpu", "torch", "definition"])
@pytest.mark.parametrize("channels", [3, 70])
def test_vectors_are_those_of_each_map(name, channels):
    maps, cells = make_maps(channels), make_cells()
    with using(name):
        vectors = pool_maps(maps, cells, LEVELS)
    assert torch.equal(vectors, by_map(maps, cells))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_float_is_pooled(kind):
    maps, cells = make_maps(kind=kind), make_cells()
    vectors = pool_maps(maps, cells, (2, 5))
    assert vectors.dtype == kind
    assert torch.equal(vectors, by_map(maps, cells, (2, 5)))


def test_maps_of_any_layout_will_do():
    maps, cells = make_maps(), make_cells()
    turned = [features.permute(1, 2, 0).contiguous().permute(2, 0, 1) for features in maps]
    assert torch.equal(pool_maps(turned, cells), pool_maps(maps, cells))


def test_a_map_may_have_no_windows_and_all_of_them_none():
    maps, cells = make_maps(), make_cells()
    last = cells[cells[:, 0] == 2]
    assert torch.equal(pool_maps(maps, last), by_map(maps, last))
    assert pool_maps(maps, cells[:0]).shape == (0, 70 * 50)


def test_gradients_reach_every_map():
    maps, cells = [features.double().requires_grad_() for features in make_maps(3)], make_cells()
    grad = torch.randint(-5, 6, (len(cells), 3 * 50)).double()
    slopes = torch.autograd.grad(pool_maps(maps, cells), maps, grad)
    assert all(map(torch.equal, slopes, torch.autograd.grad(by_map(maps, cells), maps, grad)))


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    maps = [features.requires_grad_() for features in make_maps()]
    with torch.no_grad():
        assert not pool_maps(maps, make_cells()).requires_grad


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        pytest.param((3, 0, 0, 1, 1), "name maps", id="no such map"),
        pytest.param((-1, 0, 0, 1, 1), "name maps", id="below 0"),
        pytest.param((1, 0, 0, 2, 1), "is empty or not inside", id="too wide for its map"),
    ],
)
def test_windows_outside_their_map_are_refused(cell, message):
    with pytest.raises(GeometryError, match=message):
        pool_maps(make_maps(), np.array([(0, 0, 0, 12, 9), cell]))


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param([], id="none"),
        pytest.param([(3, 5, 5), (4, 5, 5)], id="other channels"),
        pytest.param([(1, 3, 5, 5)], id="a batch"),
    ],
)
def test_maps_that_do_not_fit_together_are_refused(shapes):
    with pytest.raises(GeometryError, match=r"maps must be \(c, h, w\) of the same c"):
        pool_maps([torch.zeros(shape) for shape in shapes], np.zeros((0, 5), np.int64))


def test_maps_of_two_dtypes_are_refused():
    with pytest.raises(GeometryError, match="same c, dtype"):
        pool_maps([torch.zeros(3, 5, 5), torch.zeros(3, 5, 5).double()], np.zeros((0, 5), np.int64))


def test_cells_without_the_maps_index_are_refused():
    with pytest.raises(GeometryError, match=r"cells must be \(n, 5\)"):
        pool_maps(make_maps(), np.array([[0, 0, 1, 1]]))
