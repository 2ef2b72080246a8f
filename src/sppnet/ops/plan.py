"""What the levels of a pyramid have to do with each other: the order to fill them in."""

from dataclasses import dataclass
from functools import lru_cache

from sppnet.geometry.grid import check_levels


@dataclass(frozen=True)
class LevelPlan:
    """One level: an n×n grid, where its bins stand, and the level it is a maximum of."""

    n: int
    first_bin: int
    """Bins of the levels before it in the vector."""
    source: int | None
    """Index of the finer level whose bins its bins are unions of; None: it reads the map."""


@lru_cache(maxsize=64)
def plan_levels(levels: tuple[int, ...]) -> tuple[LevelPlan, ...]:
    """A plan for each level, in the order of `levels`.

    When n divides m, bin i of n begins where bin i·m/n of m begins and ends where bin
    (i+1)·m/n − 1 ends, so the coarse maximum is exactly the maximum of fine ones.
    """
    check_levels(levels)
    plans, first_bin = [], 0
    for n in levels:
        finer = [m for m in levels if m > n and m % n == 0]
        source = levels.index(min(finer)) if finer else None
        plans.append(LevelPlan(n=n, first_bin=first_bin, source=source))
        first_bin += n * n
    return tuple(plans)


def filling_order(plans: tuple[LevelPlan, ...]) -> list[int]:
    """Indices of the levels, every one after the level it is made from."""
    return sorted(range(len(plans)), key=lambda index: -plans[index].n)
