"""A conversation against a stand-in router."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from rhizome.cli.conversation import Conversation, open_router
from rhizome.errors import ClusterError, EngineFailed

HEADERS = {
    "Content-Type": "text/event-stream",
    "x-rhizome-worker": "m-1",
    "x-rhizome-prefix-tokens": "32",
}
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 32},
}


class StandIn:
    """Answers "Hi you", or what `events` says; keeps the bodies it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.events: list[object] = [
            {"choices": [{"delta": {"role": "assistant"}}]},
            {"choices": [{"delta": {"content": "Hi"}}]},
            {"choices": [{"delta": {"content": " you"}}]},
            {"choices": [], "usage": USAGE},
        ]

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}, {"id": "other"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] == "unknown":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        for event in self.events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
async def url(stand_in: StandIn) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/models", stand_in.models)
    app.router.add_post("/v1/chat/completions", stand_in.chat)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_the_answer_comes_as_it_is_written_and_the_facts_follow(url: str) -> None:
    written: list[str] = []
    async with open_router(url, None) as router:
        facts = await Conversation(router, "m", 8).turn("hello", written.append)
    assert written == ["Hi", " you"]
    assert (facts.worker, facts.predicted_tokens, facts.cached_tokens) == ("m-1", 32, 32)
    assert facts.first_token_ms is not None
    assert "reused 32 of 40 prompt tokens (predicted 32)" in facts.line()


async def test_a_turn_sends_all_that_was_said_before(url: str, stand_in: StandIn) -> None:
    async with open_router(url, None) as router:
        conversation = Conversation(router, "m", 8)
        await conversation.turn("one", lambda text: None)
        await conversation.turn("two", lambda text: None)
        conversation.forget()
        await conversation.turn("three", lambda text: None)
    said = [[message["content"] for message in body["messages"]] for body in stand_in.bodies]
    assert said == [["one"], ["one", "Hi you", "two"], ["three"]]


async def test_the_routers_own_words_are_shown_when_it_refuses(url: str) -> None:
    with pytest.raises(ClusterError, match="404: no such model"):
        async with open_router(url, None) as router:
            await Conversation(router, "unknown", 8).turn("hello", lambda text: None)


async def test_a_stream_that_breaks_is_told_and_forgotten(url: str, stand_in: StandIn) -> None:
    stand_in.events = [{"error": {"message": "the worker died"}}]
    async with open_router(url, None) as router:
        conversation = Conversation(router, "m", 8)
        with pytest.raises(EngineFailed, match="the worker died"):
            await conversation.turn("lost", lambda text: None)
        stand_in.events = []
        await conversation.turn("next", lambda text: None)
    assert [message["content"] for message in stand_in.bodies[-1]["messages"]] == ["next"]


async def test_a_router_that_is_not_there_is_told_with_what_to_do(unused_tcp_port: int) -> None:
    with pytest.raises(ClusterError, match="no answer") as caught:
        async with open_router(f"http://127.0.0.1:{unused_tcp_port}", None) as router:
            await router.models()
    assert "rhizome up" in caught.value.advice
