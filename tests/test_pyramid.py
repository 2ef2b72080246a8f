"""The layer: the layout of its vectors, and the paper's own rule where it can be followed."""

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F

from sppnet.errors import GeometryError
from sppnet.nn.pyramid import SpatialPyramidPooling


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (4, 3, 2, 1), (5,)], ids=str)
@pytest.mark.parametrize("size_hw", [(13, 13), (10, 7), (1, 1), (3, 40)], ids=str)
@pytest.mark.parametrize(
    ("pooling", "adaptive"), [("max", F.adaptive_max_pool2d), ("average", F.adaptive_avg_pool2d)]
)
def test_vectors_are_levels_of_adaptive_pooling_side_by_side(levels, size_hw, pooling, adaptive):
    features = draw(2, 5, *size_hw)
    layer = SpatialPyramidPooling(levels, pooling=pooling)
    expected = torch.cat([adaptive(features, n).flatten(1) for n in levels], 1)
    assert layer(features).shape == (2, 5 * layer.bins)
    tolerance = 0 if pooling == "max" else 1e-6  # the last bits of float32
    torch.testing.assert_close(layer(features), expected, rtol=tolerance, atol=tolerance)


def test_windows_are_pooled_as_their_own_maps():
    features, layer = draw(1, 5, 12, 9), SpatialPyramidPooling()
    vectors = layer(features, torch.tensor([[2, 3, 9, 12], [0, 0, 1, 1]]))
    assert torch.equal(vectors[:1], layer(features[:, :, 3:12, 2:9]))
    assert torch.equal(vectors[1:], layer(features[:, :, :1, :1]))


@pytest.mark.parametrize("n", range(1, 9))
def test_the_papers_rule_is_a_sliding_window_or_an_error(n):
    """Against max_pool2d with window ⌈a/n⌉ and stride ⌊a/n⌋, wherever that sees the whole map in n bins."""
    layer = SpatialPyramidPooling((n,), rule="paper")
    for size in range(1, 61):
        features = draw(1, 2, size, size, seed=size)
        if size >= n and size % n <= 1:
            expected = F.max_pool2d(features, (size + n - 1) // n, size // n)
            assert torch.equal(layer(features), expected.flatten(1))
        else:
            with pytest.raises(GeometryError, match=f"a = {size} cells with n = {n} "):
                layer(features)


def test_the_papers_rule_looks_at_both_sides_and_every_level():
    layer = SpatialPyramidPooling((1, 2, 3, 6), rule="paper")
    assert layer(draw(1, 2, 13, 12)).shape == (1, 100)
    for size_hw in ((13, 10), (10, 13)):
        with pytest.raises(GeometryError, match="a = 10 cells with n = 6"):
            layer(draw(1, 2, *size_hw))
    with pytest.raises(GeometryError, match='windows need rule="adaptive"'):
        layer(draw(1, 2, 13, 13), torch.tensor([[0, 0, 6, 6]]))


@pytest.mark.parametrize(
    ("levels", "bins"), [((1, 2, 3, 6), 50), ((4, 3, 2, 1), 30), ([3, 2, 1], 14), ((1, 1, 2), 6)], ids=str
)
def test_bins_are_counted(levels, bins):
    assert SpatialPyramidPooling(levels).bins == bins


def test_a_layer_says_what_it_is_and_holds_no_weights():
    layer = SpatialPyramidPooling([1, 2], rule="paper", pooling="average")
    assert repr(layer) == "SpatialPyramidPooling(levels=(1, 2), rule='paper', pooling='average')"
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_a_copy_pools_alike(clone):
    layer = SpatialPyramidPooling((3, 1), pooling="average")
    assert torch.equal(clone(layer)(draw(1, 2, 7, 5)), layer(draw(1, 2, 7, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"levels": ()}, "levels must be", id="no levels"),
        pytest.param({"levels": (0, 2)}, re.escape("got (0, 2)"), id="a level of nothing"),
        pytest.param({"rule": "floor"}, "got 'floor'", id="an unknown rule"),
        pytest.param({"pooling": "sum"}, "got 'sum'", id="an unknown pooling"),
    ],
)
def test_layers_that_cannot_be_are_refused(options, message):
    with pytest.raises(GeometryError, match=message):
        SpatialPyramidPooling(**options)
