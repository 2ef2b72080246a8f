"""What is odd in the files of a data set, in sentences: what recurs is counted and told once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sppnet.structures import GroundTruth

EXCHANGED = "has its corners in the wrong order; they are exchanged"
"""What is told of a box."""
MANY_EXCHANGED = 3
"""In so many boxes, if they are a quarter, it is no slip."""

NAMED = 3
"""Examples that a sentence names."""


class Problems:
    """Sentences that fill while files are read.

    `add` is for what is odd once; `count` for what may recur with every image or line.
    """

    def __init__(self) -> None:
        self._single: list[str] = []
        self._totals: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, sentence: str) -> None:
        self._single.append(sentence)

    def count(self, what: str, outcome: str, examples: str | Iterable[str]) -> None:
        """what: the plural of the odd things; outcome: what is made of them."""
        found = [examples] if isinstance(examples, str) else list(examples)
        if found:
            self._totals[what, outcome] += len(found)
            named = self._examples[what, outcome]
            named += found[: NAMED - len(named)]

    def tell_exchanged(self, boxes: int) -> None:
        """A sentence if many of so many boxes, which should be corners, seem to be something else."""
        exchanged = sum(EXCHANGED in sentence for sentence in self._single)
        if exchanged >= max(MANY_EXCHANGED, boxes / 4):
            self.add(
                f"{exchanged} of {boxes} boxes have their corners in the wrong order: they look like x, y, "
                "width, height, where corners were expected"
            )

    def __iter__(self) -> Iterator[str]:
        yield from self._single
        for (what, outcome), total in self._totals.items():
            yield f"{total} {what}, such as {', '.join(self._examples[what, outcome])}; {outcome}"


def alike_classes(classes: Sequence[str]) -> list[str]:
    """A sentence for classes whose names differ in upper and lower case alone."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    return [
        f"the classes {' and '.join(names)} differ in upper and lower case alone; they are kept apart"
        for names in groups.values()
        if len(names) > 1
    ]


def repeated_boxes(paths: Sequence[Path], truths: Sequence[GroundTruth]) -> Iterable[str]:
    """A sentence for objects that are marked twice: one class, one box, one image."""
    problems = Problems()
    for path, truth in zip(paths, truths, strict=True):
        marks = np.column_stack([truth.labels, truth.boxes])
        repeats = len(marks) - len(np.unique(marks, axis=0))
        problems.count("objects are marked twice", "each mark counts as an object", [path.name] * repeats)
    return problems


def tiny_boxes(truths: Sequence[GroundTruth]) -> list[str]:
    """A sentence for boxes that all lie within the first pixel, which no person has drawn."""
    boxes = np.concatenate([truth.boxes for truth in truths]) if truths else np.zeros((0, 4))
    if not len(boxes) or boxes.max() > 1:
        return []
    return ["all boxes lie within one pixel: they look like shares of the sides, where pixels were expected"]
