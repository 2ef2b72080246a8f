"""A row of a benchmark: ours and a peer, timed in turns, with the spread of both.

Turns, because a machine that slows down for a while then slows both. Medians and quartiles,
because the slowest runs tell of other programs. A turn is a while, not a call: a core that slept
while the other side worked is slow at first, which would be laid on who takes few milliseconds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from sppnet.progress import NullProgress, Progress

Call = Callable[[], object]

TURN_S = 0.2
"""A call that takes less is repeated in its turn until so long has passed."""
CALLS_A_TURN = 1000
"""At most."""


@dataclass(frozen=True)
class Timing:
    """How long a call takes: the middle half of its runs."""

    q1_s: float
    median_s: float
    q3_s: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case of a benchmark; every time in seconds."""

    case: str
    peer: str
    """What ours is measured against."""
    ours_s: float
    """Median."""
    ours_q1_s: float
    ours_q3_s: float
    peer_s: float
    """Median."""
    peer_q1_s: float
    peer_q3_s: float
    floor_s: float
    """What no way can go below, measured in the same turns."""
    ours_bytes: int | None = None
    """Most memory a process of its own held, vectors and libraries included; None where not measured."""
    peer_bytes: int | None = None
    note: str = ""
    """What else was seen, in words."""

    @property
    def ratio(self) -> float:
        """How many times as long the peer takes."""
        return self.peer_s / self.ours_s

    @property
    def ratio_spread(self) -> tuple[float, float]:
        """The ratio of the peer's lower quartile to our upper one, and the other way round."""
        return self.peer_q1_s / self.ours_q3_s, self.peer_q3_s / self.ours_q1_s


def time_interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    warm_ups: int = 1,
    turn_s: float = TURN_S,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Each call a turn a round, every other round in reverse; what it returns is freed off the clock.

    The time of a turn is the median of its calls. progress: is told of a stage, and of every turn in it.
    """
    progress = progress or NullProgress()
    progress.begin("timing", (warm_ups + rounds) * len(calls))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_ups, rounds):
        for name, call in list(calls.items())[:: -1 if turn % 2 else 1]:
            elapsed = _time_a_turn(call, turn_s)
            if turn >= 0:
                seconds[name].append(elapsed)
            progress.advance(note=name)
    return {name: summarise(times) for name, times in seconds.items()}


def _time_a_turn(call: Call, turn_s: float) -> float:
    times = [_time_once(call)]
    end = time.perf_counter() + turn_s - times[0]
    while len(times) < CALLS_A_TURN and time.perf_counter() < end:
        times.append(_time_once(call))
    return statistics.median(times)


def _time_once(call: Call) -> float:
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_initialized():  # until the device has done what it was asked
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def summarise(times: list[float]) -> Timing:
    """Median and quartiles of one run or more."""
    if len(times) == 1:
        times = times * 2
    return Timing(*statistics.quantiles(times, n=4, method="inclusive"))


def compare(case: str, ours: Call, peer_name: str, peer: Call, floor: Call, rounds: int) -> Row:
    """The row of a case."""
    timings = time_interleaved({"ours": ours, "peer": peer, "floor": floor}, rounds)
    return row_of(case, peer_name, timings["ours"], timings["peer"], timings["floor"].median_s)


def measure_cases(cases: Mapping[str, Callable[[str], Row]], progress: Progress | None) -> list[Row]:
    """The row of every case, each measured by its name."""
    progress = progress or NullProgress()
    progress.begin("timing", len(cases))
    rows = []
    for case, measure in cases.items():
        rows.append(measure(case))
        progress.advance(note=case)
    return rows


def row_of(
    case: str,
    peer_name: str,
    own: Timing,
    other: Timing,
    floor_s: float,
    *,
    note: str = "",
    **memory: int | None,
) -> Row:
    """The row of two timings; memory: `ours_bytes` and `peer_bytes`."""
    return Row(
        case=case,
        peer=peer_name,
        ours_s=own.median_s,
        ours_q1_s=own.q1_s,
        ours_q3_s=own.q3_s,
        peer_s=other.median_s,
        peer_q1_s=other.q1_s,
        peer_q3_s=other.q3_s,
        floor_s=floor_s,
        note=note,
        **memory,
    )


def to_json(benchmark: str, rows: Sequence[Row]) -> dict[str, object]:
    """Plain values for a file."""
    return {"benchmark": benchmark, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
