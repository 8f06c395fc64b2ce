"""Streams stored responses again, and follows those that are still worked on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

from rhizome.clock import Clock
from rhizome.errors import QueueFull, RequestError
from router.comments import COMMENT, STREAM
from router.http.client import Client, Headers
from router.relay.responses import RESPONSES
from router.stored.events import begun, encoded, told
from router.stored.records import BEAT_S, RUNNING, Fields

Shown = Callable[[str, str], Awaitable[Fields]]
"""The response object by owner and id; raises `UnknownObject` or `StoreUnavailable`."""


class Retelling:
    """Any router can tell any response: what it tells, it has from the store.

    At most `followers_max` clients may wait for responses that have not ended.
    """

    def __init__(
        self, shown: Shown, clock: Clock, followers_max: int, comment_interval_s: float
    ) -> None:
        self._shown = shown
        self._clock = clock
        self._followers_max = followers_max
        self._comment_interval_s = comment_interval_s
        self._followers = 0

    def events(self, owner: str, response: Fields, after: int | None) -> AsyncIterator[bytes]:
        """The events of the response with higher numbers than `after`; raises `QueueFull`.

        What fails later ends the stream with an error event.
        """
        last = -1 if after is None else after
        if response.get("status") not in RUNNING:
            return self._ended(response, last)
        self.require_room()
        return self._running(owner, response, last)

    async def tell(self, owner: str, response: Fields, client: Client, headers: Headers) -> None:
        """All events, to a client that has got nothing yet; raises `QueueFull`."""
        events = self.events(owner, response, None)
        client.start(200, STREAM, headers)
        async for data in events:
            client.write(data)
        client.end()

    def require_room(self) -> None:
        """Raises `QueueFull` where nobody more may wait."""
        if self._followers >= self._followers_max:
            raise QueueFull("as many clients wait for responses in the background as may")

    async def _ended(self, response: Fields, last: int) -> AsyncIterator[bytes]:
        for data in _behind(told(response), last):
            yield data

    async def _running(self, owner: str, response: Fields, last: int) -> AsyncIterator[bytes]:
        self._followers += 1
        said_at_s = self._clock.monotonic_s()
        try:
            for data in _behind(begun(response), last):
                yield data
            while response.get("status") in RUNNING:
                await self._clock.sleep(BEAT_S)
                response = await self._shown(owner, response["id"])
                now_s = self._clock.monotonic_s()
                if 0 < self._comment_interval_s <= now_s - said_at_s:
                    said_at_s = now_s
                    yield COMMENT
            for data in _behind(told(response), max(last, len(begun(response)) - 1)):
                yield data
        except RequestError as error:
            yield RESPONSES.error_event(error)
        finally:
            self._followers -= 1


def _behind(events: Iterable[Fields], last: int) -> Iterator[bytes]:
    """The events with higher numbers than `last`, as they are sent."""
    for number, event in enumerate(events):
        if number > last:
            yield encoded(event, number)
