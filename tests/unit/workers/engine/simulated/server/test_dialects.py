"""What the contract's rows cannot show: the same conversation through each API, and its numbers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

SAID = "river " * 80
"""Several blocks of prompt."""
CHAT = {"messages": [{"role": "user", "content": SAID}], "temperature": 0}


async def post(http: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = await http.post(path, json={"model": "m"} | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def events(http: httpx.AsyncClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    answer = await http.post(path, json={"model": "m", "stream": True} | fields)
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_all_apis_say_the_same_and_share_one_cache(http: httpx.AsyncClient) -> None:
    chat = await post(http, "/v1/chat/completions", **CHAT, max_tokens=5)
    message = await post(http, "/v1/messages", **CHAT, max_tokens=5)
    response = await post(http, "/v1/responses", input=SAID, max_output_tokens=5, temperature=0)
    text = chat["choices"][0]["message"]["content"]
    assert message["content"] == [{"type": "text", "text": text}]
    assert response["output"][0]["content"][0]["text"] == text
    prompt = chat["usage"]["prompt_tokens"]
    assert message["usage"]["cache_read_input_tokens"] > 0
    assert message["usage"]["input_tokens"] == prompt - message["usage"]["cache_read_input_tokens"]
    assert response["usage"]["input_tokens"] == prompt
    cached = response["usage"]["input_tokens_details"]["cached_tokens"]
    assert cached == message["usage"]["cache_read_input_tokens"]


async def test_streams_hold_the_text_of_the_whole(http: httpx.AsyncClient) -> None:
    whole = await post(http, "/v1/messages", **CHAT, max_tokens=9)
    told = await events(http, "/v1/messages", **CHAT, max_tokens=9)
    deltas = [one["delta"]["text"] for one in told if one["type"] == "content_block_delta"]
    assert "".join(deltas) == whole["content"][0]["text"]
    response = await events(http, "/v1/responses", input=SAID, max_output_tokens=9, temperature=0)
    pieces = [one["delta"] for one in response if one["type"] == "response.output_text.delta"]
    assert "".join(pieces) == whole["content"][0]["text"]
    assert [one["sequence_number"] for one in response] == list(range(len(response)))


async def test_a_message_names_the_stop_sequence_that_ended_it(http: httpx.AsyncClient) -> None:
    whole = await post(http, "/v1/messages", **CHAT, max_tokens=9)
    word = whole["content"][0]["text"].split()[3]
    cut = await post(http, "/v1/messages", **CHAT, max_tokens=9, stop_sequences=[word])
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", word)
    assert word not in cut["content"][0]["text"]


async def test_an_answer_that_ends_by_itself_is_complete(http: httpx.AsyncClient) -> None:
    found = await post(http, "/v1/responses", input="Hello", temperature=0)
    if found["status"] == "completed":
        assert found["incomplete_details"] is None
    else:
        assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found["max_output_tokens"] > 400, "what is left of the context"


async def test_a_response_has_the_id_that_its_body_asks_for(http: httpx.AsyncClient) -> None:
    asked = {"model": "m", "input": "Hello", "max_output_tokens": 1, "request_id": "resp_mine"}
    answer = await http.post("/v1/responses", json=asked, headers={"x-request-id": "other"})
    assert answer.json()["id"] == "resp_mine"


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_what_is_said_is_the_likeliest_of_the_candidates(
    http: httpx.AsyncClient, count: int
) -> None:
    asked = CHAT | {"max_tokens": 4, "logprobs": True, "top_logprobs": count}
    found = await post(http, "/v1/chat/completions", **asked)
    choice = found["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in tokens) == choice["message"]["content"]
    for one in tokens:
        values = [other["logprob"] for other in one["top_logprobs"]]
        assert len(values) == count
        assert values == sorted(values, reverse=True)
        assert one["logprob"] <= 0.0
        assert bytes(one["bytes"]).decode() == one["token"]
    assert (await post(http, "/v1/chat/completions", **asked))["choices"] == found["choices"]


async def test_offsets_are_places_in_the_text(http: httpx.AsyncClient) -> None:
    found = await post(http, "/v1/completions", prompt="Rivers", max_tokens=6, logprobs=2)
    choice = found["choices"][0]
    shown = choice["logprobs"]
    for offset, token in zip(shown["text_offset"], shown["tokens"], strict=True):
        assert choice["text"][offset : offset + len(token)] == token
