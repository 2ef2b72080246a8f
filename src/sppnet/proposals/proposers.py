"""Four ways to propose boxes, behind one call."""

from dataclasses import dataclass
from typing import Protocol

from sppnet.features.photo import Photo
from sppnet.proposals.given import GivenBoxes, read_boxes
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.opencv import opencv_search
from sppnet.proposals.selective_search import selective_search
from sppnet.structures import Proposals


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


def make_proposer(kind: str, most: int) -> Proposer:
    """A proposer that needs no training: "selective-search", "opencv", or a file of boxes."""
    if kind == "selective-search":
        return SelectiveSearch(most)
    if kind == "opencv":
        return OpencvSearch(most)
    return FromFile(read_boxes(kind), most)
