"""Ways to propose boxes, behind one call."""

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sppnet.arrays import Floats
from sppnet.boxes import mirror_boxes
from sppnet.data.image import ImageSource, read_image
from sppnet.errors import ConfigError, MissingExtraError, did_you_mean
from sppnet.features.lazy_image import LazyImage
from sppnet.proposals.precomputed import PrecomputedBoxes, read_boxes
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.selective_search.search import MIN_SIDE, Mode, rank, selective_search
from sppnet.structures import Proposals

_SWITCHES = {"fast": "switchToSelectiveSearchFast", "quality": "switchToSelectiveSearchQuality"}


def opencv_search(
    image: ImageSource, mode: Mode = "fast", *, min_side: int = MIN_SIDE, max_proposals: int | None = None
) -> Floats:
    """OpenCV's selective search, for comparison: image → (n, 4) float32, arguments as of `selective_search`.

    OpenCV orders its boxes by random numbers of the C library that no caller can seed alone, so two calls
    give two orders of the same boxes. Here they get an order of their own: they are sorted, drawn at
    random with a fixed seed, and ranked as ours are. OpenCV uses as many threads as it likes.
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


LEARNED = "learned", "joined"
"""Proposals for which a head is learned."""

FILE = "file"
"""Stands in a model file for the path of a file of boxes."""


class Proposer(Protocol):
    """Boxes of a photograph that may hold an object, best first."""

    def __call__(self, photo: LazyImage) -> Proposals: ...


@dataclass(frozen=True, eq=False)
class HeadProposer:
    """Windows of the photograph's own maps, at the first scale."""

    head: ProposalHead
    max_proposals: int

    def __call__(self, photo: LazyImage) -> Proposals:
        return self.head.propose(photo.maps, self.max_proposals)


@dataclass(frozen=True)
class TrunkProposer:
    """The boxes of the trunk's own head, if it is a detector's network."""

    max_proposals: int

    def __call__(self, photo: LazyImage) -> Proposals:
        head = photo.maps.head
        if head is None:
            raise ConfigError("this trunk is no detector's network, and proposes no boxes")
        return Proposals.of(head.boxes[: self.max_proposals])


@dataclass(frozen=True, eq=False)
class JoinedProposer:
    """The boxes of the trunk's own head, and learned windows for objects that it does not see."""

    own: TrunkProposer
    learned: HeadProposer

    def __call__(self, photo: LazyImage) -> Proposals:
        own, learned = self.own(photo).boxes, self.learned(photo).boxes
        return Proposals.of(np.concatenate([own, learned])[: self.learned.max_proposals])


@dataclass(frozen=True)
class SelectiveSearchProposer:
    """Our selective search, fast mode."""

    max_proposals: int

    def __call__(self, photo: LazyImage) -> Proposals:
        return Proposals.of(selective_search(photo.pixels, max_proposals=self.max_proposals))


@dataclass(frozen=True)
class OpencvProposer:
    """OpenCV's selective search, fast mode."""

    max_proposals: int

    def __call__(self, photo: LazyImage) -> Proposals:
        return Proposals.of(opencv_search(photo.pixels, max_proposals=self.max_proposals))


@dataclass(frozen=True, eq=False)
class PrecomputedProposer:
    """Boxes made elsewhere or earlier."""

    given: PrecomputedBoxes
    max_proposals: int

    def __call__(self, photo: LazyImage) -> Proposals:
        boxes = self.given.of(photo.path or "")[: self.max_proposals]
        return Proposals.of(mirror_boxes(boxes, photo.size_hw[1]) if photo.mirrored else boxes)


class NoProposer:
    """Of a detector that was trained on a file of boxes, which its model file does not hold."""

    def __call__(self, photo: LazyImage) -> Proposals:
        raise ConfigError(
            "this detector was trained on boxes from a file, and cannot propose boxes by itself: give a file "
            "with boxes of these images, or selective-search (--proposals; in Python "
            "Detector.load(path, proposals=...))"
        )


def in_header(kind: str) -> str:
    """What a model file says of `kind`, without the path of a file of boxes on the machine that trained."""
    return kind if kind in ("auto", *LEARNED, "trunk", "selective-search", "opencv") else FILE


def learned_proposer(kind: str, head: ProposalHead, max_proposals: int) -> Proposer:
    """A proposer of learned windows: "learned", or "joined" with the boxes of the trunk's own head."""
    learned = HeadProposer(head, max_proposals)
    return JoinedProposer(TrunkProposer(max_proposals), learned) if kind == "joined" else learned


def make_proposer(kind: str, max_proposals: int) -> Proposer:
    """A proposer that needs no training: "trunk", "selective-search", "opencv", or a file of boxes."""
    if kind == "trunk":
        return TrunkProposer(max_proposals)
    if kind == "selective-search":
        return SelectiveSearchProposer(max_proposals)
    if kind == "opencv":
        return OpencvProposer(max_proposals)
    if kind in ("auto", *LEARNED):
        raise ConfigError(f"proposals {kind} come from a head that was learned; here is none")
    if kind == FILE:
        return NoProposer()
    return PrecomputedProposer(read_boxes(kind), max_proposals)
