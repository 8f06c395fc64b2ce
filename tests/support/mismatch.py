"""A worker that is not what a router takes it for: two doors in front of a simulated one.

Requests pass `Door`, which may change what the engine gets or what it answers; events pass
`EventDoor`, which may change what the router hears. Both can be told to stop doing so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import zmq
import zmq.asyncio
from aiohttp import web

from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.render.renderer import Renderer
from rhizome.wire.kv_events import KVEvent, decode_batch
from router.trust.causes import State
from router.trust.machine import Trust
from tests.support.clocks import PATIENCE, HurriedClock
from tests.support.engine_contract.engines import PROFILE, simulated
from tests.support.serving import Api, running_api, settings_with
from tests.support.waiting import eventually
from tests.unit.router.events.publisher import Publisher
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker

BLOCK = 16
MODEL = "m"
Body = dict[str, Any]
_LOOK_EVERY_S = 0.06
"""Requests closer together than this, by the router's clock, are not all looked at."""


@dataclass
class Door:
    """In front of a worker's HTTP app."""

    url: str
    """Of the worker."""
    own_url: str = ""
    change: Callable[[Body], Body] | None = None
    """What the engine gets for what the router sent."""
    renderer: Renderer | None = None
    """Makes the prompts in place of the engine's own."""
    change_answer: Callable[[Body, Body], None] | None = None
    """Changes the answer to a request in place."""
    asked: int = 0

    async def pass_on(self, request: web.Request) -> web.Response:
        raw, path = await request.read(), request.path
        async with aiohttp.ClientSession() as session:
            if request.method == "GET":
                async with session.get(self.url + path) as answer:
                    return web.Response(status=answer.status, body=await answer.read())
            self.asked += 1
            asked = json.loads(raw)
            body = self.change(dict(asked)) if self.change else asked
            if path == "/v1/responses":
                path, body = "/v1/chat/completions", _as_chat(body)
            path, body = self._as_ids(path, body)
            async with session.post(self.url + path, json=body) as answer:
                said = await answer.json()
                if self.change_answer is not None and answer.status == 200:
                    self.change_answer(asked, said)
                if request.path == "/v1/responses":
                    said = _as_response(said)
                return web.json_response(said, status=answer.status)

    def _as_ids(self, path: str, body: Body) -> tuple[str, Body]:
        if self.renderer is None or isinstance(body.get("prompt"), list):
            return path, body
        if "messages" in body:
            ids = self.renderer.chat_ids(body)
        else:
            ids = self.renderer.completion_ids(body, body["prompt"])
        kept = ("model", "max_tokens", "n", "cache_salt")
        return "/v1/completions", {"prompt": ids} | {k: body[k] for k in kept if k in body}


def _as_chat(body: Body) -> Body:
    """A response's body for an engine that only chats."""
    if "messages" in body:
        return body
    messages = [{"role": "user", "content": body["input"]}]
    return {"model": body["model"], "max_tokens": 2, "messages": messages}


def _as_response(said: Body) -> Body:
    usage = said["usage"]
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": [],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
        },
    }


@dataclass
class EventDoor:
    """Between a worker's events and the router."""

    publisher: Publisher = field(default_factory=Publisher)
    change: Callable[[Sequence[KVEvent]], Sequence[KVEvent] | bytes | None] | None = None
    """Other events, a payload of bytes, or nothing, for each batch."""
    heard: int = 0

    async def run(self, endpoint: str) -> None:
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        try:
            socket.subscribe(b"")
            socket.connect(endpoint)
            while True:
                _, _, payload = await socket.recv_multipart()
                self.heard += 1
                self._send(decode_batch(payload).events)
        finally:
            socket.close(linger=0)
            context.term()

    def _send(self, events: Sequence[KVEvent]) -> None:
        told = events if self.change is None else self.change(events)
        if isinstance(told, bytes):
            self.publisher.send_frames(b"kv", *self.publisher.keep_payload(told))
        elif told:
            self.publisher.publish(*told)


@dataclass
class Rig:
    """A router and one worker behind the doors."""

    api: Api
    worker: SimulatedWorker
    door: Door
    events: EventDoor
    http: aiohttp.ClientSession
    clock: HurriedClock
    """The router's."""
    turn: int = 0

    @property
    def trust(self) -> Trust:
        found = self.api.router.dispatcher.trust.get("w0")
        assert found is not None
        return found

    def join(self, **fields: object) -> None:
        """The worker joins, or comes with other facts."""
        facts: dict[str, object] = {
            "block_size": BLOCK,
            "kv_blocks": self.worker.setup.profile.kv_blocks,
            "max_model_len": self.worker.setup.profile.max_model_len,
            "events": (self.events.publisher.source(),),
        }
        record = WorkerRecord(
            worker_id="w0",
            incarnation="a",
            model=MODEL,
            url=self.door.own_url,
            state=WorkerState.READY,
            **(facts | fields),  # type: ignore[arg-type]  # the fields of a test
        )
        self.api.router.fleet.upsert(record, 0.0)

    async def ask(self, body: Body, path: str = "/v1/chat/completions") -> Body:
        """One answered request."""
        async with self.http.post(
            self.api.url + path, json={"model": MODEL, "max_tokens": 2, **body}
        ) as answer:
            said: Body = await answer.json()
            assert answer.status == 200, said
            return said

    async def ask_checked(self, body: Body, path: str = "/v1/chat/completions") -> None:
        """One answered request whose worker's events were looked at before this returns."""
        checks = self.trust.checks
        await self.ask(body, path)
        await eventually(lambda: self.trust.checks > checks)

    async def is_exact(self, within_s: float = 10.0) -> None:
        """Trust has come, and the probe has ended: its first question is enough for trust."""

        def proven() -> bool:
            probed = self.api.counted("router_trust_probes_total", end="checked")
            return self.trust.state is State.EXACT and probed > 0

        await eventually(proven, within_s)

    async def asked_until(
        self, claim: Callable[[Trust], bool], *asks: Callable[[int], tuple[str, Body]]
    ) -> int:
        """How many requests it took; each is given the time to be checked."""
        with self.clock.hurried():
            for number in range(1, 60):
                path, body = asks[number % len(asks)](self.turn)
                self.turn += 1
                if await self._asked_once(body, path, claim):
                    return number
        raise AssertionError(f"still {self.trust.state}, {self.trust.cause}")

    async def _asked_once(self, body: Body, path: str, claim: Callable[[Trust], bool]) -> bool:
        """Whether the claim holds by the time that the request is checked."""
        checks = self.trust.checks
        await self.clock.sleep(_LOOK_EVERY_S)
        await self.ask(body, path)
        for _ in range(100):
            if claim(self.trust):
                return True
            if self.trust.checks > checks:
                break
            await asyncio.sleep(0.02)
        return False


@asynccontextmanager
async def rigged(
    words: Words, tokenizer: Path, profile: dict[str, object] | None = None, **settings: object
) -> AsyncIterator[Rig]:
    """A rig whose worker has not joined yet."""
    changed = PROFILE.model_copy(
        update={"block_size": BLOCK, "kv_blocks": 400, "max_model_len": 2048, **(profile or {})}
    )
    flags: dict[str, object] = {
        "router__tokenizer": tokenizer,
        "router__trust__check_after_s": 0.1,
        "router__rendering__stall_s": 5.0,
        **PATIENCE,
        **settings,
    }
    clock = HurriedClock()
    async with (
        simulated(words, model=MODEL, profile=changed) as worker,
        running_api(settings_with(**flags), clock=clock) as api,
        aiohttp.ClientSession() as http,
    ):
        door = Door(f"http://127.0.0.1:{worker.port}")
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", door.pass_on)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        door.own_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        events = EventDoor()
        following = None
        if worker.sources:
            following = asyncio.ensure_future(events.run(worker.sources[0].endpoint))
            await _until_heard(events, door)
        try:
            yield Rig(api, worker, door, events, http, clock)
        finally:
            if following is not None:
                following.cancel()
            events.publisher.close()
            await runner.cleanup()


async def _until_heard(events: EventDoor, door: Door) -> None:
    """Asks the worker until its events come through: a subscription takes effect unseen."""
    salts = itertools.count()
    async with aiohttp.ClientSession() as session:

        async def heard() -> bool:
            body = {"model": MODEL, "prompt": [99] * BLOCK, "cache_salt": f"s{next(salts)}"}
            async with session.post(f"{door.url}/v1/completions", json=body) as answer:
                assert answer.status == 200
            return events.heard > 0

        await eventually(heard)
