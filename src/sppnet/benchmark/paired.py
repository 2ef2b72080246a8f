"""Differences of two ways over the same seeds, and how likely chance alone makes them so large."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 20_000
"""Of the integral below; the p-value is then right to six places."""


@dataclass(frozen=True)
class Paired:
    """Of pairs, the first less the second."""

    differences: tuple[float, ...]
    mean: float
    p: float | None
    """Of a two-sided paired t-test; None with one pair."""


def spread_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n − 1; None for that of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """The paired t-test of values that stand in pairs."""
    differences = tuple(a - b for a, b in zip(first, second, strict=True))
    mean, deviation = spread_of(differences)
    if deviation is None:
        return Paired(differences, mean, None)
    if deviation == 0:
        return Paired(differences, mean, 0.0 if mean else 1.0)
    t = mean / (deviation / math.sqrt(len(differences)))
    return Paired(differences, mean, two_sided_p(t, len(differences) - 1))


def two_sided_p(t: float, freedom: int) -> float:
    """The chance of a t as far from 0 or farther, for `freedom` degrees of freedom.

    With t = √freedom · tan φ its density is a power of cos φ, which is integrated by Simpson's rule.
    """
    begin = math.atan(abs(t) / math.sqrt(freedom))
    step = (math.pi / 2 - begin) / STEPS
    inner = sum((4 if i % 2 else 2) * math.cos(begin + i * step) ** (freedom - 1) for i in range(1, STEPS))
    ends = math.cos(begin) ** (freedom - 1) + (1.0 if freedom == 1 else 0.0)
    area = (ends + inner) * step / 3
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
    return min(1.0, 2 * scale * area)
