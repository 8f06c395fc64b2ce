"""One simulated engine as the fleet meets it: a scheduler, its requests, its cache events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from loadtest.simulation.prompts import KeyedPrompt
from rhizome.fleet.records import WorkerRecord
from router.placement import Assignment, Job
from router.prefix.index import PrefixIndex
from workers.engine.simulated.cache import BlockKey, CacheEvent, Cleared, Removed, Stored
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
    router: int
    """The router that it came to, from 0."""
    attempts: int = 0
    cached_tokens: int | None = None
    assignment: Assignment | None = None
    """Where it is now; None while it waits and after its end."""
    worker: SimulatedWorker | None = None
    """The worker it was sent to last."""

    def at_engine(self, profile: EngineProfile, now_s: float) -> SimRequest:
        """The request as the engine gets it."""
        sequence = self.prompt.sequence(profile.block_size)
        return SimRequest(
            request_id=self.job.request_id,
            prompt_len=self.prompt.tokens,
            block_keys=self.prompt.keys(profile.block_size),
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
    replays: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What to do at the end of each request that is nobody's: its cache is being warmed."""
    is_held: bool = True
    """Whether its warm-up may go on."""
    in_flight: int = 0
    """Requests dispatched to it by any router and not ended."""


def publish(target: str, events: Sequence[CacheEvent], index: PrefixIndex) -> None:
    """Tells the router's index of one engine's events, in the engine's order.

    As `router.prefix.engine_blocks` does with real events, a block is told with its first copy and
    forgotten with its last one. What is stored with nothing else in between is told together.
    """
    stored: list[BlockKey] = []
    for event in events:
        if isinstance(event, Stored):
            stored += event.fresh
            continue
        if stored:
            index.store(target, cast("Sequence[int]", stored))
            stored = []
        if isinstance(event, Removed):
            index.remove(target, cast("Sequence[int]", event.gone))
        else:
            assert isinstance(event, Cleared)
            index.clear(target)
    if stored:
        index.store(target, cast("Sequence[int]", stored))
