"""What detectors' files give, computed from their last convolutions as each family defines it."""

from collections.abc import Sequence

import numpy as np

from sppnet.arrays import Array

FAMILIES = "yolox", "nanodet", "picodet", "yolov8", "yolov5"
"""yolov5: YOLOv7 too, which decodes alike."""

TOLERANCE = 1e-3
"""Share of the largest number by which two ways of computing the same may differ."""


def sigmoid(numbers: Array) -> Array:
    """1 / (1 + exp(−x)), for any x."""
    result: Array = 0.5 * (1 + np.tanh(0.5 * numbers))
    return result


def is_close(one: Array, other: Array) -> bool:
    """Whether arrays of one shape differ by roundings alone, each column by the size of its numbers."""
    if one.shape != other.shape or not one.size:
        return False
    allowed = TOLERANCE * np.maximum(1, np.abs(other).max(axis=0, keepdims=True))
    return bool((np.abs(one - other) <= allowed).all())


def integrate(numbers: Array, bins: int) -> Array:
    """(4 · bins, h, w) logits of distributions → (4, h, w) their means, in bins."""
    shaped = numbers.reshape(4, bins, *numbers.shape[1:])
    weights = np.exp(shaped - shaped.max(axis=1, keepdims=True))
    steps = np.arange(bins, dtype=np.float32)[:, None, None]
    mean: Array = (weights * steps).sum(axis=1) / weights.sum(axis=1)
    return mean


def yolov8_rows(logits: Sequence[Array], distances: Sequence[Array], strides: Sequence[int]) -> Array:
    """(n, 4 + k) centre and size in pixels, then probabilities; of (k, h, w) and (4, h, w) of each stride."""
    rows = []
    for of_class, of_box, stride in zip(logits, distances, strides, strict=True):
        _, height, width = of_box.shape
        y, x = np.divmod(np.arange(height * width), width)
        points = np.stack([x, y]) + 0.5
        low, high = points - of_box[:2].reshape(2, -1), points + of_box[2:].reshape(2, -1)
        boxes = np.concatenate([(low + high) / 2, high - low]) * stride
        rows.append(np.concatenate([boxes, sigmoid(of_class).reshape(len(of_class), -1)]).T)
    return np.concatenate(rows)


def yolov5_rows(numbers: Array, stride: int, anchor: tuple[float, float]) -> Array:
    """(5 + k, h, w) of one anchor → (h·w, 5 + k) centre and size in pixels, objectness, probabilities."""
    _, height, width = numbers.shape
    shares = sigmoid(numbers.reshape(len(numbers), -1))
    y, x = np.divmod(np.arange(height * width), width)
    centres = (2 * shares[:2] - 0.5 + np.stack([x, y])) * stride
    sizes = (2 * shares[2:4]) ** 2 * np.array(anchor)[:, None]
    rows: Array = np.concatenate([centres, sizes, shares[4:]]).T
    return rows
