"""The same call through each API, whole and as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.engine_contract.engines import simulated
from workers.engine.simulated.server.words import Words

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"enum": [3]}},
    "required": ["city", "days"],
}
MESSAGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 300,
    "tools": [{"name": "weather", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any"},
}
RESPONSE: dict[str, Any] = {
    "input": "Hi",
    "max_output_tokens": 300,
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
    "tool_choice": "required",
}


@pytest.fixture
async def http(words: Words) -> AsyncIterator[httpx.AsyncClient]:
    async with simulated(words, tool_parser=True) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client


async def post(http: httpx.AsyncClient, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(path, json={"model": "m"} | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def events(
    http: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> list[dict[str, Any]]:
    answer = await http.post(path, json={"model": "m", "stream": True} | fields)
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_message_calls_and_its_events_make_the_same_call(http: httpx.AsyncClient) -> None:
    whole = await post(http, "/v1/messages", MESSAGE)
    (block,) = whole["content"]
    assert (whole["stop_reason"], block["type"], block["name"]) == (
        "tool_use",
        "tool_use",
        "weather",
    )
    assert block["input"]["days"] == 3
    told = await events(http, "/v1/messages", MESSAGE)
    pieces = [one["delta"]["partial_json"] for one in told if one["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == block["input"]
    starts = [one for one in told if one["type"] == "content_block_start"]
    assert [one["content_block"]["type"] for one in starts] == ["tool_use"]
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


async def test_a_response_calls_and_its_events_make_the_same_call(http: httpx.AsyncClient) -> None:
    whole = await post(http, "/v1/responses", RESPONSE)
    (item,) = whole["output"]
    assert (item["type"], item["name"], whole["status"]) == (
        "function_call",
        "weather",
        "completed",
    )
    assert json.loads(item["arguments"])["days"] == 3
    told = await events(http, "/v1/responses", RESPONSE)
    kind = "response.function_call_arguments.delta"
    pieces = [one["delta"] for one in told if one["type"] == kind]
    (streamed,) = told[-1]["response"]["output"]
    assert "".join(pieces) == streamed["arguments"]
    assert json.loads(streamed["arguments"]) == json.loads(item["arguments"])
    assert [one["sequence_number"] for one in told] == list(range(len(told)))


@pytest.mark.parametrize("limit", [1, 8, 20])
async def test_a_call_that_is_cut_ends_as_cut(http: httpx.AsyncClient, limit: int) -> None:
    message = MESSAGE | {"max_tokens": limit}
    assert (await post(http, "/v1/messages", message))["stop_reason"] == "max_tokens"
    told = await events(http, "/v1/messages", message)
    assert told[-2]["delta"]["stop_reason"] == "max_tokens"
    opened = [one["type"] for one in told]
    assert opened.count("content_block_start") == opened.count("content_block_stop")
    response = RESPONSE | {"max_output_tokens": limit}
    assert (await post(http, "/v1/responses", response))["status"] == "incomplete"
    ended = (await events(http, "/v1/responses", response))[-1]["response"]
    assert ended["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_without_a_choice_nothing_is_called(http: httpx.AsyncClient) -> None:
    message = MESSAGE | {"tool_choice": {"type": "auto"}, "max_tokens": 5}
    assert (await post(http, "/v1/messages", message))["content"][0]["type"] == "text"
    response = RESPONSE | {"tool_choice": "auto", "max_output_tokens": 5}
    assert (await post(http, "/v1/responses", response))["output"][0]["type"] == "message"
