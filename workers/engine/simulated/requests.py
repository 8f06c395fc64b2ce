"""What goes into the simulated scheduler, what comes out, and what it keeps for a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.engine.simulated.cache import Block, BlockKey, CacheEvent


@dataclass(slots=True, frozen=True, eq=False)
class SimRequest:
    """One request, without its tokens.

    `block_keys` holds one chained key for each full block of the prompt: equal keys mean equal
    tokens up to that block's end, with whatever else separates caches (LoRA, salt) mixed in.
    """

    request_id: str
    prompt_len: int
    block_keys: Sequence[BlockKey]
    output_len: int
    """Tokens that it will make, exactly, unless it is aborted."""
    arrival_s: float
    """When it reaches the scheduler; also the order within one priority."""
    priority: int = 0
    """Lower goes first under the `priority` policy; `fcfs` ignores it."""
    decode_key: Callable[[int], BlockKey] | None = None
    """The key of the full block of this index, for blocks that end in the output.

    Without it such blocks are private to the request.
    """
    reads_cache: bool = True
    """Whether it may skip what the cache holds; what needs all of its prompt computed may not."""

    def key_of(self, index: int) -> BlockKey:
        """The key of the sequence's full block of that index, prompt or output."""
        if index < len(self.block_keys):
            return self.block_keys[index]
        return (self.request_id, index) if self.decode_key is None else self.decode_key(index)

    def keys_of(self, first: int, end: int) -> Sequence[BlockKey]:
        if end <= len(self.block_keys):
            return self.block_keys[first:end]
        if end == first + 1:
            return [self.key_of(first)]
        return [self.key_of(index) for index in range(first, end)]


class RequestUnfit(ValueError):
    """The request can never run on this engine, or contradicts itself."""


@dataclass(slots=True, frozen=True)
class Started:
    """A request was admitted for the first time."""

    request_id: str
    cached_tokens: int
    """Prompt tokens that the cache held, as `usage` reports them."""


@dataclass(slots=True)
class Step:
    """What one step did, or several equal ones in a row (`steps`).

    `started`, `preempted` and `events` belong to its start, tokens and the rest to its end. In a
    row of decode steps every running request gains one token at each `end_of(1..steps)`.
    """

    start_s: float
    end_s: float
    steps: int
    sequences: int
    prefill_tokens: int
    growth_s: float
    """By how much each step of a row is longer than the one before."""
    started: list[Started]
    preempted: list[str]
    tokens: dict[str, int] = field(default_factory=dict)
    """New tokens of each request that gained any."""
    first: list[str] = field(default_factory=list)
    """Those among them for which it was the first."""
    finished: list[str] = field(default_factory=list)
    """Those that made their last token."""
    events: list[CacheEvent] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def end_of(self, step: int) -> float:
        """When the step of that number (from 1) of the row ended."""
        if step == self.steps:
            return self.end_s
        rest = self.steps * (self.steps - 1) / 2 * self.growth_s
        first_s = (self.duration_s - rest) / self.steps
        return self.start_s + step * first_s + step * (step - 1) / 2 * self.growth_s


class Progress:
    """How far one request has come: its tokens, those computed, and the blocks that hold them."""

    __slots__ = (
        "blank",
        "blocks",
        "cached_tokens",
        "computed",
        "credit",
        "goal",
        "prompt_len",
        "request",
        "request_id",
        "tokens",
    )

    def __init__(self, request: SimRequest) -> None:
        self.request = request
        self.request_id = request.request_id
        self.prompt_len = request.prompt_len
        self.goal = request.prompt_len + request.output_len
        self.tokens = request.prompt_len
        """Prompt and output so far; all but the newest output are, or will be, computed."""
        self.computed = 0
        self.blocks: list[Block] = []
        """Its leading full blocks that are findable."""
        self.blank = 0
        """Blocks that it holds after them."""
        self.cached_tokens = -1
        """Hit at its first admission; -1 before."""
        self.credit = 0.0
        """Fraction of a token that speculation owes it."""

    @property
    def decoding(self) -> bool:
        """Whether its next step computes nothing but its newest output token."""
        return self.computed == self.tokens - 1 and self.tokens > self.prompt_len

    @property
    def order(self) -> tuple[int, float, str]:
        """Smaller is more important under the `priority` policy."""
        return (self.request.priority, self.request.arrival_s, self.request_id)
