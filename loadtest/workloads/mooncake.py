"""Traces in Mooncake's format: one JSON object a line, prompts known by the hashes of their blocks.

`{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`, one id for every
`block_tokens` tokens of the prompt and one for the rest. Equal ids are equal blocks: each becomes
a segment of its own. The whole file is checked when it is opened, so a broken line is told before
a request is sent; it is read again, line by line, for the requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtest.workloads.requests import Api, Segment, TracedRequest, key_of
from loadtest.workloads.sources import broken, lines_of
from rhizome.errors import TraceError

BLOCK_TOKENS = 512
"""Tokens in a block of Mooncake's published traces."""
TOKENS_MAX = 10_000_000
"""Longest prompt or answer that a line may ask for."""


class _Line(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class MooncakeTrace:
    """A trace that has been checked; `open` makes it."""

    path: Path
    block_tokens: int
    count: int
    span_s: float
    """From the first to the last request."""
    begin_s: float
    """The first request's time; requests are told from there."""
    name: str = "mooncake"
    api: Api = Api.IDS

    @staticmethod
    def open(path: Path, block_tokens: int = BLOCK_TOKENS) -> MooncakeTrace:
        """Reads the whole file once; raises `TraceError` with the line that is wrong."""
        if block_tokens < 1:
            raise TraceError(f"a block of {block_tokens} tokens is not possible")
        count = 0
        first_ms = last_ms = 0.0
        for number, line in _lines(path, block_tokens):
            if count == 0:
                first_ms = last_ms = line.timestamp
            if line.timestamp < last_ms:
                raise broken(
                    path, number, f"time goes back: {line.timestamp:g} ms after {last_ms:g} ms"
                )
            last_ms = line.timestamp
            count += 1
        if count == 0:
            raise TraceError(f"{path} holds no request")
        return MooncakeTrace(
            path, block_tokens, count, (last_ms - first_ms) / 1000.0, first_ms / 1000.0
        )

    def requests(self, seed: int) -> Iterator[TracedRequest]:
        """The trace's requests; the seed chooses only the words, so that another one meets no cache
        of an earlier run."""
        for place, (_, line) in enumerate(_lines(self.path, self.block_tokens)):
            yield TracedRequest(
                number=place,
                at_s=line.timestamp / 1000.0 - self.begin_s,
                session=f"line-{place}",
                tenant="",
                segments=tuple(_segments(line, self.block_tokens, seed)),
                output_len=max(1, line.output_length),
                answer_key=key_of("mooncake answer", seed, place),
                hash_ids=line.hash_ids,
            )


def _lines(path: Path, block_tokens: int) -> Iterator[tuple[int, _Line]]:
    for number, text in lines_of(path):
        try:
            line = _decoder.decode(text)
        except msgspec.ValidationError as error:
            raise broken(path, number, f"not a request of Mooncake's format: {error}") from error
        except msgspec.DecodeError as error:
            raise broken(path, number, f"not JSON: {error}") from error
        if fault := _fault_of(line, block_tokens):
            raise broken(path, number, fault)
        yield number, line


def _fault_of(line: _Line, block_tokens: int) -> str | None:
    """What is wrong with the line's numbers."""
    if not math.isfinite(line.timestamp) or line.timestamp < 0:
        return f"timestamp is {line.timestamp}, not a time in ms"
    if not 1 <= line.input_length <= TOKENS_MAX:
        return f"input_length is {line.input_length}, not 1 to {TOKENS_MAX} tokens"
    if not 0 <= line.output_length <= TOKENS_MAX:
        return f"output_length is {line.output_length}, not 0 to {TOKENS_MAX} tokens"
    blocks = -(-line.input_length // block_tokens)
    if len(line.hash_ids) != blocks:
        return (
            f"{line.input_length} tokens are {blocks} blocks of {block_tokens}, but the line "
            f"has {len(line.hash_ids)} hash_ids: the block size does not fit the trace"
        )
    return None


def _segments(line: _Line, block_tokens: int, seed: int) -> Iterator[Segment]:
    left = line.input_length
    for hash_id in line.hash_ids:
        yield Segment(key_of("mooncake", seed, hash_id), min(left, block_tokens))
        left -= block_tokens
