"""`/v1/responses` with a real store: continued, read back, forgotten, by the owner."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.support.clocks import HurriedClock
from tests.support.fake_engine import FakeEngine
from tests.support.stored_responses import HI, MINE, THEIRS, ask, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


class MovableClock(HurriedClock):
    """The machine's clock, its date some time ahead."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s


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
    clock, engine.hold = MovableClock(hurries=True), asyncio.Event()
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
