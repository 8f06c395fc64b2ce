"""The client's side of one exchange, as the service and the relay see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Headers = tuple[tuple[str, str], ...]


class Source(Protocol):
    """Where an answer comes from; paused while the client's socket is full."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Client(Protocol):
    """Takes one response. No call raises: bytes for a client that has left are dropped, and who
    left is told to the task that serves it, by a cancellation."""

    started: bool
    """Headers went out: from here an error can only be told inside the body."""

    def start(self, status: int, content_type: str, headers: Headers) -> None:
        """The head of a response that goes on with `write` and `end`."""
        ...

    def write(self, data: bytes) -> None:
        """Some of the body, never empty."""
        ...

    def passage(self) -> Callable[[bytes], object] | None:
        """Takes some of the body in HTTP's chunked framing already; None if that cannot be."""
        ...

    def end(self, data: bytes = b"") -> None:
        """The last of the body."""
        ...

    def whole(self, status: int, content_type: str, headers: Headers, body: bytes) -> None:
        """A response at once."""
        ...

    def follow(self, source: Source | None) -> None:
        """Paces this source from now on; None for nobody."""
        ...
