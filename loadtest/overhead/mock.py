"""A worker that does nothing: answers at once, or streams tokens at a fixed pace, in vLLM's shapes.

Asked to render a prompt, it says as many token ids as text of that length has, always the same.

It is far cheaper than any router, so that a router can be loaded from a small machine. Run as a
process of its own: `python -m loadtest.overhead.mock ROOT PORT...`.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import cast

import msgspec
import uvloop

MODEL = "mock"
BLOCK_SIZE = 16
PACE_S = 0.005
"""Between two tokens of a stream."""
CHARS_PER_TOKEN = 4
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_PACE = re.compile(rb'"pace_ms": ?(\d+)')
_STREAM = re.compile(rb'"stream": ?true')
_RENDER = re.compile(rb"POST /v1/(chat/)?completions/render ")
_USAGE = (
    b'{"prompt_tokens":50,"total_tokens":66,"completion_tokens":16,"prompt_tokens_details":null}'
)
_WHOLE = (
    b'{"id":"chatcmpl-8f6f2a","object":"chat.completion","created":1763719200,"model":"mock",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"all work and no play "
    * 4
    + b'","refusal":null,"tool_calls":[]},"logprobs":null,"finish_reason":"length"}],'
    b'"usage":' + _USAGE + b"}"
)
_CHUNK = (
    b'data: {"id":"chatcmpl-8f6f2a","object":"chat.completion.chunk","created":1763719200,'
    b'"model":"mock","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,'
    b'"finish_reason":null,"token_ids":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-8f6f2a","object":"chat.completion.chunk","created":1763719200,'
    b'"model":"mock","choices":[],"usage":' + _USAGE + b"}\n\n"
)
_DONE = b"data: [DONE]\n\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _response(body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


@cache
def rendered(tokens: int) -> bytes:
    """What `/render` answers for a prompt of so many tokens."""
    request = {
        "request_id": "chatcmpl-8f6f2a",
        "token_ids": list(range(1000, 1000 + tokens)),
        "token_offsets": None,
        "features": None,
        "content_parts": None,
        "sampling_params": {
            "stop": [],
            "stop_token_ids": [],
            "output_kind": 2,
            "skip_clone": True,
            "bad_words": [],
            "skip_reading_prefix_cache": False,
        },
        "model": MODEL,
        "reasoning_ended": None,
        "reasoning_parser_kwargs": None,
        "return_token_ids": None,
        "output_mode": "tokens",
        "stream": False,
        "stream_options": None,
        "cache_salt": None,
        "priority": 0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }
    return _response(msgspec.json.encode(request))


_ANSWER = _response(_WHOLE)
_TOKEN = _chunked(_CHUNK)
_END = _chunked(_LAST) + _chunked(_DONE) + b"0\r\n\r\n"


class Pace:
    """One timer for all streams of one pace."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._streams: dict[Worker, int] = {}
        self._due_s = 0.0

    def add(self, worker: Worker, tokens: int) -> None:
        if not self._streams:
            loop = asyncio.get_running_loop()
            self._due_s = loop.time() + self._interval_s
            loop.call_at(self._due_s, self._tick)
        self._streams[worker] = tokens

    def remove(self, worker: Worker) -> None:
        self._streams.pop(worker, None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for worker, left in list(self._streams.items()):
            if left > 0:
                worker.write(_TOKEN)
                self._streams[worker] = left - 1
            else:
                del self._streams[worker]
                worker.write(_END)
        if self._streams:
            self._due_s = max(self._due_s + self._interval_s, loop.time())
            loop.call_at(self._due_s, self._tick)


class Worker(asyncio.Protocol):
    """One connection; a request at a time, its head in one piece or several."""

    def __init__(self, pages: dict[bytes, bytes], pace: Callable[[float], Pace]) -> None:
        self._pages = pages
        self._pace_of = pace
        self._pace: Pace | None = None
        self._data = b""
        self._transport = cast("asyncio.Transport", None)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._pace is not None:
            self._pace.remove(self)

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end) if end > 3 else None
        if end < 4 or len(data) < end + (int(length[1]) if length else 0):
            self._data = data
            return
        self._data = b""
        if data.startswith(b"GET"):
            path = data[4 : data.index(b" ", 4)].partition(b"?")[0]
            self.write(self._pages.get(path, self._pages[b""]))
        elif _RENDER.match(data):
            self.write(rendered(1 + (len(data) - end) // CHARS_PER_TOKEN))
        elif _STREAM.search(data, end):
            tokens, pace = _MAX_TOKENS.search(data, end), _PACE.search(data, end)
            self.write(_STREAM_HEAD)
            self._pace = self._pace_of(int(pace[1]) / 1000 if pace else PACE_S)
            self._pace.add(self, int(tokens[1]) if tokens else 16)
        else:
            self.write(_ANSWER)


def _pages(root: str) -> dict[bytes, bytes]:
    model = (
        f'{{"object":"list","data":[{{"id":"{MODEL}","object":"model","created":1,'
        f'"owned_by":"mock","root":"{root}","parent":null,"max_model_len":131072}}]}}'
    )
    metrics = (
        "process_start_time_seconds 1.0\n"
        f'vllm:cache_config_info{{block_size="{BLOCK_SIZE}",num_gpu_blocks="1000000",'
        'engine="0"} 1\n'
        'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_waiting{engine="0"} 0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0\n'
    )
    return {
        b"/v1/models": _response(model.encode()),
        b"/metrics": _response(metrics.encode(), b"text/plain"),
        b"": _response(b"{}"),
    }


async def serve(root: str, ports: list[int]) -> None:
    """Serves until it is ended."""
    pages, paces = _pages(root), dict[float, Pace]()

    def pace(interval_s: float) -> Pace:
        return paces.setdefault(interval_s, Pace(interval_s))

    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Worker(pages, pace), "127.0.0.1", port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], [int(port) for port in sys.argv[2:]]))
