"""Vectors of whole photographs made ahead, and linear SVMs on those that have a class: in one thread.

A photograph's vector is the spatial pyramid pooled from its feature map, in its own shape (paper section
3.1.4), of length 1. The SVMs are fitted anew after every change: on hundreds of vectors that takes less
time than the next photograph's convolution.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sppnet.arrays import Floats
from sppnet.errors import SppnetError
from sppnet.label.base import AHEAD, BackgroundLearner, Work
from sppnet.svm.linear_svm import LinearSVM, fit_svm

C = 1.0


@dataclass(frozen=True)
class ClassSuggestion:
    """The classes of a photograph, the likeliest first."""

    names: tuple[str, ...]
    scores: tuple[float, ...]
    """Margins of the SVMs."""
    version: int
    """Of what had been learned."""

    @property
    def doubt(self) -> float:
        """The higher, the closer the second class is to the first."""
        return self.scores[1] - self.scores[0]


class ClassLearner(BackgroundLearner):
    """Give it what is labelled (`learn`) and what is shown next (`want`); it gives `suggestion`."""

    def __init__(
        self,
        count: int,
        vector_of: Callable[[int], Floats],
        callback: Callable[[int | None], None] = lambda photo: None,
    ) -> None:
        """count: of photographs. vector_of: a photograph's number → its vector; raises SppnetError.

        callback: called from the thread with a photograph that cannot be read, or None for new suggestions.
        """
        super().__init__(callback)
        self.vector_of = vector_of
        self.vectors: dict[int, Floats] = {}
        self._svm: LinearSVM | None = None
        self._labelled: dict[int, str] = {}
        self._since: float | None = None
        self._fitting = False
        self._order = list(range(count))
        self.add_thread("sppnet-learn", self._next_work)

    # --- what others ask -------------------------------------------------------------------------

    def want(self, photos: Sequence[int]) -> None:
        """The photographs that are shown next, the one on the screen first; the others follow later."""
        with self._changed:
            first = list(dict.fromkeys(photos))[:AHEAD]
            self._order = first + [photo for photo in self._order if photo not in first]
            self._changed.notify_all()

    def learn(self, labelled: dict[int, str]) -> None:
        """The classes of all photographs that have one."""
        with self._changed:
            self._labelled, self._since = dict(labelled), time.monotonic()
            self._changed.notify_all()

    def suggestion(self, photo: int) -> ClassSuggestion | None:
        """By what was learned last; None before that, and for a photograph that is not prepared."""
        svm, vector = self._svm, self.vectors.get(photo)
        if svm is None or vector is None:
            return None
        scores = svm.scores(torch.from_numpy(vector)[None])[0].numpy()
        order = np.argsort(-scores, kind="stable")
        names = tuple(svm.classes[index] for index in order)
        return ClassSuggestion(names, tuple(scores[order].tolist()), self.version)

    @property
    def waiting(self) -> int:
        return int(self._fitting or self._since is not None)

    def is_ready(self, photo: int) -> bool:
        return photo in self.vectors

    # --- the thread ------------------------------------------------------------------------------

    def _next_work(self) -> Work | None:
        """Vectors of what was labelled, what is learned from it, then vectors of those shown next."""
        first = self._labelled if self._since is not None else ()
        photo = next((one for one in (*first, *self._order) if self._is_unprepared(one)), None)
        if self._since is not None and photo not in self._labelled:
            labelled, since = self._labelled, self._since
            self._since = None  # what comes meanwhile sets it again
            self._fitting = True
            return lambda: self._fit(labelled, since)
        return None if photo is None else lambda: self._prepare(photo)

    def _is_unprepared(self, photo: int) -> bool:
        return photo not in self.vectors and photo not in self.problems

    def _prepare(self, photo: int) -> None:
        try:
            vector = self.vector_of(photo)
            self.vectors[photo] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        except (SppnetError, OSError) as error:
            self.problems[photo] = str(error)
            self.callback(photo)
            return
        if self._svm is not None:
            self.callback(photo)

    def _fit(self, labelled: dict[int, str], since: float) -> None:
        try:
            self._fit_svm(labelled)
        finally:
            self._fitting = False
        self.seconds, self.learned_at = time.monotonic() - since, time.time()
        self.callback(None)

    def _fit_svm(self, labelled: dict[int, str]) -> None:
        known = {photo: name for photo, name in labelled.items() if photo in self.vectors}
        classes = tuple(dict.fromkeys(known.values()))
        if len(classes) > 1:
            rows = torch.from_numpy(np.stack([self.vectors[photo] for photo in known]))
            labels = np.array([classes.index(name) for name in known.values()])
            self._svm = fit_svm(rows, labels, C=C, classes=classes)
            self.version += 1
        else:
            self._svm = None
