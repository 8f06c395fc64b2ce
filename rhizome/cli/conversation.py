"""One conversation through the router, as a client sees it: text as it comes, then the facts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from rhizome.clock import Clock, SystemClock
from rhizome.errors import ClusterError, EngineFailed

_CONNECT_S = 5.0
_SILENCE_S = 120.0
_LINE_BYTES_MAX = 2**20


@dataclass(frozen=True)
class TurnFacts:
    """What is known of one answer."""

    worker: str
    prompt_tokens: int
    predicted_tokens: int | None
    """Prompt tokens that the router expected the worker to hold; None where it did not say."""
    cached_tokens: int | None
    """Prompt tokens that the engine did reuse."""
    completion_tokens: int
    first_token_ms: float | None

    def line(self) -> str:
        """The facts in one line."""
        first = "-" if self.first_token_ms is None else f"{self.first_token_ms:.0f} ms"
        return (
            f"worker {self.worker} · first token {first} · "
            f"reused {_number(self.cached_tokens)} of {self.prompt_tokens} prompt tokens "
            f"(predicted {_number(self.predicted_tokens)}) · {self.completion_tokens} new tokens"
        )


class Router:
    """A router's API, for one client."""

    def __init__(self, session: aiohttp.ClientSession, url: str, clock: Clock) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._clock = clock

    async def models(self) -> list[str]:
        """The models served, in the router's order."""
        async with self._session.get(f"{self._url}/v1/models") as response:
            await _raise_for(response)
            body = await response.json()
        return [str(entry["id"]) for entry in body["data"]]

    async def answer(self, body: dict[str, Any], write: Callable[[str], None]) -> TurnFacts:
        """Streams a chat completion: `write` gets the text as it comes."""
        begun_s = self._clock.monotonic_s()
        first_s: float | None = None
        usage: dict[str, Any] = {}
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            await _raise_for(response)
            async for chunk in _events(response):
                if "error" in chunk:
                    raise EngineFailed(str(chunk["error"].get("message", "the stream broke")))
                text = _delta(chunk)
                if text:
                    first_s = first_s or self._clock.monotonic_s()
                    write(text)
                usage = chunk.get("usage") or usage
            headers = response.headers
        details = usage.get("prompt_tokens_details") or {}
        predicted = headers.get("x-rhizome-prefix-tokens")
        return TurnFacts(
            worker=headers.get("x-rhizome-worker", "?"),
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            predicted_tokens=None if predicted is None else int(predicted),
            cached_tokens=details.get("cached_tokens"),
            completion_tokens=int(usage.get("completion_tokens", 0)),
            first_token_ms=None if first_s is None else (first_s - begun_s) * 1000.0,
        )


class Conversation:
    """Turns with one model; each sends all that was said before."""

    def __init__(self, router: Router, model: str, completion_tokens_max: int) -> None:
        self.model = model
        self._router = router
        self._completion_tokens_max = completion_tokens_max
        self._messages: list[dict[str, str]] = []

    def forget(self) -> None:
        """Begins again."""
        self._messages.clear()

    async def turn(self, said: str, write: Callable[[str], None]) -> TurnFacts:
        """Says something; `write` gets the answer as it comes. A turn that fails is forgotten."""
        asked = [*self._messages, {"role": "user", "content": said}]
        parts: list[str] = []

        def keep(text: str) -> None:
            parts.append(text)
            write(text)

        facts = await self._router.answer(
            {
                "model": self.model,
                "messages": asked,
                "max_tokens": self._completion_tokens_max,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            keep,
        )
        self._messages = [*asked, {"role": "assistant", "content": "".join(parts)}]
        return facts


@asynccontextmanager
async def open_router(
    url: str, api_key: str | None, clock: Clock | None = None
) -> AsyncIterator[Router]:
    """The router at `url`; a connection that fails is told as `ClusterError`."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    try:
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, read_bufsize=_LINE_BYTES_MAX
        ) as session:
            yield Router(session, url, clock or SystemClock())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ClusterError(
            f"no answer from {url}: {error or type(error).__name__}",
            advice="Start a cluster with `rhizome up`, or give the router's address with --url.",
        ) from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a stream, up to its `[DONE]`."""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        yield json.loads(data)


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:200]
    raise ClusterError(f"the router answered {response.status}: {message}")


def _delta(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
