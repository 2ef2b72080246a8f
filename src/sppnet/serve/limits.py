"""How much a server takes on, and how it says no."""

from dataclasses import dataclass

from sppnet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds the server's memory and the time anybody waits."""

    max_bytes: int = 20 << 20
    """Of a request's body, counted while it is read."""
    max_pixels: int = 40_000_000
    """Of an image, known before it is decoded."""
    images: int = 16
    """In one request."""
    queue: int = 8
    """Requests that are read, wait or are worked on; the next is told to come back (503)."""
    per_client: int = 4
    """Queued requests per client (429 beyond)."""
    upload_seconds: float = 30.0
    """For a body to arrive, since it holds a place in the queue meanwhile."""
    slow_seconds: float = 2.0
    """After which a body that has not arrived yet gives its place to whoever else needs one (408)."""
    idle_seconds: int = 15
    """For the head of a request to arrive, from the connection's start or its last answer."""
    kept: int = 16
    """Convolved images kept for windows to be asked of, the least used thrown out first."""
    kept_bytes: int = 256 << 20
    """Of their maps."""
    kept_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"{name} must be above 0; got {value}")


class Refusal(Exception):
    """A request that is not answered: an HTTP status and a sentence that says what to do."""

    def __init__(self, status: int, message: str, retry_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_seconds = status, message, retry_seconds
