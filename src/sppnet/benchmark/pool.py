"""Pooling the proposals of one photograph: `pyramid_pool` beside what torch and torchvision offer.

The feature map is that of a 500×375 photograph at the paper's one scale, 688, in ZF-5, or those at its
five. All ways get the same windows in cells, already mapped, and allocate their own results. That the
results are equal is checked before anything is timed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_pool

from sppnet.arrays import Doubles, Ints, Reals
from sppnet.benchmark.results import Row, compare, measure_cases
from sppnet.errors import DataError
from sppnet.geometry.grid import CellGrid, boxes_to_cells, choose_scales, scaled_size
from sppnet.ops import pool_maps, pyramid_pool
from sppnet.progress import Progress

LEVELS = (1, 2, 3, 6)
IMAGE_HW = (375, 500)
SCALE_PX = 688
MAPS_HW = {480: (29, 39), 576: (35, 47), SCALE_PX: (42, 56), 864: (53, 71), 1200: (74, 99)}
"""By the shorter side of the photograph: the paper's five scales in ZF-5."""
GRID = CellGrid(stride=16, center0=20, receptive_field=139)
"""ZF-5 of the released code."""

REPEATED = 1 / 8
"""Share of proposals on the cells of another: the median of ten photographs of PASCAL VOC 2007, the first
2,000 boxes of `selective_search` on each (1 to 25 %)."""

TRAINING_WINDOWS = 128
"""Windows of one image in a fine-tuning batch (paper, section 4.1)."""

ROI_POOL = "4 calls of torchvision.ops.roi_pool"
LOOP = "a loop of F.adaptive_max_pool2d"

# Selective search on photographs. Measured on 12 photographs of 500×375 of PASCAL VOC 2007 with
# OpenCV's fast mode, 22,582 boxes: the quantiles of what a box is described by here. Size and shape
# hardly depend on one another (correlation 0.01). Drawn boxes cover 129 cells in the mean, with
# quartiles 9, 32 and 119, measured ones 125, with 9, 32 and 112.
PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
SIZES = (0.023, 0.028, 0.035, 0.041, 0.061, 0.115, 0.217, 0.366, 0.494, 0.779, 1.0)
"""√(box area / image area)."""
ASPECTS = (-6.93, -2.62, -1.41, -0.90, -0.19, 0.56, 1.41, 2.34, 3.10, 4.91, 7.41)
"""log2(width / height)."""
LEFTS = (0.0, 0.0, 0.0, 0.0, 0.18, 0.48, 0.76, 0.97, 1.0, 1.0, 1.0)
"""Room at the left of a box, of all the room it has across; an eighth of the boxes touch a border."""
TOPS = (0.0, 0.0, 0.0, 0.0, 0.19, 0.46, 0.70, 0.92, 1.0, 1.0, 1.0)


def run(
    windows: Annotated[int, "Number of proposals to pool."] = 2000,
    channels: Annotated[int, "Channels of the feature map."] = 256,
    boxes: Annotated[
        Path | Reals | None, "Boxes x0,y0,x1,y1 in a 500×375 image, a line each, instead of drawn ones."
    ] = None,
    rounds: Annotated[int, "Timed repetitions of each side."] = 15,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time every case.

    boxes: (n, 4) or a file, xyxy in pixels of a photograph of 500×375, in place of `windows` drawn ones.
    Raises RuntimeError if a peer's numbers are not ours, DataError for a file that holds no boxes.
    """
    if boxes is None:
        boxes = draw_boxes(windows, seed)
    elif isinstance(boxes, Path):
        boxes = _read_boxes(boxes)
    cells = torch.from_numpy(map_boxes(boxes))
    features = draw_features(channels, seed)
    cases = _cases(features, cells, rounds)
    cases[f"{len(boxes):,} windows, {channels} channels, five scales"] = partial(
        _five_scales, boxes=boxes, channels=channels, rounds=rounds, seed=seed
    )
    return measure_cases(cases, progress)


def _cases(features: Tensor, cells: Tensor, rounds: int) -> dict[str, Callable[[str], Row]]:
    """What to measure, by its name."""
    count, channels = len(cells), features.shape[1]
    few = cells[:: max(1, count // TRAINING_WINDOWS)][:TRAINING_WINDOWS].contiguous()
    wide = torch.cat([features, features.flip(1)], 1)
    what = f"{count:,} windows, {channels} channels"
    return {
        what: partial(measure_forward, features=features, cells=cells, rounds=rounds),
        f"{what}, beside a loop": partial(
            _against_loop, features=features, cells=cells, rounds=max(1, rounds // 5)
        ),
        f"{what}, bfloat16": partial(measure_bfloat16, features=features, cells=cells, rounds=rounds),
        f"{count:,} windows, {2 * channels} channels": partial(
            measure_forward, features=wide, cells=cells, rounds=max(1, rounds // 2)
        ),
        f"{len(few):,} windows, {channels} channels, forward and backward": partial(
            measure_training, features=features, cells=few, rounds=rounds
        ),
    }


def _read_boxes(path: Path) -> Doubles:
    try:
        boxes: Doubles = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DataError(f"{path} does not hold boxes, x0,y0,x1,y1 a line: {error}") from error
    if boxes.shape[1] != 4:
        raise DataError(f"{path} must have 4 numbers a line; got {boxes.shape[1]}")
    return boxes


# --- what is pooled ------------------------------------------------------------------------------


def draw_boxes(count: int, seed: int = 0) -> Doubles:
    """Boxes (count, 4) xyxy, spread over a photograph of 500×375 and repeated as selective search's are."""
    generator = np.random.default_rng(seed)
    boxes = _spread_boxes(count, generator)
    repeats = round(REPEATED * count)
    if repeats:
        again = generator.integers(repeats, count, repeats)  # of those that stay
        boxes[:repeats] = boxes[again]
    return generator.permutation(boxes)


def _spread_boxes(count: int, generator: np.random.Generator) -> Doubles:
    size, aspect, left, top = (
        np.interp(generator.random(count), PROBABILITIES, quantiles)
        for quantiles in (SIZES, ASPECTS, LEFTS, TOPS)
    )
    height, width = IMAGE_HW
    side = size * np.sqrt(height * width)
    across = np.clip(side * 2 ** (aspect / 2), 1, width)
    down = np.clip(side * 2 ** (-aspect / 2), 1, height)
    x0, y0 = left * (width - across), top * (height - down)
    boxes: Doubles = np.rint(np.stack([x0, y0, x0 + across, y0 + down], 1))
    return boxes


def map_boxes(boxes: Reals, scale_px: int = SCALE_PX) -> Ints:
    """Boxes of the photograph as cells (n, 4) of its feature map at a scale."""
    height, width = scaled_size(IMAGE_HW, scale_px)
    scale = np.array([width / IMAGE_HW[1], height / IMAGE_HW[0]] * 2)
    return boxes_to_cells(boxes * scale, GRID, MAPS_HW[scale_px])


def draw_features(channels: int, seed: int = 0, scale_px: int = SCALE_PX) -> Tensor:
    """Features (1, channels, h, w) such as follow a ReLU: about half of them 0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, *MAPS_HW[scale_px], generator=generator).relu()


# --- cases ---------------------------------------------------------------------------------------


def measure_forward(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    rois = as_rois(cells)
    ours = partial(pyramid_pool, features, cells, LEVELS)
    peer = partial(roi_pools, features, rois)
    require_equal(ours(), joined(peer()), ROI_POOL)
    return compare(case, ours, ROI_POOL, peer, _filling(ours()), rounds)


def _against_loop(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    ours = partial(pyramid_pool, features, cells, LEVELS)
    peer = partial(_loop, features, cells.tolist())
    require_equal(ours(), torch.cat(peer()), LOOP)
    return compare(case, ours, LOOP, peer, _filling(ours()), rounds)


def measure_bfloat16(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    """roi_pool stays in float32, where it is faster than in bfloat16."""
    rois, half = as_rois(cells), features.bfloat16()
    ours = partial(pyramid_pool, half, cells, LEVELS)
    peer = partial(roi_pools, features, rois)
    # Rounding keeps the order of numbers, so it may come before or after the maximum.
    require_equal(ours(), joined(peer()).bfloat16(), ROI_POOL)
    return compare(case, ours, f"{ROI_POOL}, in float32", peer, _filling(ours()), rounds)


def _five_scales(case: str, boxes: Reals, channels: int, rounds: int, seed: int) -> Row:
    """Every window at the scale that brings it nearest to 224×224 pixels."""
    maps = [draw_features(channels, seed, scale) for scale in MAPS_HW]
    at = choose_scales(boxes, IMAGE_HW, tuple(MAPS_HW))
    chosen = [np.flatnonzero(at == index) for index in range(len(maps))]
    parts = [map_boxes(boxes[rows], scale) for rows, scale in zip(chosen, MAPS_HW, strict=True)]
    cells = np.empty((len(boxes), 5), np.int64)
    for index, (rows, part) in enumerate(zip(chosen, parts, strict=True)):
        cells[rows, 0], cells[rows, 1:] = index, part
    rois = [as_rois(torch.from_numpy(part)) for part in parts]
    ours = partial(pool_maps, [features[0] for features in maps], cells, LEVELS)

    def peer() -> list[list[Tensor]]:
        return [roi_pools(features, own) for features, own in zip(maps, rois, strict=True)]

    require_equal(ours()[np.concatenate(chosen)], torch.cat([joined(grids) for grids in peer()]), ROI_POOL)
    return compare(case, ours, f"{ROI_POOL}, for each scale", peer, _filling(ours()), rounds)


def measure_training(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    ours, peer, grad = training_sides(features, cells)
    return compare(case, ours, ROI_POOL, peer, _filling(grad.clone(), torch.empty_like(features)), rounds)


def training_sides(
    features: Tensor, cells: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Tensor]:
    """Forward and the gradient of the map: ours, the peer's, and the gradient of the vectors they have."""
    rois, leaf = as_rois(cells), features.clone().requires_grad_()
    # Whole numbers add up to the same in any order.
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(cells), leaf.shape[1], n, n) for n in LEVELS]
    grids = [torch.randint(-8, 8, shape, generator=generator).to(leaf) for shape in shapes]
    grad = joined(grids)

    def ours() -> Tensor:
        return torch.autograd.grad(pyramid_pool(leaf, cells, LEVELS), leaf, grad)[0]

    def peer() -> Tensor:
        return torch.autograd.grad(roi_pools(leaf, rois), leaf, grids)[0]

    require_equal(ours(), peer(), ROI_POOL)
    return ours, peer, grad


# --- peers ---------------------------------------------------------------------------------------


def as_rois(cells: Tensor) -> Tensor:
    """(n, 5) as roi_pool wants them: the map first, and right ends inclusive."""
    return F.pad((cells - cells.new_tensor([0, 0, 1, 1])).float(), (1, 0))


def roi_pools(features: Tensor, rois: Tensor) -> list[Tensor]:
    """A level each, not joined: less work than ours does."""
    return [roi_pool(features, rois, n) for n in LEVELS]


def joined(grids: list[Tensor]) -> Tensor:
    """The vectors of the grids (n, c, level, level) of each level."""
    return torch.cat([grid.flatten(1) for grid in grids], 1)


def _loop(features: Tensor, cells: list[list[int]]) -> list[Tensor]:
    """The definition of the vectors in torch's words, a window at a time."""
    windows = (features[:, :, y0:y1, x0:x1] for x0, y0, x1, y1 in cells)
    return [joined([F.adaptive_max_pool2d(window, n) for n in LEVELS]) for window in windows]


def _filling(*results: Tensor) -> Callable[[], None]:
    """Write memory as large as the results once, in pages that are there: no way to them is faster."""

    def fill() -> None:
        for result in results:
            result.fill_(1)

    return fill


def require_equal(ours: Tensor, theirs: Tensor, peer: str, own: str = "pyramid_pool") -> None:
    """Raises RuntimeError if any number differs."""
    # At these levels and sizes the float32 bins of roi_pool are where the integer ones are.
    if not torch.equal(ours, theirs):
        share = (ours != theirs).double().mean().item()
        raise RuntimeError(f"{share:.2%} of the numbers of {peer} are not those of {own}")
