"""A live engine behind an OpenAI-compatible API, as calibration needs it: one stream, timed.

Prompts go out as token ids, so that lengths are exact, and every token that comes back is counted:
`usage` in each event where the engine gives it (vLLM does), else one token an event. Nothing is
retried; whatever makes a measurement impossible is a `TargetUnusable` that says what to do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from rhizome.clock import Clock
from rhizome.errors import TargetUnusable

_CONNECT_S = 5.0
_SILENCE_S = 120.0
_LINE_BYTES_MAX = 2**20
_ERROR_CHARACTERS = 300
_LABELS = re.compile(r'(\w+)="([^"]*)"')
_SAMPLE = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)$")


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    choices: list[Any] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class Served:
    """What the engine says of the model."""

    model: str
    max_model_len: int | None


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The KV cache as `vllm:cache_config_info` tells it, over all data-parallel ranks."""

    block_size: int
    kv_blocks: int
    ranks: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """Requests in the engine, from its gauges."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: when it was asked for, and when the engine had made how many tokens of it."""

    sent_s: float
    marks: tuple[tuple[float, int], ...]
    cached_tokens: int

    @property
    def first_s(self) -> float:
        return self.marks[0][0]

    @property
    def last_s(self) -> float:
        return self.marks[-1][0]

    @property
    def tokens(self) -> int:
        return self.marks[-1][1]

    @property
    def ttft_ms(self) -> float:
        return (self.first_s - self.sent_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """None unless tokens came after the first event."""
        more = self.tokens - self.marks[0][1]
        return (self.last_s - self.first_s) * 1e3 / more if more > 0 else None


class LiveMarks:
    """The marks of a stream that is under way."""

    def __init__(self, sent_s: float) -> None:
        self.sent_s = sent_s
        self.marks: list[tuple[float, int]] = []
        self.cached_tokens = 0
        self.task: asyncio.Task[None] | None = None
        """What follows the stream, where it runs in the background."""

    def done(self) -> Stream:
        return Stream(self.sent_s, tuple(self.marks), self.cached_tokens)


def open_session(key: str | None) -> aiohttp.ClientSession:
    """A session for `EngineTarget`, with as many connections as it takes."""
    return aiohttp.ClientSession(
        headers={"authorization": f"Bearer {key}"} if key else {},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
        read_bufsize=_LINE_BYTES_MAX,
    )


class EngineTarget:
    """One model on one engine."""

    def __init__(self, session: aiohttp.ClientSession, url: str, clock: Clock) -> None:
        self._session = session
        self.url = url.rstrip("/").removesuffix("/v1")
        self._clock = clock
        self.model = ""

    async def find_model(self, wanted: str | None) -> Served:
        """Chooses the model to measure: the wanted one, or the first; raises `TargetUnusable`."""
        try:
            models = msgspec.json.decode(await self._get("/v1/models"), type=_Models).data
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise TargetUnusable(
                f"{self.url}/v1/models does not answer as an OpenAI-compatible engine does",
                advice="name the engine's base URL, e.g. http://localhost:8000",
            ) from error
        names = [each.id for each in models]
        if not models or (wanted is not None and wanted not in names):
            raise TargetUnusable(
                f"{self.url} does not serve {wanted!r}" if wanted else f"{self.url} serves nothing",
                advice=f"served: {', '.join(names) or 'no model'}",
            )
        found = models[0] if wanted is None else models[names.index(wanted)]
        self.model = found.id
        return Served(found.id, found.max_model_len)

    async def cache_facts(self) -> CacheFacts | None:
        """Block size and number of blocks; None where /metrics does not tell them."""
        rows = [labels for _, labels, _ in await self._samples("vllm:cache_config_info")]
        try:
            sizes = [int(row["block_size"]) for row in rows]
            blocks = [int(row["num_gpu_blocks"]) for row in rows]
        except (KeyError, ValueError):
            return None
        return CacheFacts(sizes[0], sum(blocks), len(rows)) if rows else None

    async def queue_facts(self) -> QueueFacts | None:
        """Running and waiting requests now; None where /metrics does not tell them."""
        running = await self._samples("vllm:num_requests_running")
        waiting = await self._samples("vllm:num_requests_waiting")
        if not running or not waiting:
            return None
        return QueueFacts(
            int(sum(value for _, _, value in running)), int(sum(value for _, _, value in waiting))
        )

    async def version(self) -> str:
        """The engine's own version, or nothing."""
        try:
            return str(msgspec.json.decode(await self._get("/version"))["version"])
        except (TargetUnusable, msgspec.DecodeError, KeyError, TypeError):
            return ""

    async def accepts(self, token_ids: Sequence[int]) -> bool:
        """Whether the engine takes these ids as a prompt."""
        body = self._body(token_ids, 1) | {"stream": False}
        body.pop("stream_options")
        try:
            async with self._session.post(f"{self.url}/v1/completions", json=body) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._dead(error) from error

    async def stream(self, token_ids: Sequence[int], tokens: int) -> Stream:
        """Exactly `tokens` tokens after the prompt."""
        live = LiveMarks(self._clock.monotonic_s())
        await self.follow(live, token_ids, tokens)
        return live.done()

    async def follow(self, live: LiveMarks, token_ids: Sequence[int], tokens: int) -> None:
        """The same, with marks to be seen as they come; cancelling it aborts the request."""
        live.sent_s = self._clock.monotonic_s()
        try:
            async with self._session.post(
                f"{self.url}/v1/completions", json=self._body(token_ids, tokens)
            ) as response:
                await self._check(response)
                async for event in self._events(response):
                    self._note(live, event)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._dead(error) from error
        if not live.marks:
            raise TargetUnusable(
                f"{self.url} ended a stream without a token",
                advice="it must serve /v1/completions with stream=true and token-id prompts",
            )

    def _body(self, token_ids: Sequence[int], tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(token_ids),
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }

    def _note(self, live: LiveMarks, event: _Event) -> None:
        if event.error is not None:
            raise TargetUnusable(f"{self.url} broke a stream: {_short(str(event.error))}")
        made = live.marks[-1][1] if live.marks else 0
        usage = event.usage
        if usage is not None and usage.completion_tokens:
            details = usage.prompt_tokens_details or {}
            live.cached_tokens = int(details.get("cached_tokens") or 0)
            now_made = usage.completion_tokens
        else:
            now_made = made + bool(event.choices)
        if now_made > made:
            live.marks.append((self._clock.monotonic_s(), now_made))

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[_Event]:
        decoder = msgspec.json.Decoder(_Event)
        async for line in response.content:
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            try:
                yield decoder.decode(line[5:])
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                words = _short(line.decode(errors="replace"))
                raise TargetUnusable(f"{self.url} sends events that are none: {words}") from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            await self._refused(response)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise TargetUnusable(
                f"{self.url}/v1/completions does not stream: it answered with {kind or 'no type'}",
                advice="calibration needs server-sent events; a proxy in between may buffer them",
            )

    async def _get(self, path: str) -> bytes:
        try:
            async with self._session.get(f"{self.url}{path}") as response:
                if response.status != 200:
                    await self._refused(response)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._dead(error) from error

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        words = _short((await response.content.read(4096)).decode(errors="replace"))
        advice = "name the key's file with --key-file" if response.status in {401, 403} else ""
        raise TargetUnusable(
            f"{self.url}{response.url.path} answered {response.status}: {words}", advice=advice
        )

    def _dead(self, error: Exception) -> TargetUnusable:
        return TargetUnusable(
            f"{self.url} does not answer: {error or type(error).__name__}",
            advice="is the engine up, and is this its address?",
        )

    async def _samples(self, name: str) -> list[tuple[str, dict[str, str], float]]:
        try:
            text = (await self._get("/metrics")).decode(errors="replace")
        except TargetUnusable:
            return []
        found = []
        for line in text.splitlines():
            sample = _SAMPLE.match(line) if line.startswith(name) else None
            if sample is not None and sample["name"] == name:
                labels = dict(_LABELS.findall(sample["labels"] or ""))
                found.append((name, labels, float(sample["value"])))
        return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_CHARACTERS else f"{text[:_ERROR_CHARACTERS]}..."
