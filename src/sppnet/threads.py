"""Work on a few items at once, with results in the order of the items.

Threads and not processes: Pillow, numpy, torch and our kernels release the interpreter while they work,
one cache serves all, and numba's OpenMP layer does not survive a fork.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from sppnet.errors import ImageError

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 2
"""While one photograph is read, judged or drawn, which is work for one core, another is convolved."""


def ordered_map(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int = AT_ONCE, ahead: int = 0
) -> Generator[Result]:
    """work(item) of every item, in order.

    workers: threads; with 0 each result is made when it is asked for, by whoever asks.
    ahead: results beyond those being made that may wait; memory holds workers + ahead of them at most.
    What `work` raises is raised in its place and ends the rest. The threads end when the generator is
    exhausted, closed or dropped, after the items they are at.
    """
    if not workers:
        yield from map(work, items)
        return
    todo = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sppnet-work")
    try:
        pending = deque(pool.submit(work, item) for item in islice(todo, workers + ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ordered_attempts(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int = AT_ONCE, ahead: int = 0
) -> Generator[Result | ImageError]:
    """As `ordered_map`, with the error in place of what `work` makes of an image that cannot be read."""

    def attempt(item: Item) -> Result | ImageError:
        try:
            return work(item)
        except ImageError as error:
            return error

    return ordered_map(attempt, items, workers, ahead)
