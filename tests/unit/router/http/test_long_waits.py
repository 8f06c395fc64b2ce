"""Waits of many minutes by default settings, under a clock that can be moved on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from rhizome.clock import SystemClock
from router.relay.deadlines import TICK_S
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

CHAT_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/responses"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}]}
RESPONSE = {"model": "m", "input": "Hello there"}
COMMENT = ": keep-alive"
STEPS_S = (15.0,) * 4 + (60.0,) * 10
"""Together eleven minutes; each is at least the time between two comments."""
GIVEN_UP_S = 901.0
WITHIN_S = 30.0


class MovableClock(SystemClock):
    """The machine's clock, some time ahead."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s

    async def move(self, api: Api, step_s: float) -> None:
        """Moves on, and lets every deadline that has passed be noticed."""
        self.ahead_s += step_s
        moved_to_s, deadlines = self.monotonic_s(), api.router.deadlines
        await eventually(lambda: deadlines.now_s - TICK_S >= moved_to_s, WITHIN_S)


class Stream:
    """A streamed answer, read in the background."""

    def __init__(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        self.lines: list[str] = []
        self.done = asyncio.ensure_future(self._read(http, path, {**body, "stream": True}))

    def has_comments(self, count: int) -> bool:
        return self.lines.count(COMMENT) == count

    async def _read(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        async with http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line:
                    self.lines.append(line)


@pytest.mark.parametrize(
    ("path", "body", "events_before", "last"),
    [
        (CHAT_PATH, CHAT, None, "data: [DONE]"),
        (RESPONSES_PATH, RESPONSE, 1, "event: response.completed"),
    ],
)
async def test_a_first_token_may_take_ten_minutes_and_comments_come_meanwhile(
    path: str, body: dict[str, Any], events_before: int | None, last: str
) -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event(), hold_after=events_before)
    async with (
        running_api(clock=clock) as api,
        running_engine(engine),
        httpx.AsyncClient(base_url=api.url, timeout=None) as http,  # noqa: S113 - minutes pass
    ):
        api.join(engine)
        stream = Stream(http, path, body)
        await eventually(lambda: len(stream.lines) == 2 * (events_before or 0), WITHIN_S)
        await eventually(lambda: bool(engine.requests), WITHIN_S)
        for number, step_s in enumerate(STEPS_S, start=1):
            await clock.move(api, step_s)
            await eventually(partial(stream.has_comments, number), WITHIN_S)
        assert engine.hold is not None
        engine.hold.set()
        await stream.done
        assert last in stream.lines[-2:]
        assert not any('"error"' in line and '"error": null' not in line for line in stream.lines)
        await clock.move(api, STEPS_S[0])
        assert stream.has_comments(len(STEPS_S))


async def test_a_stream_that_waits_in_the_line_gets_comments_and_then_its_answer() -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event())
    async with before_a_full_engine(clock, engine, queue_wait_s_max=600) as (api, http, first):
        stream = Stream(http, CHAT_PATH, CHAT)
        await eventually(lambda: api.counted("router_queue_depth", model="m") == 1, WITHIN_S)
        for number in (1, 2):
            await clock.move(api, 15.0)
            await eventually(partial(stream.has_comments, number), WITHIN_S)
        assert len(engine.requests) == 1
        assert engine.hold is not None
        engine.hold.set()
        await stream.done
        assert (await first).status_code == 200
    assert stream.lines[:2] == [COMMENT] * 2
    assert stream.lines[-1] == "data: [DONE]"


async def test_a_stream_with_comments_that_is_refused_after_all_is_told_so_by_an_event() -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event())
    async with before_a_full_engine(clock, engine, queue_wait_s_max=20) as (api, http, first):
        stream = Stream(http, CHAT_PATH, CHAT)
        whole = asyncio.ensure_future(http.post(CHAT_PATH, json=CHAT))
        await eventually(lambda: api.counted("router_queue_depth", model="m") == 2, WITHIN_S)
        await clock.move(api, 15.0)
        await eventually(partial(stream.has_comments, 1), WITHIN_S)
        await clock.move(api, 15.0)
        await stream.done
        refused = await whole
        assert engine.hold is not None
        engine.hold.set()
        assert (await first).status_code == 200
    error = json.loads(stream.lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "queue_timeout"
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_timeout")


async def test_a_stream_without_comments_that_is_refused_has_a_status() -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event())
    limits = {"queue_wait_s_max": 20, "comment_interval_s": 0}
    async with before_a_full_engine(clock, engine, **limits) as (api, http, first):
        stream = asyncio.ensure_future(http.post(CHAT_PATH, json={**CHAT, "stream": True}))
        await eventually(lambda: api.counted("router_queue_depth", model="m") == 1, WITHIN_S)
        await clock.move(api, 30.0)
        assert (await stream).status_code == 429
        assert engine.hold is not None
        engine.hold.set()
        assert (await first).status_code == 200


@asynccontextmanager
async def before_a_full_engine(
    clock: MovableClock,
    engine: FakeEngine,
    queue_wait_s_max: float,
    comment_interval_s: float = 15.0,
) -> AsyncIterator[tuple[Api, httpx.AsyncClient, asyncio.Future[httpx.Response]]]:
    """A router whose only worker has room for one request, and works on one."""
    settings = settings_with(
        router__admission__in_flight_max_per_worker=1,
        router__admission__queue_wait_s_max=queue_wait_s_max,
        router__relay__comment_interval_s=comment_interval_s,
    )
    async with (
        running_api(settings, clock=clock) as api,
        running_engine(engine),
        httpx.AsyncClient(base_url=api.url, timeout=None) as http,  # noqa: S113 - minutes pass
    ):
        api.join(engine)
        first = asyncio.ensure_future(http.post(CHAT_PATH, json=CHAT))
        await eventually(lambda: bool(engine.requests), WITHIN_S)
        yield api, http, first


async def test_a_whole_answer_to_eight_mebibytes_may_take_ten_minutes() -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event())
    message = {"role": "user", "content": "a word " * (8 * 2**20 // 7 + 1)}
    body = {"model": "m", "messages": [message]}
    async with (
        running_api(clock=clock) as api,
        running_engine(engine),
        httpx.AsyncClient(base_url=api.url, timeout=None) as http,  # noqa: S113 - minutes pass
    ):
        api.join(engine)
        asked = asyncio.ensure_future(http.post(CHAT_PATH, json=body))
        await eventually(lambda: bool(engine.requests), WITHIN_S)
        assert len(engine.bodies[0]) > 8 * 2**20
        for step_s in STEPS_S:
            await clock.move(api, step_s)
        assert engine.hold is not None
        engine.hold.set()
        answer = await asked
    assert answer.status_code == 200
    assert answer.json()["choices"]


async def test_a_worker_that_only_says_that_it_begins_is_given_up_as_one_that_is_silent() -> None:
    clock, engine = MovableClock(), FakeEngine(hold=asyncio.Event(), hold_after=1)
    async with (
        running_api(clock=clock) as api,
        running_engine(engine),
        httpx.AsyncClient(base_url=api.url, timeout=None) as http,  # noqa: S113 - minutes pass
    ):
        api.join(engine)
        stream = Stream(http, RESPONSES_PATH, RESPONSE)
        await eventually(lambda: len(stream.lines) == 2, WITHIN_S)
        await clock.move(api, GIVEN_UP_S)
        await stream.done
        told = json.loads(stream.lines[-1].removeprefix("data: "))
    assert told["code"] == "worker_died_mid_stream"
