"""The demonstration models' tokenizer as a directory, and a text server of known timing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.engine_contract.engines import trained_tokenizer
from workers.demo_tokenizer import as_json, chat_template, tokenizer_config


def save_demo_tokenizer(directory: Path) -> Path:
    """Writes what a model's directory holds of the tokenizer."""
    (directory / "tokenizer.json").write_text(trained_tokenizer(), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(as_json(tokenizer_config(32_768)))
    (directory / "chat_template.jinja").write_text(chat_template())
    (directory / "config.json").write_text("{}")
    return directory


@dataclass
class PacedServer:
    """Answers every request with its number of tokens, after a wait and with gaps between."""

    first_s: float = 0.05
    gap_s: float = 0.02
    status: int = 200
    models: tuple[str, ...] = ("m",)
    root: str | None = None
    tokens: list[int] | None = None
    """What `/tokenize` answers; None for 404."""
    end_after: int | None = None
    """Closes the stream after this many tokens, without an end mark."""
    error_after: int | None = None
    """Sends an error event after this many tokens."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def list_models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "root": self.root, "max_model_len": 4096} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def tokenize(self, _: web.Request) -> web.Response:
        if self.tokens is None:
            return web.json_response({"error": {"message": "no"}}, status=404)
        return web.json_response({"tokens": self.tokens})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.status != 200:
            return web.json_response({"error": {"message": "not now"}}, status=self.status)
        response = web.StreamResponse(
            headers={
                "content-type": "text/event-stream",
                "x-rhizome-worker": "w0",
                "x-request-id": request.headers["x-request-id"],
            }
        )
        await response.prepare(request)
        is_chat = "messages" in body
        if is_chat:
            await _event(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(self.first_s)
        for number in range(body["max_tokens"]):
            if number == self.end_after:
                return response
            if number == self.error_after:
                await _event(response, {"error": {"message": "the engine died"}})
            said = f" t{number}"
            choice = {"delta": {"content": said}} if is_chat else {"text": said}
            await _event(response, {"choices": [choice]})
            await asyncio.sleep(self.gap_s)
        prompt = body.get("prompt")
        usage = {
            "prompt_tokens": len(prompt) if isinstance(prompt, list) else 9,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": 3},
        }
        await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _event(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


@asynccontextmanager
async def running_paced(server: PacedServer) -> AsyncIterator[PacedServer]:
    """Serves it on a free loopback port."""
    app = web.Application(client_max_size=2**26)
    app.router.add_get("/v1/models", server.list_models)
    app.router.add_post("/tokenize", server.tokenize)
    for path in ("/v1/chat/completions", "/v1/completions"):
        app.router.add_post(path, server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
