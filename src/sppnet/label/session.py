"""One folder that is labelled: its annotations, what is learned from them, and who is told of changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sppnet.arrays import Floats
from sppnet.boxes import box_iou
from sppnet.label.base import AHEAD, LabelSession
from sppnet.label.figures import Figures
from sppnet.label.learner import Learner, Suggestions, Trunk
from sppnet.label.model import LabelConfig
from sppnet.label.sheets import LabelledBox, Order, Sheet
from sppnet.label.store import Store

LEARNED_AT_START = 60
"""Confirmed photographs of an earlier session that are learned from, spread over them."""

KNOWN_IOU = 0.5
"""A suggestion that overlaps a box of its class, or one that was refused, by as much is not made."""


class Session(LabelSession[Store, Learner]):
    """For any thread; files are written by whoever calls."""

    def __init__(self, store: Store, trunk: Trunk, config: LabelConfig | None = None) -> None:
        super().__init__(store)
        self.figures = Figures()
        self.learner = Learner(store.paths, trunk, config, self._tell, store.classes)
        self._refused: dict[int, Floats] = {}

    def start(self) -> None:
        done = self.store.done()
        chosen = np.linspace(0, len(done) - 1, min(len(done), LEARNED_AT_START)).round().astype(int)
        for index in np.unique(chosen).tolist():
            photo, classes = done[index], self.store.classes
            self.learner.confirm(photo, self.store.truth(photo), classes, evaluate=False)
        self.learner.start()
        self.show(None, "name")

    # --- photographs -----------------------------------------------------------------------------

    def show(self, photo: int | None, order: Order) -> int | None:
        following = [one for one in self._upcoming(photo, order) if one != photo][: AHEAD - 1]
        self.learner.want([*([] if photo is None else [photo]), *following])
        if order == "helpful":
            return max(following, key=self._doubt, default=None)
        return following[0] if following else None

    def _upcoming(self, photo: int | None, order: Order) -> list[int]:
        """Open photographs as they come: by name after this one, or spread over the folder."""
        photos = [
            one for one in range(len(self.store))
            if self.store.sheet(one).state != "done" and one not in self.learner.problems
        ]  # fmt: skip
        if order == "name":
            after = [one for one in photos if photo is None or one > photo]
            return after + photos[: len(photos) - len(after)]
        return sorted(photos, key=_spread)

    def _doubt(self, photo: int) -> float:
        """How much a photograph would teach; nothing is known of those that are not prepared."""
        found = self.learner.suggestions(photo)
        return -1.0 if found is None else found.doubt

    def describe_photo(self, photo: int) -> dict[str, Any]:
        height, width = self.store.header(photo).size_hw
        sheet = self.store.sheet(photo)
        return {
            "id": photo, "name": self.store.names[photo], "width": width, "height": height,
            "state": sheet.state, "revision": sheet.revision,
            "boxes": [describe_box(box) for box in sheet.boxes], **self.describe_suggestions(photo),
        }  # fmt: skip

    def describe_suggestions(self, photo: int) -> dict[str, Any]:
        sheet, found = self.store.sheet(photo), self.learner.suggestions(photo)
        ready = self.learner.is_ready(photo)
        if found is None or sheet.state == "done":
            return {"suggestions": [], "version": 0, "ready": ready}
        return {"suggestions": self._suggested(photo, sheet, found), "version": found.version, "ready": ready}

    def _suggested(self, photo: int, sheet: Sheet, found: Suggestions) -> list[dict[str, Any]]:
        shown, names = found.shown, self.store.classes
        refused = box_iou(shown.boxes, self._refused.get(photo, np.empty((0, 4), np.float32)))
        suggestions = []
        for index, (box, score, label) in enumerate(
            zip(shown.boxes, shown.scores, shown.labels, strict=True)
        ):
            own = np.array([one.box for one in sheet.boxes if one.name == names[label]]).reshape(-1, 4)
            known = box_iou(box[None], own).max(initial=0) >= KNOWN_IOU
            if not known and refused[index].max(initial=0) < KNOWN_IOU:
                suggestions.append(
                    {"label": names[label], "box": box.round(1).tolist(), "score": round(float(score), 3)}
                )
        return suggestions

    # --- changes ---------------------------------------------------------------------------------

    def change(
        self, photo: int, boxes: Sequence[LabelledBox], done: bool, revision: int | None, refused: Floats
    ) -> Sheet:
        """Writes the boxes, and learns from them where they are confirmed. Raises as `Store.change`."""
        with self._lock:
            before = self.store.sheet(photo)
            sheet = self.store.change(photo, boxes, done, revision)
            if len(refused):
                known = self._refused.get(photo, np.empty((0, 4), np.float32))
                self._refused[photo] = np.concatenate([known, refused])
            if done:
                self._learn(photo, before)
        self._tell(photo)
        return sheet

    def _learn(self, photo: int, before: Sheet) -> None:
        truth, found = self.store.truth(photo), self.learner.suggestions(photo)
        first = before.state != "done" and photo not in self._evaluated
        if first:
            self._evaluated.add(photo)
            self.figures.add(truth, None if found is None else found.shown)
        self.learner.confirm(photo, truth, self.store.classes, self._refused.get(photo), evaluate=first)

    def describe(self) -> dict[str, Any]:
        states, trained = [sheet.state for sheet in self.store.sheets.values()], self.learner.trunk.trained
        return {
            **super().describe(), "format": self.store.format, "trunk": self.learner.trunk.name,
            "trained": [] if trained is None else list(trained.detector.classes),
            "done": states.count("done"), "started": states.count("started"),
            "figures": self.figures.to_json(),
        }  # fmt: skip

    def state_of(self, photo: int) -> str:
        """For the strip: open, started, done, suggested or unreadable."""
        state = self.store.sheet(photo).state
        if photo in self.learner.problems:
            return "unreadable"
        found = self.learner.suggestions(photo)
        return "suggested" if state == "open" and found is not None and len(found.shown.boxes) else state


def _spread(photo: int) -> float:
    """Photographs by this number are spread evenly over the folder, however many are taken."""
    return (photo * 0.6180339887498949) % 1


def describe_box(box: LabelledBox) -> dict[str, Any]:
    return {
        "label": box.name, "box": [round(side, 2) for side in box.box], "origin": box.origin,
        "difficult": box.difficult, "crowd": box.crowd, "key": box.key,
    }  # fmt: skip
