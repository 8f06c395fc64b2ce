"""A stand-in engine for unit tests of the router: answers in vLLM's shapes, fails on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rhizome.fleet.records import WorkerRecord, WorkerState
from router.http.surface import ENDPOINT_OF


@dataclass
class FakeEngine:
    """What the engine does next, and what it has seen."""

    words: list[str] = field(default_factory=lambda: ["Hello", " world"])
    cached_tokens: int = 0
    status: int = 200
    has_routes: bool = True
    hold: asyncio.Event | None = None
    """Answers only once it is set."""
    hold_after: int | None = None
    """Holds not the answer but what comes after this many named events."""
    die_after: int | None = None
    """Resets the connection after this many events."""
    end_after: int | None = None
    """Ends the stream properly at the transport, but early and without an end mark."""
    stall_after: int | None = None
    """Falls silent after this many events."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """As they came."""
    aborted: int = 0
    url: str = ""

    def record(self, worker_id: str = "w0", **fields: Any) -> WorkerRecord:
        """The engine as a worker of model `m`."""
        facts = {"model": "m", "incarnation": "a", "state": WorkerState.READY, **fields}
        return WorkerRecord(worker_id=worker_id, url=self.url, **facts)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data) if request.content_type == "application/json" else {}
        self.bodies.append(data)
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            if self.hold is not None and self.hold_after is None:
                await self.hold.wait()
            if not self.has_routes:
                return web.Response(
                    body=b'{"detail":"Not Found"}', status=404, content_type="application/json"
                )
            if self.status != 200:
                error = {
                    "error": {"message": "no", "type": "E", "param": None, "code": self.status}
                }
                return web.json_response(error, status=self.status)
            if request.path in NAMED_EVENTS:
                return await self._named_events(request, body)
            if body.get("stream"):
                return await self._stream(request, body)
            return web.json_response(self._whole())
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number, word in enumerate(self.words):
            if number == self.die_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == self.end_after:
                return response
            if number == self.stall_after:
                await asyncio.Event().wait()
            await _event(response, {"id": "x", "choices": [{"delta": {"content": word}}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await _event(response, {"id": "x", "choices": [], "usage": self._usage()})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _named_events(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Anthropic's messages and OpenAI's responses."""
        whole = NAMED_EVENTS[request.path](self, body)
        if not body.get("stream"):
            return web.json_response(whole[-1])
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number, event in enumerate(whole[:-1]):
            if number == self.die_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if self.hold is not None and number == self.hold_after:
                await self.hold.wait()
            await response.write(b"event: " + event["type"].encode() + b"\n")
            await _event(response, event)
        return response

    def message_events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The stream of a message, and the message as a whole."""
        usage = {
            "input_tokens": 10 - self.cached_tokens,
            "cache_read_input_tokens": self.cached_tokens,
            "output_tokens": len(self.words),
        }
        text = [{"type": "text", "text": "".join(self.words)}]
        whole = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": text,
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
        begun = {
            **whole,
            "content": [],
            "stop_reason": None,
            "usage": {**usage, "output_tokens": 0},
        }
        block = {"type": "text", "text": ""}
        return [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": block},
            *(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": word},
                }
                for word in self.words
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
            {"type": "message_stop"},
            whole,
        ]

    def response_events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The stream of a response, and the response as a whole."""
        content = {"type": "output_text", "text": "".join(self.words), "annotations": []}
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [content],
        }
        whole = {
            "id": body.get("request_id", "resp_engine"),
            "object": "response",
            "created_at": 1,
            "model": body["model"],
            "status": "completed",
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "previous_response_id": None,
            "usage": {
                "input_tokens": 10,
                "input_tokens_details": {"cached_tokens": self.cached_tokens},
                "output_tokens": len(self.words),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 10 + len(self.words),
            },
        }
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        part = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {**item, "content": []},
            },
            {"type": "response.content_part.added", **part, "part": {**content, "text": ""}},
            *(
                {"type": "response.output_text.delta", **part, "delta": word, "logprobs": []}
                for word in self.words
            ),
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": whole},
        ]
        numbered = [{**event, "sequence_number": at} for at, event in enumerate(events)]
        return [*numbered, whole]

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.words)}
        return {"id": "x", "choices": [{"message": message}], "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": 10,
            "completion_tokens": len(self.words),
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


NAMED_EVENTS = {
    "/v1/messages": FakeEngine.message_events,
    "/v1/responses": FakeEngine.response_events,
}


async def _event(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")
    await asyncio.sleep(0)


async def _is_well(request: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def running_engine(engine: FakeEngine) -> AsyncIterator[FakeEngine]:
    """Serves the engine on a free loopback port."""
    app = web.Application(client_max_size=64 * 2**20)
    for path in ENDPOINT_OF:
        app.router.add_post(path, engine.answer)
    app.router.add_get("/health", _is_well)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
