"""Work in the background while it is done: what the engine says, kept and told to who follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from router.http.client import Headers, Source
from router.relay.responses import ENDS, RESPONSES
from router.stored.holding import EVENT_END, decoded, event_data
from router.stored.journal import Journal
from router.stored.records import Fields

_NOT_KEPT = (*RESPONSES.preludes, b"event: error")
"""The beginning was told already, and a failure is told by the response."""


class Recording:
    """A `Client` for nobody; `close` when no more will come."""

    def __init__(self, begun: Iterable[Fields]) -> None:
        """`begun` are the events of a stream that are told before the engine says anything."""
        self.journal = Journal()
        for event in begun:
            self.journal.add(event)
        self.started = False
        self.response: Fields | None = None
        """The response object, once it has come whole."""
        self.refusal: bytes | None = None
        """The body of an answer that is no response."""
        self.is_closed = False
        self._news = asyncio.Event()

    async def news(self, last: int, within_s: float) -> None:
        """Returns when there are events behind `last` or will be none, or after that time."""
        if self.journal.count > last + 1 or self.is_closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()

    def close(self) -> None:
        self.is_closed = True
        self._tell()

    def start(self, status: int, content_type: str, headers: Headers) -> None:
        self.started = True

    def write(self, data: bytes) -> None:
        for event in data.split(EVENT_END):  # whole ones: the relay passes no others
            if not event.startswith(b"event: ") or event.startswith(_NOT_KEPT):
                continue
            told = decoded(event_data(event)) or {}
            if event.startswith(ENDS):
                found = told.get("response")
                self.response = found if isinstance(found, dict) else None
            elif told:
                self.journal.add(told)
        self._tell()

    def passage(self) -> None:
        """None: every event is looked at."""

    def end(self, data: bytes = b"") -> None:
        if self.response is None and data:
            self.refusal = data

    def whole(self, status: int, content_type: str, headers: Headers, body: bytes) -> None:
        self.started = True
        if status == 200:
            self.response = decoded(body)
        if self.response is None:
            self.refusal = body

    def follow(self, source: Source | None) -> None:
        """Nobody is too slow for it."""

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
