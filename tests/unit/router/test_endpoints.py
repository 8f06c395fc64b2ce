"""Every published endpoint through a whole router: what it passes on, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from router.http.surface import ENDPOINT_OF
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

HI = [{"role": "user", "content": "Hello there"}]
MESSAGE = {"model": "m", "max_tokens": 8, "messages": HI}
RESPONSE = {"model": "m", "input": "Hello there", "store": False}
LONG = "A sentence that is said before anything else is said. " * 40


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@pytest.fixture
async def http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=10) as http:
        yield http


PASSED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Is it raining?"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
            {"role": "tool", "tool_call_id": "c", "content": "Rain"},
        ],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "structured_outputs": {"regex": "a+", "choice": ["a"], "grammar": "root ::= x"},
        "reasoning_effort": "low",
        "include_reasoning": False,
        "seed": 5,
        "stop": ["\n", "END"],
        "priority": 3,
        "logit_bias": {"5": 1},
        "frequency_penalty": 0.5,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "/v1/completions": {
        "prompt": [[1, 2, 3], [4]],
        "suffix": " the end",
        "echo": True,
        "best_of": 2,
        "n": 2,
        "logprobs": 5,
        "stop": "x",
        "seed": 1,
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "store": False,
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
        "max_output_tokens": 5,
        "include": ["message.output_text.logprobs"],
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "messages": HI,
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["x"],
        "top_k": 5,
        "metadata": {"user_id": "u"},
    },
    "/v1/embeddings": {"input": ["a", "b"], "dimensions": 5, "encoding_format": "base64"},
    "/v1/rerank": {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
    "/v1/score": {"text_1": "a", "text_2": ["b", "c"]},
    "/classify": {"input": ["a"]},
    "/pooling": {"messages": HI, "task": "embed"},
    "/tokenize": {"messages": HI, "add_generation_prompt": True},
}


async def test_what_an_engine_would_silently_leave_out_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/responses", json={**RESPONSE, "conversation": "conv_1"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "conversation"


@pytest.mark.parametrize("path", PASSED)
async def test_what_a_client_sends_reaches_the_engine_as_it_is(
    api: Api, http: httpx.AsyncClient, path: str
) -> None:
    body = json.dumps({"model": "m", **PASSED[path], "a_field_of_the_future": {"x": [1.0]}})
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        headers = {"content-type": "application/json", "x-request-id": "mine-1"}
        answer = await http.post(path, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        sent = json.loads(engine.bodies[0])
        sent.pop("request_id", None)
        assert sent == json.loads(body)
    assert engine.headers[0]["x-request-id"] == "mine-1"
    assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("path", [path for path in ENDPOINT_OF if "audio" not in path])
async def test_what_an_engine_refuses_reaches_the_client_as_it_is(
    api: Api, http: httpx.AsyncClient, path: str
) -> None:
    async with running_engine(FakeEngine(status=422)) as engine:
        api.join(engine)
        answer = await http.post(path, json=dict(ENDPOINT_OF[path].example))
    assert answer.status_code == 422
    error = {"message": "no", "type": "E", "param": None, "code": 422}
    assert answer.json() == {"error": error}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/messages"])
async def test_a_route_that_the_engine_lacks_is_an_error_of_the_api(
    api: Api, http: httpx.AsyncClient, path: str, stream: bool
) -> None:
    async with running_engine(FakeEngine(has_routes=False)) as engine:
        api.join(engine)
        answer = await http.post(path, json={**ENDPOINT_OF[path].example, "stream": stream})
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert error["message"] == f"the engine of model 'm' does not serve {path}"
    assert error["type"] == ("not_found_error" if "messages" in path else "invalid_request_error")
    assert error.get("code") == (None if "messages" in path else "unknown_route")
    assert answer.headers["x-rhizome-worker"] == "w0"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_anthropic_refusals_have_anthropics_shape(http: httpx.AsyncClient, path: str) -> None:
    refused = [
        (await http.post(path, json={**MESSAGE, "model": "nobody"}), 404, "not_found_error"),
        (await http.post(path, json={"model": "m"}), 400, "invalid_request_error"),
        (await http.post(path, content=b"{"), 415, "invalid_request_error"),
        (await http.get(path), 405, "invalid_request_error"),
    ]
    for answer, status, kind in refused:
        assert answer.status_code == status, answer.text
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == kind
        assert answer.json()["error"]["message"]


async def test_the_document_asks_for_what_is_read(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for path, endpoint in ENDPOINT_OF.items():
        described = document["paths"][path]["post"]["requestBody"]["content"]
        assert list(described) == [endpoint.media_type]
        content = described[endpoint.media_type]
        if endpoint.media_type != "application/json":
            continue
        jsonschema.validate(content["example"], content["schema"])
        for name in content["schema"]["required"]:
            without = {key: value for key, value in content["example"].items() if key != name}
            refused = await http.post(path, json=without)
            assert refused.status_code == 400, (path, name)


async def test_a_wrong_method_is_told_the_right_ones(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        ("/v1/messages", MESSAGE, "message_stop"),
        ("/v1/responses", RESPONSE, "response.completed"),
    ],
)
async def test_named_events_come_through_and_are_counted(
    api: Api, http: httpx.AsyncClient, path: str, body: dict[str, Any], last: str
) -> None:
    async with running_engine(FakeEngine(cached_tokens=6)) as engine:
        api.join(engine)
        answer = await http.post(path, json={**body, "stream": True})
    events = answer.text.strip().split("\n\n")
    assert events[-1].startswith(f"event: {last}\n")
    assert " world" in answer.text
    assert api.counted("router_completion_tokens_total", model="m") == 2
    assert api.counted("router_prompt_tokens_total", model="m") == 10


@pytest.mark.parametrize(("path", "body"), [("/v1/messages", MESSAGE), ("/v1/responses", RESPONSE)])
async def test_a_broken_stream_ends_with_an_error_of_its_api(
    api: Api, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    async with running_engine(FakeEngine(die_after=2)) as engine:
        api.join(engine)
        answer = await http.post(path, json={**body, "stream": True})
    name, data = answer.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    told = json.loads(data.removeprefix("data: "))
    assert told["type"] == "error"
    assert "incomplete" in (told.get("message") or told["error"]["message"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions", {"model": "m", "prompt": LONG, "suffix": "x"}),
        ("/v1/messages", {"model": "m", "max_tokens": 1, "system": LONG, "messages": HI}),
        ("/v1/responses", {**RESPONSE, "instructions": LONG}),
    ],
)
async def test_prompts_go_where_their_prefix_is(
    api: Api, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    async with running_engine(FakeEngine()) as one, running_engine(FakeEngine()) as other:
        api.join(one, other)
        first = await http.post(path, json=body)
        again = await http.post(path, json=body)
    assert first.headers["x-rhizome-prefix-tokens"] == "0"
    assert int(again.headers["x-rhizome-prefix-tokens"]) > 200
    assert again.headers["x-rhizome-worker"] == first.headers["x-rhizome-worker"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"])
async def test_affinity_is_off_where_nothing_is_kept(
    api: Api, http: httpx.AsyncClient, path: str
) -> None:
    body = {"model": "m", "prompt": LONG, "input": LONG, "query": LONG, "documents": [LONG]}
    body |= {"text_1": LONG, "text_2": LONG}
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        for _ in range(2):
            answer = await http.post(path, json=body)
            assert answer.headers["x-rhizome-prefix-tokens"] == "0"


async def test_anthropics_key_header_is_taken() -> None:
    async with running_api(settings_with(router__api_keys=["rzk-1"])) as api:
        async with (
            httpx.AsyncClient(base_url=api.url, timeout=30) as http,
            running_engine(FakeEngine()) as one,
        ):
            api.join(one)
            good = await http.post("/v1/messages", json=MESSAGE, headers={"x-api-key": "rzk-1"})
            assert good.status_code == 200
            listed = await http.get("/v1/models", headers={"x-api-key": "rzk-1"})
            assert listed.status_code == 200
            bad = await http.post("/v1/messages", json=MESSAGE, headers={"x-api-key": "rzk-2"})
            assert bad.status_code == 401
            assert bad.json()["error"]["type"] == "authentication_error"


async def test_media_by_url_never_reach_an_engine(api: Api, http: httpx.AsyncClient) -> None:
    url = "http://169.254.169.254/latest"
    parts = {
        "/v1/chat/completions": {"type": "image_url", "image_url": {"url": url}},
        "/v1/messages": {"type": "image", "source": {"type": "url", "url": url}},
    }
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        for path, part in parts.items():
            body = {
                "model": "m",
                "max_tokens": 1,
                "messages": [{"role": "user", "content": [part]}],
            }
            answer = await http.post(path, json=body)
            assert answer.status_code == 400
            assert "data:" in answer.json()["error"]["message"]
        image = {"type": "input_image", "image_url": url}
        asked = {**RESPONSE, "input": [{"role": "user", "content": [image]}]}
        answer = await http.post("/v1/responses", json=asked)
        assert answer.json()["error"]["code"] == "media_url_not_allowed"
        assert not engine.requests


async def test_a_deadline_counts_waiting_and_working(api: Api, http: httpx.AsyncClient) -> None:
    body = {"model": "m", "messages": HI}
    async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
        api.join(engine)
        answer = await http.post(
            "/v1/chat/completions", json=body, headers={"x-request-timeout": "0.2"}
        )
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_passed"
        await eventually(lambda: engine.aborted == 1)
        assert api.router.dispatcher.in_flight("m") == 0
        streamed = await http.post(
            "/v1/messages",
            json={**MESSAGE, "stream": True},
            headers={"x-request-timeout": "0.2"},
        )
        assert streamed.status_code == 504
        assert streamed.json()["error"]["type"] == "timeout_error"


async def test_a_deadline_inside_a_stream_is_told_by_an_error_event(
    api: Api, http: httpx.AsyncClient
) -> None:
    body = {"model": "m", "messages": HI, "stream": True}
    async with running_engine(FakeEngine(stall_after=1)) as engine:
        api.join(engine)
        headers = {"x-request-timeout": "0.5"}
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        await eventually(lambda: engine.aborted == 1)
    first, last = answer.text.strip().split("\n\n")
    assert "Hello" in first
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_passed"


@pytest.mark.parametrize("given", ["", "x", "0", "-1", "nan", "inf", "1e9", "1,5"])
async def test_a_deadline_that_is_no_time_is_refused(http: httpx.AsyncClient, given: str) -> None:
    answer = await http.post(
        "/v1/completions",
        json={"model": "m", "prompt": "x"},
        headers={"x-request-timeout": given},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-timeout"


async def test_an_adapter_is_a_model_of_its_own(api: Api, http: httpx.AsyncClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": LONG}]}
    async with running_engine(FakeEngine()) as engine:
        api.join(engine, adapters=("pirate",))
        await http.post("/v1/chat/completions", json=body)
        adapted = await http.post("/v1/chat/completions", json={**body, "model": "pirate"})
        assert adapted.status_code == 200, adapted.text
        again = await http.post("/v1/chat/completions", json={**body, "model": "pirate"})
        listed = (await http.get("/v1/models")).json()["data"]
        assert (await http.get("/v1/models/pirate")).json()["parent"] == "m"
    assert [one["id"] for one in listed] == ["m", "pirate"]
    assert [one["model"] for one in engine.requests] == ["m", "pirate", "pirate"]
    assert adapted.headers["x-rhizome-prefix-tokens"] == "0", "the model's own blocks are no help"
    assert int(again.headers["x-rhizome-prefix-tokens"]) > 200
