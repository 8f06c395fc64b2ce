"""The simulated scheduler under virtual time, for requests that share nothing.

It gives what a client would see: time to first token from sending, and time per output token.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest
from workers.engine.simulated.scheduler import Scheduler

Lengths = Callable[[], tuple[int, int]]
"""Gives the next request's tokens of prompt and output."""

_BLOCKS_MAX = 2**24
"""More blocks than any prompt has: keys of different requests cannot meet."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One request: when a client sends it, and its lengths in tokens."""

    at_s: float
    prompt_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class Timing:
    """What a client saw of one request."""

    ttft_ms: float
    tpot_ms: float | None
    """None for an output of one token."""


class _Course:
    """One run: who was sent when, and what came back."""

    def __init__(self, profile: EngineProfile) -> None:
        self._scheduler = Scheduler(profile)
        self._profile = profile
        self._pending: list[tuple[float, int]] = []
        self._demands: list[Demand] = []
        self._first_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self._now_s = -inf

    def send(self, demand: Demand) -> None:
        number = len(self._demands)
        self._demands.append(demand)
        reaches_s = demand.at_s + self._profile.request_overhead_ms / 1e3
        heapq.heappush(self._pending, (reaches_s, number))

    def advance(self) -> list[float] | None:
        """Up to the next arrival or step's end: when requests ended; None if all is over."""
        arrival_s = self._pending[0][0] if self._pending else inf
        if arrival_s > self._now_s:
            event_s = self._scheduler.next_event_s()
            until_s = min(arrival_s, inf if event_s is None else event_s)
            if until_s == inf:
                return None
            ended = self._run(until_s)
            if ended or arrival_s > until_s:
                return ended
        self._admit()
        return []

    def _run(self, until_s: float) -> list[float]:
        ended = []
        self._now_s = until_s
        for step in self._scheduler.advance(until_s):
            for name in step.first:
                self._first_s[int(name)] = step.end_s
            for name in step.finished:
                self._last_s[int(name)] = step.end_s
                ended.append(step.end_s + self._profile.token_overhead_ms / 1e3)
        return ended

    def _admit(self) -> None:
        arrival_s, number = heapq.heappop(self._pending)
        demand = self._demands[number]
        keys = range(number * _BLOCKS_MAX, number * _BLOCKS_MAX + demand.prompt_len)
        self._scheduler.add(
            SimRequest(
                request_id=str(number),
                prompt_len=demand.prompt_len,
                block_keys=keys[: demand.prompt_len // self._profile.block_size],
                output_len=demand.output_len,
                arrival_s=arrival_s,
            )
        )

    def timings(self) -> list[Timing]:
        late_s = self._profile.token_overhead_ms / 1e3
        return [
            Timing(
                ttft_ms=(self._first_s[number] + late_s - demand.at_s) * 1e3,
                tpot_ms=(self._last_s[number] - self._first_s[number])
                * 1e3
                / (demand.output_len - 1)
                if demand.output_len > 1
                else None,
            )
            for number, demand in enumerate(self._demands)
        ]


def replay_open(profile: EngineProfile, demands: Iterable[Demand]) -> list[Timing]:
    """Sends each request at its time, whatever happens; timings in the order of `demands`."""
    course = _Course(profile)
    for demand in demands:
        course.send(demand)
    while course.advance() is not None:
        pass
    return course.timings()


def replay_closed(
    profile: EngineProfile, lengths: Lengths, concurrency: int, requests: int
) -> list[Timing]:
    """Keeps `concurrency` requests in flight until `requests` were sent and are done."""
    course = _Course(profile)
    for _ in range(min(concurrency, requests)):
        course.send(Demand(0.0, *lengths()))
    left = requests - concurrency
    while (ended := course.advance()) is not None:
        for at_s in ended[: max(0, left)]:
            course.send(Demand(at_s, *lengths()))
        left -= len(ended)
    return course.timings()
