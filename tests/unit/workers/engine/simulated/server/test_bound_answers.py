"""Answers that are bound to something, as clients get them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.support.engine_contract.engines import simulated
from workers.engine.simulated.server.words import Words

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "town": {"enum": ["Köln", "東京"]},
        "years": {"type": "array", "items": {"type": "integer", "minimum": 1900}, "minItems": 2},
    },
    "required": ["name", "town", "years"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
TOOL = {"type": "function", "function": {"name": "store", "parameters": PERSON}}
ASK = [{"role": "user", "content": "Who is there?"}]


async def chat(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"messages": ASK, "max_tokens": 300} | fields
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


@pytest.fixture
async def caller(words: Words) -> AsyncIterator[httpx.AsyncClient]:
    async with simulated(words, tool_parser=True) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client


async def test_a_schema_is_kept_and_the_seed_decides(http: httpx.AsyncClient) -> None:
    said = set()
    for seed in (1, 2, 3, 1):
        choice = await chat(http, response_format=FORMAT, seed=seed)
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)
        said.add(choice["message"]["content"])
    assert 1 < len(said) <= 3


async def test_other_constraints_are_kept(http: httpx.AsyncClient) -> None:
    chosen = await chat(http, structured_outputs={"choice": ["Köln am Rhein", "東京"]})
    assert chosen["message"]["content"] in {"Köln am Rhein", "東京"}
    matched = await chat(http, structured_outputs={"regex": r"[a-c]{4}-\d{2}"})
    assert re.fullmatch(r"[a-c]{4}-\d{2}", matched["message"]["content"])
    free = await chat(http, response_format={"type": "json_object"})
    assert isinstance(json.loads(free["message"]["content"]), dict)


async def test_a_limit_cuts_a_bound_answer(http: httpx.AsyncClient) -> None:
    whole = await chat(http, response_format=FORMAT, temperature=0)
    part = await chat(http, response_format=FORMAT, temperature=0, max_tokens=5)
    assert part["finish_reason"] == "length"
    assert whole["message"]["content"].startswith(part["message"]["content"])


async def test_a_streamed_bound_answer_is_the_whole_one(http: httpx.AsyncClient) -> None:
    whole = await chat(http, response_format=FORMAT, temperature=0)
    body = {"messages": ASK, "response_format": FORMAT, "temperature": 0, "stream": True}
    answer = await http.post("/v1/chat/completions", json=body | {"max_tokens": 300})
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "".join(deltas) == whole["message"]["content"]
    assert len(deltas) > 5


async def test_a_response_keeps_to_its_format(http: httpx.AsyncClient) -> None:
    named = {"type": "json_schema", "name": "person", "schema": PERSON}
    body = {"input": "Who?", "text": {"format": named}, "max_output_tokens": 300}
    answer = (await http.post("/v1/responses", json=body)).json()
    jsonschema.validate(json.loads(answer["output"][0]["content"][0]["text"]), PERSON)


@pytest.mark.parametrize(
    ("choice", "finish"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "store"}}, "stop")],
    ids=["required", "named"],
)
async def test_a_tool_is_called_with_what_its_schema_asks(
    caller: httpx.AsyncClient, choice: Any, finish: str
) -> None:
    found = await chat(caller, tools=[TOOL], tool_choice=choice)
    assert found["finish_reason"] == finish
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] == "store"
    jsonschema.validate(json.loads(call["function"]["arguments"]), PERSON)


async def test_prompt_logprobs_are_of_each_token_but_the_first(http: httpx.AsyncClient) -> None:
    body = {"prompt": [5, 6, 7], "max_tokens": 1, "prompt_logprobs": 2}
    choice = (await http.post("/v1/completions", json=body)).json()["choices"][0]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert [len(one) for one in others] == [3, 3]
    assert [str(token) in one for token, one in zip((6, 7), others, strict=True)] == [True, True]
