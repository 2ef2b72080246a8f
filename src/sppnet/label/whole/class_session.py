"""One folder whose photographs get a class each: what is learned from them, and who is told of changes."""

import shlex
import time
from dataclasses import dataclass, field
from typing import Any

from sppnet.label.base import AHEAD, LabelSession
from sppnet.label.figures import PAUSE_S, RECENT
from sppnet.label.sheets import Order
from sppnet.label.whole.class_learner import ClassLearner, ClassSuggestion
from sppnet.label.whole.class_store import ClassSheet, ClassStore
from sppnet.label.whole.photo_vectors import PhotoVectors

SHOWN = 3
"""Classes that are suggested for a photograph."""


@dataclass
class ClassFigures:
    """Of the photographs that got their first class in this session."""

    right: list[bool] = field(default_factory=list)
    """Whether the first suggestion was right; of those that had one."""
    seconds: list[float] = field(default_factory=list)
    """Since the photograph before, at most PAUSE_S."""
    _last: float = field(default_factory=time.monotonic)

    def add(self, name: str, found: ClassSuggestion | None) -> None:
        now = time.monotonic()
        self.seconds.append(min(now - self._last, PAUSE_S))
        self._last = now
        if found is not None:
            self.right.append(found.names[0] == name)

    def to_json(self) -> dict[str, Any]:
        spent = sum(self.seconds[-RECENT:])
        ends = range(1, len(self.right) + 1)
        curve = [_share(self.right[max(0, end - RECENT) : end]) for end in ends]
        return {
            "photographs": len(self.seconds),
            "right": curve[-1] if curve else None,
            "photographs_a_minute": round(60 * len(self.seconds[-RECENT:]) / spent, 1) if spent > 1 else None,
            "curve": curve,
        }


class ClassSession(LabelSession[ClassStore, ClassLearner]):
    """For any thread; files are written by whoever calls."""

    def __init__(self, store: ClassStore, vectors: PhotoVectors) -> None:
        super().__init__(store)
        self.vectors, self.figures = vectors, ClassFigures()
        self.learner = ClassLearner(len(store), lambda photo: vectors.make(store.paths[photo]), self._tell)

    def start(self) -> None:
        self.learner.learn(self.store.labelled())
        self.show(None, "name")
        self.learner.start()

    # --- photographs -----------------------------------------------------------------------------

    def state_of(self, photo: int) -> str:
        """For the strip: open, suggested, done or unreadable."""
        if photo in self.learner.problems:
            return "unreadable"
        if self.store.sheet(photo).name is not None:
            return "done"
        return "suggested" if self.learner.version and self.learner.is_ready(photo) else "open"

    def show(self, photo: int | None, order: Order) -> int | None:
        unread = self.learner.problems
        photos = [
            one for one in range(len(self.store))
            if one != photo and self.store.sheet(one).name is None and one not in unread
        ]  # fmt: skip
        if order == "helpful":
            photos.sort(key=self._doubt, reverse=True)
        else:
            photos = [one for one in photos if photo is None or one > photo] + photos
        self.learner.want([*([] if photo is None else [photo]), *photos[: AHEAD - 1]])
        return photos[0] if photos else None

    def _doubt(self, photo: int) -> float:
        found = self.learner.suggestion(photo)
        return -float("inf") if found is None else found.doubt

    def describe_photo(self, photo: int) -> dict[str, Any]:
        height, width = self.store.header(photo).size_hw
        sheet = self.store.sheet(photo)
        return {
            "id": photo, "name": self.store.names[photo], "width": width, "height": height,
            "state": self.state_of(photo), "revision": sheet.revision, "label": sheet.name,
            **self.describe_suggestions(photo),
        }  # fmt: skip

    def describe_suggestions(self, photo: int) -> dict[str, Any]:
        """The likeliest classes, the first one before the others."""
        found, ready = self.learner.suggestion(photo), self.learner.is_ready(photo)
        if found is None:
            return {"suggestions": [], "version": 0, "ready": ready}
        rows = list(zip(found.names, found.scores, strict=True))[:SHOWN]
        shown = [{"label": name, "score": round(score, 3)} for name, score in rows]
        return {"suggestions": shown, "version": found.version, "ready": ready}

    # --- changes ---------------------------------------------------------------------------------

    def change(self, photo: int, name: str | None, revision: int | None) -> ClassSheet:
        """Writes the class, and learns from it. Raises as `ClassStore.change`."""
        with self._lock:
            before, found = self.store.sheet(photo), self.learner.suggestion(photo)
            sheet = self.store.change(photo, name, revision)
            if name is not None and before.name is None and photo not in self._evaluated:
                self._evaluated.add(photo)
                self.figures.add(name, found)
            self.learner.learn(self.store.labelled())
        self._tell(photo)
        return sheet

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(), "trunk": self.vectors.name, "command": self._command(),
            "done": sum(self.store.counts().values()), "figures": self.figures.to_json(),
        }  # fmt: skip

    def _command(self) -> str:
        """Trains a classifier on what is labelled."""
        root = self.store.root
        out = root.with_name(f"{root.name}-classifier")
        words = f"{shlex.quote(str(root))} --out {shlex.quote(str(out))} --head svm {self.vectors.options}"
        return f"sppnet classify train {words}"


def _share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 4)
