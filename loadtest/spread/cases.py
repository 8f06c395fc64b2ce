"""The scenarios: what is sent, to which fleet, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from loadtest.simulation.plan import Failure, Join
from loadtest.workloads.catalog import Choice
from workers.engine.simulated.profile import EngineProfile, load_profile

PROFILE = "qwen3-32b-h100-tp2"
LOAD = 0.8
"""Requests sent, as a share of what the fleet answers when it always has more than enough."""
AFFINITY = "affinity"
"""Not a policy of the router: the worker that a prefix belongs to, whatever it has to do."""
COLD = "cost-cold"
"""The cost policy without warm-up."""
NOBODY = "cost-alone"
"""The cost policy where nobody comes."""
CAME_S = 90.0
"""When a worker comes, or comes back."""


@dataclass(frozen=True)
class Case:
    """One scenario, played under each of its policies."""

    name: str
    asks: str
    choice: Choice
    speeds: tuple[float, ...] = (1.0,) * 8
    """One worker each, as multiples of the profile's speed."""
    policies: tuple[str, ...] = ("cost", "sticky", "least_loaded", AFFINITY)
    duration_s: float = 150.0
    warmup_s: float = 30.0
    """Sent before anything is counted."""
    failures: tuple[Failure, ...] = ()
    joins: tuple[Join, ...] = ()
    workers_carrying: int | None = None
    """How many of the workers are there when the capacity is measured; None: all."""

    @property
    def newcomer(self) -> int | None:
        """The place of the worker that comes, or comes back, at `CAME_S`."""
        places = [one.worker for one in self.joins] + [one.worker for one in self.failures]
        return places[0] if places else None

    def profiles(self) -> tuple[EngineProfile, ...]:
        """The fleet."""
        profile = load_profile(PROFILE)
        return tuple(profile.at_speed(speed) for speed in self.speeds)


def _choice(name: str, **settings: Any) -> Choice:
    return Choice(name=name, settings=settings)


ZIPF = Case(
    "zipf",
    "300 prefixes of 2,000 tokens, popular by Zipf's law, on 8 workers",
    _choice("zipf-prefixes"),
)
ZIPF_TIGHT = Case(
    "zipf-tight",
    "1,000 such prefixes: as much as 7 of the 8 caches hold together, so copies cost others",
    _choice("zipf-prefixes", prefixes=1000),
    duration_s=240.0,
    warmup_s=120.0,
)
ONE_PREFIX = Case(
    "one-prefix",
    "the same 4,000 tokens before every request, on 8 workers",
    _choice("one-prefix"),
)
UNEQUAL = Case(
    "unequal",
    "two fast workers and two that are three times slower, nothing shared",
    _choice("no-sharing"),
    speeds=(1.0, 1.0, 1 / 3, 1 / 3),
    policies=("cost", "least_loaded", "round_robin"),
    warmup_s=0.0,
)
UNEQUAL_ZIPF = Case(
    "unequal-zipf",
    "the same fleet with shared prefixes",
    _choice("zipf-prefixes"),
    speeds=(1.0, 1.0, 1 / 3, 1 / 3),
    policies=("cost", "least_loaded", "round_robin"),
    warmup_s=0.0,
)
JOIN = Case(
    "join",
    "a fifth worker joins four at 80 % of their load; sessions",
    _choice("sessions"),
    speeds=(1.0,) * 5,
    policies=("cost", COLD, NOBODY),
    duration_s=210.0,
    joins=(Join(CAME_S, 4),),
    workers_carrying=4,
)
JOIN_AGENTS = replace(
    JOIN,
    name="join-agents",
    asks="the same with agents, whose prompts are long and share more",
    choice=_choice("agents"),
)
RESTART = replace(
    JOIN,
    name="restart",
    asks="one of five workers dies and comes back after 30 s; 300 Zipf prefixes",
    choice=_choice("zipf-prefixes"),
    joins=(),
    failures=(Failure(CAME_S - 30.0, 4, 30.0),),
    policies=("cost", COLD),
    workers_carrying=None,
)
_SPREADING = (ZIPF, ZIPF_TIGHT, ONE_PREFIX, UNEQUAL, UNEQUAL_ZIPF)
CASES = {case.name: case for case in (*_SPREADING, JOIN, JOIN_AGENTS, RESTART)}
