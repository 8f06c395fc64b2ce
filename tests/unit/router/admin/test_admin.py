"""The admin API over real sockets: who gets in, what it tells, what it notes."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest

from rhizome.errors import SettingsError
from rhizome.settings.tree import AdminSettings
from rhizome.tasks import Tasks
from router.admin.access import admin_keys
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually
from tests.unit.router.admin.rig import ADMIN_KEY, CHAT, CLIENT_KEY, send, serving


async def test_only_admin_keys_open_it_and_client_keys_do_not(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    for key in ("", "Bearer wrong", f"Bearer {CLIENT_KEY}"):
        answer = await http.get("/workers", headers={"authorization": key})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await http.get("/workers")).status_code == 200
    ops = {"authorization": "Bearer ops-key"}
    assert (await http.get("/workers", headers=ops)).status_code == 200
    assert (await send(api, key=ADMIN_KEY)).status_code == 401
    async with httpx.AsyncClient(timeout=30) as nobody:
        assert (await nobody.get(f"{api.admin_url}/admin/v1/health")).json()["status"] == "live"
        documented = (await nobody.get(f"{api.admin_url}/openapi.json")).json()["paths"]
    assert "/admin/v1/decisions/{request_id}" in documented
    assert "/admin/v1/route" in documented


async def test_the_admin_routes_are_not_on_the_clients_port_nor_theirs_here(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {CLIENT_KEY}"}, timeout=30
    ) as client:
        assert (await client.get(f"{api.url}/admin/v1/workers")).status_code == 404
    for path in ("/nothing", "/../../v1/models", "/workers/w0/drain/x/y"):
        answer = await http.get(path)
        assert answer.status_code in (404, 405), path
        assert "error" in answer.json()


async def test_a_request_is_explained_from_its_candidates_to_its_end(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with (
        running_engine(FakeEngine(cached_tokens=3)) as one,
        running_engine(FakeEngine()) as two,
    ):
        api.join(one, two)
        answer = await send(api, {**CHAT, "stream": True}, request_id="my-request")
        assert answer.status_code == 200
        got = await http.get("/decisions/my-request")
        found = got.json()
    assert found["router"] == answer.headers["x-rhizome-router"]
    assert (found["state"], found["outcome"], found["status"]) == ("ended", "completed", 200)
    assert (found["key"], found["model"], found["streamed"]) == ("alice", "m", True)
    assert found["asked_model"] == "m"
    assert found["path"] == "/v1/chat/completions"
    (attempt,) = found["attempts"]
    assert attempt["worker"] == answer.headers["x-rhizome-worker"]
    assert attempt["policy"] == "cost"
    assert attempt["reason"] == "tie"
    assert attempt["ttft_ms"] > 0
    assert {one["worker"] for one in attempt["candidates"]} == {"w0", "w1"}
    assert sum(one["chosen"] for one in attempt["candidates"]) == 1
    assert found["engine_prompt_tokens"] > 0
    assert found["cached_tokens"] == (3 if attempt["worker"] == "w0" else 0)
    listed = (await http.get("/decisions", params={"limit": 1})).json()
    assert [decision["request_id"] for decision in listed["decisions"]] == ["my-request"]


async def test_a_retried_and_a_refused_request_say_why(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with running_engine(FakeEngine(status=500)) as bad, running_engine(FakeEngine()) as good:
        api.join(bad)
        assert (await send(api, request_id="alone")).status_code == 500
        api.router.fleet.upsert(good.record("w1"), 0.0)
        ids = [f"r{number}" for number in range(8)]
        for name in ids:
            assert (await send(api, request_id=name)).status_code == 200
        found = [(await http.get(f"/decisions/{name}")).json() for name in ids]
        refused = await send(api, {**CHAT, "model": "none"}, request_id="refused")
        assert refused.status_code == 404
    retried = next(one for one in found if len(one["attempts"]) == 2)
    assert retried["attempts"][0]["failure"] == "worker_faulted"
    assert [one["worker"] for one in retried["attempts"]] == ["w0", "w1"]
    said = (await http.get("/decisions/refused")).json()
    assert (said["outcome"], said["status"], said["error"]) == ("rejected", 404, "model_not_found")
    assert said["attempts"] == []


async def test_an_unknown_or_overwritten_decision_is_404_with_a_hint() -> None:
    async with serving(router__decisions__count_max=1) as (api, http):
        first = await http.get("/decisions/never")
        assert first.status_code == 404
        assert "none is kept yet" in first.json()["error"]["message"]
        async with running_engine(FakeEngine()) as engine:
            api.join(engine)
            for name in ("old", "new"):
                await send(api, request_id=name)
        assert (await http.get("/decisions/new")).status_code == 200
        gone = await http.get("/decisions/old")
        assert gone.status_code == 404
        assert "router.decisions.count_max" in gone.json()["error"]["message"]
        assert "x-rhizome-router" in gone.json()["error"]["message"]


async def test_a_preview_chooses_and_leaves_no_trace(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with running_engine(FakeEngine()) as one, running_engine(FakeEngine()) as two:
        api.join(one, two)
        sent = await send(api)
        dispatcher = api.router.dispatcher
        before = dispatcher.rng.getstate()
        answers = [(await http.post("/route", json={"body": CHAT})).json() for _ in range(3)]
        assert not one.requests[1:]
        assert not two.requests[1:]
    assert dispatcher.rng.getstate() == before
    assert dispatcher.in_flight("m") == 0
    for answer in answers:
        assert (answer["state"], answer["prospect"]) == ("preview", "now")
        (attempt,) = answer["attempts"]
        assert attempt["worker"] == sent.headers["x-rhizome-worker"], "its prefix is there"
        assert answer["predicted_cached_tokens"] > 0
    assert (await http.get("/decisions")).json()["kept"] == 1, "previews are not kept"


async def test_a_preview_tells_that_a_request_would_wait() -> None:
    async with serving(router__admission__in_flight_max_per_worker=1) as (api, http):
        async with running_engine(FakeEngine()) as engine:
            api.join(engine)
            target = api.router.fleet.eligible("m")[0]
            receipt = api.router.dispatcher.book.reserve(target.target_id, 1, 0.0)
            answer = (await http.post("/route", json={"body": CHAT})).json()
            api.router.dispatcher.book.release(receipt)
    assert (answer["state"], answer["prospect"]) == ("preview", "full")
    assert answer["attempts"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"body": {**CHAT, "model": "none"}}, 404, "model_not_found"),
        ({"path": "/v1/nothing", "body": CHAT}, 404, "unknown_route"),
        ({"body": {"messages": []}}, 400, "invalid_request"),
        ({"body": "text"}, 400, "invalid_request"),
        ({"body": CHAT, "extra": 1}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
    ],
)
async def test_a_bad_preview_is_refused(
    both: tuple[Api, httpx.AsyncClient], body: dict[str, object], status: int, code: str
) -> None:
    _, http = both
    answer = await http.post("/route", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_bodies_must_be_json_and_within_the_bound() -> None:
    async with serving(router__relay__body_bytes_max=1024) as (_, http):
        json_type = {"content-type": "application/json"}
        text = await http.post("/route", content=b"{}", headers={"content-type": "text/plain"})
        assert text.status_code == 415
        broken = await http.post("/route", content=b"{", headers=json_type)
        error = broken.json()["error"]
        assert (broken.status_code, error["code"], error["param"]) == (400, "malformed_body", None)
        nothing = await http.post("/route", content=b"{}", headers=json_type)
        assert nothing.json()["error"]["message"] == "'body': Field required"
        long = await http.post("/route", content=b" " * 2048, headers=json_type)
        assert (long.status_code, long.json()["error"]["code"]) == (413, "body_too_large")


async def test_models_and_tenants_tell_who_uses_what(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        await send(api)
        await send(api, {**CHAT, "model": "none"})
        (model,) = (await http.get("/models")).json()["models"]
    assert (model["model"], model["workers"], model["eligible"]) == ("m", 1, 1)
    (tenant,) = (await http.get("/tenants")).json()["tenants"]
    assert (tenant["name"], tenant["has_key"]) == ("alice", True)
    assert tenant["requests"] == {"completed": 1, "rejected": 1}
    assert tenant["completion_tokens"] > 0
    assert tenant["last_seen_s"] < 60


async def test_the_log_level_can_be_changed(
    both: tuple[Api, httpx.AsyncClient], log_level: None
) -> None:
    _, http = both
    assert (await http.put("/log-level", json={"level": "debug"})).json() == {"level": "debug"}
    assert (await http.get("/log-level")).json() == {"level": "debug"}
    assert (await http.put("/log-level", json={"level": "loud"})).status_code == 400


async def test_actions_and_wrong_keys_leave_one_line_each_but_guesses_cannot_flood(
    both: tuple[Api, httpx.AsyncClient], caplog: pytest.LogCaptureFixture, log_level: None
) -> None:
    _, http = both
    with caplog.at_level(logging.INFO, logger="router.audit"):
        for _ in range(20):
            await http.get("/audit", headers={"authorization": "Bearer guess"})
        await http.put("/log-level", json={"level": "info"})
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "router.audit"]
    assert [(one["who"], one["status"]) for one in lines] == [("", 401), ("admin-1", 200)]
    assert lines[1]["what"] == "PUT /admin/v1/log-level"
    assert lines[1]["note"] == "info"
    assert "guess" not in caplog.text


async def test_shadows_are_compared_on_live_traffic() -> None:
    async with serving(router__scheduling__shadows=("round_robin", "sticky")) as (api, http):
        async with running_engine(FakeEngine()) as one, running_engine(FakeEngine()) as two:
            api.join(one, two)
            for _ in range(5):
                await send(api)
        found = {one["policy"]: one for one in (await http.get("/shadows")).json()["shadows"]}
    assert set(found) == {"round_robin", "sticky", "most_reuse", "soonest"}
    assert {one["compared"] for one in found.values()} == {5}
    assert found["round_robin"]["agreement"] < 1
    agreed = {
        kind: api.counted("router_shadow_decisions_total", policy="round_robin", agreed=kind)
        for kind in ("yes", "no")
    }
    assert sum(agreed.values()) == 5
    assert agreed["no"] > 0
    assert api.counted("router_shadow_reuse_tokens_total", policy="round_robin", kind="fewer") > 0


async def test_it_is_off_without_a_key_and_never_open_beyond_loopback() -> None:
    async with running_api() as api:
        assert api.admin_url == ""
    ring = admin_keys(AdminSettings(allow_anonymous=True))
    assert ring is not None
    assert ring.is_open
    with pytest.raises(SettingsError, match="no key"):
        admin_keys(AdminSettings(allow_anonymous=True, host="0.0.0.0"))  # noqa: S104 - refused


async def test_an_open_api_answers_only_to_names_of_this_machine() -> None:
    settings = settings_with(router__admin__allow_anonymous=True)
    async with running_api(settings) as api, httpx.AsyncClient(timeout=30) as http:
        url = f"{api.admin_url}/admin/v1/workers"
        assert (await http.get(url)).status_code == 200
        rebound = await http.get(url, headers={"host": "evil.example:8001"})
        assert rebound.status_code == 401


async def test_a_running_request_can_be_explained_too(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    engine = FakeEngine(hold=asyncio.Event())
    async with running_engine(engine), Tasks("test") as tasks:
        api.join(engine)
        sending = tasks.start("send", send(api, request_id="slow"))
        await eventually(lambda: bool(engine.requests))
        found = (await http.get("/decisions/slow")).json()
        assert engine.hold is not None
        engine.hold.set()
        await sending
    assert found["state"] == "running"
    assert found["outcome"] is None
    assert len(found["attempts"]) == 1
