"""A request's life through a whole router over real sockets, with engines that fail on demand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from unittest.mock import Mock

import httpx
import pytest
from prometheus_client import generate_latest

from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

PATH = "/v1/chat/completions"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@pytest.fixture
async def http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=10) as http:
        yield http


def dead_engine() -> FakeEngine:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return FakeEngine(url=f"http://127.0.0.1:{free.getsockname()[1]}")


async def test_an_answer_comes_through_with_its_headers(api: Api, http: httpx.AsyncClient) -> None:
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        answer = await http.post(PATH, json=CHAT)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
    assert answer.headers["x-rhizome-worker"] == "w0"
    assert answer.headers["x-rhizome-prefix-tokens"] == "0"
    assert answer.headers["x-request-id"].startswith("req-")


async def test_a_stream_comes_through_without_the_usage_nobody_asked_for(
    api: Api, http: httpx.AsyncClient
) -> None:
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        answer = await http.post(PATH, json={**CHAT, "stream": True})
        assert engine.requests[0]["stream_options"] == {"include_usage": True}
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(events) == 4
    assert "usage" not in answer.text
    assert api.counted("router_completion_tokens_total", model="m") == 2


async def test_usage_is_passed_on_to_those_who_asked(api: Api, http: httpx.AsyncClient) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    async with running_engine(FakeEngine(cached_tokens=5)) as engine:
        api.join(engine)
        answer = await http.post(PATH, json=body)
    assert '"cached_tokens": 5' in answer.text


async def test_unknown_fields_reach_the_engine(api: Api, http: httpx.AsyncClient) -> None:
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        await http.post(PATH, json={**CHAT, "some_new_field": [1, {"a": None}]})
        assert engine.requests[0]["some_new_field"] == [1, {"a": None}]


async def test_a_dead_worker_costs_one_try_and_is_left_alone(
    api: Api, http: httpx.AsyncClient
) -> None:
    async with running_engine(FakeEngine()) as alive:
        api.join(dead_engine(), alive)
        for _ in range(6):
            answer = await http.post(PATH, json=CHAT)
            assert answer.status_code == 200
            assert answer.headers["x-rhizome-worker"] == "w1"
    assert api.counted("router_attempts_failed_total", model="m") <= 1


async def test_a_worker_that_dies_before_the_first_byte_is_replaced(
    api: Api, http: httpx.AsyncClient
) -> None:
    async with running_engine(FakeEngine(die_after=0)) as dying:
        async with running_engine(FakeEngine()) as alive:
            api.join(dying, alive)
            answers = [await http.post(PATH, json={**CHAT, "stream": True}) for _ in range(4)]
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)


@pytest.mark.parametrize("failure", [{"die_after": 1}, {"end_after": 1}])
async def test_a_stream_that_breaks_ends_with_an_error_event(
    api: Api, http: httpx.AsyncClient, failure: dict[str, int]
) -> None:
    async with running_engine(FakeEngine(**failure)) as engine:  # type: ignore[arg-type]  # ints
        api.join(engine)
        answer = await http.post(PATH, json={**CHAT, "stream": True})
    events = answer.text.strip().split("\n\n")
    assert (
        json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "worker_died_mid_stream"
    )
    assert "[DONE]" not in answer.text
    await eventually(
        lambda: (
            api.counted(
                "router_requests_total",
                route=PATH,
                model="m",
                outcome="broken",
            )
            == 1
        )
    )


@pytest.mark.parametrize("status", [400, 404, 413, 429])
async def test_what_the_worker_refuses_comes_through_unchanged(
    api: Api, http: httpx.AsyncClient, status: int
) -> None:
    async with running_engine(FakeEngine(status=status)) as engine:
        api.join(engine)
        answer = await http.post(PATH, json=CHAT)
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": "no", "type": "E", "param": None, "code": status}}


async def test_a_fault_of_one_worker_is_tried_on_another_then_shown(
    api: Api, http: httpx.AsyncClient
) -> None:
    async with running_engine(FakeEngine(status=500)) as faulty:
        async with running_engine(FakeEngine()) as alive:
            api.join(faulty, alive)
            for _ in range(4):
                assert (await http.post(PATH, json=CHAT)).status_code == 200
        api.router.fleet.remove("w1", "gone", 0.0)
        answer = await http.post(PATH, json=CHAT)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "no"


async def test_a_client_that_leaves_stops_the_engine(api: Api, http: httpx.AsyncClient) -> None:
    async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
        api.join(engine)
        bodies = (CHAT, {**CHAT, "stream": True})
        asked = [asyncio.ensure_future(http.post(PATH, json=body)) for body in bodies]
        await eventually(lambda: len(engine.requests) == 2)
        for one in asked:
            one.cancel()
        await eventually(lambda: engine.aborted == 2)
        await eventually(lambda: api.counted("router_in_flight", target="w0") == 0)
    assert (
        api.counted(
            "router_requests_total",
            route=PATH,
            model="m",
            outcome="client_left",
        )
        == 2
    )


async def test_full_workers_make_a_line_and_a_full_line_refuses() -> None:
    settings = settings_with(
        router__admission__in_flight_max_per_worker=1, router__admission__queue_length_max=1
    )
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
            api.join(engine)
            asked = [asyncio.ensure_future(http.post(PATH, json=CHAT)) for _ in range(3)]
            await eventually(lambda: any(one.done() for one in asked))
            refused = next(one.result() for one in asked if one.done())
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
            assert api.counted("router_queue_depth", model="m") == 1
            assert engine.hold is not None
            engine.hold.set()
            statuses = sorted([(await one).status_code for one in asked])
    assert statuses == [200, 200, 429]


async def test_a_wait_that_is_too_long_ends_in_429() -> None:
    settings = settings_with(
        router__admission__in_flight_max_per_worker=1, router__admission__queue_wait_s_max=0.2
    )
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
            api.join(engine)
            first = asyncio.ensure_future(http.post(PATH, json=CHAT))
            await eventually(lambda: len(engine.requests) == 1)
            second = await http.post(PATH, json=CHAT)
            assert second.status_code == 429
            assert second.json()["error"]["code"] == "queue_timeout"
            assert engine.hold is not None
            engine.hold.set()
            assert (await first).status_code == 200


async def test_one_that_leaves_the_line_is_never_dispatched() -> None:
    settings = settings_with(router__admission__in_flight_max_per_worker=1)
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
            api.join(engine)
            first = asyncio.ensure_future(http.post(PATH, json=CHAT))
            await eventually(lambda: len(engine.requests) == 1)
            leaving = asyncio.ensure_future(http.post(PATH, json=CHAT))
            await eventually(lambda: api.counted("router_queue_depth", model="m") == 1)
            leaving.cancel()
            await eventually(lambda: api.counted("router_queue_depth", model="m") == 0)
            assert engine.hold is not None
            engine.hold.set()
            assert (await first).status_code == 200
            assert len(engine.requests) == 1


async def test_batch_work_waits_while_its_share_is_used_and_interactive_goes_on() -> None:
    settings = settings_with(
        router__admission__in_flight_max_per_worker=2, router__admission__batch_share=0.5
    )
    batch = {"x-rhizome-priority": "batch"}
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
            api.join(engine)
            jobs = [
                asyncio.ensure_future(http.post(PATH, json=CHAT, headers=batch)) for _ in range(2)
            ]
            await eventually(lambda: len(engine.requests) == 1)
            await eventually(lambda: api.counted("router_queue_depth", model="m") == 1)
            jobs.append(asyncio.ensure_future(http.post(PATH, json=CHAT)))
            await eventually(lambda: len(engine.requests) == 2)
            assert engine.hold is not None
            engine.hold.set()
            assert [(await job).status_code for job in jobs] == [200, 200, 200]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'{"model": "m", "messages": [', "application/json", 400, "malformed_body"),
        (b"\xff\xfe", "application/json", 400, "malformed_body"),
        (b"[1]", "application/json", 400, "malformed_body"),
        (b'{"model": "m", "messages": []}', "application/json", 400, "invalid_request"),
        (b'{"model": 3, "messages": [{}]}', "application/json", 400, "invalid_request"),
        (b'{"messages": [{"role": "user"}]}', "application/json", 400, "invalid_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b'{"x": "' + b"a" * 2000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
async def test_bad_bodies_get_clear_errors(
    content: bytes, content_type: str, status: int, code: str
) -> None:
    async with running_api(settings_with(router__relay__body_bytes_max=1024)) as api:
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
            answer = await http.post(PATH, content=content, headers={"content-type": content_type})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("POST", "/pause", 404, "unknown_route"),
        ("POST", "/invocations", 404, "unknown_route"),
        ("GET", PATH, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_unknown_routes_and_methods_never_reach_an_engine(
    api: Api, http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        answer = await http.request(method, path)
        assert not engine.requests
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_an_unknown_model_differs_from_one_without_workers(
    api: Api, http: httpx.AsyncClient
) -> None:
    unknown = await http.post(PATH, json={**CHAT, "model": "other"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    api.join(dead_engine())
    api.router.fleet.remove("w0", "gone", 0.0)
    away = await http.post(PATH, json=CHAT)
    assert (away.status_code, away.json()["error"]["code"]) == (503, "no_healthy_worker")
    assert int(away.headers["retry-after"]) >= 1


async def test_models_and_health_follow_the_fleet(api: Api, http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).status_code == 200
    assert (await http.get("/health/ready")).status_code == 503
    async with running_engine(FakeEngine()) as engine:
        api.join(engine, max_model_len=4096)
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get("/health")).status_code == 200
        models = (await http.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["m"]
    assert models["data"][0]["max_model_len"] == 4096


async def test_a_router_that_has_met_no_worker_is_not_ready() -> None:
    settings = settings_with(router__workers=("http://127.0.0.1:1",))
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        for answer in (
            await http.post(PATH, json=CHAT),
            await http.get("/v1/models/m"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
            assert int(answer.headers["retry-after"]) >= 1
        health = await http.get("/health/ready")
        assert (health.status_code, health.json()["status"]) == (503, "looking")


async def test_keys_guard_everything_but_health() -> None:
    settings = settings_with(router__api_keys=("k-one", "k-two"))
    async with (
        running_api(settings) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30) as http,
    ):
        for path in ("/v1/models", "/v1/files", "/v1/batches"):
            answer = await http.get(path)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert (await http.post(PATH, json=CHAT)).status_code == 401
        wrong = {"authorization": "Bearer k-one-and-more"}
        assert (await http.get("/v1/models", headers=wrong)).status_code == 401
        right = {"authorization": "Bearer k-two"}
        assert (await http.get("/v1/models", headers=right)).status_code == 200
        assert (await http.get("/health/live")).status_code == 200


async def test_a_second_turn_goes_where_the_first_one_went(
    api: Api, http: httpx.AsyncClient
) -> None:
    engines = (FakeEngine(cached_tokens=600), FakeEngine(cached_tokens=600))
    api.router.dispatcher.speeds.observe_first_token = Mock()  # type: ignore[method-assign]  # alike
    async with running_engine(engines[0]) as one, running_engine(engines[1]) as two:
        api.join(one, two)
        for number in range(6):
            turn = [{"role": "user", "content": f"{number} " + "word " * 400}]
            first = await http.post(PATH, json={"model": "m", "messages": turn})
            turn += [
                {"role": "assistant", "content": "Hello world"},
                {"role": "user", "content": "go on"},
            ]
            second = await http.post(PATH, json={"model": "m", "messages": turn})
            worker = first.headers["x-rhizome-worker"]
            assert second.headers["x-rhizome-worker"] == worker
            assert int(second.headers["x-rhizome-prefix-tokens"]) > 300


async def test_the_metrics_page_tells_of_fleet_queue_index_and_events(api: Api) -> None:
    api.join(dead_engine())
    page = generate_latest(api.router.registry).decode()
    for line in (
        'router_workers{model="m",state="ready"} 1.0',
        'router_in_flight{target="w0"} 0.0',
        'router_queue_depth{model="m"} 0.0',
        'router_index_blocks{target="w0"} 0.0',
        "router_index_recompute_share 0.0",
        'router_kv_events_total{kind="gaps"} 0.0',
    ):
        assert line in page
