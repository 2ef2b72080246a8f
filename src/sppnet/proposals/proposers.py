"""Ways to propose boxes, behind one call."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sppnet.boxes import mirror_boxes
from sppnet.errors import ConfigError
from sppnet.features.lazy_image import LazyImage
from sppnet.proposals.opencv import opencv_search
from sppnet.proposals.precomputed import PrecomputedBoxes, read_boxes
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.selective_search.search import selective_search
from sppnet.structures import Proposals

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
