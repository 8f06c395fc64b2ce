"""What a simulated fleet is made of and what befalls it; and what its simulation counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rhizome.settings.tree import RouterSettings
from workers.engine.simulated.profile import EngineProfile


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker dies, and comes back with an empty cache."""

    at_s: float
    worker: int
    """Its place in the fleet, from 0."""
    back_after_s: float | None = 60.0
    """None: it stays away."""


@dataclass(frozen=True, slots=True)
class Join:
    """A worker is not there from the beginning."""

    at_s: float
    worker: int
    """Its place in the fleet, from 0."""


Sight = Literal["events", "counts", "nothing"]
"""How the routers know what workers hold: from events; from their own dispatches and the cached
tokens that answers report; from their dispatches alone. Without events they have no tokenizer."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What is simulated, but for the workload."""

    profiles: tuple[EngineProfile, ...]
    """One for each worker."""
    settings: RouterSettings
    """The policy is among them."""
    seed: int = 0
    event_delay_s: float = 0.005
    """From a step's end until the router's index knows what it stored."""
    lease_ttl_s: float = 6.0
    """How long a dead worker stays in the registry."""
    routers: int = 1
    """Each request meets one of them, by chance."""
    news_interval_s: float = 0.005
    """Shortest time between two messages of a router about its load."""
    news_delay_s: float | None = 0.002
    """From then until the others know; None: they never do."""
    failures: tuple[Failure, ...] = ()
    joins: tuple[Join, ...] = ()
    sight: Sight = "events"
    floor_segments_max: int = 4_000_000
    """Segments of prompts that the endless cache remembers, for the floor."""

    @property
    def expects_workers(self) -> bool:
        """Whether workers come later than the first requests."""
        return bool(self.joins) or any(one.back_after_s is not None for one in self.failures)

    @property
    def tells(self) -> bool:
        """Whether there are several routers and they tell each other of their load."""
        return self.routers > 1 and self.news_delay_s is not None


@dataclass(slots=True)
class Tally:
    """What the simulation did, beyond its requests."""

    events: int = 0
    """Actions taken from the agenda."""
    steps: int = 0
    """Engine steps, those taken many at once included."""
    prefill_steps: int = 0
    deliveries: int = 0
    retries: int = 0
    queued: int = 0
    """Requests that had to wait for a worker."""
    news: int = 0
    """Messages between routers."""
    replayed_tokens: int = 0
    """Prompt tokens sent to workers that came, to warm them."""
    in_flight_max: int = 0
    """Most requests that one worker had at once, on their way there included."""
