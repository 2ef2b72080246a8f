"""Selective search against its plain definition, on any image, and on any number of threads."""

import itertools
import math

import numpy as np
import pytest

from sppnet.boxes import box_iou
from sppnet.errors import ConfigError
from sppnet.proposals.selective_search import search as search_module
from sppnet.proposals.selective_search.colour import to_planes
from sppnet.proposals.selective_search.grouping import Similarity, group
from sppnet.proposals.selective_search.regions import code_pixels, describe
from sppnet.proposals.selective_search.search import STRATEGIES, rank, selective_search
from sppnet.proposals.selective_search.segmentation import join_edges, smooth, sort_edges

ALL = Similarity(colour=True, texture=True, size=True, fill=True)


def scene(seed: int = 0) -> np.ndarray:
    """A noisy ground with three plain rectangles on it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (120, 160, 3))
    for x0, y0, x1, y1, colour in OBJECTS:
        image[y0:y1, x0:x1] = colour + rng.integers(-6, 7, (y1 - y0, x1 - x0, 3))
    return image.astype(np.uint8)


OBJECTS = [
    (10, 10, 50, 60, (200, 40, 40)),
    (70, 20, 130, 50, (40, 60, 200)),
    (60, 70, 150, 110, (230, 220, 60)),
]


# --- the plain definitions ------------------------------------------------------------------------


def plain_segment(image: np.ndarray, k: float, min_size: int) -> np.ndarray:
    """Felzenszwalb & Huttenlocher, word for word, without smoothing."""
    height, width, _ = image.shape
    edges = []
    for direction, (dy, dx) in enumerate([(0, 1), (1, 0), (1, 1), (1, -1)]):
        for y, x in itertools.product(range(height), range(width)):
            if y + dy < height and 0 <= x + dx < width:
                difference = image[y, x].astype(np.float32) - image[y + dy, x + dx]
                distance = np.sqrt(np.float32((difference * difference).sum()))
                weight = int(distance * np.float32(64) + np.float32(0.5))
                edges.append((weight, direction, y * width + x, (y + dy) * width + x + dx))
    region = {pixel: {pixel} for pixel in range(height * width)}
    heaviest = dict.fromkeys(region, 0)

    def unite(a: int, b: int) -> None:
        region[a] |= region[b]
        for pixel in region[a]:
            region[pixel] = region[a]

    def limit(pixel: int) -> float:
        return float(np.float32(heaviest[min(region[pixel])] + 64 * k / len(region[pixel])))

    for weight, _, a, b in sorted(edges):
        if region[a] is not region[b] and weight <= min(limit(a), limit(b)):
            unite(a, b)
            heaviest[min(region[a])] = weight
    for _, _, a, b in sorted(edges):
        if region[a] is not region[b] and min(len(region[a]), len(region[b])) < min_size:
            unite(a, b)
    firsts = sorted({min(pixels) for pixels in region.values()})
    return np.array([firsts.index(min(region[p])) for p in range(height * width)]).reshape(height, width)


def plain_histograms(planes: np.ndarray, smoothed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(315,) of the pixels of one region."""
    colours = [np.histogram(plane[mask], bins=25, range=(0, 256))[0] for plane in planes]
    textures = []
    for plane in smoothed:
        padded = np.pad(plane, 1, mode="edge")
        across, down = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        half = math.sqrt(0.5)
        for slope in (across, (across + down) * half, down, (down - across) * half):
            for sign in (1, -1):
                one_sided = np.clip(sign * slope[mask], 0, 127.9)
                textures.append(np.histogram(one_sided, bins=10, range=(0, 128))[0])
    pixels = mask.sum()
    return np.concatenate([np.concatenate(colours) / (3 * pixels), np.concatenate(textures) / (24 * pixels)])


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def plain_group(planes, smoothed, labels, parts: Similarity) -> np.ndarray:
    """Every pair of neighbours looked at every time, every region described from its pixels."""
    masks = {i: labels == i for i in range(labels.max() + 1)}
    boxes = [box_of(mask) for mask in masks.values()]

    def touch(a, b):
        first, second = masks[a], masks[b]
        return (first[1:] & second[:-1] | first[:-1] & second[1:]).any() or (
            first[:, 1:] & second[:, :-1] | first[:, :-1] & second[:, 1:]
        ).any()

    def similarity(a, b):
        one, two = (plain_histograms(planes, smoothed, masks[i]) for i in (a, b))
        shared = np.minimum(one, two)
        both = masks[a].sum() + masks[b].sum()
        x0, y0, x1, y1 = box_of(masks[a] | masks[b])
        return (
            parts.colour * shared[:75].sum()
            + parts.texture * shared[75:].sum()
            + parts.size * (1 - both / labels.size)
            + parts.fill * (1 - ((x1 - x0) * (y1 - y0) - both) / labels.size)
        )

    pairs = {(a, b): similarity(a, b) for a, b in itertools.combinations(masks, 2) if touch(a, b)}
    while pairs:
        a, b = max(pairs, key=pairs.__getitem__)
        union = len(boxes)
        masks[union] = masks.pop(a) | masks.pop(b)
        boxes.append(box_of(masks[union]))
        pairs = {pair: value for pair, value in pairs.items() if not {a, b} & set(pair)}
        pairs |= {(c, union): similarity(c, union) for c in masks if c != union and touch(c, union)}
    return np.array(boxes)


# --- segmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "min_size"),
    [
        pytest.param(50, 1, id="small k"),
        pytest.param(50, 20, id="small k, regions of 20 pixels"),
        pytest.param(400, 5, id="large k"),
        pytest.param(0, 1, id="k of 0 unites equal pixels only"),
        pytest.param(50, 10_000, id="a least size beyond the image"),
    ],
)
def test_regions_are_those_of_the_definition(k, min_size):
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 200, (4, 5, 3)), np.ones((5, 5, 1), int)) + rng.integers(
        0, 30, (20, 25, 3)
    )
    planes = np.moveaxis(image, -1, 0).astype(np.float32)
    labels, count = join_edges(sort_edges(np.ascontiguousarray(planes)), k, min_size)
    assert count == labels.max() + 1
    np.testing.assert_array_equal(labels, plain_segment(image.astype(np.uint8), k, min_size))
    assert labels.dtype == np.int32
    if min_size > 1:
        assert np.bincount(labels.ravel()).min() >= min(min_size, labels.size)


def test_smoothing_is_a_gaussian_that_repeats_the_border():
    planes = np.random.default_rng(0).uniform(0, 255, (3, 7, 9)).astype(np.float32)
    offsets = np.arange(-4, 5)
    kernel = np.exp(-0.5 * (offsets / 0.8) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(planes.astype(np.float64), ((0, 0), (4, 4), (4, 4)), mode="edge")
    rows = sum(weight * padded[:, 4 + i : 4 + i + 7] for i, weight in zip(offsets, kernel, strict=True))
    expected = sum(weight * rows[:, :, 4 + i : 4 + i + 9] for i, weight in zip(offsets, kernel, strict=True))
    np.testing.assert_allclose(smooth(planes), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        pytest.param(
            lambda: join_edges(sort_edges(np.zeros((3, 4, 4), np.float32)), -1, 5),
            ConfigError,
            "at least 0",
            id="k below 0",
        ),
        pytest.param(
            lambda: selective_search(scene(), "fsat"), ConfigError, "did you mean fast", id="a mode misspelt"
        ),
        pytest.param(
            lambda: selective_search(scene(), max_proposals=-1),
            ConfigError,
            "max_proposals",
            id="fewer than none",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- grouping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(ALL, id="all"),
        pytest.param(Similarity(texture=True, size=True, fill=True), id="without colour"),
        pytest.param(Similarity(size=True, fill=True), id="size and fill"),
    ],
)
def test_unions_are_those_of_the_definition(parts):
    planes = np.moveaxis(scene(3)[20:60, 40:90], -1, 0).astype(np.float32)
    smoothed = smooth(planes)
    labels, count = join_edges(sort_edges(smoothed), 8, 10)
    assert count > 20
    regions = describe(labels, count, code_pixels(planes, smoothed))
    for i in (0, count // 2, count - 1):
        expected = plain_histograms(planes, smoothed, labels == i)
        np.testing.assert_allclose(regions.histograms[i], expected, atol=1e-6)
    boxes = group(regions, parts)
    assert len(boxes) == 2 * count - 1
    np.testing.assert_array_equal(boxes, plain_group(planes, smoothed, labels, parts))


def test_a_checkerboard_of_equal_pairs_is_grouped_to_the_end():
    labels = np.arange(36, dtype=np.int32).reshape(6, 6)
    planes = np.full((3, 6, 6), 9, np.float32)
    boxes = group(describe(labels, 36, code_pixels(planes, planes)), ALL)
    assert boxes[-1].tolist() == [0, 0, 6, 6]
    assert len(boxes) == 71


# --- colour --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "rgb", "expected"),
    [
        pytest.param("hsv", (255, 0, 0), (0, 255, 255), id="red has hue 0"),
        pytest.param("hsv", (0, 0, 255), (170, 255, 255), id="blue has hue 240°"),
        pytest.param("hsv", (80, 80, 80), (0, 0, 80), id="grey has none"),
        pytest.param("hsv", (200, 0, 100), (255 * 330 / 360, 255, 200), id="hue 330°"),
        pytest.param("h", (0, 255, 0), (85, 85, 85), id="hue alone"),
        pytest.param("lab", (255, 255, 255), (255, 128, 128), id="white is L* 100"),
        pytest.param("lab", (0, 0, 0), (0, 128, 128), id="black is L* 0"),
        pytest.param("lab", (255, 0, 0), (53.24 * 2.55, 128 + 80.09, 128 + 67.20), id="red of sRGB"),
        pytest.param("lab", (0, 0, 255), (32.30 * 2.55, 128 + 79.19, 128 - 107.86), id="blue of sRGB"),
        pytest.param("rgi", (30, 60, 10), (76.5, 153, 100 / 3), id="shares and their mean"),
        pytest.param("rgi", (0, 0, 0), (0, 0, 0), id="black has no shares"),
        pytest.param("i", (10, 20, 30), (18.15, 18.15, 18.15), id="luma"),
    ],
)
def test_colours(space, rgb, expected):
    planes = to_planes(np.array([[rgb]], np.uint8), space)
    np.testing.assert_allclose(planes[:, 0, 0], expected, atol=0.05)


@pytest.mark.parametrize("space", STRATEGIES["quality"].spaces)
def test_planes_lie_within_a_byte(space):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    image[0, :8] = list(itertools.product((0, 255), repeat=3))
    planes = to_planes(image, space)
    assert planes.min() >= 0
    assert planes.max() <= 255.001


# --- selective search ----------------------------------------------------------------------------


def test_objects_are_found_among_the_first():
    boxes = selective_search(scene())
    assert boxes.dtype == np.float32
    found = box_iou([item[:4] for item in OBJECTS], boxes[:30]).max(axis=1)
    assert (found > 0.9).all(), found


@pytest.mark.parametrize(
    "size_hw",
    [
        pytest.param((1, 1), id="one pixel"),
        pytest.param((2, 3), id="six pixels"),
        pytest.param((1, 700), id="one row"),
        pytest.param((900, 2), id="two columns"),
        pytest.param((25, 400), id="a strip"),
    ],
)
@pytest.mark.parametrize("plain", [True, False], ids=["one colour", "noise"])
def test_any_shape_works(size_hw, plain):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    boxes = selective_search(image * 0 + 77 if plain else image, min_side=0)
    height, width = size_hw
    assert [0, 0, width, height] in boxes.tolist()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(selective_search(image, min_side=1000)) == 0


def test_boxes_are_large_enough_each_once_and_no_more_than_asked_for():
    boxes = selective_search(scene(), min_side=20)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 20
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    np.testing.assert_array_equal(selective_search(scene(), min_side=20, max_proposals=7), boxes[:7])


def test_quality_finds_more_than_fast():
    image = scene(2)[:60, :80]
    fast, quality = (selective_search(image, mode, min_side=5) for mode in ("fast", "quality"))
    assert len(quality) > 1.5 * len(fast)


def test_the_same_boxes_on_any_number_of_threads(monkeypatch):
    boxes = {}
    for threads in (1, 2, 5):
        monkeypatch.setattr(search_module, "thread_count", lambda threads=threads: threads)
        boxes[threads] = selective_search(scene(5), min_side=5).tobytes()
    assert len(set(boxes.values())) == 1


def test_an_image_that_is_not_contiguous():
    image = scene()
    turned = np.rot90(image).copy()
    np.testing.assert_array_equal(selective_search(np.rot90(image)), selective_search(turned))


def test_late_unions_come_first_every_list_in_turn_and_repetitions_last():
    first = np.array([[0, 0, 30, 30], [0, 0, 50, 50], [0, 0, 100, 100]])
    second = np.array([[60, 60, 90, 90], [0, 0, 52, 50], [0, 0, 100, 100]])
    ranked = rank([first, second])
    assert ranked.tolist() == [
        [0, 0, 100, 100],
        [0, 0, 50, 50],
        [0, 0, 30, 30],
        [60, 60, 90, 90],
        [0, 0, 52, 50],
    ]
