"""Products through a whole router: shares, fallbacks, and what is said of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from rhizome.tasks import Tasks
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

MESSAGES = [{"role": "user", "content": "Hello there"}]
HI = {"model": "chat", "messages": MESSAGES}
CATALOG: dict[str, Any] = {
    "products": {
        "chat": {
            "shares": [{"model": "m", "weight": 3}, {"model": "next", "weight": 1}],
            "fallbacks": [{"model": "small"}, {"model": "gpt", "provider": "outside"}],
        }
    }
}


@asynccontextmanager
async def running(
    directory: Path, catalog: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[Api, httpx.AsyncClient]]:
    file = directory / "catalog.json"
    file.write_text(json.dumps(catalog))
    settings = {"router__catalog_file": str(file), **settings}
    async with running_api(settings_with(**settings)) as api:
        async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
            yield api, http


@asynccontextmanager
async def outside(directory: Path) -> AsyncIterator[tuple[FakeEngine, dict[str, Any]]]:
    """A provider, and the catalog that names it."""
    (directory / "key").write_text("sk-outside\n")
    async with running_engine(FakeEngine(words=["From", " outside"])) as provider:
        entry = {"base_url": provider.url + "/v1", "key_file": str(directory / "key")}
        yield provider, {**CATALOG, "providers": {"outside": entry}}


def only_chat(catalog: dict[str, Any]) -> dict[str, Any]:
    return {**catalog, "products": {"chat": {**catalog["products"]["chat"], "fallbacks": []}}}


def only_m(catalog: dict[str, Any]) -> dict[str, Any]:
    chat = {**catalog["products"]["chat"], "shares": [{"model": "m"}]}
    return {**catalog, "products": {"chat": chat}}


def join(api: Api, engine: FakeEngine, model: str) -> None:
    api.router.fleet.upsert(engine.record(f"worker-of-{model}", model=model), 0.0)


async def test_sessions_are_shared_by_weight_and_keep_their_model(tmp_path: Path) -> None:
    async with running_engine(FakeEngine()) as one, running_engine(FakeEngine()) as other:
        async with running(tmp_path, only_chat(CATALOG)) as (api, http):
            join(api, one, "m")
            join(api, other, "next")
            chosen: Counter[str] = Counter()
            for number in range(40):
                models = {
                    (
                        await http.post("/v1/chat/completions", json={**HI, "user": f"u{number}"})
                    ).headers["x-rhizome-model"]
                    for _ in range(2)
                }
                assert len(models) == 1
                chosen.update(models)
    assert 20 <= chosen["m"] <= 38
    assert chosen["next"] == 40 - chosen["m"]
    assert {body["model"] for body in one.requests} == {"m"}
    assert {body["model"] for body in other.requests} == {"next"}


async def test_another_model_serves_when_the_first_has_no_worker(tmp_path: Path) -> None:
    async with outside(tmp_path) as (provider, catalog), running_engine(FakeEngine()) as small:
        async with running(tmp_path, catalog) as (api, http):
            join(api, small, "small")
            answer = await http.post("/v1/chat/completions", json=HI)
            assert answer.status_code == 200
            assert answer.headers["x-rhizome-model"] == "small"
            assert answer.headers["x-rhizome-fallback"] == "model_not_found"
            labels = {"route": "/v1/chat/completions", "model": "small", "outcome": "completed"}
            await eventually(lambda: api.counted("router_requests_total", **labels) == 1)
    assert small.requests[0]["model"] == "small"
    assert not provider.requests


async def test_a_provider_serves_when_the_fleet_cannot(tmp_path: Path) -> None:
    async with outside(tmp_path) as (provider, catalog):
        async with running(tmp_path, catalog) as (_, http):
            asked = {**HI, "cache_salt": "s", "vllm_xargs": {"a": 1}, "temperature": 0}
            whole = await http.post("/v1/chat/completions", json=asked)
            streamed = await http.post("/v1/chat/completions", json={**asked, "stream": True})
    assert whole.json()["choices"][0]["message"]["content"] == "From outside"
    assert whole.headers["x-rhizome-worker"] == "outside:outside"
    assert whole.headers["x-rhizome-model"] == "gpt"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "usage" not in streamed.text
    assert provider.requests[0] == {"model": "gpt", "messages": MESSAGES, "temperature": 0}
    assert provider.headers[0]["authorization"] == "Bearer sk-outside"


async def test_a_full_queue_falls_back_and_a_wrong_request_does_not(tmp_path: Path) -> None:
    limits = {"in_flight_max_per_worker": 1, "queue_length_max": 0}
    settings = {f"router__admission__{name}": value for name, value in limits.items()}
    async with outside(tmp_path) as (provider, catalog), running_engine(FakeEngine()) as engine:
        async with (
            running(tmp_path, only_m(catalog), **settings) as (api, http),
            Tasks("t") as tasks,
        ):
            join(api, engine, "m")
            engine.status = 400
            refused = await http.post("/v1/chat/completions", json=HI)
            assert refused.status_code == 400
            assert "x-rhizome-fallback" not in refused.headers
            engine.status, engine.hold = 200, asyncio.Event()
            held = tasks.start("held", http.post("/v1/chat/completions", json=HI))
            await eventually(lambda: len(engine.requests) == 2)
            answer = await http.post("/v1/chat/completions", json=HI)
            assert answer.headers["x-rhizome-fallback"] == "queue_full"
            engine.hold.set()
            assert "x-rhizome-fallback" not in (await held).headers
    assert len(provider.requests) == 1


async def test_when_nobody_can_serve_the_last_reason_is_told(tmp_path: Path) -> None:
    catalog = {**CATALOG, "providers": {"outside": {"base_url": "http://127.0.0.1:9"}}}
    async with running(tmp_path, catalog) as (api, http):
        answer = await http.post("/v1/chat/completions", json=HI)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "worker_unreachable"
        assert api.counted("router_fallbacks_total", model="small", reason="model_not_found") == 1


async def test_products_are_listed_as_models(tmp_path: Path) -> None:
    async with running_engine(FakeEngine()) as engine:
        async with running(tmp_path, only_chat(CATALOG)) as (api, http):
            join(api, engine, "m")
            listed = (await http.get("/v1/models")).json()["data"]
            assert [(one["id"], one["root"]) for one in listed] == [("chat", "m"), ("m", "m")]
            assert (await http.get("/v1/models/chat")).json()["id"] == "chat"
            assert (await http.get("/v1/models/nobody")).status_code == 404


async def test_a_changed_catalog_is_taken_and_a_bad_one_is_not(tmp_path: Path) -> None:
    async with running_engine(FakeEngine()) as engine:
        async with running(tmp_path, only_m(only_chat(CATALOG))) as (api, http):
            join(api, engine, "m")
            file = tmp_path / "catalog.json"
            file.write_text('{"products": {"chat": {"shares": []}}}')
            await eventually(
                lambda: api.counted("router_catalog_loads_total", result="refused") == 1
            )
            assert (await http.post("/v1/chat/completions", json=HI)).status_code == 200
            file.write_text('{"products": {"talk": {"shares": [{"model": "m"}]}}}')
            await eventually(
                lambda: api.counted("router_catalog_loads_total", result="loaded") == 1
            )
            assert (await http.post("/v1/chat/completions", json=HI)).status_code == 404
            talk = {**HI, "model": "talk"}
            assert (await http.post("/v1/chat/completions", json=talk)).status_code == 200
