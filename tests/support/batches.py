"""A batch API and a runner in this process, and an OpenAI endpoint that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from openai import AsyncOpenAI

from rhizome.clock import Clock, SystemClock
from rhizome.settings.cluster import BatchSettings
from rhizome.stores.open import Stores
from rhizome.tasks import Tasks
from router.batch.catalog import Catalog
from router.batch.contents import Contents
from router.batch.progress import Workplace
from router.batch.routes import build_batch_router
from router.batch.runner import BatchRunner
from router.batch.sender import LineSender
from router.http.border import install_border
from tests.support.waiting import eventually

Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]
ENDED = ("completed", "failed", "cancelled", "expired")


class HastyClock(SystemClock):
    """The real time, without patience: no sleep lasts longer than 10 ms."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.01))


def chat_line(custom_id: str, content: str = "hi", **changes: Any) -> dict[str, Any]:
    """One line of a batch's input."""
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return {**line, **changes}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


class FakeEndpoint:
    """Answers chat completions with what they said; `behave` may answer differently."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.behave: Behaviour | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        said = str(body["messages"][0]["content"])
        self.asked[said] += 1
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            answer = await self.behave(request, body) if self.behave is not None else None
            return answer if answer is not None else web.json_response(_completion(said))
        finally:
            self.in_flight -= 1


def _completion(said: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}}
    return {"object": "chat.completion", "choices": [choice]}


@asynccontextmanager
async def serving(endpoint: FakeEndpoint, port: int = 0) -> AsyncIterator[str]:
    """The endpoint on loopback; yields its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.answer)
    server = TestServer(app, host="127.0.0.1", port=port)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@dataclass
class BatchBench:
    """An API with the official client before it, and runners when they are asked for."""

    stores: Stores
    settings: BatchSettings
    directory: Path
    clock: Clock

    def __post_init__(self) -> None:
        # What a test makes in memory is shared with the runner that it starts beside.
        shared = replace(self.stores, shared=True)
        self.app = FastAPI()
        install_border(self.app)
        self.app.include_router(
            build_batch_router(shared, self.settings, self.directory, self.clock)
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app), base_url="http://api"
        )
        # The client's own flavour of httpx changes with its version; either kind works.
        transport: Any = self.http
        self.client = AsyncOpenAI(
            base_url="http://api/v1", api_key="none", http_client=transport, max_retries=0
        )

    @property
    def place(self) -> Workplace:
        return Workplace(
            catalog=Catalog(self.stores.documents),
            contents=Contents(self.directory),
            lines=self.stores.lines,
            lease=self.stores.lease,
            clock=self.clock,
            settings=self.settings,
        )

    @asynccontextmanager
    async def running(self, url: str, runner_id: str = "runner-1") -> AsyncIterator[BatchRunner]:
        """A runner that sends lines to `url`."""
        async with aiohttp.ClientSession() as session, Tasks("test") as tasks:
            sender = LineSender(session, url, "rzk-key", self.settings, self.clock)
            runner = BatchRunner(self.place, sender, runner_id)
            tasks.start("runner", runner.run())
            yield runner

    async def submit(self, content: bytes, **metadata: str) -> str:
        """Uploads a file and makes a batch of it; returns the batch's id."""
        file = await self.client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await self.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata=metadata,
        )
        return batch.id

    async def ended(self, batch_id: str, within_s: float = 20.0) -> Any:
        """The batch once it has ended."""

        async def has_ended() -> bool:
            return (await self.client.batches.retrieve(batch_id)).status in ENDED

        await eventually(has_ended, within_s)
        return await self.client.batches.retrieve(batch_id)

    async def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of an output or error file; none where there is no file."""
        if file_id is None:
            return []
        content = await self.client.files.content(file_id)
        return [json.loads(line) for line in content.text.splitlines()]

    async def close(self) -> None:
        await self.client.close()
