"""The official clients of OpenAI and Anthropic, and curl, through the router to a real vLLM."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from openai.types.responses import ResponseCreatedEvent

from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.cluster import WorkerSettings
from rhizome.settings.load import environment_copy
from tests.support.serving import running_api, settings_with
from tests.support.valkey import settings_for
from tests.support.waiting import eventually
from workers.addresses import listen_on
from workers.engine.process import HostOptions, VllmEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]
KEY = "rzk-of-a-client"
ENGINE_KEY = "rzk-of-the-engine"
START_S = 240.0
HI: Any = [{"role": "user", "content": "Tell me a story about a fox."}]
WEATHER: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Clients:
    url: str
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(
    tmp_path_factory: pytest.TempPathFactory, valkey_url: str
) -> AsyncIterator[Clients]:
    """A router with a key and a store before one engine."""
    sizes = {"kv_cache_memory": "100M", "max_model_len": 2048, "block_size": 32}
    tools = {"enable-auto-tool-choice": True, "tool-call-parser": "hermes"}
    spec = ModelSpec.model_validate(
        {"name": "m", "source": "demo:llama", "engine_args": tools, **sizes}
    )
    options = HostOptions(WorkerSettings(), tmp_path_factory.mktemp("models"), environment_copy())
    engine = VllmEngine(spec, options, listen_on("127.0.0.1", 0), ENGINE_KEY)
    redis = settings_for(valkey_url)
    assert redis.url is not None
    settings = settings_with(
        router__api_keys=[KEY],
        redis__url=redis.url.get_secret_value(),
        redis__namespace=redis.namespace,
    )
    try:
        facts = await asyncio.wait_for(engine.start(lambda phase: None), START_S)
        async with running_api(settings) as api:
            record = WorkerRecord(
                worker_id="w0",
                incarnation="a",
                model="m",
                url=facts.url,
                state=WorkerState.READY,
                api_key=ENGINE_KEY,
                model_root=facts.model_root,
                block_size=facts.block_size,
                max_model_len=facts.max_model_len,
            )
            api.router.fleet.upsert(record, 0.0)
            async with (
                openai.AsyncOpenAI(base_url=api.url + "/v1", api_key=KEY, max_retries=0) as one,
                anthropic.AsyncAnthropic(base_url=api.url, api_key=KEY, max_retries=0) as other,
            ):

                async def renders_exactly() -> bool:
                    await one.chat.completions.create(model="m", messages=HI, max_tokens=1)
                    return api.counted("router_prompts_total", model="m", why="exact") > 0

                await eventually(renders_exactly)  # requests do not wait for a tokenizer to load
                yield Clients(api.url, one, other)
    finally:
        await engine.stop()


async def test_a_chat_and_its_options(clients: Clients) -> None:
    create = clients.openai.chat.completions.create
    answer = await create(
        model="m", messages=HI, max_tokens=8, n=2, seed=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 2
    first, second = [
        (await create(model="m", messages=HI, max_tokens=8, seed=7)).choices[0].message.content
        for _ in range(2)
    ]
    assert first == second


async def test_a_chat_is_streamed_with_usage(clients: Clients) -> None:
    stream = await clients.openai.chat.completions.create(
        model="m",
        messages=HI,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 8


async def test_structured_outputs_keep_to_their_schema(clients: Clients) -> None:
    create = clients.openai.chat.completions.create
    schema: Any = {"name": "weather", "schema": WEATHER, "strict": True}
    answer = await create(
        model="m",
        messages=HI,
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"city"}
    constraints: list[tuple[dict[str, Any], str]] = [
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"regex": "[ab]{3}"}, "[ab]{3}"),
        ({"grammar": 'root ::= "left" | "right"'}, "left|right"),
    ]
    for constraint, pattern in constraints:
        answer = await create(
            model="m",
            messages=HI,
            max_tokens=16,
            extra_body={"structured_outputs": constraint},
        )
        assert re.fullmatch(pattern, answer.choices[0].message.content or ""), constraint


async def test_a_named_tool_is_called(clients: Clients) -> None:
    function: Any = {"name": "weather", "description": "Tells it", "parameters": WEATHER}
    answer = await clients.openai.chat.completions.create(
        model="m",
        messages=HI,
        max_tokens=64,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    json.loads(calls[0].function.arguments)


async def test_completions_take_texts_and_token_ids(clients: Clients) -> None:
    create = clients.openai.completions.create
    prompts: list[Any] = ["Once", ["Once", "Twice"], [5, 6, 7], [[5, 6], [7]]]
    for prompt in prompts:
        answer = await create(model="m", prompt=prompt, max_tokens=2, stop=["zzz"])
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert len(answer.choices) == (2 if several else 1)


async def test_responses_are_created_streamed_continued_and_deleted(clients: Clients) -> None:
    responses = clients.openai.responses
    first = await responses.create(model="m", input="Tell me a story.", max_output_tokens=8)
    assert first.output_text
    async with responses.stream(
        model="m", input="And then?", previous_response_id=first.id, max_output_tokens=8
    ) as stream:
        async for _ in stream:
            pass
        second = await stream.get_final_response()
    found = await responses.retrieve(second.id)
    assert found.previous_response_id == first.id
    assert found.output_text == second.output_text
    items = await responses.input_items.list(second.id, order="asc")
    assert len(items.data) == 3
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    await responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await responses.retrieve(first.id)


async def test_a_response_in_the_background_comes_to_its_end(clients: Clients) -> None:
    begun = await clients.openai.responses.create(
        model="m", input="Tell me.", max_output_tokens=4, background=True
    )
    assert begun.status == "queued"

    async def is_over() -> bool:
        found = await clients.openai.responses.retrieve(begun.id)
        return found.status not in ("queued", "in_progress")

    await eventually(is_over, 60)
    found = await clients.openai.responses.retrieve(begun.id)
    assert found.status in ("completed", "incomplete")  # cut at four tokens
    assert found.output_text


async def test_a_response_is_streamed_from_the_background_and_told_again(clients: Clients) -> None:
    responses = clients.openai.responses
    stream = await responses.create(
        model="m", input="Tell me.", max_output_tokens=4, background=True, stream=True
    )
    told = [event async for event in stream]
    assert isinstance(told[0], ResponseCreatedEvent)
    again = await responses.retrieve(told[0].response.id, stream=True, starting_after=2)
    assert [event async for event in again] == told[3:]
    deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
    found = await responses.retrieve(told[0].response.id)
    assert "".join(deltas) == found.output_text != ""
    kept = await responses.create(model="m", input="Hi", max_output_tokens=2, store=True)
    assert (await responses.retrieve(kept.id)).output_text == kept.output_text


async def test_messages_are_created_streamed_and_counted(clients: Clients) -> None:
    messages = clients.anthropic.messages
    whole = await messages.create(model="m", max_tokens=8, system="Be brief.", messages=HI)
    assert whole.content[0].type == "text"
    assert whole.content[0].text
    assert whole.usage.output_tokens <= 8
    async with messages.stream(model="m", max_tokens=8, system="Be brief.", messages=HI) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text
    assert final.stop_reason in ("max_tokens", "end_turn")
    counted = await messages.count_tokens(model="m", system="Be brief.", messages=HI)
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached


async def test_the_second_turn_of_every_api_is_found_in_the_cache(clients: Clients) -> None:
    """The router's prediction is what the engine then says: the same tokens, by any API."""
    story = "A fox walked through the quiet forest and looked for its friends. " * 12
    raw: Any = clients.anthropic.messages.with_raw_response
    turn: Any = [{"role": "user", "content": story}]
    await raw.create(model="m", max_tokens=1, messages=turn)
    again = await raw.create(model="m", max_tokens=1, messages=turn)
    predicted = int(again.headers["x-rhizome-prefix-tokens"])
    assert predicted >= 128
    assert (await again.parse()).usage.cache_read_input_tokens == predicted
    response = await clients.openai.responses.with_raw_response.create(
        model="m", input=story, max_output_tokens=1
    )
    assert int(response.headers["x-rhizome-prefix-tokens"]) == predicted
    usage = response.parse().usage
    assert usage is not None
    assert usage.input_tokens_details.cached_tokens == predicted


async def test_errors_come_as_the_clients_expect_them(clients: Clients) -> None:
    chat = clients.openai.chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        await chat.create(model="nobody", messages=HI)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await chat.create(model="m", messages=HI, temperature=99)
    with pytest.raises(openai.BadRequestError) as long:
        await chat.create(model="m", messages=[{"role": "user", "content": "word " * 4000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        await chat.create(model="m", messages=HI, extra_headers={"Authorization": "Bearer wrong"})
    with pytest.raises(openai.APIStatusError) as late:
        await chat.create(
            model="m",
            messages=HI,
            max_tokens=2000,
            extra_body={"ignore_eos": True},
            extra_headers={"x-request-timeout": "0.3"},
        )
    assert late.value.status_code == 504
    with pytest.raises(anthropic.NotFoundError):
        await clients.anthropic.messages.create(model="nobody", max_tokens=1, messages=HI)
    with pytest.raises(anthropic.BadRequestError):
        await clients.anthropic.messages.create(model="m", max_tokens=0, messages=HI)
    with pytest.raises(openai.APIStatusError) as other:
        await clients.openai.embeddings.create(model="m", input="a")
    assert other.value.status_code in (400, 404, 501)


async def test_models_are_listed(clients: Clients) -> None:
    assert [model.id async for model in clients.openai.models.list()] == ["m"]
    assert (await clients.openai.models.retrieve("m")).id == "m"


async def test_curl_reads_a_stream(clients: Clients, tmp_path: Path) -> None:
    body = {"model": "m", "messages": HI, "max_tokens": 4, "stream": True}
    (tmp_path / "body.json").write_text(json.dumps(body))
    (tmp_path / "curl.conf").write_text(f'header = "Authorization: Bearer {KEY}"\n')
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--no-buffer", "--include", "--max-time", "60"),
        *("--config", "curl.conf", "--header", "Content-Type: application/json"),
        *("--data", "@body.json", clients.url + "/v1/chat/completions"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"data: [DONE]\n\n")


async def test_an_image_is_refused_by_url_and_passed_as_data(clients: Clients) -> None:
    def asked(url: str) -> Any:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]

    chat = clients.openai.chat.completions
    with pytest.raises(openai.BadRequestError) as refused:
        await chat.create(model="m", messages=asked("http://127.0.0.1/cat.png"))
    assert refused.value.code == "media_url_not_allowed"
    data = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    with pytest.raises(openai.BadRequestError) as passed:  # the model reads no images: vLLM says so
        await chat.create(model="m", messages=asked(data))
    assert passed.value.code != "media_url_not_allowed"
