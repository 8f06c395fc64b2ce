"""Whatever part of the router fails, its requests are answered, counted and spread."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from msgspec.structs import replace

import router.renderings as renderings_module
from rhizome.clock import ManualClock
from rhizome.errors import NoHealthyWorker
from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.remembering import TokenPart
from rhizome.render.renderer import one_part
from router.faults import Faults, Part, Patience
from router.scheduling.choosing import choice, lowest
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually

WORKERS = 4
ALONE = 24
"""Requests asked one after the other: what a fault adds to them is printed."""
TOGETHER = 8
REQUESTS = ALONE + 5 * TOGETHER
PATH = "/v1/chat/completions"
STALL_S = 10.0


class FakeRenderer:
    """A tokenizer and template that do what a fault makes them do."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def chat_parts(self, body: object, limit_s: float) -> list[TokenPart]:
        return one_part(self._act())


@dataclass
class Injection:
    """A fault: what is put in the place of a part, and how it is to be counted."""

    part: Part | None
    inject: Callable[[Api], None] = lambda _: None
    load: Callable[[Path], Any] | None = None
    """In place of the loading of a tokenizer."""
    settings: Callable[[], dict[str, object]] = dict


def raising(*_: object, **__: object) -> Any:
    raise RuntimeError("injected")


def stalling(*_: object, **__: object) -> Any:
    time.sleep(STALL_S)


def giving(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def on_index(name: str, act: Callable[..., Any]) -> Callable[[Api], None]:
    return lambda api: setattr(api.router.dispatcher.index, name, act)


def on_match(act: Callable[..., Any]) -> Callable[[Api], None]:
    """A match that is not spared by a look at the first block."""

    def inject(api: Api) -> None:
        on_index("holds_none", giving(False))(api)
        for name in ("endings", "match_tiers"):
            on_index(name, act)(api)

    return inject


def on_prediction(act: Callable[..., Any]) -> Callable[[Api], None]:
    def inject(api: Api) -> None:
        for name in ("predict", "assume"):
            on_index(name, act)(api)

    return inject


class TooLittle:
    """A match of fewer targets than there are."""

    def worth(self, tiers: object) -> Any:
        return np.zeros(0)


def on_speeds(act: Callable[..., Any]) -> Callable[[Api], None]:
    def inject(api: Api) -> None:
        speeds = api.router.dispatcher.speeds
        for name in ("prefill_tokens_per_s", "overhead_ms", "decode_step_ms"):
            setattr(speeds, name, act)

    return inject


def policy(act: Callable[..., Any]) -> Callable[[Api], None]:
    class Faulty:
        name = "faulty"
        choose = staticmethod(act)

    return lambda api: setattr(api.router.dispatcher, "policy", Faulty())


def wrong_choice(**changes: Any) -> Callable[[Api], None]:
    def inject(api: Api) -> None:
        real = api.router.dispatcher.policy

        def choose(*given: Any) -> Any:
            return replace(real.choose(*given), **changes)

        policy(choose)(api)

    return inject


def nan_costs(request: Any, candidates: Any, rng: Any) -> Any:
    costs = np.full(len(candidates), math.nan)
    at, reason = lowest(costs, rng)
    return choice(request, candidates, costs, at, reason)


def slow_policy(api: Api) -> None:
    real = api.router.dispatcher.policy

    def choose(*given: Any) -> Any:
        time.sleep(0.03)
        return real.choose(*given)

    policy(choose)(api)


def renders(act: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda directory: FakeRenderer(act)


def silent_redis() -> dict[str, object]:
    """A server that takes connections and never answers; open as long as the test runs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    silent.append(listener)
    return {"redis__url": f"redis://127.0.0.1:{listener.getsockname()[1]}"}


silent: list[socket.socket] = []


def cannot(why: Why) -> Callable[[], Any]:
    def act() -> Any:
        raise CannotRender(why)

    return act


INJECTIONS = {
    "tokenizer raises": Injection(Part.RENDERING, load=renders(raising)),
    "tokenizer stalls": Injection(Part.TOKENIZER, load=renders(stalling)),
    "tokenizer gives garbage": Injection(Part.TOKENIZER, load=renders(giving(["a", None]))),
    "tokenizer gives nothing": Injection(Part.TOKENIZER, load=renders(giving(None))),
    "tokenizer's library fails": Injection(
        Part.TOKENIZER, load=renders(cannot(Why.TOKENIZER_FAILED))
    ),
    "template never ends": Injection(Part.TEMPLATE, load=renders(cannot(Why.TEMPLATE_TOO_LONG))),
    "tokenizer's files break the loader": Injection(Part.TOKENIZER, load=raising),
    "tokenizer takes long to load": Injection(None, load=lambda _: time.sleep(1.0)),
    "index look raises": Injection(Part.INDEX, on_index("holds_none", raising)),
    "index match raises": Injection(Part.INDEX, on_match(raising)),
    "index match gives None": Injection(Part.INDEX, on_match(giving(None))),
    "index match gives text": Injection(Part.INDEX, on_match(giving("garbage"))),
    "index match gives too little": Injection(Part.INDEX, on_match(giving(TooLittle()))),
    "index prediction raises": Injection(Part.INDEX, on_prediction(raising)),
    "index expiry raises": Injection(Part.INDEX, on_index("expire", raising)),
    "policy raises": Injection(Part.POLICY, policy(raising)),
    "policy gives None": Injection(Part.POLICY, policy(giving(None))),
    "policy's costs are NaN": Injection(Part.POLICY, policy(nan_costs)),
    "policy names an unknown worker": Injection(Part.POLICY, wrong_choice(worker_id="nobody")),
    "policy is slow": Injection(Part.SLOW_DECISION, slow_policy),
    "speeds are NaN": Injection(Part.SPEEDS, on_speeds(giving(math.nan))),
    "speeds are 0": Injection(Part.SPEEDS, on_speeds(giving(0.0))),
    "speeds raise": Injection(Part.STANDINGS, on_speeds(raising)),
    "Redis never answers": Injection(None, settings=silent_redis),
}


@pytest.fixture(autouse=True)
def _close_silent() -> Iterator[None]:
    yield
    while silent:
        silent.pop().close()


@contextmanager
def loading_by(load: Callable[[Path], Any] | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if load is not None:
            patch.setattr(renderings_module, "load_renderer", load)
        yield


async def ask(http: httpx.AsyncClient, number: int) -> tuple[str, float]:
    """The worker that answered, and how long it took, in ms."""
    text = f"{number} " + "word " * (20 if number % 4 else 700)
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    before_s = time.perf_counter()
    answer = await http.post(PATH, json=body | {"stream": bool(number % 2)})
    took_ms = (time.perf_counter() - before_s) * 1000
    assert answer.status_code == 200, answer.text
    return answer.headers["x-rhizome-worker"], took_ms


async def served(injection: Injection, tokenizer: Path) -> tuple[Counter[str], list[float]]:
    """Who answered how many of those asked together, and how long those asked alone took."""
    settings = settings_with(router__tokenizer=tokenizer, **injection.settings())
    async with AsyncExitStack() as stack:
        stack.enter_context(loading_by(injection.load))
        api = await stack.enter_async_context(running_api(settings, faulty=True))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=30))
        engines = [
            await stack.enter_async_context(running_engine(FakeEngine())) for _ in range(WORKERS)
        ]
        for name in ("observe_first_token", "observe_decode"):  # the machine's load is no fault
            setattr(api.router.dispatcher.speeds, name, giving(None))
        injection.inject(api)
        api.join(*engines, block_size=16)
        await asyncio.sleep(0.05)
        took_ms = [(await ask(http, number))[1] for number in range(ALONE)]
        workers: Counter[str] = Counter()
        for first in range(ALONE, REQUESTS, TOGETHER):
            wave = (ask(http, number) for number in range(first, first + TOGETHER))
            workers.update(worker for worker, _ in await asyncio.gather(*wave))
        if injection.part is not None:
            part = injection.part.value
            await eventually(lambda: api.counted("router_faults_total", part=part) > 0)
        outcome = {"route": PATH, "model": "m", "outcome": "completed"}
        assert api.counted("router_requests_total", **outcome) == REQUESTS
        await eventually(lambda: api.router.dispatcher.in_flight("m") == 0)
        return workers, took_ms


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain_ms(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What a request takes without a fault."""
    directory = tmp_path_factory.mktemp("plain")
    (directory / "tokenizer.json").write_text("{}")
    _, took_ms = await served(Injection(None, load=renders(giving([1] * 300))), directory)
    return median(took_ms)


@pytest.mark.parametrize("name", INJECTIONS)
async def test_requests_are_served_counted_and_spread(
    name: str, plain_ms: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    injection = INJECTIONS[name]
    with caplog.at_level(logging.ERROR, "router.faults"):
        workers, took_ms = await served(injection, tmp_path)
    added = [ms - plain_ms for ms in took_ms]
    print(f"\n{name}: added p50 {median(added):.1f} ms, max {max(added):.1f} ms; {dict(workers)}")
    assert len(workers) >= WORKERS - 1, "not all to the first"
    assert max(workers.values()) <= 0.8 * workers.total()
    told = [one for one in caplog.records if one.name == "router.faults"]
    assert len(told) <= 3, "said once, not for each request"


async def test_concurrent_requests_are_spread_by_load_when_choosing_fails() -> None:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api(faulty=True))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=30))
        hold = asyncio.Event()
        engines = [
            await stack.enter_async_context(running_engine(FakeEngine(hold=hold)))
            for _ in range(WORKERS)
        ]
        policy(raising)(api)
        api.join(*engines)
        asked = [asyncio.ensure_future(ask(http, number)) for number in range(16)]
        await eventually(lambda: sum(len(one.requests) for one in engines) == 16)
        assert [len(one.requests) for one in engines] == [4] * WORKERS
        hold.set()
        await asyncio.gather(*asked)


def test_a_kind_of_fault_is_logged_once_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    faults = Faults(clock)
    for _ in range(50):
        with faults.contained(Part.INDEX):
            raise ValueError("one kind")
    with faults.contained(Part.INDEX):
        raise KeyError("another")
    assert len(caplog.records) == 2
    clock.advance(61)
    faults.note(Part.INDEX, ValueError("again"))
    assert "49 more" in caplog.records[-1].getMessage()
    assert faults.counts == {Part.INDEX: 52}


def test_errors_that_are_meant_and_those_that_end_the_process_pass() -> None:
    faults = Faults(ManualClock())
    for error in (NoHealthyWorker("none"), KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)), faults.contained(Part.POLICY):
            raise error
    assert not faults.counts


def test_what_stays_slow_is_tried_ever_less_often() -> None:
    patience = Patience(slow_s=0.02, in_a_row_max=3, pause_s=10, pause_s_max=60)
    for took_s in (0.03, 0.03, 0.01, 0.03, 0.03):
        assert not patience.used(took_s, 0.0)
    assert patience.used(0.03, 0.0)
    now_s = 0.0
    for pause_s in (10.0, 20.0, 40.0, 60.0, 60.0):
        assert patience.is_over(now_s + pause_s - 1)
        now_s += pause_s
        assert not patience.is_over(now_s)
        assert patience.used(0.03, now_s), "one is enough by now"
    now_s += 60
    assert not patience.used(0.01, now_s)
    assert not patience.used(0.03, now_s), "well again, it may be slow now and then"
