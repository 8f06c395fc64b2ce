"""One request as a check: what was predicted, what the engine reported, and what that proves.

Three things are compared, each with its own tolerance for what is not a fault but a race:

* **Length.** The engine's count of the prompt's tokens and ours. They cannot differ by a race.
* **Reuse.** Cached tokens reported by the engine and the blocks that events had announced when
  the request was sent. One block less is tolerated (engines that align or drop the last block).
  What was only predicted, by an earlier dispatch not yet confirmed, is not held against anyone. If
  blocks were evicted in between, a shortfall may be a race: it weighs little.
* **Content.** Some time after the answer, the events must have announced every full block of the
  prompt under our hashes, since the engine has just stored or reused them all. Unless much of its
  cache was evicted meanwhile, a missing one means that its tokens, adapter or salt are not ours, or
  that its events do not come. More reuse than predicted is no fault where the content agrees.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from router.trust.causes import Cause

_REUSE_TOLERANCE_BLOCKS = 1
_EVICTABLE_SHARE = 4
_EVICTED_BLOCKS_MAX = 1024
"""For engines that do not say how many blocks they have."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What kind of request it was; what they have in common tells what is wrong."""

    chat: bool = False
    text: bool = True
    """Whether the router tokenized it; false for prompts given as token ids."""
    tools: bool = False
    several: bool = False
    """More than one answer was asked for."""
    computes_all: bool = False
    """The engine must compute the whole prompt, cached or not (prompt logprobs)."""


@dataclass(frozen=True, slots=True)
class EventsSeen:
    """What one target's events brought during a request; every number is a difference, >= 0."""

    batches: int = 0
    stored: int = 0
    removed: int = 0
    mismatched: int = 0
    unknown_parent: int = 0
    not_text: int = 0
    adapted: int = 0
    """Blocks stored under a LoRA adapter's name."""
    salted: int = 0
    """Chains that began with a cache salt."""
    undecodable: int = 0
    unknown_events: int = 0
    conflicts: int = 0
    lost: int = 0
    """Gaps, failed replays and restarts of the engine."""
    cleared: int = 0
    """Times that everything known was dropped, for whatever reason."""

    @property
    def is_broken(self) -> bool:
        """Whether the view was not whole all the time."""
        return bool(self.lost or self.cleared or self.undecodable or self.conflicts)

    def since(self, before: EventsSeen) -> EventsSeen:
        """What came after `before`."""
        return EventsSeen(
            *(getattr(self, one.name) - getattr(before, one.name) for one in fields(EventsSeen))
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """An answered request. Blocks are full blocks of the prompt from its start."""

    prompt_tokens: int
    """As this router counts them."""
    engine_tokens: int
    """As the engine counted them."""
    cached_tokens: int | None
    """As the engine reported them; None if it does not."""
    block_size: int
    announced_blocks: int
    """Held by the target by its events, when the request was sent."""
    matched_blocks: int
    """The same or predicted: what would be credited in full trust."""
    found_blocks: int | None
    """Held by its events some time after the answer; None if that cannot be said."""
    events: EventsSeen
    blocks_max: int | None = None
    """Blocks that the engine has."""
    traits: Traits = Traits()

    @property
    def full_blocks(self) -> int:
        return self.prompt_tokens // self.block_size

    @property
    def usable_blocks(self) -> int:
        """Blocks that an engine can reuse: it computes the last token again."""
        return max(0, self.prompt_tokens - 1) // self.block_size


@dataclass(frozen=True, slots=True)
class Finding:
    """What an observation proves: agreement, disagreement and its kind, or nothing (None)."""

    agrees: bool | None
    hint: Cause = Cause.NONE
    certain: bool = True
    """Whether no race can explain a disagreement."""


NOTHING = Finding(None)
AGREEMENT = Finding(True)


def judge(seen: Observation) -> Finding:
    """What the observation proves of the target's events."""
    if seen.events.mismatched:
        return Finding(False, Cause.BLOCK_SIZE)
    if seen.engine_tokens != seen.prompt_tokens:
        return Finding(False, Cause.PROMPT)
    if seen.events.is_broken:
        return NOTHING  # told once, by `trouble`, and not by each request of that time
    return _judge_reuse(seen) or _judge_content(seen)


def trouble(events: EventsSeen) -> Finding:
    """What a second of a target's events says without any request."""
    if events.undecodable or events.unknown_events:
        return Finding(False, Cause.EVENT_FORMAT)
    if events.conflicts:
        return Finding(False, Cause.BLOCK_HASHES)
    if events.lost:  # one gap heals by its replay; many in a second are another matter
        return Finding(False, Cause.EVENTS_LOST, certain=events.lost > 1)
    return NOTHING


def _judge_reuse(seen: Observation) -> Finding | None:
    if seen.cached_tokens is None or seen.traits.computes_all:
        return None
    promised = min(seen.announced_blocks, seen.usable_blocks)
    reused = seen.cached_tokens // seen.block_size
    if reused + _REUSE_TOLERANCE_BLOCKS >= promised:
        return None
    return Finding(False, Cause.DEAD_BLOCKS, certain=not seen.events.removed)


def _judge_content(seen: Observation) -> Finding:
    if seen.found_blocks is None or not seen.full_blocks:
        return NOTHING
    if seen.found_blocks >= seen.full_blocks:
        return AGREEMENT
    if seen.events.removed > _evicted_max(seen.blocks_max):
        return NOTHING
    return Finding(False, _why_missing(seen))


def _why_missing(seen: Observation) -> Cause:
    events = seen.events
    if events.unknown_events:
        return Cause.EVENT_FORMAT
    if events.adapted:
        return Cause.LORA
    if events.salted:
        return Cause.CACHE_SALT
    if events.not_text:
        return Cause.MEDIA
    if events.unknown_parent:
        return Cause.EVENTS_MISSING
    if events.stored:
        return Cause.PROMPT
    if seen.cached_tokens == 0:
        return Cause.PREFIX_CACHING_OFF  # nothing was stored and nothing was there
    return Cause.EVENTS_MISSING


def _evicted_max(blocks_max: int | None) -> int:
    """Evictions after which a block used last may be gone: engines evict what is oldest."""
    return _EVICTED_BLOCKS_MAX if blocks_max is None else blocks_max // _EVICTABLE_SHARE
