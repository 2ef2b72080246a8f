"""OpenCV's selective search, called as ours is, for comparison and for results made with it.

OpenCV orders its boxes by random numbers of the C library that no caller can seed alone, so two calls
give two orders of the same boxes. Here they get an order of their own: they are sorted, drawn at
random with a fixed seed, and ranked as ours are. OpenCV uses as many threads as it likes.
"""

import importlib
from typing import Any

import numpy as np

from sppnet.arrays import Floats
from sppnet.data.image import ImageSource, read_image
from sppnet.errors import ConfigError, MissingExtraError, did_you_mean
from sppnet.proposals.selective_search.search import MIN_SIDE, Mode, rank

_SWITCHES = {"fast": "switchToSelectiveSearchFast", "quality": "switchToSelectiveSearchQuality"}


def opencv_search(
    image: ImageSource, mode: Mode = "fast", *, min_side: int = MIN_SIDE, max_proposals: int | None = None
) -> Floats:
    """Proposals of an image → (n, 4) float32; arguments as of `selective_search`.

    Raises MissingExtraError without OpenCV's contributed modules, ConfigError for another mode.
    """
    if mode not in _SWITCHES:
        raise ConfigError(f"mode must be fast or quality; got {mode!r}: {did_you_mean(mode, _SWITCHES)}")
    search = _segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(read_image(image)[..., ::-1]))
    getattr(search, _SWITCHES[mode])()
    boxes = np.asarray(search.process(), np.int32).reshape(-1, 4)  # x, y, width, height
    boxes[:, 2:] += boxes[:, :2]
    order = np.random.default_rng(0).permutation(len(boxes))
    return rank([boxes[np.lexsort(boxes.T)][order]], min_side)[:max_proposals]


def _segmentation() -> Any:
    try:
        return importlib.import_module("cv2").ximgproc.segmentation
    except (ImportError, AttributeError) as error:  # plain OpenCV has no ximgproc
        raise MissingExtraError("opencv-contrib-python-headless", "opencv") from error
