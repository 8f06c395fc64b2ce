"""What the runner asks of an engine, whatever it is made of.

An `Engine` is one start of one engine group: it is started once and ended once; the next start is
another object. It promises nothing about Ray, leases or the registry: those are the runner's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from rhizome.fleet.records import EventSource

Say = Callable[[str], None]
"""Told what happens now, in a few words for people."""


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an engine once it serves."""

    url: str
    """`http://host:port` where it answers, no trailing slash."""
    api_key: str | None
    """Bearer key that every path but `/health` demands; never log it."""
    events: tuple[EventSource, ...] = ()
    model_root: str | None = None
    """A local directory with tokenizer and chat template, or a hub id."""
    block_size: int | None = None
    """Tokens per KV block."""
    kv_blocks: int | None = None
    """KV blocks of one data-parallel rank."""
    redoes_last_block: bool = False
    """Whether it computes the last block of a cached prefix again, as vLLM does for EAGLE and MTP
    heads."""
    chunk_tokens: int | None = None
    """The size of a chunk, where the model has chunked local attention."""
    max_model_len: int | None = None
    """Longest prompt plus completion, in tokens."""
    max_num_seqs: int | None = None
    """Sequences that one data-parallel rank runs at once."""
    data_parallel: int = 1
    generates: bool = True
    """Whether it answers completions; False for embedding and scoring models."""


class Engine(Protocol):
    """One engine group's life: start, serve, perhaps drain, stop."""

    async def start(self, say: Say) -> EngineFacts:
        """Loads the model and serves; raises `StartError` (`ModelUnusable`, `EngineFailed`…)."""
        ...

    async def wait_dead(self) -> str:
        """Returns the cause, in one line, once the engine no longer serves without being asked."""
        ...

    async def drain(self, grace_s: float) -> bool:
        """Waits until no request runs, at most `grace_s`; still serves what comes late.

        True when it became idle, False when the grace ended first.
        """
        ...

    async def stop(self) -> None:
        """Ends the engine and everything it started; may be called at any time, more than once."""
        ...
