"""Pooling and detection on a CUDA device: the Triton kernels beside torchvision's roi_pool and roi_align.

Without such a device there are no rows.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import roi_align

from sppnet.arrays import Doubles
from sppnet.benchmark.detect import random_detector
from sppnet.benchmark.pool import (
    IMAGE_HW,
    LEVELS,
    SCALE_PX,
    TRAINING_WINDOWS,
    as_rois,
    draw_boxes,
    draw_features,
    map_boxes,
    measure_bfloat16,
    measure_forward,
    measure_training,
)
from sppnet.benchmark.results import Row, compare, measure_cases
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError
from sppnet.geometry.grid import boxes_to_cells, scaled_size
from sppnet.nn.trunks import load_trunk
from sppnet.ops import pyramid_pool
from sppnet.progress import Progress

CROP_PX = 227
CROPS = 256
"""Of R-CNN's, convolved at once and timed; their time is multiplied."""


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
    where = torch.device(device or "cuda")
    boxes = draw_boxes(windows, seed)
    cells = torch.from_numpy(map_boxes(boxes)).to(where)
    features, few = draw_features(channels, seed).to(where), cells[:TRAINING_WINDOWS].contiguous()
    cases: dict[str, Callable[[str], Row]] = {
        f"{windows:,} windows, {channels} channels": partial(
            measure_forward, features=features, cells=cells, rounds=rounds
        ),
        f"{windows:,} windows, {channels} channels, bfloat16": partial(
            measure_bfloat16, features=features, cells=cells, rounds=rounds
        ),
        f"{windows:,} windows, {channels} channels, beside roi_align": partial(
            _beside_roi_align, features=features, cells=cells, rounds=rounds
        ),
        f"{len(few)} windows, {channels} channels, forward and backward": partial(
            measure_training, features=features, cells=few, rounds=rounds
        ),
        f"image to vectors of {windows:,} windows, zf5": partial(
            _rcnn, width=width, boxes=boxes, device=where, rounds=max(1, rounds // 5)
        ),
    }
    cases["a photograph, 500×375, from pixels to boxes"] = partial(
        _detection, device=where, rounds=max(1, rounds // 5), seed=seed
    )
    return measure_cases(cases, progress)


def _beside_roi_align(case: str, features: Tensor, cells: Tensor, rounds: int) -> Row:
    """Another function of the same windows and bins: the time alone is compared."""
    rois = as_rois(cells)

    def peer() -> list[Tensor]:
        return [roi_align(features, rois, n, sampling_ratio=2) for n in LEVELS]

    ours = partial(pyramid_pool, features, cells, LEVELS)
    return compare(case, ours, "roi_align", peer, lambda: torch.empty_like(ours()).fill_(0), rounds)


def _detection(case: str, device: torch.device, rounds: int, seed: int) -> Row:
    """Both with random weights."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*IMAGE_HW, 3), np.uint8)
    parts = random_detector(seed=seed).parts
    ours = Detector(parts, str(device))
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval().to(device)

    @torch.inference_mode()
    def peer() -> object:
        return network([torch.from_numpy(pixels).to(device).permute(2, 0, 1) / 255])

    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    return compare(case, lambda: ours(pixels), name, peer, lambda: ours.extractor(pixels), rounds)


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

    peer = f"R-CNN, from {count} of {len(boxes)} crops"
    row = compare(case, ours, peer, lambda: trunk(crops), lambda: trunk(image), rounds)
    whole = {name: share * getattr(row, name) for name in ("peer_s", "peer_q1_s", "peer_q3_s")}
    return replace(row, **whole)
