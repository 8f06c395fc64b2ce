"""Waits of many minutes by default settings, under a clock that can be moved on."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import httpx
import pytest

from rhizome.clock import SystemClock
from router.relay.deadlines import TICK_S
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api
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
