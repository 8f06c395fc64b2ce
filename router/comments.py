"""Comments in a stream whose first token takes long, so that nothing on the way gives it up.

They come from a request's arrival on: also while its media are fetched, its prompt is rendered or
it waits in the line. With the first one the answer has begun, its status is 200, and what fails
later is told inside the stream.
"""

from __future__ import annotations

from router.http.client import Client, Headers
from router.relay.deadlines import NEVER_S, Deadlines

COMMENT = b": keep-alive\n\n"
STREAM = "text/event-stream; charset=utf-8"


class Comments:
    """Comments to one client from now on until `stop`; `end` pairs with the making."""

    __slots__ = ("_client", "_deadlines", "_interval_s", "deadline_s", "headers")

    def __init__(
        self, client: Client, deadlines: Deadlines, interval_s: float, headers: Headers
    ) -> None:
        self._client = client
        self._deadlines = deadlines
        self._interval_s = interval_s
        self.headers = headers
        """Of the answer, if a comment begins it."""
        self.deadline_s = deadlines.now_s + interval_s
        deadlines.add(self)

    def expired(self) -> None:
        if not self._client.started:
            self._client.start(200, STREAM, self.headers)
        self._client.write(COMMENT)
        self.deadline_s = self._deadlines.now_s + self._interval_s

    def stop(self) -> None:
        """The first token has come, or nothing will."""
        self.deadline_s = NEVER_S

    def end(self) -> None:
        self._deadlines.remove(self)
