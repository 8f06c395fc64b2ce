"""Relay: one assignment's answer, from the worker to the client.

Before the first byte every failure is raised, so that another worker can be tried. After it a
failure is told to the client as the stream's own error event, never by a silent end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from rhizome.errors import (
    RequestError,
    UnknownRoute,
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
_NO_ROUTE = b'{"detail":"Not Found"}'
"""What FastAPI, and so vLLM, answers where it has no such route: no API's error."""


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
        if not interval_s or not call.decision.streamed:
            return None
        headers = (
            ("x-request-id", call.request_id),
            ("x-rhizome-router", self._dispatcher.router_id),
            *call.marks,
        )
        return Comments(client, self._deadlines, interval_s, headers)

    def run(
        self, call: Call, assignment: Assignment, client: Client, is_last_try: Callable[[], bool]
    ) -> Coroutine[Any, Any, None]:
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
        attempt = _Attempt(
            call,
            client,
            self._settings,
            facts,
            may_fault=is_last_try,
            began=partial(self._dispatcher.first_byte, assignment),
        )
        return self._exchange(call, assignment.target, attempt, client)

    async def run_outside(self, call: Call, target: Target, client: Client) -> None:
        """Sends the call to somebody who is no worker, and whatever is answered to the client.

        Raises as `run` does.
        """
        facts = (
            ("x-request-id", call.request_id),
            ("x-rhizome-worker", target.target_id),
            *call.marks,
        )
        attempt = _Attempt(call, client, self._settings, facts, may_fault=lambda: True)
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


class _Attempt(msgspec.Struct, eq=False):
    """One worker's answer on its way to the client."""

    call: Call
    client: Client
    settings: RelaySettings
    facts: Headers
    may_fault: Callable[[], bool]
    """Whether a 5xx of the worker is passed on; asked if there is one."""
    began: Callable[[], None] | None = None
    """Told of a stream's first token."""
    connection: WorkerConnection | None = None
    scanner: EventScanner | None = None
    status: int = 0
    headers: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    size: int = 0
    has_relayed: bool = False
    """The client has got some of this answer."""
    has_token: bool = False
    """Some of it was more than what engines send before they work."""
    has_failed: bool = False
    """The engine itself has told the client of its failure."""

    def on(self, connection: WorkerConnection) -> None:
        self.connection = connection
        self.client.follow(connection)

    def answered(self, status: int, headers: dict[bytes, bytes]) -> None:
        if status >= 500 and not self.may_fault():
            raise WorkerFaulted(f"the worker answered {status}")
        self.status, self.headers = status, headers
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            call = self.call
            self.scanner = EventScanner(
                call.endpoint.dialect,
                strip_usage=call.body.usage_added,
                event_bytes_max=self.settings.line_bytes_max,
            )

    def received(self, data: bytes) -> None:
        scanner = self.scanner
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
            self.client.write(out)
            if not self.has_token:
                self._look_for_token(out)
        connection = self.connection
        if connection is not None and self.has_token:
            passage = None if scanner.held_bytes else self.client.passage()
            connection.pass_on(passage, self.call.endpoint.dialect.marks)

    def ended(self) -> None:
        scanner = self.scanner
        if scanner is None:
            self._relay_whole()
            return
        self.has_failed = scanner.failed
        if not (scanner.done or scanner.failed):
            raise WorkerUnreachable("the worker ended its stream without an end mark")
        self.call.stop_comments()
        self.client.end()

    def left(self) -> None:
        """Nothing more will come, whether it was all or not."""
        self.client.follow(None)
        if self.scanner is not None:
            self.call.usage = self.scanner.usage

    def _look_for_token(self, events: bytes) -> None:
        preludes = self.call.endpoint.dialect.preludes
        whole = events.removesuffix(_EVENT_END).split(_EVENT_END) if preludes else ()
        if whole and all(event.startswith(preludes) for event in whole):
            if self.connection is not None:
                self.connection.await_token()
            return
        self.has_token = True
        self.call.stop_comments()
        if self.began is not None:
            self.began()

    def _begin(self) -> None:
        """The first byte of a stream."""
        self.has_relayed = True
        self.call.status = self.status
        if not self.client.started:
            self.client.start(self.status, self._content_type(), self._headers_out())

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.settings.response_bytes_max:
            raise WorkerUnreachable(
                f"the worker's answer is longer than {self.settings.response_bytes_max} bytes"
            )
        self.parts.append(data)

    def _relay_whole(self) -> None:
        body = b"".join(self.parts)
        call, client = self.call, self.client
        if body == _NO_ROUTE and self.status == 404:
            path = call.endpoint.path
            lacking = UnknownRoute(f"the engine of model {call.body.model!r} does not serve {path}")
            body = call.endpoint.dialect.error_body(lacking)
        call.status = self.status
        call.usage = call.endpoint.dialect.usage(body)
        self.has_relayed = True
        call.stop_comments()
        if client.started:  # by comments: the answer to a stream that the worker refused
            client.end(b"data: " + b"".join(body.splitlines()) + b"\n\n")
        else:
            client.whole(self.status, self._content_type(), self._headers_out(), body)

    def _content_type(self) -> str:
        return self.headers.get(b"content-type", b"application/json").decode("latin-1")

    def _headers_out(self) -> Headers:
        retry_after = self.headers.get(b"retry-after")
        if retry_after is None:
            return self.facts
        return (*self.facts, ("retry-after", retry_after.decode("latin-1")))
