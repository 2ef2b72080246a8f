"""Proposals: our selective search beside OpenCV's, and windows learned on the feature map beside both.

All begin with decoded pixels, save learned windows, which begin with the feature map that detection makes
anyway. What a fast way finds matters as much as its time, so recall stands beside it where the objects
are known.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from sppnet.arrays import Floats
from sppnet.benchmark.detect import GEMM, random_detector
from sppnet.benchmark.photographs import IOUS, Photographs, gather
from sppnet.benchmark.results import Row, row_of, time_interleaved
from sppnet.benchmark.roofline import PRODUCT, large_product, multiply_adds
from sppnet.data.image import ImageArray, read_image
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError
from sppnet.features.maps import FeatureMaps
from sppnet.progress import Progress
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.proposers import opencv_search
from sppnet.proposals.selective_search.search import selective_search

OURS, PEER, LEARNED, COPY = "ours", "OpenCV's selective search, fast", "learned", "a copy of the pixels"
MAX_LEARNED = 1000

Search = Callable[[], Sequence[Floats]]


def run(
    images: Annotated[
        Path | None, "A folder of photographs, with objects marked or not; drawn by default."
    ] = None,
    model: Annotated[Path | None, "A detector; by default one with random weights."] = None,
    photographs: Annotated[int, "Number of photographs."] = 5,
    rounds: Annotated[int, "Timed repetitions of each side."] = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time selective search in its fast mode, and learned windows.

    images: a folder, of which `photographs` are taken; by default scenes of 500×375 are drawn.
    model: a detector with learned windows; without one they have random weights, which cost the same
    and find nothing. Raises MissingExtraError without OpenCV, ConfigError for a model without such windows.
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be 1 or more; got {rounds}")
    detector = random_detector(seed=seed) if model is None else Detector.load(model)
    head = detector.parts.windows
    if head is None:
        raise ConfigError(f"{model} has no learned windows; give a detector trained with --proposals learned")
    with tempfile.TemporaryDirectory(prefix="sppnet-benchmark-") as folder:
        chosen = gather(images, photographs, Path(folder), seed)
        pixels = [read_image(path) for path in chosen.paths]
    maps = [detector.extractor(each) for each in pixels]
    searches = _searches(pixels, maps, head)
    calls: dict[str, Callable[[], object]] = {**searches}
    calls |= {COPY: lambda: [each.copy() for each in pixels], GEMM: large_product(seed)}
    timings = time_interleaved(calls, rounds, progress=progress)
    boxes = {name: search() for name, search in searches.items()}
    products_s = multiply_adds(searches[LEARNED]) / PRODUCT * timings[GEMM].median_s
    what = f"{len(chosen)} photographs"
    learned = _in_words(chosen, {LEARNED: boxes[LEARNED]} if model else {})
    return [
        row_of(
            f"{what}, selective search", PEER, timings[OURS], timings[PEER], timings[COPY].median_s,
            note=_in_words(chosen, {name: boxes[name] for name in (OURS, PEER)}),
        ),
        row_of(
            f"{what}, {MAX_LEARNED:,} learned windows", PEER, timings[LEARNED], timings[PEER], products_s,
            note=learned,
        ),
    ]  # fmt: skip


def _searches(pixels: list[ImageArray], maps: list[FeatureMaps], head: ProposalHead) -> dict[str, Search]:
    return {
        OURS: lambda: [selective_search(each) for each in pixels],
        PEER: lambda: [opencv_search(each) for each in pixels],
        LEARNED: lambda: [np.asarray(head.propose(each, MAX_LEARNED).boxes) for each in maps],
    }


def _in_words(chosen: Photographs, boxes: dict[str, Sequence[Floats]]) -> str:
    found = [chosen.recall_in_words(name, each) for name, each in boxes.items()]
    if not any(found):
        return ""
    return f"recall at overlaps {' and '.join(map(str, IOUS))}: {'; '.join(found)}"
