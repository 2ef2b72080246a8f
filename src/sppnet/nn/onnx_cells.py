"""Boxes and vectors of the cells of a detector, from what its last convolutions give."""

from collections.abc import Sequence

import numpy as np

from sppnet.arrays import Array, Ints
from sppnet.nn.head_output import log_of_logits, log_sizes

Levels = Sequence[tuple[Array, ...]]
"""For each stride (c, h, w) arrays in the order of `HeadLevel.tensors`."""


def decode_boxes(levels: Levels, strides: Sequence[int]) -> Array:
    """(n, 4) xyxy of all cells, in the network's pixels."""
    return np.concatenate([_boxes(level[4], stride) for level, stride in zip(levels, strides, strict=True)])


def _boxes(numbers: Array, stride: int) -> Array:
    """(4, h, w) as the head gives them → (h·w, 4)."""
    height, width = numbers.shape[1:]
    rows, columns = np.divmod(np.arange(height * width), width)
    dx, dy, log_width, log_height = numbers.reshape(4, -1)
    centres = np.stack([columns + dx, rows + dy], 1) * stride
    halves = np.exp(np.stack([log_width, log_height], 1).clip(-10, 8)) * (stride / 2)
    return np.concatenate([centres - halves, centres + halves], 1)


def decode_distances(levels: Levels, strides: Sequence[int], centre: float) -> Array:
    """As `decode_boxes`, where the head gives distances from a point of the cell to the sides, in strides."""
    found = []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level[4].shape[1:]
        rows, columns = np.divmod(np.arange(height * width), width)
        points = np.stack([columns, rows], 1) + np.float32(centre)
        distances = level[4].reshape(4, -1).T
        found.append(np.concatenate([points - distances[:, :2], points + distances[:, 2:]], 1) * stride)
    return np.concatenate(found)


def cell_vectors(levels: Levels, cells: Ints, boxes: Array, has_objectness: bool = True) -> Array:
    """(n, d) of cells numbered through all levels; boxes: (n, 4) theirs, in the network's pixels.

    has_objectness: else the likeliest class's probability stands for it, and of classes there are shares.
    """
    counts = [level[5].size for level in levels]
    level_of = np.searchsorted(np.cumsum(counts), cells, side="right")
    parts = []
    for index, (level, first) in enumerate(zip(levels, np.cumsum(counts) - counts, strict=True)):
        chosen = cells[level_of == index] - first
        _, class_features, box_features, logits, _, objectness = (
            part.reshape(len(part), level[5].size)[:, chosen].T for part in level
        )
        log = log_of_logits(np.concatenate([logits, objectness], 1))
        if not has_objectness:
            log[:, :-1] -= log[:, -1:]
        at_level = np.tile(np.eye(len(levels), dtype=np.float32)[index], (len(chosen), 1))
        parts.append(np.concatenate([class_features, box_features, log, at_level], 1))
    place = np.argsort(np.argsort(level_of, kind="stable"), kind="stable")
    return np.concatenate([np.concatenate(parts)[place], log_sizes(boxes)], 1)
