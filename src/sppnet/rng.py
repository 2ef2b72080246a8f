"""Random numbers as a pure function of the seed and of what they are for.

Whoever draws names a stream, and the place within it (an epoch, an image): so that no draw depends on those
before it, on threads or on processes, and a run that was stopped goes on with the same numbers.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. A number belongs to its stream for good: another would give other models."""

    TRANSFORMS = 0
    ORDER = 1
    SIZES = 2
    DROPOUT = 3
    REGRESSED_WINDOWS = 7
    REFINED_WINDOWS = 8
    SCALES = 11
    VALIDATION = 12
    FOLDS = 13
    CELLS = 21
    VECTORS = 22
    TRIALS = 23
    MINING = 24
    ROUNDED_WEIGHTS = 25
    JOINT_ORDER = 31
    JOINT_SAMPLES = 32
    JOINT_HELD_OUT = 33
    # Fine-tuning a head draws neither transforms nor an order, and has their numbers.
    ROI_IMAGES = 0
    ROI_WINDOWS = 1


def generator(seed: int, *key: int) -> np.random.Generator:
    """key: a stream, and the place within it."""
    return np.random.default_rng(_sequence(seed, key))


def torch_seed(seed: int, *key: int) -> int:
    """As `generator`, for `torch.manual_seed`."""
    return int(_sequence(seed, key).generate_state(1, np.uint64)[0] >> 1)


def _sequence(seed: int, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=tuple(map(int, key)))
