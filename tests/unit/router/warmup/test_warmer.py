"""A worker joins a router that knows hot prefixes: what it gets, and when requests reach it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from rhizome.settings.tree import Settings
from router.warmup.warmer import WarmupEnd
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

SHARED = [7_654_321] * 160
SALT = "tenant-salt"


class PlainEngine(FakeEngine):
    """Refuses priorities, as vLLM does unless told to schedule by them."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = await super().answer(request)
        if "priority" in self.requests[-1]:
            return web.json_response({"error": {"message": "no", "code": 400}}, status=400)
        return response


async def ask(api: Api, prompt: list[int], **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as http:
        body = {"model": "m", "prompt": prompt, "max_tokens": 4, **fields}
        return await http.post(f"{api.url}/v1/completions", json=body)


def join(api: Api, engine: FakeEngine, name: str, **fields: Any) -> None:
    facts: dict[str, Any] = {"block_size": 16, "kv_blocks": 1000, "max_model_len": 4096}
    api.router.fleet.upsert(engine.record(name, **(facts | fields)), 0.0)


def warming(api: Api) -> list[str]:
    views = api.router.fleet.views()
    return [view.record.worker_id for view in views if view.warming]


def warmups(api: Api, end: WarmupEnd) -> float:
    return api.counted("router_warmups_total", model="m", end=end.value)


@asynccontextmanager
async def hot_router(
    new: FakeEngine, settings: Settings | None = None
) -> AsyncIterator[tuple[Api, FakeEngine]]:
    """A router whose one worker has answered prompts that share a beginning; `new` is served."""
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(running_engine(FakeEngine()))
        await stack.enter_async_context(running_engine(new))
        api = await stack.enter_async_context(running_api(settings))
        join(api, old, "old")
        for user in range(3):
            await ask(api, SHARED + [user] * 40)
            await ask(api, SHARED + [user] * 40, cache_salt=SALT)
        yield api, old


async def test_a_new_worker_gets_the_hot_prefixes_and_then_requests() -> None:
    new = FakeEngine(hold=asyncio.Event())
    async with hot_router(new) as (api, _):
        join(api, new, "new")
        assert warming(api) == ["new"]
        await eventually(lambda: len(new.requests) == 2)
        for user in range(4):
            assert (await ask(api, [user] * 50)).headers["x-rhizome-worker"] == "old"
        assert api.counted("router_workers", model="m", state="warming") == 1
        new.hold.set()  # type: ignore[union-attr]  # it was given above
        await eventually(lambda: not warming(api))
        assert [one["prompt"] for one in new.requests] == [SHARED, SHARED]
        assert {one.get("cache_salt") for one in new.requests} == {None, SALT}
        assert {one["max_tokens"] for one in new.requests} == {1}
        assert warmups(api, WarmupEnd.WARM) == 1
        assert api.counted("router_warmup_tokens_total", model="m") == 2 * len(SHARED)
        answers = [await ask(api, [user + 100] * 50) for user in range(12)]
        assert "new" in {one.headers["x-rhizome-worker"] for one in answers}
        for salted in ({}, {"cache_salt": SALT}):
            api.router.fleet.drain(frozenset({"old"}))
            answer = await ask(api, [*SHARED, *[99] * 40], **salted)
            assert 0 < int(answer.headers["x-rhizome-prefix-tokens"]) <= len(SHARED)


async def test_an_engine_without_priorities_gets_the_replay_without_one() -> None:
    new = PlainEngine()
    async with hot_router(new, settings_with(router__warmup__concurrency=1)) as (api, _):
        join(api, new, "new")
        await eventually(lambda: warmups(api, WarmupEnd.WARM) == 1)
        assert ["priority" in one for one in new.requests] == [True, False, False]


async def test_a_worker_that_fails_its_replays_is_let_in() -> None:
    new = FakeEngine(status=500)
    async with hot_router(new) as (api, _):
        join(api, new, "new")
        await eventually(lambda: not warming(api))
        assert not any(view.suspended for view in api.router.fleet.views())
        new.status = 200
        answers = [await ask(api, [user + 100] * 50) for user in range(12)]
        assert "new" in {one.headers["x-rhizome-worker"] for one in answers}


async def test_a_worker_that_hangs_is_let_in_at_the_deadline() -> None:
    new = FakeEngine(hold=asyncio.Event())
    async with hot_router(new, settings_with(router__warmup__deadline_s=0.3)) as (api, _):
        join(api, new, "new")
        await eventually(lambda: warmups(api, WarmupEnd.DEADLINE) == 1)
        assert warming(api) == []
        await eventually(lambda: new.aborted == 2)


async def test_requests_that_wait_in_line_end_a_warm_up() -> None:
    new = FakeEngine(hold=asyncio.Event())
    settings = settings_with(
        router__admission__in_flight_max_per_worker=1, router__warmup__concurrency=1
    )
    async with hot_router(new, settings) as (api, old), asyncio.TaskGroup() as group:
        join(api, new, "new")
        old.hold = asyncio.Event()
        group.create_task(ask(api, [1] * 50))
        waiting = group.create_task(ask(api, [2] * 50))
        await eventually(lambda: bool(api.counted("router_queue_depth", model="m")))
        new.hold.set()  # type: ignore[union-attr]  # it was given above
        assert (await waiting).headers["x-rhizome-worker"] == "new"
        assert warmups(api, WarmupEnd.NEEDED) == 1
        old.hold.set()


async def test_the_only_worker_of_a_model_gets_requests_at_once() -> None:
    new = FakeEngine()
    async with hot_router(new) as (api, _):
        api.router.fleet.remove("old", "gone", 0.0)
        join(api, new, "new")
        assert (await ask(api, [1] * 50)).headers["x-rhizome-worker"] == "new"


async def test_only_a_new_life_is_warmed() -> None:
    new = FakeEngine()
    async with hot_router(new) as (api, _):
        join(api, new, "new")
        await eventually(lambda: warmups(api, WarmupEnd.WARM) == 1)
        join(api, new, "new", block_size=32)
        api.router.fleet.remove("new", "its lease ended", 0.0)
        join(api, new, "new")
        assert warming(api) == []
        join(api, new, "new", incarnation="b")
        assert warming(api) == ["new"]
        await eventually(lambda: warmups(api, WarmupEnd.WARM) == 2)


async def test_a_worker_that_leaves_ends_its_warm_up() -> None:
    new = FakeEngine(hold=asyncio.Event())
    async with hot_router(new) as (api, _):
        join(api, new, "new")
        await eventually(lambda: len(new.requests) == 2)
        api.router.fleet.remove("new", "its lease ended", 0.0)
        await eventually(lambda: new.aborted == 2)
        assert warmups(api, WarmupEnd.LEFT) == 1


async def test_nothing_is_held_back_where_nothing_is_hot_or_warm_up_is_off() -> None:
    new = FakeEngine()
    async with hot_router(new, settings_with(router__warmup__enabled=False)) as (api, _):
        join(api, new, "new")
        assert warming(api) == []
    async with running_engine(new), running_api() as api:
        join(api, new, "first")
        join(api, new, "second")
        assert warming(api) == []
        assert new.requests == []


async def test_what_does_not_fit_into_the_worker_is_not_replayed() -> None:
    new = FakeEngine()
    async with hot_router(new) as (api, _):
        join(api, new, "new", kv_blocks=10)
        await eventually(lambda: warmups(api, WarmupEnd.WARM) == 1)
        assert [len(one["prompt"]) for one in new.requests] == [80], "half of its blocks"


async def test_no_salt_and_no_token_is_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    new = FakeEngine(status=500)
    async with hot_router(new) as (api, _):
        join(api, new, "new")
        await eventually(lambda: not warming(api))
    assert "worker new" in caplog.text
    assert SALT not in caplog.text
    assert str(SHARED[0]) not in caplog.text
