"""What a worker says of itself, under a lease, to routers and controller."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class WorkerState(StrEnum):
    LOADING = "loading"
    """The process lives; its engine is not ready yet."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes what it has; takes nothing new."""
    FAILED = "failed"
    """The engine died; the process reports it before it leaves."""


class EventSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where one data-parallel rank's KV events can be read, in vLLM's wire format."""

    endpoint: str
    """A ZMQ PUB endpoint to connect to, e.g. `tcp://127.0.0.1:5601`."""
    replay_endpoint: str | None = None
    """A ZMQ ROUTER endpoint that answers vLLM's replay protocol."""
    topic: str = ""
    rank: int = 0
    curve_key: str | None = None
    """The server's CurveZMQ public key (Z85). None: a plain socket (a vLLM started by hand)."""
    snapshots: bool = False
    """Whether the replay endpoint also tells what the engine holds now."""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker: one engine group behind one HTTP endpoint."""

    worker_id: str
    incarnation: str
    """New for every start of the engine; a change voids all that was known of its cache."""
    model: str
    """The model's served name."""
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters of the model that the engine serves, too."""
    url: str
    """`http://host:port`, no trailing slash."""
    state: WorkerState
    engine: str = "vllm"
    api_key: str | None = None
    """Bearer key that the engine's HTTP app demands; never log it."""
    events: tuple[EventSource, ...] = ()
    model_root: str | None = None
    """A local directory with tokenizer and chat template, or a hub id."""
    block_size: int | None = None
    """Tokens per KV block."""
    kv_blocks: int | None = None
    """Blocks that the engine can hold: the bound on what the index may believe."""
    redoes_last_block: bool = False
    """Whether it computes the last block of a cached prefix again, as vLLM does for EAGLE and MTP
    heads."""
    chunk_tokens: int | None = None
    """The size of a chunk, where the model has chunked local attention."""
    max_model_len: int | None = None
    """Longest prompt plus completion, in tokens."""
    max_num_seqs: int | None = None
    """Sequences that the engine runs at once."""
    data_parallel: int = 1
    node: str = ""
    """The host's name or address."""
    pid: int | None = None
    started_wall_s: float = 0.0
    detail: str = ""
    """One line for people: the load phase, or why it failed."""
