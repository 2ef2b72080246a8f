"""Which input size each epoch trains at (paper section 2.3, multi-size training).

The paper changes the size from epoch to epoch, not from batch to batch; the weights are shared. A
schedule is a pure function of the epoch, so that a resumed training meets the same sizes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sppnet.errors import ConfigError

Kind = Literal["single", "alternate", "uniform"]

SIZE_STREAM = 2
"""Keeps the draws of sizes apart from those of the order (1) and of the transforms (0)."""


@dataclass(frozen=True)
class SizeSchedule:
    """The side in pixels of the square inputs of each epoch; epochs count from 0."""

    kind: Kind
    values: tuple[int, ...]
    """The one size, the sizes in turn, or the smallest and the largest."""
    seed: int = 0
    """Only "uniform" draws."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"a size schedule is one of {', '.join(get_args(Kind))}; got {self.kind!r}")
        if not self.values or not all(isinstance(v, int) and not isinstance(v, bool) for v in self.values):
            raise ConfigError(f"sizes must be whole pixels; got {self.values!r}")
        if min(self.values) < 1:
            raise ConfigError(f"sizes must be at least 1 pixel; got {self.values!r}")
        if self.kind == "single" and len(self.values) != 1:
            raise ConfigError(f'a "single" schedule has one size; got {self.values!r}')
        if self.kind == "uniform" and (len(self.values) != 2 or self.values[0] > self.values[1]):
            raise ConfigError(f'a "uniform" schedule has a smallest and a largest size; got {self.values!r}')

    @classmethod
    def single(cls, size: int) -> "SizeSchedule":
        """The same size in every epoch."""
        return cls("single", (size,))

    @classmethod
    def alternate(cls, sizes: Sequence[int]) -> "SizeSchedule":
        """The sizes in turn, an epoch each: the paper's 224, 180, 224, …"""
        return cls("alternate", tuple(sizes))

    @classmethod
    def uniform(cls, smallest: int, largest: int, seed: int = 0) -> "SizeSchedule":
        """One draw an epoch from all sizes between the two, both included: the paper's 180 to 224."""
        return cls("uniform", (smallest, largest), seed)

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "SizeSchedule":
        """A schedule as people write it: "224", "224,180" (in turn) or "180:224" (drawn)."""
        match = re.fullmatch(r"\d+(?:(,\d+)+|:\d+)?", compact := re.sub(r"\s", "", text), re.ASCII)
        if match is None:
            raise ConfigError(
                f'sizes are written "224" (one), "224,180" (in turn, an epoch each) or "180:224" (drawn anew '
                f"for each epoch); got {text!r}"
            )
        numbers = tuple(int(number) for number in re.split("[,:]", compact))
        if ":" in compact:
            return cls.uniform(numbers[0], numbers[1], seed)
        return cls.alternate(numbers) if len(numbers) > 1 else cls.single(numbers[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes it can give, each once: in turn, or ascending."""
        if self.kind == "uniform":
            return tuple(range(self.values[0], self.values[1] + 1))
        return tuple(dict.fromkeys(self.values))

    @property
    def test_size(self) -> int:
        """The size to test at: the first, or the largest of a range, which does not depend on the seed."""
        return self.values[1] if self.kind == "uniform" else self.values[0]

    def size(self, epoch: int) -> int:
        """The size of an epoch."""
        if epoch < 0:
            raise ConfigError(f"epochs count from 0; got {epoch}")
        if self.kind != "uniform":
            return self.values[epoch % len(self.values)]
        entropy = np.random.SeedSequence(self.seed, spawn_key=(SIZE_STREAM, epoch))
        return int(np.random.default_rng(entropy).integers(self.values[0], self.values[1], endpoint=True))
