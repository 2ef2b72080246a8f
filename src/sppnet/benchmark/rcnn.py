"""SPP-net beside R-CNN: the same photograph, boxes and trunk (the paper's section 4.3 and Table 10).

Both begin with decoded pixels and given boxes, and end with a vector for every box, or with its scores
for every class. Weights are random: time does not depend on them. A crop of R-CNN's takes as long
as any other, so a sample of them is cut out and convolved and its time multiplied; its fc layers take
the vectors of all boxes at once, which is the fastest way for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Floats
from sppnet.benchmark.pool import IMAGE_HW, LEVELS, draw_boxes
from sppnet.benchmark.results import Row, Timing, row_of, time_interleaved
from sppnet.benchmark.roofline import PRODUCT, large_product, multiply_adds
from sppnet.data.image import ImageArray, ImageSource, read_image
from sppnet.detect.roi_features import RcnnRoIFeatureExtractor, SppRoIFeatureExtractor
from sppnet.errors import ConfigError
from sppnet.features.extractor import PAPER_SCALES, FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.geometry.grid import count_bins
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.svd_compression import split_head
from sppnet.nn.network import FIXED_LEVEL
from sppnet.nn.trunks import Trunk, load_trunk
from sppnet.progress import Progress
from sppnet.proposals.selective_search.search import selective_search

CROPS, CROPS_FC, GEMM = "crops", "fc of crops", "a large product"

Call = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """What both sides are given."""

    pixels: ImageArray
    boxes: Floats


@dataclass(frozen=True)
class Way:
    """One way of ours, and how much of R-CNN it does."""

    call: Call
    scored: bool
    """To scores, not to vectors alone."""


def run(
    trunk: Annotated[str, "The network of both sides."] = "zf5",
    width: float = 1.0,
    stride: Annotated[int | None, "Image pixels per cell of its map."] = None,
    image: Annotated[
        Path | ImageSource | None, "With selective search's boxes, instead of noise and drawn ones."
    ] = None,
    windows: Annotated[int, "Number of boxes, at most."] = 2000,
    crops: Annotated[int, "R-CNN crops to time; the rest is extrapolated."] = 64,
    scales: Sequence[int] = PAPER_SCALES,
    hidden: int = 4096,
    ranks: Annotated[tuple[int, int], "Ranks that truncated SVD leaves of fc6 and fc7."] = (1024, 256),
    classes: int = 20,
    rounds: Annotated[int, "Timed repetitions of each side."] = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time every way.

    trunk, width, stride: as `load_trunk` takes them.
    image: with boxes of our selective search, at most `windows`; by default noise of 500×375, boxes drawn.
    crops: how many of R-CNN's are timed. hidden, ranks: outputs of fc6 and fc7, and what is left of them
    by truncated SVD.
    Raises ConfigError for fewer than one of anything, ModelError for the trunk, ImageError for the image.
    """
    if min(windows, crops, hidden, *ranks, classes, rounds) < 1:
        raise ConfigError("windows, crops, hidden, ranks, classes and rounds must be 1 or more")
    torch.manual_seed(seed)
    subject = _find_subject(image, windows, seed)
    crops = min(crops, len(subject.boxes))
    network = _Networks(load_trunk(trunk, width=width, stride=stride), tuple(scales), hidden, ranks, classes)
    ways = _our_ways(network, subject)
    calls: dict[str, Callable[[], object]] = {name: way.call for name, way in ways.items()}
    calls |= _peer_calls(network, subject, crops)
    calls[GEMM] = large_product(seed)
    with torch.inference_mode():
        timings = time_interleaved(calls, rounds, progress=progress)
    peer = f"R-CNN, from {crops} of {len(subject.boxes):,} crops"
    share = len(subject.boxes) / crops
    return [_row(name, ways[name], peer, timings, share, network) for name in ways]


def _row(
    name: str, way: Way, peer: str, timings: dict[str, Timing], share: float, network: "_Networks"
) -> Row:
    crops, layers = timings[CROPS], timings[CROPS_FC] if way.scored else Timing(0, 0, 0)
    other = Timing(
        share * crops.q1_s + layers.q1_s,
        share * crops.median_s + layers.median_s,
        share * crops.q3_s + layers.q3_s,
    )
    with torch.inference_mode():
        floor_s = multiply_adds(way.call, [network.one, network.several]) / PRODUCT * timings[GEMM].median_s
    return row_of(f"{network.name}, {name}", peer, timings[name], other, floor_s)


def _find_subject(image: ImageSource | None, windows: int, seed: int) -> Subject:
    if image is not None:
        pixels = read_image(image)
        boxes = selective_search(pixels, max_proposals=windows)
        if not len(boxes):
            raise ConfigError("selective search finds no boxes in this image; give a larger one")
        return Subject(pixels, boxes)
    noise = np.random.default_rng(seed).integers(0, 256, (*IMAGE_HW, 3), np.uint8)
    return Subject(noise, draw_boxes(windows, seed).astype(np.float32))


# --- ways ----------------------------------------------------------------------------------------


class _Networks:
    """One trunk at one and at several scales, and the layers behind it."""

    def __init__(
        self, trunk: Trunk, scales: tuple[int, ...], hidden: int, ranks: tuple[int, int], classes: int
    ) -> None:
        self.name, self.ranks = trunk.name, ranks
        self.one, self.several = FeatureExtractor(trunk), FeatureExtractor(trunk, scales)
        self.spp = SppRoIFeatureExtractor(LEVELS)
        self.rcnn = RcnnRoIFeatureExtractor(self.one, (FIXED_LEVEL,))  # its networks have no pyramid
        length = trunk.channels * count_bins(LEVELS)
        self.head = detection_head(length, hidden, classes).eval()
        self.cheap = split_head(self.head, ranks)
        self.crop_length = trunk.channels * FIXED_LEVEL**2
        self.crop_head = detection_head(self.crop_length, hidden, classes).eval()
        self.svms = nn.Linear(length, classes)


def _our_ways(network: _Networks, subject: Subject) -> dict[str, Way]:
    def vectors(extractor: FeatureExtractor) -> Tensor:
        """Of distinct windows."""
        return network.spp(LazyImage(subject.pixels, extractor), subject.boxes).distinct

    def every_vector() -> Tensor:
        return network.one(subject.pixels).pool(subject.boxes, LEVELS).float()

    def judged(layers: nn.Module, make: Call) -> Call:
        return lambda: layers(make())

    one, several = partial(vectors, network.one), partial(vectors, network.several)
    many = f"{len(network.several.scales)} scales"
    return {
        "1 scale, to vectors": Way(one, False),
        f"{many}, to vectors": Way(several, False),
        "1 scale, fc layers on every window": Way(judged(network.head, every_vector), True),
        "1 scale, fc layers on distinct windows": Way(judged(network.head, one), True),
        f"… of rank {network.ranks[0]:,} and {network.ranks[1]:,}": Way(judged(network.cheap, one), True),
        f"… at {many}": Way(judged(network.cheap, several), True),
        "1 scale, SVMs on distinct windows' vectors": Way(judged(network.svms, one), True),
    }


def _peer_calls(network: _Networks, subject: Subject, crops: int) -> dict[str, Call]:
    """R-CNN's time is that of the first, multiplied, and of the second."""
    evenly = np.linspace(0, len(subject.boxes) - 1, crops).round().astype(np.int64)
    photo, sample = LazyImage(subject.pixels, network.one), subject.boxes[evenly]
    vectors = torch.rand(len(subject.boxes), network.crop_length)
    return {
        CROPS: lambda: network.rcnn(photo, sample).distinct,
        CROPS_FC: lambda: network.crop_head(vectors),
    }
