"""The threads of a labelling session: one convolves photographs ahead, one learns and suggests.

Photographs that are shown next come first in both. A confirmed photograph is learned from before anything
else is done, and then only the photographs shown next have their suggestions made anew.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.arrays import Floats
from sppnet.detect.postprocess import ScoredBoxes
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.errors import SppnetError
from sppnet.features.lazy_image import LazyImage
from sppnet.label.base import AHEAD, BackgroundLearner, Work
from sppnet.label.known_classes import KnownClasses
from sppnet.label.model import LabelConfig, LabelModel
from sppnet.label.near_windows import NearWindows
from sppnet.label.suggesting import Candidates
from sppnet.label.trained_classes import TrainedClasses
from sppnet.proposals.proposers import Proposer
from sppnet.structures import GroundTruth

SUGGESTED = 3
"""Photographs shown next that have suggestions made at once after something was learned."""


@dataclass(frozen=True)
class Trunk:
    """What proposes boxes and turns boxes into vectors."""

    name: str
    proposer: Proposer
    roi_extractor: RoIFeatureExtractor
    open_photo: Callable[[Path], LazyImage]
    make_known: Callable[[], KnownClasses | None] = lambda: None
    """For a session: what the network knows by name."""
    make_near: Callable[[], NearWindows | None] = lambda: None
    """What corrects suggestions once more, by the maps of photographs."""
    trained: TrainedClasses | None = None
    """Classes that are suggested before anything is confirmed."""


@dataclass(frozen=True, eq=False)
class Suggestions:
    """What is suggested for a photograph."""

    shown: ScoredBoxes
    scored: ScoredBoxes
    """All that might have been."""
    version: int
    """Of what had been learned."""
    doubt: float


@dataclass(frozen=True, eq=False)
class ConfirmedPhoto:
    """A confirmed photograph."""

    photo: int
    truth: GroundTruth
    classes: tuple[str, ...]
    refused: Floats
    evaluate: bool
    """Whether it tells how good suggestions are: not where it was confirmed before."""
    since: float


class Learner(BackgroundLearner):
    """Give it photographs (`want`) and confirmed ones (`confirm`); it gives `suggestions`."""

    def __init__(
        self,
        paths: Sequence[Path],
        trunk: Trunk,
        config: LabelConfig | None = None,
        callback: Callable[[int | None], None] = lambda photo: None,
        classes: Sequence[str] = (),
    ) -> None:
        """callback: called from the threads with a photograph whose suggestions changed, or None.

        classes: that the session begins with.
        """
        super().__init__(callback)
        self.paths, self.trunk = list(paths), trunk
        self.model = LabelModel(
            trunk.roi_extractor, config, trunk.make_known(), trunk.make_near(), trunk.trained, classes
        )
        self._found: OrderedDict[int, Suggestions] = OrderedDict()
        self._ready: OrderedDict[int, Candidates] = OrderedDict()
        self._wanted: list[int] = []
        self._confirmed: list[ConfirmedPhoto] = []
        self._learning = False
        """No convolution is begun meanwhile: somebody waits."""
        self.add_thread("sppnet-prepare", self._next_preparation)
        self.add_thread("sppnet-learn", self._next_learning)

    # --- what others ask -------------------------------------------------------------------------

    def want(self, photos: Sequence[int]) -> None:
        """The photographs that are shown next, the one on the screen first."""
        with self._changed:
            self._wanted = list(dict.fromkeys(photos))[:AHEAD]
            self._changed.notify_all()

    def confirm(
        self,
        photo: int,
        truth: GroundTruth,
        classes: Sequence[str],
        refused: Floats | None = None,
        evaluate: bool = True,
    ) -> None:
        """A photograph was confirmed; one that waits to be learned from already is replaced."""
        refused = np.empty((0, 4), np.float32) if refused is None else refused
        with self._changed:
            self._confirmed = [confirmed for confirmed in self._confirmed if confirmed.photo != photo]
            self._confirmed.append(
                ConfirmedPhoto(photo, truth, tuple(classes), refused, evaluate, time.monotonic())
            )
            self._changed.notify_all()

    def suggestions(self, photo: int) -> Suggestions | None:
        """The newest there are; None before the first."""
        return self._found.get(photo)

    @property
    def waiting(self) -> int:
        """Confirmed photographs."""
        return len(self._confirmed)

    def is_ready(self, photo: int) -> bool:
        return photo in self._ready

    # --- the thread that convolves ---------------------------------------------------------------

    def _next_preparation(self) -> Work | None:
        photo = None if self._learning else self._next_unprepared()
        return None if photo is None else lambda: self._prepare_one(photo)

    def _next_unprepared(self) -> int | None:
        confirmed_photos = [confirmed.photo for confirmed in self._confirmed]
        wanted = (*confirmed_photos, *self._wanted)
        return next((one for one in wanted if one not in self._ready and one not in self.problems), None)

    def _prepare_one(self, photo: int) -> None:
        try:
            candidates = self.candidates_of(photo)
        except (SppnetError, OSError, MemoryError) as error:
            self.problems[photo] = str(error)
            self.callback(photo)
            return
        with self._changed:
            self._ready[photo] = candidates
            needed = {*self._wanted, *(confirmed.photo for confirmed in self._confirmed)}
            for other in list(self._ready):
                if len(self._ready) > AHEAD and other not in needed:
                    del self._ready[other]
            self._changed.notify_all()

    def candidates_of(self, photo: int) -> Candidates:
        """Convolves and proposes. Raises ImageError."""
        image = self.trunk.open_photo(self.paths[photo])
        boxes = self.trunk.proposer(image).boxes
        features = self.trunk.roi_extractor(image, boxes)
        candidates = Candidates(image, boxes, features, image.size_hw)
        vars(image).pop("pixels", None)  # what comes later is pooled from the maps
        return candidates

    # --- the thread that learns ------------------------------------------------------------------

    def _next_learning(self) -> Work | None:
        """No photograph is convolved while it is done."""
        work = self._next_work()
        if work is None:
            return None
        self._learning = True

        def learn() -> None:
            try:
                work()
            finally:
                with self._changed:
                    self._learning = False
                    self._changed.notify_all()

        return learn

    def _next_work(self) -> Work | None:
        """The oldest confirmed photograph, then suggestions for those shown next."""
        self._confirmed = [confirmed for confirmed in self._confirmed if confirmed.photo not in self.problems]
        for confirmed in self._confirmed:
            if confirmed.photo in self._ready:
                return lambda: self._learn_from(confirmed)
        if self.version or self.trunk.trained is not None:
            for photo in self._wanted:
                found = self._found.get(photo)
                if photo in self._ready and (found is None or found.version < self.version):
                    return lambda: self._suggest(photo)
        return None

    def _learn_from(self, confirmed: ConfirmedPhoto) -> None:
        with self._changed:
            candidates = self._ready[confirmed.photo]
            if confirmed in self._confirmed:
                self._confirmed.remove(confirmed)
        before = self._found.get(confirmed.photo)
        if confirmed.evaluate:
            scored = before.scored if before else self.model.score(candidates)
            self.model.evaluate(scored, confirmed.truth)
        self.model.learn(confirmed.photo, candidates, confirmed.truth, confirmed.classes, confirmed.refused)
        self.version += 1
        with self._changed:
            shown_next = [
                photo for photo in self._wanted if photo != confirmed.photo and photo in self._ready
            ]
        for photo in shown_next[:1]:
            self._suggest(photo)
        self.seconds, self.learned_at = time.monotonic() - confirmed.since, time.time()
        for photo in shown_next[1:SUGGESTED]:
            if not self._confirmed:
                self._suggest(photo)
        self.callback(None)

    def _suggest(self, photo: int) -> None:
        candidates = self._ready.get(photo)
        if candidates is None:
            return
        scored = self.model.score(candidates)
        found = Suggestions(self.model.shown(scored), scored, self.version, self.model.doubt(scored))
        self._found[photo] = found
        self._found.move_to_end(photo)
        self.callback(photo)
