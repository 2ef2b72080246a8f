"""Hard-negative mining: SVMs trained on the few windows that matter, out of millions.

A photograph has thousands of windows without an object, nearly all of them easy. So the SVMs are
trained on all positives and a few negatives; every image is scored; the negatives that come within
the margin join; and again, from where the last fit ended, until hardly any new ones come (paper
section 4.1, after R-CNN). A vector that joined for one class serves all classes it is negative for.
Memory is bounded: when the store fills up, the vectors that are farthest from every margin leave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sppnet.arrays import Ints, Signs
from sppnet.errors import DataError
from sppnet.progress import NullProgress, Progress, track
from sppnet.rng import Stream, generator
from sppnet.svm.cross_validation import deal_folds, first_folds
from sppnet.svm.linear_svm import LinearSVM
from sppnet.svm.vector_store import ChosenVectors, LabelledVectors, MiningConfig, VectorStore
from sppnet.threads import ordered_map

MAX_BLOCK_BYTES = 1 << 29
"""Stored vectors of which parts are copied, to fit SVMs of these alone."""

VectorSource = Callable[[int], LabelledVectors]


@dataclass(frozen=True)
class MiningRound:
    """What one pass over the images brought."""

    round: int
    """From 1."""
    positives: int
    negatives: int
    """In the store, with those that joined."""
    joined: int
    """Negatives: drawn at random in the first round, hard ones after it."""
    dropped: int
    """Negatives that left after the fit, to make room."""


@dataclass(frozen=True, eq=False)
class MinedSVMs:
    """SVMs of all images, and for the first folds SVMs that have not seen their images."""

    svm: LinearSVM
    folds: tuple[LinearSVM, ...] = ()
    """A class without positives outside the fold has a bias of −inf there: it cannot be judged."""
    fold_of: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(images,) the fold that each image belongs to; empty without folds."""
    of_blocks: "tuple[MinedSVMs, ...]" = ()
    """Of the blocks of `mine_svms`, each of vectors of that length; none where vectors are too many."""


def mine_svms(
    source: VectorSource,
    images: int | Ints,
    classes: Sequence[str],
    config: MiningConfig | None = None,
    progress: Progress | None = None,
    callback: Callable[[MiningRound], None] | None = None,
    blocks: Sequence[slice] = (),
) -> MinedSVMs:
    """One SVM a class, against the windows of all images.

    source: gives the windows of image 0 … images − 1; called once an image and round, on two threads.
    images: how many, or (n,) the photograph that each shows: those of one photograph are in one fold.
    callback: called after each round. blocks: SVMs of these numbers of the vectors alone are fitted too, to
        the windows that were mined.
    The weights are for vectors as they come: the scaling to a mean length of 20 is folded into them.
    Raises DataError for a class without positives, and for more positives than max_bytes holds.
    """
    config = config or MiningConfig()
    progress = progress or NullProgress()
    callback = callback or (lambda one: None)
    groups = np.arange(images) if isinstance(images, int) else images
    images = len(groups)
    store = _gather(source, images, classes, config, progress)
    svm = store.fit(classes, config)
    positives = store.count_positives()
    callback(MiningRound(1, positives, len(store) - positives, len(store) - positives, 0))
    for turn in range(1, config.rounds):
        before = len(store)
        progress.begin(f"mining, round {turn + 1}", images)
        find = partial(_find_hard, source, store, svm, config)
        for image, hard in enumerate(ordered_map(find, range(images))):
            store.add(image, hard)
            progress.advance(note=f"{len(store)} vectors")
        joined, negatives = len(store) - before, len(store) - positives
        if joined <= config.min_new_share * before:
            callback(MiningRound(turn + 1, positives, negatives, joined, 0))
            break
        svm = store.fit(classes, config)
        store.make_room(svm, config)
        callback(MiningRound(turn + 1, positives, negatives, joined, negatives + positives - len(store)))
    dealt = deal_folds(len(np.unique(groups)), config.folds, config.seed)
    chosen = first_folds(dealt, config.held_out)
    fold_of = dealt[groups] if len(dealt) else dealt
    folds = _fit_folds(store, fold_of, chosen, classes, config, progress)
    of_blocks = []
    for block in blocks if store.vectors[: len(store)].nbytes <= MAX_BLOCK_BYTES else ():
        part = store.of_numbers(block)
        alone = part.unscaled(part.fit(classes, config))
        of_blocks.append(
            MinedSVMs(alone, _fit_folds(part, fold_of, chosen, classes, config, progress), fold_of)
        )
    return MinedSVMs(store.unscaled(svm), folds, fold_of, tuple(of_blocks))


def _fit_folds(
    store: VectorStore,
    fold_of: Ints,
    folds: Sequence[int],
    classes: Sequence[str],
    config: MiningConfig,
    progress: Progress,
) -> tuple[LinearSVM, ...]:
    """For each of these folds, SVMs of the stored vectors of all other images."""
    progress.begin("cross-validating SVMs", len(folds))
    fitted = []
    for fold in folds:
        fitted.append(store.unscaled(store.fit_without(fold_of == fold, classes, config)))
        progress.advance()
    return tuple(fitted)


def _find_hard(
    source: VectorSource, store: VectorStore, svm: LinearSVM, config: MiningConfig, image: int
) -> ChosenVectors:
    return store.find_hard(image, source(image), svm, config)


def _gather(
    source: VectorSource, images: int, classes: Sequence[str], config: MiningConfig, progress: Progress
) -> VectorStore:
    """All positives, and the first negatives."""
    if not images:
        raise DataError("there are no images to train on")
    first = source(0)
    length = first.take(np.empty(0, np.int64)).shape[1]
    store = VectorStore(length, len(classes), config.max_bytes)
    share = None
    if config.max_positives is not None:
        share = max(1, min(config.max_positives, store.limit // (2 * images)))

    def draw(image: int) -> tuple[ChosenVectors, ChosenVectors]:
        candidates = source(image) if image else first
        rng = generator(config.seed, Stream.MINING, image)
        positive = (candidates.signs > 0).any(axis=1)
        others = np.flatnonzero(~positive & (candidates.signs < 0).any(axis=1))
        drawn = rng.choice(others, min(config.random_negatives, len(others)), replace=False)
        rows = np.flatnonzero(positive)
        if share is not None:
            rows = _thin(candidates.signs, rows, share, rng)
        every = candidates.chosen(np.concatenate([rows, np.sort(drawn)]))
        return every[: len(rows)], every[len(rows) :]

    for image, (positives, negatives) in enumerate(
        track(ordered_map(draw, range(images)), "mining, round 1", images, progress)
    ):
        store.add_positives(image, positives)
        if len(store) < store.limit // 2:  # the rest is for positives to come, and for hard negatives
            store.add(image, negatives)
    store.fix_scale()
    return store


def _thin(signs: Signs, positive: Ints, share: int, rng: np.random.Generator) -> Ints:
    """`share` positives of an image, drawn at random, and one of each class anyway."""
    if len(positive) <= share:
        return positive
    shuffled = rng.permutation(positive)
    of_class = signs[shuffled] > 0
    first = of_class.argmax(axis=0)[of_class.any(axis=0)]
    return np.unique(np.concatenate([shuffled[:share], shuffled[first]]))
