"""Windows of an image's maps: where boxes fall at several scales, pooled once, one vector a box."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sppnet.errors import GeometryError
from sppnet.features.maps import FeatureMaps, RoIs, TapMaps
from sppnet.geometry.grid import CellGrid, boxes_to_cells, choose_scales

GRID = CellGrid(stride=16, center0=7.5, receptive_field=139)
SIZE_HW = (300, 400)
SIZES_HW = ((192, 256), (480, 640), (960, 1200))
"""The last is squeezed a little."""


def make_maps(kind=torch.float16):
    """Maps of three scales, of an image of 300×400 pixels."""
    torch.manual_seed(0)
    maps = tuple(torch.randn(5, height // 16, width // 16).to(kind) for height, width in SIZES_HW)
    return FeatureMaps.of_one_tap(SIZE_HW, SIZES_HW, maps, GRID)


def make_boxes(n=60):
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 200, (n, 2))
    boxes = np.hstack([low, low + rng.uniform(8, 200, (n, 2))])
    boxes[0] = 0, 0, 400, 300
    return np.minimum(boxes, np.array([400, 300, 400, 300])).astype(np.float32)


def by_definition(maps, boxes, at, levels):
    """Vectors (n, c × bins): box by box, scaled, mapped, cut out and pooled by torch."""
    vectors = []
    for box, index in zip(boxes, at, strict=True):
        (height, width), (scaled_height, scaled_width) = maps.size_hw, maps.sizes_hw[index]
        scaled = box.astype(np.float64) * np.array([scaled_width / width, scaled_height / height] * 2)
        features = maps.maps[index]
        ((x0, y0, x1, y1),) = boxes_to_cells(scaled[None], maps.grid, tuple(features.shape[1:])).tolist()
        window = features[:, y0:y1, x0:x1].float()
        vectors.append(torch.cat([F.adaptive_max_pool2d(window, n).flatten() for n in levels]))
    return torch.stack(vectors)


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (1, 3), (4,)], ids=str)
@pytest.mark.parametrize("kind", [torch.float16, torch.float32], ids=str)
def test_vectors_are_the_definitions(levels, kind):
    maps, boxes = make_maps(kind), make_boxes()
    at = choose_scales(boxes, SIZE_HW, (192, 480, 960))
    assert set(at) == {0, 1, 2}
    vectors = maps.pool(boxes, levels)
    assert vectors.dtype == kind
    assert torch.equal(vectors.float(), by_definition(maps, boxes, at, levels))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_scale_can_be_asked_for(index):
    maps, boxes = make_maps(), make_boxes()
    at = np.full(len(boxes), index)
    assert torch.equal(maps.pool(boxes, at=at).float(), by_definition(maps, boxes, at, (1, 2, 3, 6)))


def test_rules_differ_and_are_passed_on():
    maps, boxes = make_maps(), make_boxes()
    at = np.zeros(len(boxes), np.int64)
    paper, released = (maps.windows(boxes, rule, at) for rule in ("paper", "released"))
    sides = [
        windows.cells[windows.roi_of_box, 3] - windows.cells[windows.roi_of_box, 1]
        for windows in (paper, released)
    ]
    assert sides[1].mean() > sides[0].mean()
    with pytest.raises(GeometryError, match="rule must be"):
        maps.windows(boxes, "other")


def test_boxes_on_the_same_cells_are_one_window():
    maps = make_maps()
    boxes = np.array([[10, 10, 200, 150], [0, 0, 90, 90], [10.5, 10, 200, 150], [0, 0, 90, 90]], np.float32)
    windows = maps.windows(boxes)
    assert len(windows) == 2
    assert windows.roi_of_box[0] == windows.roi_of_box[2]
    assert windows.roi_of_box[1] == windows.roi_of_box[3]
    vectors = maps.pool(boxes)
    assert len(vectors) == 4
    assert torch.equal(vectors, maps.pool_windows(windows)[windows.roi_of_box])
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_windows_are_distinct_inside_their_maps_and_sorted_by_map():
    maps = make_maps()
    windows = maps.windows(make_boxes(500))
    assert len(np.unique(windows.cells, axis=0)) == len(windows)
    assert (np.diff(windows.cells[:, 0]) >= 0).all()
    for index, x0, y0, x1, y1 in windows.cells.tolist():
        height, width = maps.maps[index].shape[1:]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def test_order_of_boxes_is_kept():
    maps, boxes = make_maps(), make_boxes()
    turned = np.random.default_rng(5).permutation(len(boxes))
    assert torch.equal(maps.pool(boxes[turned]), maps.pool(boxes)[turned])


def test_no_boxes_have_no_vectors():
    maps = make_maps()
    assert len(maps.windows(np.empty((0, 4), np.float32))) == 0
    assert maps.pool(np.empty((0, 4), np.float32)).shape == (0, 5 * 50)
    assert maps.pool_windows(RoIs(np.empty((0, 5), np.int64), np.empty(0, np.int64)), (1,)).shape == (0, 5)


def test_boxes_beyond_the_image_have_cells_all_the_same():
    maps = make_maps()
    windows = maps.windows(np.array([[-50, -50, 500, 400], [390, 290, 420, 320], [0, 0, 0.5, 0.5]]))
    assert len(windows.roi_of_box) == 3
    assert torch.isfinite(maps.pool_windows(windows)).all()


def test_one_cell_gives_every_bin_its_value():
    features = torch.tensor([[[3.0]], [[-2.0]]])
    maps = FeatureMaps.of_one_tap((1, 1), ((16, 16),), (features,), GRID)
    assert maps.pool(np.array([[0, 0, 1, 1]]), (2,)).tolist() == [[3.0] * 4 + [-2.0] * 4]
    assert (maps.channels, maps.scales_px) == (2, (16,))


@pytest.mark.parametrize("count", [0, 1], ids=["no maps", "a map missing"])
def test_every_scale_needs_its_map(count):
    sizes = ((16, 16), (32, 32))[: count + 1 if count else 0]
    with pytest.raises(GeometryError, match=f"{len(sizes)} scales need as many maps; got {count}"):
        FeatureMaps.of_one_tap((9, 9), sizes, (torch.zeros(1, 1, 1),) * count, GRID)


@pytest.mark.parametrize("levels", [(), (0,), (1.5,)], ids=str)
def test_levels_are_checked(levels):
    with pytest.raises(GeometryError, match="levels must be"):
        make_maps().pool(make_boxes(), levels)


def make_two_taps():
    """Maps of two strides at two scales, of an image of 300×400 pixels."""
    torch.manual_seed(3)
    sizes = ((192, 256), (480, 640))
    coarse = CellGrid(stride=32, center0=31.0, receptive_field=300)
    taps = (
        TapMaps(tuple(torch.randn(3, h // 16, w // 16) for h, w in sizes), GRID),
        TapMaps(tuple(torch.randn(2, h // 32, w // 32) for h, w in sizes), coarse),
    )
    return FeatureMaps(SIZE_HW, sizes, taps)


def test_a_vector_holds_what_is_pooled_from_every_tap():
    maps, boxes = make_two_taps(), make_boxes()
    at = maps.choose_scales(boxes, "log")
    assert set(at) == {0, 1}
    alone = [FeatureMaps(SIZE_HW, maps.sizes_hw, (tap,)) for tap in maps.taps]
    expected = torch.cat([by_definition(one, boxes, at, (1, 2, 3)) for one in alone], 1)
    assert torch.equal(maps.pool(boxes, (1, 2, 3), at=at), expected)
    assert maps.channels * 14 == expected.shape[1]
    windows = maps.windows(boxes, at=at)
    assert torch.equal(maps.pool_windows(windows, (1, 2, 3))[windows.roi_of_box], expected)
    assert maps.pool(boxes[:0], (1, 2)).shape == (0, 5 * 5)


def test_maps_without_a_tap_are_refused():
    with pytest.raises(GeometryError, match="one tap or more"):
        FeatureMaps(SIZE_HW, SIZES_HW, ())
