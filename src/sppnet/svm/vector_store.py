"""The vectors that SVMs are mined from: all positives and the hardest negatives, in bounded memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Array, Flags, Ints, Signs
from sppnet.errors import ConfigError, DataError
from sppnet.svm.linear_svm import LinearSVM, fit_svm
from sppnet.svm.objective import Loss

NORM = 20.0
"""Vectors are scaled so that their mean length is this (paper's code, after R-CNN)."""

ROWS_AT_ONCE = 4096
"""Moved within the store at once, which needs their memory a second time."""


@dataclass(frozen=True, eq=False)
class LabelledVectors:
    """The windows of one image, as vectors that are made when they are asked for."""

    signs: Signs
    """(n, k): 1 positive, −1 negative, 0 not used for the class."""
    take: Callable[[Ints], Tensor]
    """(m,) numbers of windows → their vectors (m, d)."""

    @staticmethod
    def of(vectors: Tensor, signs: Signs) -> "LabelledVectors":
        """Vectors (n, d) that are there."""
        return LabelledVectors(signs, lambda rows: vectors[torch.from_numpy(rows)])

    def chosen(self, rows: Ints) -> "ChosenVectors":
        """Some of the windows, with their vectors."""
        return ChosenVectors(rows, self.take(rows).float(), self.signs[rows])


@dataclass(frozen=True, eq=False)
class ChosenVectors:
    """Windows of an image that were chosen to learn from."""

    rows: Ints
    """(m,) their numbers among the image's."""
    vectors: Tensor
    """(m, d) float32, as they come."""
    signs: Signs
    """(m, k)"""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Ints | slice) -> "ChosenVectors":
        return ChosenVectors(self.rows[index], self.vectors[index], self.signs[index])


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """How SVMs are mined and trained."""

    loss: Loss = "hinge"
    C: float = 1e-3
    class_weight: float = 2.0
    """Multiplies C for positives."""
    intercept_scaling: float = 10.0
    tolerance: float = 1e-2
    """Of a fit (`fit_svm`)."""
    rounds: int = 4
    """Passes over the images, the first of which takes negatives at random."""
    random_negatives: int = 8
    """Negatives an image gives at random."""
    max_positives: int | None = None
    """Positives an image gives at most, drawn at random: fewer where half the store cannot hold as many of
    all images. None: all, and an error where they do not fit."""
    max_hard_negatives: int = 20
    """New negatives an image gives for a class in a round, hardest first."""
    margin: float = -1.0
    """A negative that scores above this is hard."""
    min_new_share: float = 0.002
    """Mining ends when a round adds less than this share of the store."""
    max_bytes: int = 3 << 30
    """For the stored vectors."""
    folds: int = 0
    """Parts of the images; for a part SVMs are fitted without it too. 0 or 1 for none."""
    held_out: int | None = None
    """Images that suffice to be held out: no more folds are fitted then. None: all folds are."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "random_negatives", "max_hard_negatives", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more; got {getattr(self, name)}")


class VectorStore:
    """The vectors in use, with where they came from."""

    def __init__(self, length: int, classes: int, max_bytes: int) -> None:
        self.limit = max(64, max_bytes // (4 * length))
        self.vectors = np.empty((self.limit, length), np.float32)  # the system gives pages as they fill
        self.signs = np.zeros((self.limit, classes), np.int8)
        self.origin = np.zeros((self.limit, 2), np.int64)  # image, window
        self.count = 0
        self.known: set[tuple[int, int]] = set()
        self.dual: Array | None = None
        self.scale = 1.0

    def __len__(self) -> int:
        return self.count

    def count_positives(self) -> int:
        return int((self.signs[: self.count] > 0).any(axis=1).sum())

    def add(self, image: int, chosen: ChosenVectors) -> None:
        """Take in windows of an image, as far as there is room."""
        chosen = chosen[: self.limit - self.count]
        here = slice(self.count, self.count + len(chosen))
        self.vectors[here] = chosen.vectors.numpy() * np.float32(self.scale)
        self.signs[here] = chosen.signs
        self.origin[here, 0], self.origin[here, 1] = image, chosen.rows
        self.known.update((image, row) for row in chosen.rows.tolist())
        self.count += len(chosen)

    def add_positives(self, image: int, chosen: ChosenVectors) -> None:
        if len(chosen) > self.limit - self.count:
            raise DataError(
                f"{self.limit} vectors of {self.vectors.shape[1]} numbers fit into max_bytes, and positives "
                f"do not; image {image} brings {len(chosen)} more: raise max_bytes, or take fewer positives"
            )
        self.add(image, chosen)

    def find_hard(
        self, image: int, candidates: LabelledVectors, svm: LinearSVM, config: MiningConfig
    ) -> ChosenVectors:
        """The new negatives within a margin, at most `max_hard_negatives` for each class."""
        new = np.array([(image, row) not in self.known for row in range(len(candidates.signs))], np.bool_)
        negative = candidates.chosen(np.flatnonzero((candidates.signs < 0).any(axis=1) & new))
        scores = self.unscaled(svm).scores(negative.vectors).numpy()
        scores = np.where(negative.signs < 0, scores, -np.inf)
        hard: list[Ints] = []
        for column in scores.T:
            best = np.argsort(-column, kind="stable")[: config.max_hard_negatives]
            hard.append(best[column[best] > config.margin])
        return negative[np.unique(np.concatenate(hard))]

    def fix_scale(self) -> None:
        """From here on vectors have a mean length of NORM."""
        rows = self.vectors[: self.count]
        mean = float(np.sqrt(np.einsum("nd,nd->n", rows, rows)).mean())
        self.scale = NORM / mean if mean > 0 else 1.0
        rows *= np.float32(self.scale)

    def of_numbers(self, block: slice) -> "VectorStore":
        """The same vectors with some of their numbers alone, again of a mean length of NORM; no fit yet."""
        other = VectorStore(len(range(*block.indices(self.vectors.shape[1]))), self.signs.shape[1], 1)
        other.vectors = np.ascontiguousarray(self.vectors[: self.count, block])
        other.signs, other.origin = self.signs[: self.count].copy(), self.origin[: self.count].copy()
        other.limit = other.count = self.count
        other.fix_scale()
        other.scale *= self.scale
        return other

    def fit(self, classes: Sequence[str], config: MiningConfig) -> LinearSVM:
        """SVMs of all vectors, starting from the last fit; every class needs both sides."""
        svm = self._fit(self.signs[: self.count], classes, config)
        assert svm.fit is not None
        self.dual = svm.fit.dual
        return svm

    def fit_without(self, excluded: Flags, classes: Sequence[str], config: MiningConfig) -> LinearSVM:
        """SVMs of the vectors of other images than these; excluded: (images,).

        A class without positives or negatives there has weights of 0 and a bias of −inf.
        """
        signs = self.signs[: self.count].copy()
        signs[excluded[self.origin[: self.count, 0]]] = 0
        able: Flags = np.asarray((signs > 0).any(axis=0) & (signs < 0).any(axis=0))
        weight = torch.zeros((len(classes), self.vectors.shape[1]))
        bias = torch.full((len(classes),), -torch.inf)
        if able.any():
            assert self.dual is not None
            names = [name for name, one in zip(classes, able, strict=True) if one]
            svm = self._fit(np.ascontiguousarray(signs[:, able]), names, config, self.dual[:, able])
            weight[torch.from_numpy(able)], bias[torch.from_numpy(able)] = svm.weight, svm.bias
        return LinearSVM(weight, bias, tuple(classes))

    def _fit(
        self, signs: Signs, classes: Sequence[str], config: MiningConfig, start: Array | None = None
    ) -> LinearSVM:
        return fit_svm(
            self.vectors[: self.count],
            signs,
            C=config.C,
            loss=config.loss,
            class_weight=config.class_weight,
            intercept_scaling=config.intercept_scaling,
            tolerance=config.tolerance,
            classes=tuple(classes),
            start=self.dual if start is None else start,
            seed=config.seed,
        )

    def unscaled(self, svm: LinearSVM) -> LinearSVM:
        """The SVM for vectors as they come."""
        return LinearSVM(svm.weight * self.scale, svm.bias, svm.classes, svm.fit)

    def make_room(self, svm: LinearSVM, config: MiningConfig) -> None:
        """Where less than a quarter of the store is free, let the easiest negatives go.

        Those within a margin stay as long as a quarter becomes free, and positives always do.
        """
        if self.count < 0.75 * self.limit:
            return
        scores = svm.scores(self.vectors[: self.count]).numpy()
        signs = self.signs[: self.count]
        hardness = np.where(signs < 0, scores, -np.inf).max(axis=1)
        positive = (signs > 0).any(axis=1)
        hardness[positive] = np.inf
        within = int(np.count_nonzero(hardness > config.margin))
        room = max(int(np.clip(within, self.limit // 2, self.limit * 3 // 4)), np.count_nonzero(positive))
        kept = np.sort(np.argsort(-hardness, kind="stable")[:room])
        gone = np.delete(self.origin[: self.count], kept, axis=0)
        self.known.difference_update((int(image), int(row)) for image, row in gone)
        for first in range(0, len(kept), ROWS_AT_ONCE):  # rows only move forward, so none is lost
            rows = kept[first : first + ROWS_AT_ONCE]
            for array in (self.vectors, self.signs, self.origin):
                array[first : first + len(rows)] = array[rows]
        assert self.dual is not None
        self.dual, self.count = self.dual[kept], len(kept)
