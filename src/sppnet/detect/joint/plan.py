"""How many steps fit the time that is left."""

import time
from dataclasses import dataclass

from sppnet.detect.joint.trainer import BATCH

MIN_STEPS = 40
"""Fewer than these teach nothing."""
TRIED = 3
"""Steps whose time is measured; one before them compiles and fills caches."""
MIN_LEFT = 20.0
"""Seconds; in fewer MIN_STEPS do not fit on two cores, and trying a few took five."""
RESERVE = 1.15
"""Judging and calibrating take longer than the passes forward that they are made of."""
FORWARD_SHARE = 0.5
"""Of the time of a step."""


@dataclass(frozen=True)
class Deadline:
    """A moment, by the clock of this process."""

    at: float

    @staticmethod
    def after(seconds: float) -> "Deadline":
        return Deadline(time.perf_counter() + seconds)

    @property
    def left(self) -> float:
        """Seconds; negative when it has passed."""
        return self.at - time.perf_counter()


def plan_steps(left: float, seconds_per_step: float, passes: int) -> int:
    """Steps that fit the seconds that are left, with what follows them; 0 where too few do.

    passes: of a photograph each through the network, forward, that follow the steps.
    """
    forward = FORWARD_SHARE * seconds_per_step / BATCH
    steps = int((left - RESERVE * forward * passes) / seconds_per_step)
    return steps if steps >= MIN_STEPS else 0
