"""The scenarios: what is sent, to which fleet, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loadtest.simulation.plan import Failure
from loadtest.workloads.catalog import Choice
from workers.engine.simulated.profile import EngineProfile, load_profile

PROFILE = "qwen3-32b-h100-tp2"
LOAD = 0.8
"""Requests sent, as a share of what the fleet answers when it always has more than enough."""
AFFINITY = "affinity"
"""Not a policy of the router: the worker that a prefix belongs to, whatever it has to do."""


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
CASES = {case.name: case for case in (ZIPF, ZIPF_TIGHT, ONE_PREFIX, UNEQUAL, UNEQUAL_ZIPF)}
