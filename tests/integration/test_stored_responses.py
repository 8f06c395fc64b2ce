"""`/v1/responses` with a real store: continued, read back, forgotten, cancelled, by the owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AsyncStream, RateLimitError
from openai.types.responses import ResponseStreamEvent

from rhizome.clock import Clock, SystemClock
from rhizome.ids import new_id
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

MINE = {"authorization": "Bearer rzk-mine"}
THEIRS = {"authorization": "Bearer rzk-theirs"}
HI = {"model": "m", "input": "Hello"}


@pytest.fixture
def namespace() -> str:
    return new_id("test")


class MovableClock(SystemClock):
    """The machine's clock, its date some time ahead."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s


@asynccontextmanager
async def running(
    url: str | None, namespace: str, clock: Clock | None = None, **more: Any
) -> AsyncIterator[Api]:
    flags: dict[str, Any] = {"router__api_keys": ["rzk-mine", "rzk-theirs"], **more}
    if url is not None:
        flags |= {"redis__url": url, "redis__namespace": namespace}
    async with running_api(settings_with(**flags), clock=clock) as api:
        yield api


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine(FakeEngine()) as engine:
        yield engine


@pytest.fixture
async def api(valkey_url: str, namespace: str, engine: FakeEngine) -> AsyncIterator[Api]:
    async with running(valkey_url, namespace) as api:
        api.join(engine)
        yield api


@pytest.fixture
async def http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=20, headers=MINE) as http:
        yield http


async def ask(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/responses", json={**HI, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_response_continues_another(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await ask(http, instructions="Be brief.")
    second = await ask(http, input="And then?", previous_response_id=first["id"])
    third = await ask(http, input="Really?", previous_response_id=second["id"])
    sent = engine.requests[-1]["input"]
    roles = ["user", "assistant"] * 2 + ["user"]
    assert [item["role"] for item in sent] == roles
    assert "instructions" not in engine.requests[-1]
    assert {"previous_response_id", "background"}.isdisjoint(engine.requests[-1])
    shown = (await http.get(f"/v1/responses/{third['id']}")).json()
    assert shown["previous_response_id"] == second["id"]
    assert shown["output"] == third["output"]
    items = (await http.get(f"/v1/responses/{third['id']}/input_items?order=asc&limit=2")).json()
    assert [item["role"] for item in items["data"]] == roles[:2]
    assert items["has_more"]


async def test_a_streamed_response_is_stored_before_its_end_is_told(
    http: httpx.AsyncClient,
) -> None:
    async with http.stream("POST", "/v1/responses", json={**HI, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and '"response.completed"' in line:
                response = json.loads(line.removeprefix("data: "))["response"]
                found = await http.get(f"/v1/responses/{response['id']}")
                assert found.status_code == 200
                assert found.json()["output"] == response["output"]
                return
    raise AssertionError("no end")


async def test_another_router_continues_it(
    http: httpx.AsyncClient, valkey_url: str, namespace: str, engine: FakeEngine
) -> None:
    first = await ask(http)
    async with running(valkey_url, namespace) as other:
        other.join(engine)
        async with httpx.AsyncClient(base_url=other.url, headers=MINE, timeout=30) as there:
            await ask(there, input="And then?", previous_response_id=first["id"])
    assert len(engine.requests[-1]["input"]) == 3


async def test_a_response_belongs_to_its_key(http: httpx.AsyncClient) -> None:
    path = f"/v1/responses/{(await ask(http))['id']}"
    for answer in (
        await http.get(path, headers=THEIRS),
        await http.delete(path, headers=THEIRS),
        await http.post(path + "/cancel", headers=THEIRS),
        await http.post(
            "/v1/responses",
            json={**HI, "previous_response_id": path.rpartition("/")[2]},
            headers=THEIRS,
        ),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert (await http.get(path, headers={"authorization": ""})).status_code == 401
    assert (await http.get(path)).status_code == 200


async def test_a_deleted_response_is_gone(http: httpx.AsyncClient) -> None:
    response_id = (await ask(http))["id"]
    deleted = await http.delete(f"/v1/responses/{response_id}")
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    assert (await http.get(f"/v1/responses/{response_id}")).status_code == 404
    assert (await http.delete(f"/v1/responses/{response_id}")).status_code == 404


async def test_what_shall_not_be_stored_is_not(http: httpx.AsyncClient) -> None:
    response_id = (await ask(http, store=False))["id"]
    assert (await http.get(f"/v1/responses/{response_id}")).status_code == 404


async def test_a_refused_request_leaves_nothing(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.status = 400
    answer = await http.post("/v1/responses", json={**HI, "store": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "no"
    response_id = json.loads(engine.bodies[0])["request_id"]

    async def is_gone() -> bool:
        return (await http.get(f"/v1/responses/{response_id}")).status_code == 404

    await eventually(is_gone)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_promised_response_is_in_progress_for_as_long_as_it_takes(
    stream: bool, valkey_url: str, namespace: str, engine: FakeEngine
) -> None:
    clock, engine.hold = MovableClock(), asyncio.Event()
    async with (
        running(valkey_url, namespace, clock) as api,
        httpx.AsyncClient(base_url=api.url, timeout=60, headers=MINE) as http,
    ):
        api.join(engine)
        body = {**HI, "store": True, "stream": stream}
        asked = asyncio.ensure_future(http.post("/v1/responses", json=body))
        await eventually(lambda: bool(engine.requests))
        path = f"/v1/responses/{engine.requests[0]['request_id']}"

        async def is_in_progress() -> bool:
            return bool((await http.get(path)).json()["status"] == "in_progress")

        assert await is_in_progress()
        clock.ahead_s += 60.0
        await eventually(is_in_progress)
        engine.hold.set()
        assert (await asked).status_code == 200
        assert (await http.get(path)).json()["status"] == "completed"


async def test_a_promised_response_that_is_deleted_meanwhile_is_answered_and_not_kept(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    asked = asyncio.ensure_future(ask(http, store=True))
    await eventually(lambda: bool(engine.requests))
    path = f"/v1/responses/{engine.requests[0]['request_id']}"
    assert (await http.delete(path)).status_code == 200
    engine.hold.set()
    assert (await asked)["output"]
    assert (await http.get(path)).status_code == 404


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


async def test_only_background_work_is_cancelled(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1/responses/{(await ask(http))['id']}/cancel")
    assert answer.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_background_without_a_store_is_refused(http: httpx.AsyncClient, stream: bool) -> None:
    body = {**HI, "background": True, "store": False, "stream": stream}
    answer = await http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "background"


async def test_a_conversation_that_is_too_long_is_answered_but_not_kept(
    valkey_url: str, namespace: str, engine: FakeEngine
) -> None:
    async with running(valkey_url, namespace, router__responses__bytes_max=2048) as api:
        api.join(engine)
        async with httpx.AsyncClient(base_url=api.url, headers=MINE, timeout=30) as http:
            found = await ask(http, input="x" * 4096)
            assert (await http.get(f"/v1/responses/{found['id']}")).status_code == 404


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:9"])
async def test_without_a_store_what_needs_none_is_answered(
    url: str | None, namespace: str, engine: FakeEngine
) -> None:
    async with running(url, namespace, redis__command_timeout_s=0.5) as api:
        api.join(engine)
        async with httpx.AsyncClient(base_url=api.url, headers=MINE, timeout=20) as http:
            found = await ask(http)
            assert found["output"]
            refused = [
                await http.post("/v1/responses", json={**HI, "store": True}),
                await http.post("/v1/responses", json={**HI, "background": True}),
                await http.post("/v1/responses", json={**HI, "previous_response_id": "resp_1"}),
                await http.get(f"/v1/responses/{found['id']}"),
            ]
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "store_unavailable"
    assert len(engine.requests) == 1


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
