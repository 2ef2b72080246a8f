"""The one thread that runs the model, and the short queue before it.

Torch uses all cores for one image, so a second thread would only make both slower and double the memory.
A place in the queue is taken before the body is read: what waits is bounded in bytes as well. A client that
sends slowly keeps its place only as long as nobody else needs it, else a few could keep all others out.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, perf_counter
from typing import TypeVar

from sppnet.serve.limits import Limits, Refusal

Answer = TypeVar("Answer")

SHARE_OF_LAST = 0.2
"""What the last answer's time weighs in the time that is expected of the next."""


class QueueSlot:
    """In the queue, of one request."""

    def __init__(self, client: str) -> None:
        self.client, self.since = client, monotonic()
        self._arrival: asyncio.Timeout | None = None

    @asynccontextmanager
    async def arrival(self) -> AsyncIterator[None]:
        """While the body is read, the place can be lost: raises Refusal then."""
        try:
            async with asyncio.timeout(None) as self._arrival:
                yield
        except TimeoutError as error:
            raise Refusal(
                408, "the body had not arrived when the queue was full; send it again", 1
            ) from error
        finally:
            self._arrival = None

    def is_slow(self, seconds: float) -> bool:
        return self._arrival is not None and monotonic() - self.since > seconds

    def give_up(self) -> None:
        assert self._arrival is not None
        self._arrival.reschedule(asyncio.get_running_loop().time())


class Worker:
    """Places and runs work; all but the work itself happens on the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places: list[QueueSlot] = []
        self.expected_seconds = 1.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sppnet-model")

    @property
    def length(self) -> int:
        """Requests in the queue, the one that is worked on among them."""
        return len(self.places)

    @contextmanager
    def place(self, client: str) -> Iterator[QueueSlot]:
        """A place in the queue; raises Refusal where it is full, or full of this client's."""
        own = [place for place in self.places if place.client == client]
        if len(own) >= self.limits.per_client and not self._free_one(own):
            raise Refusal(429, f"{len(own)} requests of yours wait already; let them end first", self._wait())
        if self.length >= self.limits.queue and not self._free_one(self.places):
            raise Refusal(503, f"{self.length} requests wait already; come back later", self._wait())
        place = QueueSlot(client)
        self.places.append(place)
        try:
            yield place
        finally:
            if place in self.places:
                self.places.remove(place)

    def _free_one(self, places: list[QueueSlot]) -> bool:
        """Takes the place of the body that has been arriving longest, if one is slow."""
        slow = next((place for place in places if place.is_slow(self.limits.slow_seconds)), None)
        if slow is None:
            return False
        slow.give_up()
        self.places.remove(slow)
        return True

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
