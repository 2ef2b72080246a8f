"""All rounding of the package: bins, cells, scales and views, against other sources and by enumeration."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from sppnet.errors import GeometryError
from sppnet.geometry.grid import (
    CellGrid,
    aligned_cells,
    bin_edges,
    boxes_to_cells,
    check_levels,
    choose_scales,
    count_bins,
    scaled_size,
    sliding_bins,
    view_boxes,
)

# The ZF-5 of the released code: offset0 21 is the 1-based pixel at the centre of cell 0.
ZF5 = CellGrid(stride=16, center0=20, receptive_field=139)
# The same network padded by half of every kernel, as the paper deploys it (Appendix A).
PAPER = CellGrid(stride=16, center0=0, receptive_field=139)

CODE_SCALES = (480, 576, 688, 874, 1200)  # Script_spp_voc.m of the released code
PAPER_SCALES = (480, 576, 688, 864, 1200)  # paper, section 4.1
VIEW_SCALES = (224, 256, 300, 360, 448, 560)  # paper, section 3.1.5


# --- bins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "n", "expected"),
    [
        pytest.param(
            13, 6, [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)], id="13 cells in 6: as in Figure 4"
        ),
        pytest.param(
            13, 3, [(0, 5), (4, 9), (8, 13)], id="13 cells in 3: as in Figure 4, window 5, stride 4"
        ),
        pytest.param(10, 6, [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)], id="10 cells in 6"),
        pytest.param(10, 4, [(0, 3), (2, 5), (5, 8), (7, 10)], id="10 cells in 4: index 9 is seen"),
        pytest.param(14, 6, [(0, 3), (2, 5), (4, 7), (7, 10), (9, 12), (11, 14)], id="14 cells in 6"),
        pytest.param(
            4, 6, [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)], id="fewer cells than bins repeat some"
        ),
        pytest.param(1, 6, [(0, 1)] * 6, id="one cell stands in every bin"),
    ],
)
def test_bins_follow_appendix_a(size, n, expected):
    # The formula of Appendix A in exact fractions, 1-based and inclusive there.
    literal = [
        (math.floor(Fraction(i - 1, n) * size), math.ceil(Fraction(i, n) * size)) for i in range(1, n + 1)
    ]
    assert bin_edges(size, n) == literal == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 21])
def test_bins_are_those_of_adaptive_pooling(n):
    """Two ramps tell both ends of a bin: the maximum of one is its last cell, of the other its first."""
    for size in [*range(1, 70), 127, 128, 300]:
        ramp = torch.arange(size, dtype=torch.float64)
        last = F.adaptive_max_pool1d(ramp[None], n)[0]
        first = -F.adaptive_max_pool1d(-ramp[None], n)[0]
        assert bin_edges(size, n) == [(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]


@given(size=st.integers(1, 10_000), n=st.integers(1, 64))
def test_bins_cover_every_cell_and_are_never_empty(size, n):
    bins = bin_edges(size, n)
    assert len(bins) == n
    assert bins[0][0] == 0
    assert bins[-1][1] == size
    assert all(start < end for start, end in bins)
    overlaps = [before[1] - after[0] for before, after in itertools.pairwise(bins)]
    assert min(overlaps, default=0) >= 0
    assert size < n or max(overlaps, default=0) <= 1


def test_float32_puts_bins_elsewhere():
    """Why bins are integers: i·(s/n), the form of Caffe and torchvision, first differs at these sizes."""

    def rounded(size, n):
        step = np.float32(size) / np.float32(n)
        return [
            (int(np.floor(np.float32(i) * step)), int(np.ceil(np.float32(i + 1) * step))) for i in range(n)
        ]

    wrong = [
        (size, n) for size in range(1, 40) for n in range(1, 33) if rounded(size, n) != bin_edges(size, n)
    ]
    assert min(wrong) == (3, 21)
    assert not {n for _, n in wrong} & {1, 2, 3, 4, 6}


# (a, n): how many bins the paper's window ⌈a/n⌉ and stride ⌊a/n⌋ give, and whether they are n that
# cover the side. From max_pool2d's output sizes; the 10×10 map is the paper's own 180-pixel network.
SLIDING = [
    (13, {6: (6, True), 4: (4, True), 3: (3, True), 2: (2, True), 1: (1, True)}),
    (10, {6: (9, False), 4: (4, False), 3: (3, True), 2: (2, True), 1: (1, True)}),
    (11, {6: (10, False), 4: (5, False), 3: (3, False), 2: (2, True), 1: (1, True)}),
    (12, {6: (6, True), 4: (4, True), 3: (3, True), 2: (2, True), 1: (1, True)}),
    (14, {6: (6, False), 4: (4, False), 3: (3, False), 2: (2, True), 1: (1, True)}),
    (18, {6: (6, True), 4: (4, False), 3: (3, True), 2: (2, True), 1: (1, True)}),
]


@pytest.mark.parametrize(
    ("size", "n", "count", "exact"),
    [
        pytest.param(
            size, n, *row, id=f"{size} cells in {n}: {row[0]} bins, {'exact' if row[1] else 'refused'}"
        )
        for size, levels in SLIDING
        for n, row in levels.items()
    ],
)
def test_the_training_rule_gives_its_bins_or_says_how_many(size, n, count, exact):
    window, stride = math.ceil(size / n), size // n
    assert F.max_pool1d(torch.zeros(1, size), window, stride).shape[1] == count
    if exact:
        assert sliding_bins(size, n) == bin_edges(size, n)
    else:
        with pytest.raises(GeometryError, match=f"a = {size} cells with n = {n} .* gives {count} bins"):
            sliding_bins(size, n)


def test_the_training_rule_holds_where_the_remainder_is_0_or_1():
    for size, n in itertools.product(range(1, 80), range(1, 9)):
        if size >= n and size % n <= 1:
            assert sliding_bins(size, n) == bin_edges(size, n)
        else:
            with pytest.raises(GeometryError, match="mod n of 0 or 1"):
                sliding_bins(size, n)


def test_a_refusal_says_what_the_training_rule_would_do():
    with pytest.raises(GeometryError, match=r"\(window 3, stride 2\) gives 4 bins that see 9 of 10 cells"):
        sliding_bins(10, 4)
    with pytest.raises(GeometryError, match=r"stride 0\) gives 0 bins that see 0 of 3 cells"):
        sliding_bins(3, 4)


@pytest.mark.parametrize(
    ("levels", "bins"), [((1, 2, 3, 6), 50), ((4, 3, 2, 1), 30), ([3, 2, 1], 14), ((4, 2, 1), 21)]
)
def test_the_papers_pyramids_count_their_bins(levels, bins):
    assert count_bins(levels) == bins


@pytest.mark.parametrize("levels", [(), (0,), (1, -2), (1, 2.0), (True, 2), ("3",)], ids=str)
def test_levels_that_cannot_be_are_refused(levels):
    with pytest.raises(GeometryError, match=re.escape(f"got {levels!r}")):
        check_levels(levels)


def test_a_side_without_cells_is_refused():
    with pytest.raises(GeometryError, match="at least 1 cell, got 0"):
        bin_edges(0, 3)


# --- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "released", "expected"),
    [
        pytest.param((1, 224), (0, 13), (1, 13), id="a view at the border is clipped"),
        pytest.param((100, 323), (6, 19), (6, 19), id="a view inside has 14 cells"),
        pytest.param((100, 107), (6, 6), (6, 6), id="eight pixels have one"),
        pytest.param((300, 303), (19, 18), (18, 18), id="an upside-down pair falls on its middle"),
        pytest.param((880, 917), (55, 57), (55, 56), id="beyond the last cell"),
    ],
)
def test_the_released_mapping_of_zf5(side, released, expected):
    """Pixels and cells as in spm_pool_caffe_mex.cpp: 1-based, inclusive, on a map 56 cells wide."""
    assert released_cells(side[0] - 1, side[1], ZF5, 10**6) == tuple(
        max(cell, 1) - 1 for cell in (released if released[0] <= released[1] else expected)
    )
    left, right = side[0] - 1, side[1]
    cells = boxes_to_cells(np.array([[left, left, right, right]]), ZF5, (56, 56), "released")
    assert cells.tolist() == [[expected[0] - 1, expected[0] - 1, expected[1], expected[1]]]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        pytest.param((0, 224), (1, 13), id="a view at the border: 13 cells"),
        pytest.param((100, 324), (7, 20), id="a view inside: 14 cells"),
        pytest.param((96, 112), (6, 6), id="between two centres: 7 to 6, so the middle one"),
    ],
)
def test_the_papers_mapping(side, expected):
    """First and last cell by ⌊x/S⌋ + 1 and ⌈x/S⌉ − 1 (paper, Appendix A), 0-based."""
    left, right = side
    cells = boxes_to_cells(np.array([[left, left, right, right]]), PAPER, (56, 56))
    assert cells.tolist() == [[expected[0], expected[0], expected[1] + 1, expected[1] + 1]]


def released_cells(left, right, grid, size):
    """First and last cell of a half-open side by spm_pool_caffe_mex.cpp in float64, 0-based."""
    x0, x1, offset0, offset = left + 1, right, grid.center0 + 1, 6.5
    first = math.floor((x0 - offset0 + offset) / grid.stride + 0.5) + 1
    last = math.ceil((x1 - offset0 - offset) / grid.stride - 0.5) + 1
    if first > last:
        first = last = int((first + last) / 2)  # C++ cuts towards zero
    return tuple(min(max(cell, 1), size) - 1 for cell in (first, last))


def inside_cells(left, right, grid, size):
    """First and last cell of a side whose centres lie strictly inside it, by looking at each."""
    cells = range(-100, 300)
    inside = [cell for cell in cells if left < grid.center0 + cell * grid.stride < right]
    if not inside:
        at_or_before = max(cell for cell in cells if grid.center0 + cell * grid.stride <= left)
        at_or_after = min(cell for cell in cells if grid.center0 + cell * grid.stride >= right)
        inside = [(at_or_before + 1 + at_or_after - 1) // 2]
    return tuple(min(max(cell, 0), size - 1) for cell in (inside[0], inside[-1]))


grids = st.builds(
    lambda stride, half, field: CellGrid(stride=stride, center0=half / 2, receptive_field=field),
    st.integers(4, 32),
    st.integers(-20, 60),
    st.integers(1, 200),
)
corners = st.integers(-64 * 100, 64 * 900).map(lambda number: number / 64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param("paper", inside_cells, id="paper: the cells whose centres lie strictly inside"),
        pytest.param("released", released_cells, id="released: the formula of the code in float64"),
    ],
)
@given(
    grid=grids,
    xs=st.tuples(corners, corners),
    ys=st.tuples(corners, corners),
    map_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_boxes_become_cells(rule, expected, grid, xs, ys, map_hw):
    (left, right), (top, bottom) = sorted(xs), sorted(ys)
    ((x0, y0, x1, y1),) = boxes_to_cells(np.array([[left, top, right, bottom]]), grid, map_hw, rule).tolist()
    assert (x0, x1 - 1) == expected(left, right, grid, map_hw[1])
    assert (y0, y1 - 1) == expected(top, bottom, grid, map_hw[0])


@given(grid=grids, side=st.tuples(corners, corners), fine=st.floats(-1 / 129, 1 / 129))
def test_corners_are_held_in_sixty_fourths(grid, side, fine):
    left, right = sorted(side)
    assume(left < right)
    box, moved = np.array([[left, left, right, right]]), np.array([[left, left, right, right]]) + fine
    assert (boxes_to_cells(box, grid, (50, 50)) == boxes_to_cells(moved, grid, (50, 50))).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, np.float32])
def test_boxes_of_any_number_type_give_the_same_cells(dtype):
    boxes = np.array([[0, 0, 200, 100], [13, 50, 77, 60]])
    assert (boxes_to_cells(boxes.astype(dtype), ZF5, (20, 20)) == boxes_to_cells(boxes, ZF5, (20, 20))).all()


def test_no_boxes_give_no_cells():
    cells = boxes_to_cells(np.zeros((0, 4)), ZF5, (42, 56))
    assert cells.shape == (0, 4)
    assert cells.dtype == np.int64


def test_a_box_that_catches_no_centre_gets_one_cell_of_the_map():
    boxes = np.array([[100, 100, 101, 101], [-500, -500, -400, -400], [5000, 5000, 5001, 5001]])
    cells = boxes_to_cells(boxes, PAPER, (10, 20))
    assert cells.tolist() == [[6, 6, 7, 7], [0, 0, 1, 1], [19, 9, 20, 10]]


@pytest.mark.parametrize(
    ("boxes", "map_hw", "rule", "message"),
    [
        pytest.param([[0, 0, 8]], (5, 5), "paper", r"shape \(n, 4\), xyxy; got \(1, 3\)", id="three numbers"),
        pytest.param([0, 0, 8, 8], (5, 5), "paper", r"got \(4,\)", id="one box without its brackets"),
        pytest.param([[0, 0, 8, math.nan]], (5, 5), "paper", "finite", id="NaN"),
        pytest.param([[0, 0, math.inf, 8]], (5, 5), "paper", "finite", id="infinity"),
        pytest.param([[0, 0, 8, 8]], (0, 5), "paper", "1×1 cells, got 0×5", id="an empty map"),
        pytest.param([[0, 0, 8, 8]], (5, 5), "official", "got 'official'", id="an unknown rule"),
    ],
)
def test_boxes_that_cannot_be_mapped_are_refused(boxes, map_hw, rule, message):
    with pytest.raises(GeometryError, match=message):
        boxes_to_cells(np.array(boxes, dtype=float), ZF5, map_hw, rule)


@pytest.mark.parametrize(
    ("stride", "center0", "field"), [(0, 0, 1), (16, 0, 0), (16, 0.25, 3)], ids=["stride", "field", "centre"]
)
def test_a_grid_that_cannot_be_is_refused(stride, center0, field):
    with pytest.raises(GeometryError, match="half-integer centre"):
        CellGrid(stride=stride, center0=center0, receptive_field=field)


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_hw", "scale_px", "expected"),
    [
        pytest.param((375, 500), 688, (688, 917), id="a photograph of 500×375"),
        pytest.param((500, 375), 688, (917, 688), id="and upright"),
        pytest.param((2, 3), 3, (3, 5), id="a half rounds up"),
        pytest.param((4, 10), 3, (3, 8), id="the other half too"),
        pytest.param((1, 1), 1, (1, 1), id="the smallest image"),
        pytest.param((1, 5000), 224, (224, 1_120_000), id="a line"),
        pytest.param((300, 400), 300, (300, 400), id="its own size"),
    ],
)
def test_the_shorter_side_becomes_the_scale(size_hw, scale_px, expected):
    assert scaled_size(size_hw, scale_px) == expected


@pytest.mark.parametrize(("size_hw", "scale_px"), [((0, 5), 224), ((5, 5), 0)])
def test_sizes_without_pixels_are_refused(size_hw, scale_px):
    with pytest.raises(GeometryError, match="at least 1 pixel"):
        scaled_size(size_hw, scale_px)


# By hand from spm_expected_scale.m and spp_features_convX_to_poolX.m of the released code, and from
# section 4.1 of the paper, on an image whose shorter side is 375.
@pytest.mark.parametrize(
    ("width", "height", "rule", "scales", "expected"),
    [
        pytest.param(100, 100, "released", PAPER_SCALES, 864, id="780 is nearer to 864"),
        pytest.param(100, 100, "released", CODE_SCALES, 688, id="and nearer to 688 than to 874"),
        pytest.param(100, 100, "paper", PAPER_SCALES, 864, id="in pixels: 864"),
        pytest.param(200, 150, "released", CODE_SCALES, 480, id="450: the smallest"),
        pytest.param(200, 150, "paper", PAPER_SCALES, 480, id="in pixels: the smallest"),
        pytest.param(50, 50, "released", CODE_SCALES, 1200, id="1560: the largest"),
        pytest.param(50, 50, "paper", PAPER_SCALES, 1200, id="in pixels: the largest"),
    ],
)
def test_a_window_takes_the_scale_that_makes_it_a_view(width, height, rule, scales, expected):
    boxes = np.array([[10, 20, 10 + width, 20 + height]])
    assert scales[choose_scales(boxes, (375, 500), scales, rule)[0]] == expected


@given(
    box=st.tuples(*[st.integers(0, 64 * 500)] * 4),
    short=st.integers(1, 1000),
    scales=st.lists(st.integers(1, 2000), min_size=1, max_size=6),
)
def test_scales_are_the_nearest_in_exact_fractions(box, short, scales):
    x0, x1, y0, y1 = *sorted(box[:2]), *sorted(box[2:])
    assume(x0 < x1 and y0 < y1)
    boxes = np.array([[x0, y0, x1, y1]]) / 64
    area = Fraction((x1 - x0) * (y1 - y0), 64**2)
    distances = [abs(area * Fraction(scale, short) ** 2 - 224**2) for scale in scales]
    assert choose_scales(boxes, (short, short + 7), scales)[0] == distances.index(min(distances))
    expected = math.floor(208 * short / math.sqrt(area) + 0.5)
    distances = [abs(scale - expected) for scale in scales]
    assert choose_scales(boxes, (short, short + 7), scales, "released")[0] == distances.index(min(distances))
    ratios = [Fraction(scale**2, short**2) * Fraction(area, 224**2) for scale in scales]
    farther = [max(ratio, 1 / ratio) for ratio in ratios]  # their logarithms, before the logarithm
    chosen = choose_scales(boxes, (short, short + 7), scales, "log")[0]
    assert farther[chosen] / min(farther) < 1 + 1e-12


@given(st.integers(1, 60), st.integers(0, 200), st.integers(1, 90), st.integers(0, 3))
def test_aligned_cells_have_the_nearest_centres(count, offset, limit, finer):
    fine = CellGrid(stride=2**finer, center0=offset / 2 - 20, receptive_field=9)
    coarse = CellGrid(stride=16, center0=15.0, receptive_field=99)
    centres = coarse.center0 + 16 * np.arange(limit)
    found = aligned_cells(fine, coarse, count, limit)
    for cell, nearest in enumerate(found):
        distances = abs(centres - (fine.center0 + cell * fine.stride))
        assert distances[nearest] == distances.min()


def test_no_boxes_take_no_scales():
    for rule in ("paper", "released"):
        assert choose_scales(np.zeros((0, 4)), (375, 500), CODE_SCALES, rule).shape == (0,)


@pytest.mark.parametrize(
    ("scales", "rule", "message"),
    [
        pytest.param((), "paper", r"scales must be .* got \(\)", id="no scales"),
        pytest.param((0, 480), "paper", "≥ 1 pixel", id="a scale of nothing"),
        pytest.param((480,), "nearest", "got 'nearest'", id="an unknown rule"),
    ],
)
def test_scales_that_cannot_be_chosen_from_are_refused(scales, rule, message):
    with pytest.raises(GeometryError, match=message):
        choose_scales(np.array([[0, 0, 8, 8]]), (375, 500), scales, rule)


# --- views ---------------------------------------------------------------------------------------


def test_the_paper_has_96_views():
    """Section 3.1.5: 18 at each of five scales, 6 at 224, both with their flips."""
    counts = [2 * len(view_boxes(scaled_size((375, 500), scale), 9)) for scale in VIEW_SCALES]
    assert counts == [6, 18, 18, 18, 18, 18]
    assert sum(counts) == 96


@pytest.mark.parametrize(
    ("size_hw", "positions", "expected"),
    [
        pytest.param((224, 224), 9, 1, id="all views of a square of their size are one"),
        pytest.param((224, 300), 9, 3, id="left, middle, right"),
        pytest.param((300, 224), 9, 3, id="top, middle, bottom"),
        pytest.param((225, 225), 9, 4, id="one pixel of room: the middle is a corner"),
        pytest.param((256, 341), 5, 5, id="the corners and the centre"),
        pytest.param((256, 341), 1, 1, id="the centre"),
    ],
)
def test_views_that_fall_together_are_given_once(size_hw, positions, expected):
    views = view_boxes(size_hw, positions)
    assert len(set(views)) == len(views) == expected


def test_views_stand_where_they_are_said_to():
    corners = [(0, 0, 224, 224), (76, 0, 300, 224), (0, 32, 224, 256), (76, 32, 300, 256)]
    sides = [(38, 0, 262, 224), (0, 16, 224, 240), (76, 16, 300, 240), (38, 32, 262, 256)]
    assert view_boxes((256, 300), 9) == [(38, 16, 262, 240), *corners, *sides]


@pytest.mark.parametrize(
    ("size_hw", "positions", "message"),
    [
        pytest.param((223, 500), 9, "do not fit an image of 223×500", id="too small an image"),
        pytest.param((256, 256), 10, "1, 5 or 9 positions; got 10", id="flips are not positions"),
    ],
)
def test_views_that_cannot_be_are_refused(size_hw, positions, message):
    with pytest.raises(GeometryError, match=message):
        view_boxes(size_hw, positions)


# --- cells to boxes ------------------------------------------------------------------------------


@pytest.mark.parametrize("center0", [-4.0, 0.0, 7.5, 15.0])
def test_boxes_of_cells_are_centred_on_what_the_cells_see(center0):
    """The middle of a cell's box is `center0 + i · stride`, and boxes touch."""
    grid = CellGrid(stride=16, center0=center0, receptive_field=99)
    for i in range(3):
        ((x0, y0, x1, y1),) = grid.cells_to_boxes([[i, 2 * i, i + 1, 2 * i + 3]])
        assert (x0 + x1) / 2 == center0 + 16 * i
        assert (y0 + y1) / 2 == center0 + 16 * (2 * i + 1)
        assert (x1 - x0, y1 - y0) == (16, 48)
    assert grid.cells_to_boxes(np.empty((0, 4), np.int64)).shape == (0, 4)


@given(
    st.tuples(*[st.integers(0, 30)] * 4), st.sampled_from([-4.0, 0.0, 7.5, 20.0]), st.sampled_from([1, 7, 16])
)
def test_boxes_of_cells_cover_these_cells(corners, center0, stride):
    grid = CellGrid(stride=stride, center0=center0, receptive_field=99)
    x0, x1, y0, y1 = *sorted(corners[:2]), *sorted(corners[2:])
    cells = np.array([[x0, y0, x1 + 1, y1 + 1]])
    assert np.array_equal(boxes_to_cells(grid.cells_to_boxes(cells), grid, (40, 40)), cells)
