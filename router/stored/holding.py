"""A client that holds the end of its answer back until what it says has been stored.

Whoever has read `response.completed` may send the next request at once, and it must find the
response. So the last event waits for the store; all before it passes as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from router.http.client import Client, Headers, Source
from router.relay.responses import ENDS

EVENT_END = b"\n\n"
_DATA = b"data: "


class HoldingClient:
    """A `Client` before another one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: list[Callable[[], None]] = []
        self.started = False
        self.response: dict[str, Any] | None = None
        """The response object, once it has come whole."""

    def start(self, status: int, content_type: str, headers: Headers) -> None:
        self.started = True
        self._client.start(status, content_type, headers)

    def write(self, data: bytes) -> None:
        if any(mark in data for mark in ENDS):
            self._look_for_end(data)
        self._pass(lambda client: client.write(data))

    def passage(self) -> None:
        """None: every event is looked at."""

    def end(self, data: bytes = b"") -> None:
        self._pass(lambda client: client.end(data))

    def whole(self, status: int, content_type: str, headers: Headers, body: bytes) -> None:
        self.started = True
        if status == 200:
            self.response = decoded(body)
        self._pass(lambda client: client.whole(status, content_type, headers, body))

    def follow(self, source: Source | None) -> None:
        self._client.follow(source)

    def release(self) -> None:
        """Passes on what was held back."""
        held, self._held = self._held, []
        self.response = None
        for passing in held:
            passing()

    def _pass(self, passing: Callable[[Client], None]) -> None:
        if self.response is None:
            passing(self._client)
        else:
            self._held.append(lambda: passing(self._client))

    def _look_for_end(self, data: bytes) -> None:
        """`data` is whole events: the relay passes no others."""
        for event in data.split(EVENT_END):
            if event.startswith(ENDS):
                told = decoded(event_data(event)) or {}
                found = told.get("response")
                self.response = found if isinstance(found, dict) else None


def event_data(event: bytes) -> bytes:
    """What a named event says."""
    return event.partition(_DATA)[2]


def decoded(data: bytes) -> dict[str, Any] | None:
    """The object, if it is one."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None
