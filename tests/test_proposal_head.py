"""Learned windows: where they lie, what they are trained on, and what they propose."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sppnet.boxes import box_iou
from sppnet.errors import ConfigError, DataError
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.geometry.grid import CellGrid, boxes_to_cells, count_bins
from sppnet.ops.pooling import pyramid_pool
from sppnet.proposals import head_training
from sppnet.proposals.dense_windows import GEOMETRY, WindowConfig, dense_windows, describe, windows_to_boxes
from sppnet.proposals.head_training import (
    draw_cells,
    draw_windows,
    find_components,
    train_head,
    windows_per_image,
)
from sppnet.proposals.proposal_head import (
    CellScores,
    ProposalHead,
    current_names,
    reduce_channels,
    take_cells,
)
from sppnet.structures import GroundTruth

CENTRED = CellGrid(stride=16, center0=7.5, receptive_field=139)
ON_THE_BORDER = CellGrid(stride=16, center0=0.0, receptive_field=139)
"""Of networks whose pads are half a kernel."""
SMALL = WindowConfig(sizes=(2, 3, 4, 6), shapes=(0.5, 1.0, 2.0), step=0.3, hidden=32, epochs=120)
EVERY = torch.eye(4)
"""Components that leave the features of `make_maps` as they are."""

SIZES = [
    pytest.param((1, 1), id="one cell"),
    pytest.param((1, 9), id="one row"),
    pytest.param((9, 1), id="one column"),
    pytest.param((2, 3), id="six cells"),
    pytest.param((14, 20), id="a photograph"),
    pytest.param((4, 60), id="a panorama"),
]


# --- where windows lie ---------------------------------------------------------------------------


@pytest.mark.parametrize("map_hw", SIZES)
@pytest.mark.parametrize("config", [WindowConfig(), SMALL], ids=["default", "small"])
def test_windows_are_distinct_and_inside_the_map(map_hw, config):
    windows = dense_windows(map_hw, config).windows
    assert len(np.unique(windows, axis=0)) == len(windows)
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] > windows[:, :2]).all()
    assert (windows[:, 2:] <= map_hw[::-1]).all()
    assert [0, 0, map_hw[1], map_hw[0]] in windows.tolist()
    assert not windows.flags.writeable


@pytest.mark.parametrize("size", [3, 6, 11])
def test_windows_of_a_size_leave_no_gap(size):
    """Along an axis they start at 0, end at the border, and none is further than its step away."""
    windows = dense_windows((30, 40), WindowConfig()).windows
    square = windows[(windows[:, 2] - windows[:, 0] == size) & (windows[:, 3] - windows[:, 1] == size)]
    lefts = sorted(set(square[:, 0].tolist()))
    assert (lefts[0], lefts[-1]) == (0, 40 - size)
    assert max(b - a for a, b in pairwise(lefts)) <= max(1, np.ceil(0.2 * size))


@pytest.mark.parametrize("grid", [CENTRED, ON_THE_BORDER], ids=["centres within", "centres on the border"])
@pytest.mark.parametrize("zoom", [pytest.param(1.0, id="as it is"), pytest.param(0.37, id="scaled up")])
def test_a_box_covers_the_cells_of_its_window(grid, zoom):
    map_hw = (12, 17)
    scaled_hw = (int(map_hw[0] * 16), int(map_hw[1] * 16))
    size_hw = (round(scaled_hw[0] * zoom), round(scaled_hw[1] * zoom))
    windows = dense_windows(map_hw, WindowConfig()).windows
    boxes = windows_to_boxes(windows, map_hw, grid, scaled_hw, size_hw)
    ratio = np.array([scaled_hw[1] / size_hw[1], scaled_hw[0] / size_hw[0]] * 2)
    cells = boxes_to_cells(boxes * ratio, grid, map_hw)
    if grid.center0 <= 0:  # these centres are not strictly inside any box within the image
        lone = windows[:, 2:] == 1
        np.testing.assert_array_equal(cells[:, :2], np.where(lone, 0, np.maximum(windows[:, :2], 1)))
        np.testing.assert_array_equal(cells[:, 2:], windows[:, 2:])
    else:
        np.testing.assert_array_equal(cells, windows)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 32])
def test_a_box_covers_the_cells_of_its_window_at_any_stride(stride):
    grid = CellGrid(stride=stride, center0=stride / 2, receptive_field=3)
    map_hw = (9, 11)
    size_hw = (9 * stride, 11 * stride)
    windows = dense_windows(map_hw, SMALL).windows
    inner = windows[(windows[:, :2] > 0).all(1) & (windows[:, 2:] < map_hw[::-1]).all(1)]
    boxes = windows_to_boxes(inner, map_hw, grid, size_hw, size_hw)
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], (inner[:, 2:] - inner[:, :2]) * stride)
    np.testing.assert_array_equal(boxes_to_cells(boxes, grid, map_hw), inner)


def test_what_touches_the_maps_border_reaches_to_the_images():
    windows = np.array([[0, 0, 17, 12], [0, 3, 4, 5], [14, 3, 17, 5], [2, 0, 4, 12], [1, 1, 2, 2]])
    boxes = windows_to_boxes(windows, (12, 17), CENTRED, (200, 280), (100, 140))
    assert boxes[0].tolist() == [0, 0, 140, 100]
    assert boxes[1, 0] == 0
    assert boxes[2, 2] == 140
    assert boxes[3, [1, 3]].tolist() == [0, 100]
    assert boxes[4].min() > 0
    assert boxes[4, 2] < 140


def test_a_windows_box_does_not_depend_on_the_others():
    windows = dense_windows((12, 17), SMALL).windows
    together = windows_to_boxes(windows, (12, 17), CENTRED, (192, 272), (192, 272))
    alone = [windows_to_boxes(windows[i : i + 1], (12, 17), CENTRED, (192, 272), (192, 272)) for i in (0, 40)]
    np.testing.assert_array_equal(np.concatenate(alone), together[[0, 40]])


def test_geometry_is_told_in_shares_of_the_image():
    numbers = describe(np.array([[20, 10, 60, 20]], np.float32), (100, 200))
    expected = [0.2, 0.15, 0.2, 0.1, np.log(0.2 * 0.1), np.log(0.2 / 0.1)]
    np.testing.assert_allclose(numbers, [expected], rtol=1e-5)
    assert numbers.dtype == np.float32


# --- fewer channels ------------------------------------------------------------------------------


def test_components_are_the_directions_of_most_variance():
    """Against the singular vectors of the centred cells, with the largest number of each positive."""
    torch.manual_seed(0)
    cells = [torch.randn(50, 6) * torch.tensor([1.0, 5, 2, 4, 3, 0.5]) @ torch.randn(6, 6) + 9 for _ in "abc"]
    rows = torch.cat(cells).double()
    directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh
    found = find_components(cells, 4)
    assert found.shape == (4, 6)
    for one, expected in zip(found, directions, strict=False):
        assert one[one.abs().argmax()] > 0
        sign = torch.sign(expected[expected.abs().argmax()])
        torch.testing.assert_close(one, (expected * sign).float(), rtol=1e-3, atol=1e-4)
    assert find_components(cells, 99).shape == (6, 6)


def test_components_are_found_where_torch_gives_up(monkeypatch):
    """Its LAPACK does not converge on some matrices with hundreds of dead channels."""
    torch.manual_seed(0)
    cells = [torch.randn(50, 6) for _ in "ab"]
    expected = find_components(cells, 4)

    def fail(matrix):
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    torch.testing.assert_close(find_components(cells, 4), expected, rtol=1e-4, atol=1e-5)


def test_features_are_reduced_cell_by_cell():
    features, components = torch.randn(6, 3, 5).half(), torch.randn(2, 6)
    maps = FeatureMaps.of_one_tap((48, 80), ((48, 80),), (features,), CENTRED)
    reduced = reduce_channels(maps, components)
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, torch.einsum("kc,chw->khw", components, features.float()))


def test_cells_of_coarse_taps_join_the_fine_ones_they_lie_under():
    fine, coarse, components = torch.randn(4, 4, 5), torch.randn(3, 2, 3), torch.randn(2, 7)
    half = CellGrid(stride=2 * CENTRED.stride, center0=CENTRED.center0 + 8, receptive_field=99)
    maps = FeatureMaps((64, 80), ((64, 80),), (TapMaps((fine,), CENTRED), TapMaps((coarse,), half)))
    height, width = maps.maps[0].shape[1:]
    joined = take_cells(maps, torch.arange(height * width)).T.unflatten(1, (height, width))
    assert torch.equal(joined[:4], fine)
    # The centre of coarse cell i lies between the fine cells 2i and 2i + 1.
    assert torch.equal(joined[4:], coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :4, :5])
    expected = torch.einsum("kc,chw->khw", components, joined)
    torch.testing.assert_close(reduce_channels(maps, components), expected)
    assert draw_cells(maps, 0, 0, 1).shape == (20, 7)


def test_cells_are_drawn_by_seed_and_index():
    maps, _ = make_maps(0)
    cells = draw_cells(maps, 0, 0, 1)
    every = {tuple(row) for row in maps.maps[0].flatten(1).T.float().tolist()}
    assert cells.shape == (100, 4)
    assert {tuple(row) for row in cells.tolist()} <= every
    assert torch.equal(cells, draw_cells(maps, 0, 0, 1))
    assert not torch.equal(cells, draw_cells(maps, 0, 1, 1))
    few = draw_cells(maps, 0, 0, head_training.MAX_CELLS // 7)  # of many images some each
    assert torch.equal(few, cells[:7])
    tiny = FeatureMaps.of_one_tap((1, 1), ((16, 16),), (torch.ones(4, 1, 1),), CENTRED)
    assert draw_cells(tiny, 0, 0, 1).tolist() == [[1.0] * 4]


# --- windows to learn from -----------------------------------------------------------------------


def make_maps(index, objects=2, side=18):
    """Maps (4, side, side) on which objects are brighter in channels of their own; truths in pixels."""
    rng = np.random.default_rng(index)
    features = rng.normal(0, 0.1, (4, side, side)).astype(np.float32)
    boxes = []
    for number in range(objects):
        width, height = rng.integers(3, 7, 2)
        x, y = rng.integers(0, side - width), rng.integers(0, side - height)
        features[number % 2, y : y + height, x : x + width] += 1
        features[2, y : y + height, x] += 1
        features[3, y, x : x + width] += 1
        boxes.append([16 * x, 16 * y, 16 * (x + width), 16 * (y + height)])
    size = (16 * side, 16 * side)
    maps = FeatureMaps.of_one_tap(size, (size,), (torch.from_numpy(features).half(),), CENTRED)
    return maps, GroundTruth.of(np.reshape(boxes, (-1, 4)), np.zeros(objects))


def test_a_sample_holds_both_kinds_and_moves_to_the_objects():
    maps, truth = make_maps(0)
    sample = draw_windows(maps, truth, EVERY, SMALL, 0)
    assert sample.pooled.shape == (len(sample.positive), 4 * count_bins((1, 3)))
    assert sample.geometry.shape == (len(sample.positive), GEOMETRY)
    assert sample.pooled.dtype == torch.float32
    assert 2 <= sample.positive.sum() <= SMALL.per_image // 2
    assert len(sample.positive) <= SMALL.per_image
    assert np.abs(sample.deltas[sample.positive]).max() < 5


@pytest.mark.parametrize(
    ("images", "expected"), [(1, SMALL.per_image), (head_training.MAX_WINDOWS // 10, 10), (10**9, 2)]
)
def test_of_many_images_fewer_windows_each_are_drawn(images, expected):
    config = windows_per_image(SMALL, images)
    assert config == replace(SMALL, per_image=expected)
    assert len(draw_windows(*make_maps(0), EVERY, config, 0).positive) <= expected


def test_samples_depend_on_seed_and_index_alone():
    maps, truth = make_maps(0)
    first, again, other = (draw_windows(maps, truth, EVERY, SMALL, index) for index in (1, 1, 2))
    assert torch.equal(first.pooled, again.pooled)
    assert not torch.equal(first.geometry, other.geometry)


def test_the_best_window_of_a_tiny_object_is_positive():
    maps, _ = make_maps(0, objects=0)
    sample = draw_windows(maps, GroundTruth.of([[100, 100, 105, 104]], [0]), EVERY, SMALL, 0)
    assert sample.positive.sum() == 1


def test_an_image_without_objects_gives_negatives():
    maps, truth = make_maps(0, objects=0)
    sample = draw_windows(maps, truth, EVERY, SMALL, 0)
    assert len(sample.positive) == SMALL.per_image
    assert not sample.positive.any()


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_windows_on_difficult_objects_and_crowds_are_neither(kind):
    maps, truth = make_maps(0, objects=1)
    odd = {"difficult": np.zeros(1, bool), "crowd": np.zeros(1, bool), kind: np.ones(1, bool)}
    sample = draw_windows(maps, GroundTruth(truth.boxes, truth.labels, **odd), EVERY, SMALL, 0)
    assert not sample.positive.any()
    sides = sample.geometry[:, 2:4].numpy() * 18 * 16
    centres = sample.geometry[:, :2].numpy() * 18 * 16
    boxes = np.hstack([centres - sides / 2, centres + sides / 2])
    assert box_iou(boxes, truth.boxes).max() < SMALL.negative_iou + 1e-3


# --- the head ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head():
    samples = [draw_windows(*make_maps(index), EVERY, SMALL, index) for index in range(30)]
    return train_head(samples, EVERY, SMALL)


def recall_of(head, images, most):
    found = []
    for index in images:
        maps, truth = make_maps(index)
        found += (box_iou(head.propose(maps, most).boxes, truth.boxes).max(axis=0) >= 0.5).tolist()
    return np.mean(found)


def test_the_head_finds_objects_it_has_not_seen(head):
    unseen = range(100, 120)
    assert recall_of(head, unseen, 20) >= 0.9
    torch.manual_seed(0)
    assert recall_of(ProposalHead(4, SMALL).eval(), unseen, 20) < 0.7


def test_a_head_on_fewer_channels_finds_them_too():
    config = replace(SMALL, channels=3)
    components = find_components([draw_cells(make_maps(index)[0], 0, index, 30) for index in range(30)], 3)
    samples = [draw_windows(*make_maps(index), components, config, index) for index in range(30)]
    assert samples[0].pooled.shape[1] == 3 * count_bins((1, 3))
    head = train_head(samples, components, config)
    assert torch.equal(head.components, components)
    assert recall_of(head, range(100, 120), 20) >= 0.8


def test_a_quick_look_leaves_the_windows_that_matter(head):
    fewer = replace(SMALL, max_refined=100)
    quick = ProposalHead(4, fewer).eval()
    quick.load_state_dict(head.state_dict())
    assert len(dense_windows((18, 18), SMALL).windows) > 5 * fewer.max_refined
    assert recall_of(quick, range(100, 120), 20) >= 0.9
    assert len(quick.propose(make_maps(300)[0], 500)) <= fewer.max_refined


@pytest.mark.parametrize("map_hw", [(1, 1), (2, 3), (9, 14), (4, 60)])
def test_scores_of_all_windows_are_those_of_each(map_hw):
    torch.manual_seed(0)
    coarse, features = CellScores(5), torch.randn(5, *map_hw)
    dense = dense_windows(map_hw, SMALL)
    together = coarse.score_all(features, dense)
    assert together.shape == (len(dense.windows),)
    for (left, top, right, bottom), score in zip(dense.windows.tolist(), together, strict=True):
        x, y = min((left + right) // 2, map_hw[1] - 1), min((top + bottom) // 2, map_hw[0] - 1)
        place = torch.tensor([(x + 0.5) / map_hw[1], (y + 0.5) / map_hw[0]])
        across, down = (right - left) / map_hw[1], (bottom - top) / map_hw[0]
        shape = torch.tensor([across, down, np.log(across * down), np.log(across / down)])
        alone = coarse(torch.cat([features[:, y, x], place])[None], shape.float()[None])
        torch.testing.assert_close(alone[0], score, rtol=1e-4, atol=1e-5)


def test_heads_of_0_1_look_at_the_first_level():
    """Files of that version say nothing of what the coarse score sees, and have other names."""
    given = replace(SMALL, max_refined=40).to_json()
    del given["coarse"]
    older = ProposalHead(4, WindowConfig.from_json({**given, "kept": given.pop("max_refined")})).eval()
    names = {"coarse.first": "glance", "coarse.second": "glance_score"}
    state = {}
    for name, tensor in older.state_dict().items():
        module, _, leaf = name.rpartition(".")
        state[f"{names[module]}.{leaf}" if module in names else name] = torch.randn_like(tensor)
    state["components"] = EVERY
    older.load_state_dict(current_names(state))
    maps, _ = make_maps(0)
    dense = dense_windows((18, 18), older.config).windows
    boxes = windows_to_boxes(dense, (18, 18), maps.grid, maps.sizes_hw[0], maps.size_hw)
    inputs = torch.cat(
        [
            pyramid_pool(reduce_channels(maps, EVERY)[None], torch.tensor(dense), (1,)),
            torch.from_numpy(describe(boxes, maps.size_hw)),
        ],
        1,
    )
    hidden = (inputs @ state["glance.weight"].T + state["glance.bias"]).relu()
    scores = (hidden @ state["glance_score.weight"].T + state["glance_score.bias"])[:, 0]
    best = dense[np.sort(scores.argsort(descending=True)[:40].numpy())]
    assert np.array_equal(older._select_coarse(reduce_channels(maps, EVERY), maps), best)
    assert len(older.propose(maps, 10)) == 10
    with pytest.raises(ConfigError, match="pooled is for older models"):
        train_head([draw_windows(*make_maps(0), EVERY, SMALL, 0)], EVERY, older.config)


def test_the_quick_look_comes_at_the_first_level():
    with pytest.raises(ConfigError, match=r"first level of the windows must be 1; got \(3, 1\)"):
        ProposalHead(4, replace(SMALL, levels=(3, 1)))


def test_training_twice_gives_the_same_bits(head):
    samples = [draw_windows(*make_maps(index), EVERY, SMALL, index) for index in range(30)]
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = train_head(samples, EVERY, SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_proposals_fall_in_score_and_stay_inside(head):
    maps, _ = make_maps(200)
    proposals = head.propose(maps, 40)
    assert len(proposals) == 40
    assert (np.diff(proposals.scores) <= 0).all()
    assert proposals.boxes.min() >= 0
    assert proposals.boxes.max() <= 18 * 16
    shared = box_iou(proposals.boxes, proposals.boxes) - np.eye(40)
    assert shared.max() <= SMALL.nms_iou + 1e-4
    fewer = head.propose(maps, 7)
    assert len(fewer) == 7
    np.testing.assert_array_equal(fewer.boxes[0], proposals.boxes[0])


def test_proposals_refer_to_the_image_and_not_to_its_scale(head):
    maps, _ = make_maps(201)
    half = FeatureMaps.of_one_tap((144, 144), maps.sizes_hw, maps.maps, maps.grid)
    whole, small = head.propose(maps, 5), head.propose(half, 5)
    np.testing.assert_allclose(small.boxes, whole.boxes / 2, atol=0.6)


@pytest.mark.parametrize("map_hw", SIZES[:4])
def test_tiny_maps_have_proposals(head, map_hw):
    size = (16 * map_hw[0], 16 * map_hw[1])
    maps = FeatureMaps.of_one_tap((1, 1), (size,), (torch.ones(4, *map_hw).half(),), CENTRED)
    proposals = head.propose(maps, 10)
    assert 1 <= len(proposals) <= 10
    assert proposals.boxes[0].tolist() == [0, 0, 1, 1]


def test_samples_without_an_object_cannot_be_learned_from():
    samples = [draw_windows(*make_maps(index, objects=0), EVERY, SMALL, index) for index in range(2)]
    with pytest.raises(DataError, match="no window lies on an object"):
        train_head(samples, EVERY, SMALL)


def test_a_configuration_survives_json():
    assert WindowConfig.from_json(SMALL.to_json()) == SMALL
