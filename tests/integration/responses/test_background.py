"""Responses in the background: followed, cancelled, streamed on from where a client was cut off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AsyncStream, RateLimitError
from openai.types.responses import ResponseStreamEvent

from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api
from tests.support.stored_responses import HI, MINE, ask, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


async def test_a_response_in_the_background(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.hold = asyncio.Event()
    begun = await ask(http, background=True)
    assert begun["status"] == "queued"
    path = f"/v1/responses/{begun['id']}"
    assert (await http.get(path)).json()["status"] in ("queued", "in_progress")
    early = await http.post("/v1/responses", json={**HI, "previous_response_id": begun["id"]})
    assert early.status_code == 400
    engine.hold.set()

    async def is_done() -> bool:
        return bool((await http.get(path)).json()["status"] == "completed")

    await eventually(is_done)
    shown = (await http.get(path)).json()
    assert shown["background"] is True
    assert shown["output"][0]["content"][0]["text"] == "Hello world"
    assert (await http.post(path + "/cancel")).json()["status"] == "completed"


async def test_work_in_the_background_is_cancelled_by_any_router(
    http: httpx.AsyncClient, valkey_url: str, namespace: str, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    begun = [await ask(http, background=True) for _ in range(2)]
    await eventually(lambda: len(engine.requests) == 2)
    here, there = (f"/v1/responses/{one['id']}" for one in begun)
    assert (await http.post(here + "/cancel")).json()["status"] == "cancelled"
    async with running(valkey_url, namespace) as other:
        async with httpx.AsyncClient(base_url=other.url, headers=MINE, timeout=30) as elsewhere:
            assert (await elsewhere.post(there + "/cancel")).json()["status"] == "cancelled"
    await eventually(lambda: engine.aborted == 2)
    for path in (here, there):
        assert (await http.get(path)).json()["status"] == "cancelled"


async def test_work_that_fails_says_why(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.status = 400
    begun = await ask(http, background=True)

    async def has_failed() -> bool:
        return bool((await http.get(f"/v1/responses/{begun['id']}")).json()["status"] == "failed")

    await eventually(has_failed)
    error = (await http.get(f"/v1/responses/{begun['id']}")).json()["error"]
    assert "no" in error["message"]


async def test_a_model_that_is_not_there_is_said_at_once(http: httpx.AsyncClient) -> None:
    body = {**HI, "model": "none", "background": True}

    async def is_said() -> bool:
        error = (await http.post("/v1/responses", json=body)).json()["error"]
        assert error["code"] in ("not_ready", "model_not_found"), "the router may look yet"
        return bool(error["code"] == "model_not_found")

    await eventually(is_said)


async def test_only_background_work_is_cancelled(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1/responses/{(await ask(http))['id']}/cancel")
    assert answer.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_background_without_a_store_is_refused(http: httpx.AsyncClient, stream: bool) -> None:
    body = {**HI, "background": True, "store": False, "stream": stream}
    answer = await http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "background"


async def events_of(client: AsyncOpenAI, response_id: str, **asked: Any) -> list[Any]:
    stream = await client.responses.retrieve(response_id, stream=True, **asked)
    return [event async for event in stream]


async def test_a_stored_response_is_told_again_and_from_any_event_on(
    api: Api, http: httpx.AsyncClient
) -> None:
    response = await ask(http)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="rzk-mine") as client:
        told = await events_of(client, response["id"])
        assert [event.sequence_number for event in told] == list(range(len(told)))
        text = "".join(e.delta for e in told if e.type == "response.output_text.delta")
        assert text == response["output"][0]["content"][0]["text"]
        assert told[-1].type == "response.completed"
        for number in (0, 3, len(told) - 1):
            rest = await events_of(client, response["id"], starting_after=number)
            assert rest == told[number + 1 :]
    assert (await http.get("/v1/responses/no?stream=true")).status_code == 404


async def test_work_in_the_background_is_followed_to_its_end_from_any_router(
    http: httpx.AsyncClient, valkey_url: str, namespace: str, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    response_id = (await ask(http, background=True))["id"]
    async with (
        running(valkey_url, namespace, router__responses__background_max=1) as other,
        AsyncOpenAI(base_url=f"{other.url}/v1", api_key="rzk-mine", max_retries=0) as client,
    ):
        stream = await client.responses.retrieve(response_id, stream=True)
        events = aiter(stream)
        begun = [await anext(events), await anext(events)]
        with pytest.raises(RateLimitError):
            await events_of(client, response_id)
        engine.hold.set()
        told = begun + [event async for event in events]
        assert [event.sequence_number for event in told] == list(range(len(told)))
        assert told[-1].type == "response.completed"
        again = await events_of(client, response_id, starting_after=begun[-1].sequence_number)
    assert again == told[len(begun) :]


def text_of(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


async def streamed(client: AsyncOpenAI) -> AsyncStream[ResponseStreamEvent]:
    return await client.responses.create(model="m", input="Hi", background=True, stream=True)


async def test_work_in_the_background_is_streamed_as_it_comes_and_goes_on_without_its_client(
    valkey_url: str, namespace: str
) -> None:
    engine = FakeEngine(["One", " two", " three"], hold=asyncio.Event(), hold_after=5)
    async with (
        running_engine(engine),
        running(valkey_url, namespace, router__responses__background_max=1) as api,
        running(valkey_url, namespace) as other,
        AsyncOpenAI(base_url=f"{api.url}/v1", api_key="rzk-mine", max_retries=0) as client,
        AsyncOpenAI(base_url=f"{other.url}/v1", api_key="rzk-mine") as elsewhere,
    ):
        api.join(engine)
        stream = await streamed(client)
        begun: list[Any] = []
        async for event in stream:
            begun.append(event)
            if text_of(begun) == "One two":
                break
        response_id = begun[0].response.id
        with pytest.raises(RateLimitError):
            await streamed(client)
        await stream.close()
        last = begun[-2].sequence_number
        followed = await elsewhere.responses.retrieve(response_id, stream=True, starting_after=last)
        rest: list[Any] = [await anext(aiter(followed))]
        assert text_of(rest) == " two", "from the other router, while it goes on"
        assert engine.hold is not None
        engine.hold.set()
        rest += [event async for event in followed]
        assert rest[-1].type == "response.completed"
        assert rest[-1].response.output_text == "One two three"
        whole = [*begun[:-1], *rest]
        assert [event.sequence_number for event in whole] == list(range(len(whole)))
        assert text_of(whole) == "One two three"
        assert await events_of(client, response_id) == whole
        again = [event async for event in await streamed(client)]
        assert [event.type for event in again] == [event.type for event in whole]


async def test_a_stream_from_the_background_that_is_cancelled_or_fails_says_so(
    api: Api, http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold, engine.hold_after = asyncio.Event(), 4
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="rzk-mine") as client:
        told: list[Any] = []
        async for event in await streamed(client):
            told.append(event)
            if event.type == "response.output_text.delta":
                await http.post(f"/v1/responses/{told[0].response.id}/cancel")
        assert told[-1].response.status == "cancelled"
        assert [event.sequence_number for event in told] == list(range(len(told)))
        engine.hold, engine.die_after = None, 4
        told = [event async for event in await streamed(client)]
        assert told[-1].type == "response.failed"
        assert await events_of(client, told[0].response.id) == told


async def test_following_ends_with_an_error_where_the_response_is_forgotten(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    path = f"/v1/responses/{(await ask(http, background=True))['id']}"
    async with http.stream("GET", path, params={"stream": True}) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: response.created"
        assert (await http.delete(path)).status_code == 200
        rest = [line async for line in lines if line]
    assert rest[-2] == "event: error"
    assert json.loads(rest[-1].removeprefix("data: "))["code"] == "not_found"
