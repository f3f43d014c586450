"""What a client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Limits on the size of requests, on their number, and on time."""

    size: int = MEGABYTE
    """The most bytes in the body of a request."""
    rows: int = 1000
    """The most inputs of a request."""
    waiting: int = 256
    """The most requests that wait for the model; further ones are refused."""
    answer_seconds: float = 30.0
    """Seconds in which a request is answered once it has been read."""
    read_seconds: float = 10.0
    """Seconds in which the head of a request has to arrive, and then its body; also those in which
    a client has to take some of its answer."""

    @property
    def waiting_size(self) -> int:
        """The most bytes in the bodies of all requests that wait, so that they fit into memory: as
        Python's objects they take up to twenty times as much."""
        return 16 * self.size

    @property
    def connections(self) -> int:
        """The most open connections. Some may be idle, or still send their request."""
        return self.waiting + 256
