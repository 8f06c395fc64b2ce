"""Relay: one assignment's answer, from the worker to the client.

Before the first byte every failure is raised, so that another worker can be tried. After it a
failure is told to the client as the stream's own error event, never by a silent end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rhizome.errors import (
    RequestError,
    WorkerDiedMidStream,
    WorkerFaulted,
    WorkerTimeout,
    WorkerUnreachable,
)
from rhizome.settings.tree import RelaySettings
from router.call import Call
from router.comments import Comments
from router.dispatch import Dispatcher
from router.fleet import Target
from router.http.client import Client, Headers
from router.placement import Assignment
from router.relay.connection import WorkerConnection
from router.relay.deadlines import Deadlines
from router.relay.scanner import EventScanner, EventTooLong
from router.relay.upstream import Upstream, UpstreamRequest

_log = logging.getLogger(__name__)
_EVENT_END = b"\n\n"


class Delivery:
    """Delivers answers."""

    def __init__(
        self,
        upstream: Upstream,
        dispatcher: Dispatcher,
        settings: RelaySettings,
        deadlines: Deadlines,
    ) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher
        self._settings = settings
        self._deadlines = deadlines

    def comments(self, call: Call, client: Client) -> Comments | None:
        """Comments to the client of a stream from now on, if they are wanted; `end` pairs."""
        interval_s = self._settings.comment_interval_s
        if not interval_s or not call.body.stream:
            return None
        headers = (
            ("x-request-id", call.request_id),
            ("x-rhizome-router", self._dispatcher.router_id),
            *call.marks,
        )
        return Comments(client, self._deadlines, interval_s, headers)

    async def run(
        self, call: Call, assignment: Assignment, client: Client, is_last_try: Callable[[], bool]
    ) -> None:
        """Sends the call to its worker and the answer to the client.

        Raises `WorkerUnreachable` or `WorkerTimeout` while the client has got nothing of the
        answer, `WorkerFaulted` for a 5xx of the worker unless this is the last try, and
        `WorkerDiedMidStream` once the client has got something and was told.
        """
        facts = (
            ("x-request-id", call.request_id),
            ("x-rhizome-router", self._dispatcher.router_id),
            ("x-rhizome-worker", assignment.target.target_id),
            ("x-rhizome-prefix-tokens", str(assignment.predicted_tokens)),
            *call.marks,
        )
        attempt = _Attempt(call, client, self._settings, facts)
        attempt.began = lambda: self._dispatcher.first_byte(assignment)
        attempt.may_fault = is_last_try
        await self._exchange(call, assignment.target, attempt, client)

    async def run_outside(self, call: Call, target: Target, client: Client) -> None:
        """Sends the call to somebody who is no worker, and whatever is answered to the client.

        Raises as `run` does.
        """
        facts = (
            ("x-request-id", call.request_id),
            ("x-rhizome-worker", target.target_id),
            *call.marks,
        )
        attempt = _Attempt(call, client, self._settings, facts)
        attempt.may_fault = lambda: True
        await self._exchange(call, target, attempt, client)

    async def _exchange(
        self, call: Call, target: Target, attempt: _Attempt, client: Client
    ) -> None:
        body, endpoint = call.body, call.endpoint
        request = UpstreamRequest(
            path=endpoint.engine_path or endpoint.path,
            body=body.for_engine,
            request_id=call.request_id,
            headers=call.headers,
            content_type=body.content_type,
        )
        if call.comments is not None:
            call.comments.headers = attempt.facts
        try:
            await self._upstream.exchange(target, request, attempt)
        except (WorkerUnreachable, WorkerTimeout) as error:
            if not attempt.has_relayed:
                raise
            raise self._broken_off(call, client, error) from error
        finally:
            attempt.left()
        if attempt.has_failed:
            raise WorkerDiedMidStream("the engine failed while it was answering")

    def _broken_off(self, call: Call, client: Client, error: RequestError) -> RequestError:
        """Tells the client that its answer ends here."""
        ended = WorkerDiedMidStream(
            f"the worker failed while it was answering request {call.request_id}; "
            "what was sent is incomplete, send the request again"
        )
        _log.warning("request %s broke off: %s", call.request_id, error.message)
        call.stop_comments()
        client.end(call.endpoint.dialect.error_event(ended))
        return ended


class _Attempt:
    """One worker's answer on its way to the client."""

    __slots__ = (
        "_call",
        "_client",
        "_connection",
        "_headers",
        "_parts",
        "_scanner",
        "_settings",
        "_size",
        "_status",
        "began",
        "facts",
        "has_failed",
        "has_relayed",
        "has_token",
        "may_fault",
    )

    def __init__(
        self,
        call: Call,
        client: Client,
        settings: RelaySettings,
        facts: Headers,
    ) -> None:
        self._call = call
        self._client = client
        self._settings = settings
        self.facts = facts
        self.began: Callable[[], None] | None = None
        """Told of a stream's first token."""
        self._connection: WorkerConnection | None = None
        self._scanner: EventScanner | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self.may_fault: Callable[[], bool] | None = None
        """Whether a 5xx of the worker is passed on; asked if there is one."""
        self.has_relayed = False
        """The client has got some of this answer."""
        self.has_token = False
        """Some of it was more than what engines send before they work."""
        self.has_failed = False
        """The engine itself has told the client of its failure."""

    def on(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self._client.follow(connection)

    def answered(self, status: int, headers: dict[bytes, bytes]) -> None:
        if status >= 500 and self.may_fault is not None and not self.may_fault():
            raise WorkerFaulted(f"the worker answered {status}")
        self._status, self._headers = status, headers
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            call = self._call
            self._scanner = EventScanner(
                call.endpoint.dialect,
                strip_usage=call.body.usage_added,
                event_bytes_max=self._settings.line_bytes_max,
            )

    def received(self, data: bytes) -> None:
        scanner = self._scanner
        if scanner is None:
            self._keep(data)
            return
        try:
            out = scanner.feed(data)
        except EventTooLong as error:
            raise WorkerUnreachable(str(error)) from error
        if out:
            if not self.has_relayed:
                self._begin()
            self._client.write(out)
            if not self.has_token:
                self._look_for_token(out)
        connection = self._connection
        if connection is not None and self.has_token:
            passage = None if scanner.held_bytes else self._client.passage()
            connection.pass_on(passage, self._call.endpoint.dialect.marks)

    def ended(self) -> None:
        scanner = self._scanner
        if scanner is None:
            self._relay_whole()
            return
        self.has_failed = scanner.failed
        if not (scanner.done or scanner.failed):
            raise WorkerUnreachable("the worker ended its stream without an end mark")
        self._call.stop_comments()
        self._client.end()

    def left(self) -> None:
        """Nothing more will come, whether it was all or not."""
        self._client.follow(None)
        if self._scanner is not None:
            self._call.usage = self._scanner.usage

    def _look_for_token(self, events: bytes) -> None:
        preludes = self._call.endpoint.dialect.preludes
        whole = events.removesuffix(_EVENT_END).split(_EVENT_END) if preludes else ()
        if whole and all(event.startswith(preludes) for event in whole):
            if self._connection is not None:
                self._connection.await_token()
            return
        self.has_token = True
        self._call.stop_comments()
        if self.began is not None:
            self.began()

    def _begin(self) -> None:
        """The first byte of a stream."""
        self.has_relayed = True
        self._call.status = self._status
        if not self._client.started:
            self._client.start(self._status, self._content_type(), self._headers_out())

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._settings.response_bytes_max:
            raise WorkerUnreachable(
                f"the worker's answer is longer than {self._settings.response_bytes_max} bytes"
            )
        self._parts.append(data)

    def _relay_whole(self) -> None:
        body = b"".join(self._parts)
        call, client = self._call, self._client
        call.status = self._status
        call.usage = call.endpoint.dialect.usage(body)
        self.has_relayed = True
        self._call.stop_comments()
        if client.started:  # by comments: the answer to a stream that the worker refused
            client.end(b"data: " + b"".join(body.splitlines()) + b"\n\n")
        else:
            client.whole(self._status, self._content_type(), self._headers_out(), body)

    def _content_type(self) -> str:
        return self._headers.get(b"content-type", b"application/json").decode("latin-1")

    def _headers_out(self) -> Headers:
        retry_after = self._headers.get(b"retry-after")
        if retry_after is None:
            return self.facts
        return (*self.facts, ("retry-after", retry_after.decode("latin-1")))
