"""The one thread that runs the model, and the short queue before it.

Torch uses all cores for one image, so a second thread would only make both slower and double the memory.
A place in the queue is taken before the body is read: what waits is bounded in bytes as well.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from sppnet.serve.limits import Limits, Refusal

Answer = TypeVar("Answer")

SHARE_OF_LAST = 0.2
"""What the last answer's time weighs in the time that is expected of the next."""


class Worker:
    """Places and runs work; all but the work itself happens on the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.clients: Counter[str] = Counter()
        self.expected_seconds = 1.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sppnet-model")

    @property
    def length(self) -> int:
        """Requests in the queue, the one that is worked on among them."""
        return self.clients.total()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place in the queue; raises Refusal where it is full, or full of this client's."""
        if self.clients[client] >= self.limits.per_client:
            raise Refusal(
                429,
                f"{self.clients[client]} requests of yours wait already; let them end first",
                self._wait(),
            )
        if self.length >= self.limits.queue:
            raise Refusal(503, f"{self.length} requests wait already; come back later", self._wait())
        self.clients[client] += 1
        try:
            yield
        finally:
            self.clients[client] -= 1
            self.clients += Counter()  # forgets clients that have none

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """The answer of `work`, on the model's thread."""
        job = self._thread.submit(self._timed, work)
        answer = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:  # the client went away, but its place is free once its work has ended
            if not job.cancel():
                await asyncio.wait([answer])
            raise

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _timed(self, work: Callable[[], Answer]) -> Answer:
        started = perf_counter()
        try:
            return work()
        finally:
            spent = perf_counter() - started
            self.expected_seconds += SHARE_OF_LAST * (spent - self.expected_seconds)

    def _wait(self) -> int:
        return max(1, math.ceil(self.length * self.expected_seconds))
