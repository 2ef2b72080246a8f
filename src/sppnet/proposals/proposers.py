"""Four ways to propose boxes, behind one call."""

from dataclasses import dataclass
from typing import Protocol

from sppnet.errors import ConfigError
from sppnet.features.photo import Photo
from sppnet.proposals.given import GivenBoxes, read_boxes
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.opencv import opencv_search
from sppnet.proposals.selective_search import selective_search
from sppnet.structures import Proposals

FILE = "file"
"""Stands in a model file for the path of a file of boxes."""


class Proposer(Protocol):
    """Boxes of a photograph that may hold an object, best first."""

    def __call__(self, photo: Photo) -> Proposals: ...


@dataclass(frozen=True, eq=False)
class LearnedWindows:
    """Windows of the photograph's own maps, at the first scale."""

    head: WindowHead
    most: int

    def __call__(self, photo: Photo) -> Proposals:
        return self.head.propose(photo.maps, self.most)


@dataclass(frozen=True)
class SelectiveSearch:
    """Our selective search, fast mode."""

    most: int

    def __call__(self, photo: Photo) -> Proposals:
        return Proposals.of(selective_search(photo.pixels, most=self.most))


@dataclass(frozen=True)
class OpencvSearch:
    """OpenCV's selective search, fast mode."""

    most: int

    def __call__(self, photo: Photo) -> Proposals:
        return Proposals.of(opencv_search(photo.pixels, most=self.most))


@dataclass(frozen=True, eq=False)
class FromFile:
    """Boxes made elsewhere or earlier."""

    given: GivenBoxes
    most: int

    def __call__(self, photo: Photo) -> Proposals:
        return Proposals.of(self.given.of(photo.path or "")[: self.most])


class NoProposer:
    """Of a detector that was trained on a file of boxes, which its model file does not hold."""

    def __call__(self, photo: Photo) -> Proposals:
        raise ConfigError(
            "this detector was trained on boxes from a file, and cannot propose boxes by itself: give a file "
            "with boxes of these images, or selective-search (--proposals; in Python "
            "Detector.load(path, proposals=...))"
        )


def in_header(kind: str) -> str:
    """What a model file says of `kind`, without the path of a file of boxes on the machine that trained."""
    return kind if kind in ("learned", "selective-search", "opencv") else FILE


def make_proposer(kind: str, most: int) -> Proposer:
    """A proposer that needs no training: "selective-search", "opencv", or a file of boxes."""
    if kind == "selective-search":
        return SelectiveSearch(most)
    if kind == "opencv":
        return OpencvSearch(most)
    if kind == FILE:
        return NoProposer()
    return FromFile(read_boxes(kind), most)
