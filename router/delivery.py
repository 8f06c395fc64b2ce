"""Relay: one assignment's answer, from the worker to the client.

Before the first byte every failure is raised, so that another worker can be tried. After it a
failure is told to the client as the stream's own error event, never by a silent end.
"""

from __future__ import annotations

import logging

from rhizome.errors import (
    RequestError,
    WorkerDiedMidStream,
    WorkerFaulted,
    WorkerTimeout,
    WorkerUnreachable,
)
from rhizome.settings.tree import RelaySettings
from router.call import Call
from router.dispatch import Assignment, Dispatcher
from router.http.client import Client
from router.relay.scanner import EventScanner, EventTooLong
from router.relay.upstream import Upstream, UpstreamAnswer, UpstreamRequest

_log = logging.getLogger(__name__)


class Delivery:
    """Delivers answers."""

    def __init__(self, upstream: Upstream, dispatcher: Dispatcher, settings: RelaySettings) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher
        self._settings = settings

    async def run(
        self, call: Call, assignment: Assignment, client: Client, *, last_try: bool
    ) -> None:
        """Sends the call to its worker and the answer to the client.

        Raises `WorkerUnreachable` or `WorkerTimeout` while the client has got nothing,
        `WorkerFaulted` for a 5xx of the worker unless this is the last try, and
        `WorkerDiedMidStream` once the client has got something and was told.
        """
        request = UpstreamRequest(
            path=call.endpoint.engine_path or call.endpoint.path,
            body=call.body.for_engine,
            request_id=call.request_id,
            headers=call.headers,
        )
        try:
            async with self._upstream.exchange(assignment.target, request) as answer:
                if answer.status >= 500 and not last_try:
                    raise WorkerFaulted(f"the worker answered {answer.status}")
                if answer.is_stream:
                    await self._stream(call, assignment, answer, client)
                else:
                    await self._whole(call, assignment, answer, client)
        except (WorkerUnreachable, WorkerTimeout) as error:
            if client.started:
                await self._break_off(call, client, error)
            raise

    async def _whole(
        self, call: Call, assignment: Assignment, answer: UpstreamAnswer, client: Client
    ) -> None:
        body = await answer.whole()
        call.status = answer.status
        call.usage = call.endpoint.dialect.usage(body)
        headers = _headers(call, assignment, answer)
        await client.start(answer.status, {**headers, "content-length": str(len(body))})
        await client.end(body)

    async def _stream(
        self, call: Call, assignment: Assignment, answer: UpstreamAnswer, client: Client
    ) -> None:
        scanner = EventScanner(
            call.endpoint.dialect,
            strip_usage=call.body.usage_added,
            event_bytes_max=self._settings.line_bytes_max,
        )
        try:
            async for chunk in answer.chunks():
                out = scanner.feed(chunk)
                if not out:
                    continue
                if not client.started:
                    self._dispatcher.first_byte(assignment)
                    call.status = answer.status
                    await client.start(answer.status, _headers(call, assignment, answer))
                await client.write(out)
        except EventTooLong as error:
            raise WorkerUnreachable(str(error)) from error
        finally:
            call.usage = scanner.usage
        if scanner.failed:  # the engine has told the client itself
            await client.end()
            raise WorkerDiedMidStream("the engine failed while it was answering")
        if not scanner.done:
            raise WorkerUnreachable("the worker ended its stream without an end mark")
        await client.end()

    async def _break_off(self, call: Call, client: Client, error: RequestError) -> None:
        ended = WorkerDiedMidStream(
            f"the worker failed while it was answering request {call.request_id}; "
            "what was sent is incomplete, send the request again"
        )
        _log.warning("request %s broke off: %s", call.request_id, error.message)
        await client.end(call.endpoint.dialect.error_event(ended))
        raise ended from error


def _headers(call: Call, assignment: Assignment, answer: UpstreamAnswer) -> dict[str, str]:
    return {
        "content-type": answer.content_type,
        "x-request-id": call.request_id,
        "x-rhizome-worker": assignment.target.target_id,
        "x-rhizome-prefix-tokens": str(assignment.predicted_tokens),
    }
