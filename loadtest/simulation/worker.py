"""One simulated engine as the fleet meets it: a scheduler, its requests, its cache events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from loadtest.simulation.prompts import KeyedPrompt
from rhizome.fleet.records import WorkerRecord
from router.dispatch import Assignment, Job
from router.prefix.index import PrefixIndex
from workers.engine.simulated.cache import CacheEvent, Cleared, Removed, Stored
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest
from workers.engine.simulated.scheduler import Scheduler


@dataclass(slots=True, eq=False)
class Life:
    """One request on its way through the fleet."""

    row: int
    """Its place in the run's columns."""
    job: Job
    prompt: KeyedPrompt
    output_len: int
    attempts: int = 0
    cached_tokens: int | None = None
    assignment: Assignment | None = None
    """Where it is now; None while it waits and after its end."""

    def at_engine(self, profile: EngineProfile, now_s: float) -> SimRequest:
        """The request as the engine gets it."""
        sequence = self.prompt.sequence(profile.block_size)
        return SimRequest(
            request_id=self.job.request_id,
            prompt_len=self.prompt.tokens,
            block_keys=self.prompt.hashes(profile.block_size),
            output_len=self.output_len,
            arrival_s=now_s,
            decode_key=sequence.__getitem__,
        )


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    """One incarnation of a worker."""

    record: WorkerRecord
    place: int
    """Its number in the fleet, from 0."""
    scheduler: Scheduler
    lives: dict[str, Life] = field(default_factory=dict)
    """Requests that its engine has, or whose last token is on its way."""
    plan: int = 0
    """Counts up whenever its next event is planned anew, so that old plans are known as such."""
    is_dead: bool = False


class PublishedBlocks:
    """What the router has been told of one engine's cache.

    Copies of a block are counted, as `router.prefix.engine_blocks` does with real events: a block
    is forgotten with its last copy.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._copies: dict[int, int] = {}

    def apply(self, events: Sequence[CacheEvent], index: PrefixIndex) -> None:
        """Takes events in the engine's order."""
        for event in events:
            if isinstance(event, Stored):
                index.store(self._target, self._added(cast("Sequence[int]", event.keys)))
            elif isinstance(event, Removed):
                index.remove(self._target, self._taken(cast("Sequence[int]", event.keys)))
            else:
                assert isinstance(event, Cleared)
                self._copies.clear()
                index.clear(self._target)

    def _added(self, keys: Sequence[int]) -> Sequence[int]:
        """Those among them that had no copy."""
        copies = self._copies
        if copies.keys().isdisjoint(keys):
            copies.update(dict.fromkeys(keys, 1))
            return keys
        new: list[int] = []
        for key in keys:
            count = copies.get(key, 0)
            copies[key] = count + 1
            if not count:
                new.append(key)
        return new

    def _taken(self, keys: Sequence[int]) -> list[int]:
        """Those among them that have no copy left."""
        copies = self._copies
        gone: list[int] = []
        for key in keys:
            count = copies.pop(key)
            if count > 1:
                copies[key] = count - 1
            else:
                gone.append(key)
        return gone
