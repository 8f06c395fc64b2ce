"""One request of a workload, without its words.

A prompt is a row of segments. A segment is the first `tokens` tokens of an endless sequence that
its key names, so prompts that begin with the same segments begin with the same tokens, and
nothing else is shared. That is all that prefix caching can see, for a simulation as for a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import xxhash

_KEY_MASK = 2**62 - 1


class Role(Enum):
    """Who says a segment, where the request is sent as a chat."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Api(Enum):
    """How a request is sent."""

    CHAT = "chat"
    """`/v1/chat/completions` with messages; the model's template adds its tokens."""
    TEXT = "text"
    """`/v1/completions` with text that the served tokenizer turns into exactly the tokens."""
    IDS = "ids"
    """`/v1/completions` with token ids."""


class Segment(NamedTuple):
    """`tokens` tokens of the sequence `key` (64 bits), counted from its beginning."""

    key: int
    tokens: int
    role: Role = Role.USER


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request: when, whose, what."""

    number: int
    """Its place in the workload, from 0."""
    at_s: float
    """When it is sent, in seconds from the beginning; never goes back within a workload."""
    session: str
    """Requests of one session share a growing prefix."""
    tenant: str
    segments: tuple[Segment, ...]
    output_len: int
    """Exactly how many tokens are to be generated."""
    answer_key: int
    """The sequence that the answer is taken to be: later turns of the session hold it as a segment
    of role assistant, so an engine's decode blocks can be met again."""
    hash_ids: tuple[int, ...] = ()
    """The blocks as the trace names them, where it does."""

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt, without what a chat template adds."""
        return sum(segment.tokens for segment in self.segments)


class Workload(Protocol):
    """A seeded source of requests.

    `requests` gives the same requests for the same seed, in order of `at_s`, lazily and in bounded
    memory; it may be endless. It raises `TraceError` where a file is not as it should be.
    """

    @property
    def name(self) -> str: ...

    @property
    def api(self) -> Api:
        """How it is sent unless told otherwise."""
        ...

    def requests(self, seed: int) -> Iterator[TracedRequest]: ...


def key_of(*parts: str | int) -> int:
    """A key for a segment, the same on every machine: equal parts, equal key."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode())


def block_keys(segments: Sequence[Segment], block_size: int) -> list[int]:
    """A chained key for each full block of the prompt, as an engine with such blocks sees it.

    Two prompts have equal keys up to exactly the first block in which their segments differ. Keys
    are from 0 to 2**63; one that covers several segments, or begins one, is a hash, and those that
    lie wholly inside a segment count on from a hash.
    """
    keys: list[int] = []
    parent = 0
    pieces: list[tuple[int, int, int]] = []
    missing = block_size
    for key, tokens, _ in segments:
        if tokens < missing:
            if tokens:
                pieces.append((key, 0, tokens))
                missing -= tokens
            continue
        pieces.append((key, 0, missing))
        parent = hash((parent, *pieces)) & _KEY_MASK
        keys.append(parent)
        pieces.clear()
        inside = (tokens - missing) // block_size
        if inside:
            first = hash((parent, key)) & _KEY_MASK
            parent = first + inside - 1
            keys.extend(range(first, first + inside))
        done = missing + inside * block_size
        missing = block_size
        if done < tokens:
            pieces.append((key, done, tokens))
            missing -= tokens - done
    return keys
