"""Pooling and detection's vectors on a CUDA device: the Triton kernel beside torchvision's roi_pool.

Without such a device there are no rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Doubles
from sppnet.benchmark.pool import (
    IMAGE_HW,
    LEVELS,
    ROI_POOL,
    SCALE_PX,
    TRAINING_WINDOWS,
    as_rois,
    draw_boxes,
    draw_features,
    joined,
    map_boxes,
    require_equal,
    roi_pools,
    training_sides,
)
from sppnet.benchmark.results import Row, compare
from sppnet.errors import ConfigError
from sppnet.geometry.grid import boxes_to_cells, scaled_size
from sppnet.nn.trunks import Trunk, load_trunk
from sppnet.ops import pyramid_pool
from sppnet.progress import NullProgress, Progress

CROP_PX = 227
CROPS = 256
"""Of R-CNN's, convolved at once and timed; their time is multiplied."""

Call = Callable[[], Tensor]


def run(
    windows: int = 2000,
    channels: int = 256,
    width: float = 1.0,
    rounds: Annotated[int, "Timed repetitions of each side."] = 15,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time every case; no rows where there is no CUDA device and none was named.

    Raises RuntimeError if a peer's numbers are not ours.
    """
    if min(windows, channels, rounds) < 1:
        raise ConfigError("windows, channels and rounds must be 1 or more")
    if device is None and not torch.cuda.is_available():
        return []
    progress, where = progress or NullProgress(), torch.device(device or "cuda")
    boxes = draw_boxes(windows, seed)
    cells = torch.from_numpy(map_boxes(boxes)).to(where)
    features = draw_features(channels, seed).to(where)
    cases: dict[str, Callable[[], Row]] = {}
    for name, part in {
        f"{windows:,} windows, {channels} channels": _forward,
        f"{min(windows, TRAINING_WINDOWS)} windows, {channels} channels, forward and backward": _training,
    }.items():
        cases[name] = partial(part, name, features, cells, rounds)
    name = f"image to vectors of {windows:,} windows, zf5"
    cases[name] = partial(_rcnn, name, width, boxes, where, max(1, rounds // 5))
    progress.begin("timing", len(cases))
    rows = []
    for name, measure in cases.items():
        rows.append(measure())
        progress.advance(note=name)
    return rows


def _forward(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    rois = as_rois(cells)
    ours = partial(pyramid_pool, features, cells, LEVELS)
    peer = partial(roi_pools, features, rois)
    result = ours()
    require_equal(result, joined(peer()), ROI_POOL)
    return _timed(case, ours, ROI_POOL, peer, lambda: result.fill_(1), rounds)


def _training(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    ours, peer, grad = training_sides(features, cells[:TRAINING_WINDOWS].contiguous())
    vectors, result = torch.empty_like(grad), torch.empty_like(features)
    return _timed(case, ours, ROI_POOL, peer, lambda: (vectors.fill_(1), result.fill_(1)), rounds)


def _rcnn(case: str, width: float, boxes: Doubles, device: torch.device, rounds: int) -> Row:
    """One convolution and all windows pooled, beside the convolution of as many crops, cut out already."""
    torch.manual_seed(0)
    trunk = load_trunk("zf5", width=width).eval().requires_grad_(False).to(device)
    size_hw = scaled_size(IMAGE_HW, SCALE_PX)
    image = torch.rand(1, 3, *size_hw, device=device)
    down, across = trunk(image).shape[-2:]
    scaled = boxes * np.tile(np.divide(size_hw, IMAGE_HW)[::-1], 2)
    cells = torch.from_numpy(boxes_to_cells(scaled, trunk.grid, (down, across))).to(device)
    count = min(CROPS, len(boxes))
    crops = torch.rand(count, 3, CROP_PX, CROP_PX, device=device)
    share = len(boxes) / count

    def ours() -> Tensor:
        return pyramid_pool(trunk(image), cells, LEVELS)

    row = _timed(
        case, ours, f"R-CNN, from {count} of {len(boxes)} crops", lambda: trunk(crops),
        partial(_convolve, trunk, image), rounds,
    )  # fmt: skip
    whole = {name: share * getattr(row, name) for name in ("peer_s", "peer_q1_s", "peer_q3_s")}
    return Row(**{**vars(row), **whole})


def _convolve(trunk: Trunk, image: Tensor) -> Tensor:
    features: Tensor = trunk(image)
    return features


def _timed(
    case: str,
    ours: Callable[[], object],
    peer_name: str,
    peer: Callable[[], object],
    floor: Callable[[], object],
    rounds: int,
) -> Row:
    return compare(case, _waited(ours), peer_name, _waited(peer), _waited(floor), rounds)


def _waited(call: Callable[[], object]) -> Callable[[], object]:
    """Until the device has done what it was asked."""

    def wait() -> object:
        result = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return wait
