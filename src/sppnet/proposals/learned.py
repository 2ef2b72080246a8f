"""Learned windows: proposals from the same feature map, by the same pooling.

Dense windows of many sizes and shapes are pooled with levels 1 and 3; a small head, which knows
nothing of classes, says how well each fits an object and nudges its box; the best go on. It is the
step from SPP-net towards region proposal networks, taken with the pyramid itself, and it trains in
seconds on the data set's own boxes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from sppnet.errors import ConfigError, DataError
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid, count_bins
from sppnet.learn.deltas import clip_boxes, decode_boxes, encode_boxes
from sppnet.ops.pooling import pyramid_pool
from sppnet.progress import Progress, Silent
from sppnet.structures import GroundTruth, Proposals, overlaps

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

GEOMETRY = 6
"""Numbers a window's place and shape are told in."""

DELTA_UNIT = 0.2
"""The head tells moves in this unit, so that they are about as large as scores."""

SURPLUS = 3
"""Windows that go into suppression, for each that is to come out."""

QUICK_HIDDEN = 32

CELLS_PER_IMAGE = 100
CELL_STREAM = 21

CHUNK = 4096
"""Windows pooled and judged at a time: 16 MB, where all at once would be hundreds."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which windows are looked at, and how the head learns."""

    levels: tuple[int, ...] = (1, 3)
    channels: int = 96
    """Principal components of the features that are pooled."""
    kept: int = 12_000
    """Windows that the quick look leaves over."""
    sizes: tuple[int, ...] = (2, 3, 4, 6, 8, 11, 15, 20, 27, 36)
    """Square roots of the windows' areas, in cells."""
    shapes: tuple[float, ...] = (0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0)
    """Widths over heights."""
    step: float = 0.2
    """From one window to the next, as a share of its side."""
    hidden: int = 128
    positive: float = 0.6
    """From this overlap with an object on a window is one."""
    negative: float = 0.35
    """Below this overlap a window is none."""
    per_image: int = 128
    """Windows drawn from an image, at most half of them positive."""
    epochs: int = 12
    learning_rate: float = 2e-3
    overlap: float = 0.8
    """Of two proposals that overlap more, the better one stays."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "WindowConfig":
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return WindowConfig(**values)


# --- the windows ---------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def dense_windows(map_hw: tuple[int, int], config: WindowConfig) -> IntArray:
    """(n, 4) distinct windows of a map, xyxy in cells; read-only. The whole map is among them."""
    found = [np.array([[0, 0, map_hw[1], map_hw[0]]])]
    for size in config.sizes:
        for shape in config.shapes:
            across, down = max(1, round(size * shape**0.5)), max(1, round(size / shape**0.5))
            if across > map_hw[1] * 1.25 or down > map_hw[0] * 1.25:
                continue
            across, down = min(across, map_hw[1]), min(down, map_hw[0])
            left = _starts(map_hw[1], across, config.step)
            top = _starts(map_hw[0], down, config.step)
            y, x = np.meshgrid(top, left, indexing="ij")
            found.append(np.stack([x, y, x + across, y + down], -1).reshape(-1, 4))
    windows: IntArray = np.unique(np.concatenate(found), axis=0)
    windows.setflags(write=False)
    return windows


def _starts(side: int, length: int, step: float) -> IntArray:
    count = int(np.ceil((side - length) / max(1.0, length * step))) + 1
    starts: IntArray = np.unique(np.linspace(0, side - length, count).round().astype(np.int64))
    return starts


def windows_to_boxes(
    windows: IntArray,
    map_hw: tuple[int, int],
    grid: CellGrid,
    scaled_hw: tuple[int, int],
    size_hw: tuple[int, int],
) -> Floats:
    """The image boxes (n, 4) of windows of cells: their centres, and half a cell around.

    By rule "paper" these cells are the ones a box covers (`boxes_to_cells`), save that the first row and
    column are not where their centres lie on the image's border, as with pads of half a kernel: no box
    within the image has those strictly inside.
    """
    corners = windows * float(grid.stride) + (grid.center0 - grid.stride / 2)
    (height, width), (scaled_height, scaled_width) = size_hw, scaled_hw
    boxes = corners * np.array([width / scaled_width, height / scaled_height] * 2)
    # What touches the map's border reaches to the image's.
    boxes[:, :2] = np.where(windows[:, :2] == 0, 0, boxes[:, :2])
    boxes[:, 2:] = np.where(windows[:, 2:] == map_hw[::-1], (width, height), boxes[:, 2:])
    return clip_boxes(boxes.astype(np.float32), size_hw)


def describe(boxes: Floats, size_hw: tuple[int, int]) -> Floats:
    """(n, GEOMETRY): centre and size as shares of the image, log area and log shape."""
    height, width = size_hw
    sides = (boxes[:, 2:] - boxes[:, :2]) / np.array([width, height], np.float32)
    centres = (boxes[:, 2:] + boxes[:, :2]) / np.array([2 * width, 2 * height], np.float32)
    logs = np.log(np.maximum(sides, 1e-4))
    return np.hstack([centres, sides, logs.sum(1, keepdims=True), logs[:, :1] - logs[:, 1:]]).astype(
        np.float32
    )


# --- the head ------------------------------------------------------------------------------------


class WindowHead(nn.Module):
    """Pooled vectors and geometry of windows → how well they fit an object, and where to move."""

    def __init__(self, channels: int, config: WindowConfig) -> None:
        super().__init__()
        if config.levels[0] != 1:
            raise ConfigError(f"the first level of the windows must be 1; got {config.levels}")
        self.config = config
        reduced = min(channels, config.channels)
        self.register_buffer("components", torch.eye(reduced, channels))
        self.components: Tensor
        length = reduced * count_bins(config.levels) + GEOMETRY
        self.glance = nn.Linear(reduced + GEOMETRY, QUICK_HIDDEN)
        self.glance_score = nn.Linear(QUICK_HIDDEN, 1)
        self.first = nn.Linear(length, config.hidden)
        self.second = nn.Linear(config.hidden, 5)

    def forward(self, pooled: Tensor, geometry: Tensor) -> Tensor:
        """(n, channels × bins) and (n, GEOMETRY) → (n, 5): a score (above 0: an object), then box deltas."""
        result: Tensor = self.second(_joint(self.first, pooled, geometry).relu())
        return result

    def quick(self, pooled: Tensor, geometry: Tensor) -> Tensor:
        """(n, channels), level 1 alone, and (n, GEOMETRY) → (n,) a first score."""
        result: Tensor = self.glance_score(_joint(self.glance, pooled, geometry).relu())[:, 0]
        return result

    @torch.inference_mode()
    def propose(self, maps: FeatureMaps, most: int) -> Proposals:
        """The best windows of an image's first map, at most `most`."""
        features, size_hw = reduce_channels(maps.maps[0], self.components), maps.size_hw
        map_hw = features.shape[1], features.shape[2]
        windows = dense_windows(map_hw, self.config)
        boxes = windows_to_boxes(windows, map_hw, maps.grid, maps.sizes_hw[0], size_hw)
        geometry = torch.from_numpy(describe(boxes, size_hw))
        chosen = self._glance(features, windows, geometry)
        windows, boxes, geometry = windows[chosen], boxes[chosen], geometry[torch.from_numpy(chosen)]
        outputs = self._judge(features, windows, geometry)
        scores, order = outputs[:, 0].topk(min(SURPLUS * most, len(outputs)))
        deltas = outputs[order, 1:].numpy() * DELTA_UNIT
        moved = clip_boxes(decode_boxes(boxes[order.numpy()], deltas), size_hw)
        kept = nms(torch.from_numpy(moved), scores, self.config.overlap)[:most].numpy()
        return Proposals(moved[kept], scores.numpy()[kept])

    def _glance(self, features: Tensor, windows: IntArray, geometry: Tensor) -> IntArray:
        """Indices of the windows that deserve a closer look, in order."""
        if len(windows) <= self.config.kept:
            return np.arange(len(windows))
        scores = self.quick(pyramid_pool(features[None], torch.tensor(windows), (1,)), geometry)
        chosen: IntArray = scores.topk(self.config.kept).indices.sort().values.numpy()
        return chosen

    def _judge(self, features: Tensor, windows: IntArray, geometry: Tensor) -> Tensor:
        """Outputs for windows, a cache full at a time."""
        outputs = []
        for start in range(0, len(windows), CHUNK):
            part = slice(start, start + CHUNK)
            pooled = pyramid_pool(features[None], torch.tensor(windows[part]), self.config.levels)
            outputs.append(self(pooled, geometry[part]))
        return torch.cat(outputs)


def _joint(layer: nn.Linear, pooled: Tensor, geometry: Tensor) -> Tensor:
    """The layer on (pooled, geometry) side by side, without putting them there."""
    length = pooled.shape[1]
    hidden = torch.addmm(layer.bias, geometry, layer.weight[:, length:].T)
    return hidden.addmm(pooled, layer.weight[:, :length].T)


# --- learning ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WindowSample:
    """Windows of one image to learn from."""

    pooled: Tensor
    """(n, channels × bins)"""
    geometry: Tensor
    """(n, GEOMETRY)"""
    positive: npt.NDArray[np.bool_]
    """(n,)"""
    deltas: Floats
    """(n, 4) to the object each overlaps most; meaningless for negatives."""


def draw_cells(maps: FeatureMaps, seed: int, index: int) -> Tensor:
    """(m, c) float32: the features of some cells of an image's first map."""
    cells = maps.maps[0].flatten(1)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(CELL_STREAM, index)))
    chosen = rng.permutation(cells.shape[1])[:CELLS_PER_IMAGE]
    return cells[:, torch.from_numpy(chosen)].float().T.contiguous()


def find_components(cells: Sequence[Tensor], count: int) -> Tensor:
    """(count, c): the directions in which the features of cells (m, c) differ most, the first first."""
    rows = torch.cat(list(cells)).double()
    rows -= rows.mean(0)
    directions = torch.linalg.eigh(rows.T @ rows).eigenvectors.T.flip(0)[:count]
    # The sign of an eigenvector is anybody's choice: its largest number is positive here.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    result: Tensor = (directions * largest.sign()).float()
    return result


def reduce_channels(features: Tensor, components: Tensor) -> Tensor:
    """(c, h, w) → (count, h, w) float32."""
    reduced: Tensor = components @ features.flatten(1).to(components)
    return reduced.view(len(components), *features.shape[1:])


def draw_windows(
    maps: FeatureMaps, truth: GroundTruth, components: Tensor, config: WindowConfig, index: int
) -> WindowSample:
    """Positives and negatives of one image, a pure function of the seed and its index.

    Windows on difficult objects and crowds are neither.
    """
    features, size_hw = reduce_channels(maps.maps[0], components), maps.size_hw
    map_hw = features.shape[1], features.shape[2]
    windows = dense_windows(map_hw, config)
    boxes = windows_to_boxes(windows, map_hw, maps.grid, maps.sizes_hw[0], size_hw)
    shared = overlaps(boxes, truth.boxes) if len(truth) else np.zeros((len(boxes), 1), np.float32)
    plain = ~(truth.difficult | truth.crowd)
    clear = np.where(plain[None], shared, 0) if len(truth) else shared
    best = clear.max(axis=1)
    positive = best >= config.positive
    if plain.any():  # the best window of every object is positive, however small the object
        positive[clear.argmax(axis=0)[plain]] = True
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(index,)))
    chosen = _choose(positive, ~positive & (shared.max(axis=1) < config.negative), clear, config, rng)
    nearest = clear[chosen].argmax(axis=1)
    targets = truth.boxes[nearest] if len(truth) else boxes[chosen]
    return WindowSample(
        pyramid_pool(features[None], torch.tensor(windows[chosen]), config.levels),
        torch.from_numpy(describe(boxes[chosen], size_hw)),
        positive[chosen],
        (encode_boxes(boxes[chosen], targets) / DELTA_UNIT).astype(np.float32),
    )


def _choose(
    positive: npt.NDArray[np.bool_],
    negative: npt.NDArray[np.bool_],
    shared: Floats,
    config: WindowConfig,
    rng: np.random.Generator,
) -> IntArray:
    """Indices: as many positives of each object as of another, and the rest negatives."""
    ones = np.flatnonzero(positive)
    owner = shared[ones].argmax(axis=1)
    weight = 1 / np.bincount(owner)[owner] if len(ones) else np.empty(0)
    half = min(len(ones), config.per_image // 2)
    drawn = rng.choice(ones, half, replace=False, p=weight / weight.sum()) if half else ones
    others = np.flatnonzero(negative)
    rest = rng.choice(others, min(len(others), config.per_image - half), replace=False)
    return np.concatenate([drawn, rest])


def train_head(
    samples: Sequence[WindowSample],
    components: Tensor,
    config: WindowConfig,
    progress: Progress | None = None,
) -> WindowHead:
    """A head from the windows of all images; the same on every run."""
    vectors = torch.cat([torch.cat([sample.pooled, sample.geometry], 1) for sample in samples])
    positive = torch.from_numpy(np.concatenate([sample.positive for sample in samples])).float()
    deltas = torch.from_numpy(np.concatenate([sample.deltas for sample in samples]))
    if not positive.any():
        raise DataError("no window lies on an object; check the boxes of the data set")
    mean, std = vectors.mean(0), vectors.std(0).clamp_min(1e-3)
    vectors.sub_(mean).div_(std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = WindowHead(components.shape[1], config)
        head.components.copy_(components)
        _descend(head, vectors, positive, deltas, config, progress or Silent())
    seen_at_once = torch.cat([torch.arange(len(components)), torch.arange(len(mean) - GEOMETRY, len(mean))])
    with torch.no_grad():  # the standardisation becomes part of the first layers
        for layer, inputs in ((head.first, slice(None)), (head.glance, seen_at_once)):
            layer.weight.div_(std[inputs])
            layer.bias.sub_(layer.weight @ mean[inputs])
    return head.eval()


def _descend(
    head: WindowHead,
    vectors: Tensor,
    positive: Tensor,
    deltas: Tensor,
    config: WindowConfig,
    progress: Progress,
) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), config.learning_rate, weight_decay=1e-2)
    batch = 1024
    steps = config.epochs * ((len(vectors) + batch - 1) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    progress.begin("learning windows", config.epochs)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(vectors)).split(batch):
            seen = nn.functional.dropout(vectors[rows], 0.2)
            outputs = head(seen[:, :-GEOMETRY], seen[:, -GEOMETRY:])
            wanted = positive[rows]
            first = head.quick(seen[:, : len(head.components)], seen[:, -GEOMETRY:])
            loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], wanted)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(first, wanted)
            moves = nn.functional.smooth_l1_loss(outputs[:, 1:], deltas[rows], reduction="none").sum(1)
            loss = loss + 0.5 * (moves * wanted).sum() / wanted.sum().clamp_min(1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        progress.advance(note=f"loss {loss.item():.3f}")
