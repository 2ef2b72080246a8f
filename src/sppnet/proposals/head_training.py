"""How the head of the learned windows learns: windows drawn from the training images, and the descent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Flags, Floats, Ints
from sppnet.boxes import box_iou, encode_boxes
from sppnet.errors import ConfigError, DataError
from sppnet.features.maps import FeatureMaps
from sppnet.ops.pooling import pyramid_pool
from sppnet.progress import NullProgress, Progress
from sppnet.proposals.dense_windows import (
    GEOMETRY,
    WindowConfig,
    dense_windows,
    describe,
    windows_to_boxes,
)
from sppnet.proposals.proposal_head import (
    DELTA_UNIT,
    SHAPE,
    CellScores,
    ProposalHead,
    describe_cells,
    describe_shapes,
    reduce_channels,
    take_cells,
)
from sppnet.rng import Stream, generator
from sppnet.structures import GroundTruth

CELLS_PER_IMAGE, MAX_CELLS = 100, 60_000
"""Cells that the components are found from, of an image and in all."""

MAX_WINDOWS = 120_000
"""Windows that a head learns from at most: of more images fewer each, so that time and memory are bounded."""


@dataclass(frozen=True, eq=False)
class WindowSample:
    """Windows of one image to learn from."""

    pooled: Tensor
    """(n, channels × bins)"""
    geometry: Tensor
    """(n, GEOMETRY)"""
    cells: Tensor
    """(n, channels + 2) of `describe_cells`, at the windows' centres."""
    shapes: Tensor
    """(n, SHAPE)"""
    positive: Flags
    """(n,)"""
    deltas: Floats
    """(n, 4) to the object each overlaps most; meaningless for negatives."""


def draw_cells(maps: FeatureMaps, seed: int, index: int, images: int) -> Tensor:
    """(m, channels) float32: the features of some cells at the first scale of one of so many images."""
    height, width = maps.maps[0].shape[1:]
    count = min(CELLS_PER_IMAGE, max(1, MAX_CELLS // images))
    chosen = generator(seed, Stream.CELLS, index).permutation(height * width)[:count]
    return take_cells(maps, torch.from_numpy(chosen)).float()


def find_components(cells: Sequence[Tensor], count: int) -> Tensor:
    """(count, c): the directions in which the features of cells (m, c) differ most, the first first."""
    rows = torch.cat(list(cells)).double()
    rows -= rows.mean(0)
    directions = _eigenvectors(rows.T @ rows).T.flip(0)[:count]
    # The sign of an eigenvector is anybody's choice: its largest number is positive here.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    result: Tensor = (directions * largest.sign()).float()
    return result


def _eigenvectors(symmetric: Tensor) -> Tensor:
    """In columns, by rising eigenvalue."""
    try:
        vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors
    except RuntimeError:  # torch's LAPACK gives up on some with many dead channels, numpy's does not
        vectors = torch.from_numpy(np.linalg.eigh(symmetric.cpu().numpy()).eigenvectors)
    return vectors.to(symmetric.device)


def windows_per_image(config: WindowConfig, images: int) -> WindowConfig:
    """The configuration to draw windows of so many images by."""
    return replace(config, per_image=min(config.per_image, max(2, MAX_WINDOWS // images)))


def draw_windows(
    maps: FeatureMaps, truth: GroundTruth, components: Tensor, config: WindowConfig, index: int
) -> WindowSample:
    """Positives and negatives of one image, a pure function of the seed and its index.

    Windows on difficult objects and crowds are neither.
    """
    features, size_hw = reduce_channels(maps, components), maps.size_hw
    map_hw = features.shape[1], features.shape[2]
    dense = dense_windows(map_hw, config)
    windows = dense.windows
    boxes = windows_to_boxes(windows, map_hw, maps.grid, maps.sizes_hw[0], size_hw)
    shared = box_iou(boxes, truth.boxes) if len(truth) else np.zeros((len(boxes), 1), np.float32)
    plain = ~(truth.difficult | truth.crowd)
    clear = np.where(plain[None], shared, 0) if len(truth) else shared
    best = clear.max(axis=1)
    positive = best >= config.positive_iou
    if plain.any():  # the best window of every object is positive, however small the object
        positive[clear.argmax(axis=0)[plain]] = True
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(index,)))
    chosen = _choose(positive, ~positive & (shared.max(axis=1) < config.negative_iou), clear, config, rng)
    nearest = clear[chosen].argmax(axis=1)
    targets = truth.boxes[nearest] if len(truth) else boxes[chosen]
    return WindowSample(
        pyramid_pool(features[None], torch.tensor(windows[chosen]), config.levels),
        torch.from_numpy(describe(boxes[chosen], size_hw)),
        describe_cells(features)[torch.from_numpy(dense.cell[chosen])],
        describe_shapes(dense.sides[dense.shape[chosen]], map_hw),
        positive[chosen],
        (encode_boxes(boxes[chosen], targets) / DELTA_UNIT).astype(np.float32),
    )


def _choose(
    positive: Flags,
    negative: Flags,
    shared: Floats,
    config: WindowConfig,
    rng: np.random.Generator,
) -> Ints:
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
) -> ProposalHead:
    """A head from the windows of all images; the same on every run."""
    vectors = torch.cat([torch.cat([sample.pooled, sample.geometry], 1) for sample in samples])
    cells = torch.cat([torch.cat([sample.cells, sample.shapes], 1) for sample in samples])
    positive = torch.from_numpy(np.concatenate([sample.positive for sample in samples])).float()
    deltas = torch.from_numpy(np.concatenate([sample.deltas for sample in samples]))
    if not positive.any():
        raise DataError("no window lies on an object; check the boxes of the data set")
    scales = [_standardise(rows) for rows in (vectors, cells)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = ProposalHead(components.shape[1], config)
        head.components.copy_(components)
        _descend(head, vectors, cells, positive, deltas, config, progress or NullProgress())
    (mean, std), (cell_mean, cell_std) = scales
    coarse = cell_scores(head)
    _fold(head.first, mean, std)
    _fold(coarse.cell, cell_mean[:-SHAPE], cell_std[:-SHAPE])
    _fold(coarse.shape, cell_mean[-SHAPE:], cell_std[-SHAPE:])
    return head.eval()


def _standardise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each column; the rows are without them afterwards."""
    mean, std = rows.mean(0), rows.std(0).clamp_min(1e-3)
    rows.sub_(mean).div_(std)
    return mean, std


@torch.no_grad()
def _fold(layer: nn.Linear, mean: Tensor, std: Tensor) -> None:
    """The standardisation of its inputs becomes part of a layer."""
    layer.weight.div_(std)
    layer.bias.sub_(layer.weight @ mean)


def cell_scores(head: ProposalHead) -> CellScores:
    """What scores dense windows first; raises ConfigError for a head of version 0.1.0."""
    if not isinstance(head.coarse, CellScores):
        raise ConfigError("windows are learned with the coarse score of cells; pooled is for older models")
    return head.coarse


def _descend(
    head: ProposalHead,
    vectors: Tensor,
    cells: Tensor,
    positive: Tensor,
    deltas: Tensor,
    config: WindowConfig,
    progress: Progress,
) -> None:
    coarse = cell_scores(head)
    optimizer = torch.optim.AdamW(head.parameters(), config.learning_rate, weight_decay=1e-2)
    batch = 1024
    steps = config.epochs * ((len(vectors) + batch - 1) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    progress.begin("learning windows", config.epochs)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(vectors)).split(batch):
            outputs = head(vectors[rows, :-GEOMETRY], vectors[rows, -GEOMETRY:])
            wanted = positive[rows]
            first = coarse(cells[rows, :-SHAPE], cells[rows, -SHAPE:])
            loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], wanted)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(first, wanted)
            moves = nn.functional.smooth_l1_loss(outputs[:, 1:], deltas[rows], reduction="none").sum(1)
            loss = loss + 0.5 * (moves * wanted).sum() / wanted.sum().clamp_min(1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        progress.advance(note=f"loss {loss.item():.3f}")
