"""A connection that does not wait for its client without end.

uvicorn closes a connection that is silent. It lets a client take its time as long as a byte comes now and
then: over the head of a request, over a body that is answered already, over reading an answer. Each such
connection counts, until nobody else gets one.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Closed when its client has been waited for longer than `timeout_keep_alive`, or another needs its room.

    What is waited for is the whole head of the next request, or that an answer is taken. Bodies are waited
    for elsewhere (`Limits.upload_seconds`), where a refusal can be sent.
    """

    waits_since: float | None = None
    """By the loop's clock; None while it is the server that works."""
    _alarm: asyncio.TimerHandle | None = None
    _left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def _look(self) -> None:
        """Starts the clock where it is the client's turn; what comes meanwhile does not set it back."""
        if self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused:
            self._rest()
        elif self.waits_since is None:
            self.waits_since = self.loop.time()
            self._arm()

    def _rest(self) -> None:
        self.waits_since = None
        if self._alarm is not None:
            self._alarm.cancel()

    def _arm(self) -> None:
        self._left = self.transport.get_write_buffer_size()
        self._alarm = self.loop.call_later(self.timeout_keep_alive, self._ring)

    def _ring(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._left:  # a large answer on a slow line
            self._arm()
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """Where connections run short, whoever has been waited for longest goes."""
        if self.limit_concurrency is None or len(self.connections) < self.limit_concurrency:
            return
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        waiting = [(one.waits_since, one) for one in others if one.waits_since is not None]
        if waiting:
            _, longest = min(waiting, key=lambda pair: pair[0])
            longest._rest()  # two that come at once push out two
            longest.transport.abort()
