"""Whether a cut network still says what the whole file says."""

from pathlib import Path

import numpy as np

from sppnet.arrays import Array
from sppnet.errors import ModelError
from sppnet.nn.onnx_file import parse_model, read_bytes
from sppnet.nn.onnx_session import open_session, run_session
from sppnet.nn.onnx_trunk import OnnxTrunk

TOLERANCE = 1e-3
"""Two runs of one network may differ by this share, since the whole one is optimised otherwise."""


def compare_with_file(trunk: OnnxTrunk, path: str | Path, image: Array) -> float | None:
    """The largest difference between the cut network and the file's own output on an image.

    image: (h, w, 3) uint8 RGB, at most the file's size. None where the file's output is not (1, cells,
    5 + classes), as YOLOX gives it. Raises ModelError for a difference that is no rounding.
    """
    side = trunk.graph.size_px
    padded = np.full((side, side, 3), trunk.convention.fill, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    images = trunk.prepare(padded)
    content = read_bytes(Path(path))
    parse_model(content, str(path))
    expected = run_session(open_session(content), images)[0]
    got = _as_yolox(trunk, images)
    if expected.shape != (1, *got.shape):
        return None
    difference = float(np.abs(expected[0] - got).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"{path}: the network without its last steps differs from the file's own output by "
            f"{difference:.3g}"
        )
    return difference


def _as_yolox(trunk: OnnxTrunk, images: Array) -> Array:
    """(cells, 5 + classes): boxes as the network gives them, sigmoids of objectness and classes."""
    rows = []
    for _, _, _, logits, boxes, objectness in trunk.run(images):
        probabilities = 1 / (1 + np.exp(-np.concatenate([objectness, logits])))
        rows.append(np.concatenate([boxes, probabilities]).reshape(5 + len(logits), -1).T)
    return np.concatenate(rows)
