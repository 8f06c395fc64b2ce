"""Streams stored responses again, and follows those that are still worked on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from rhizome.clock import Clock
from rhizome.errors import QueueFull, RequestError
from router.comments import COMMENT, STREAM
from router.http.client import Client, Headers
from router.relay.responses import RESPONSES
from router.stored.events import encoded, events_of
from router.stored.recording import Recording
from router.stored.records import BEAT_S, RUNNING, StoredResponse

Found = Callable[[str, str], Awaitable[StoredResponse]]
"""The record by owner and id; raises `UnknownObject` or `StoreUnavailable`."""
Live = Callable[[str, str], Recording | None]
"""The stream of work that this router does in the background, by owner and id."""


class Retelling:
    """Any router can tell any response: what it tells, it has from the store.

    A stream of its own work it tells as it comes. At most `followers_max` clients may wait for
    responses that have not ended.
    """

    def __init__(
        self,
        found: Found,
        live: Live,
        clock: Clock,
        followers_max: int,
        comment_interval_s: float,
    ) -> None:
        self._found = found
        self._live = live
        self._clock = clock
        self._followers_max = followers_max
        self._comment_interval_s = comment_interval_s
        self._followers = 0

    def events(self, owner: str, record: StoredResponse, after: int | None) -> AsyncIterator[bytes]:
        """The events of the response with higher numbers than `after`; raises `QueueFull`.

        What fails later ends the stream with an error event.
        """
        last = -1 if after is None else after
        if not self._runs(record):
            return self._ended(record, last)
        self.require_room()
        return self._running(owner, str(record.response["id"]), last)

    async def tell(
        self, owner: str, record: StoredResponse, client: Client, headers: Headers
    ) -> None:
        """All events, to a client that has got nothing yet; raises `QueueFull`."""
        events = self.events(owner, record, None)
        client.start(200, STREAM, headers)
        async for data in events:
            client.write(data)
        client.end()

    def require_room(self) -> None:
        """Raises `QueueFull` where nobody more may wait."""
        if self._followers >= self._followers_max:
            raise QueueFull("as many clients wait for responses in the background as may")

    def _runs(self, record: StoredResponse) -> bool:
        return record.shown(self._clock.wall_s())["status"] in RUNNING

    async def _ended(self, record: StoredResponse, last: int) -> AsyncIterator[bytes]:
        for number, event in events_of(record, self._clock.wall_s(), last):
            yield encoded(event, number)

    async def _running(self, owner: str, response_id: str, last: int) -> AsyncIterator[bytes]:
        self._followers += 1
        said_at_s = self._clock.monotonic_s()
        try:
            while True:
                live = self._live(owner, response_id)
                if live is not None:
                    for number, event in live.journal.after(last):
                        yield encoded(event, number)
                        last = number
                    await live.news(last, BEAT_S)
                else:
                    record = await self._found(owner, response_id)
                    for number, event in events_of(record, self._clock.wall_s(), last):
                        yield encoded(event, number)
                        last = number
                    if not self._runs(record):
                        return
                    await self._clock.sleep(BEAT_S)
                now_s = self._clock.monotonic_s()
                if 0 < self._comment_interval_s <= now_s - said_at_s:
                    said_at_s = now_s
                    yield COMMENT
        except RequestError as error:
            yield RESPONSES.error_event(error)
        finally:
            self._followers -= 1
