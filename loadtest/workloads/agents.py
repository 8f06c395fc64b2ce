"""Agents that call a model in a loop and branch: long shared prefixes, bursts of near twins.

A task begins with the agent's instructions and the task's own text. Each step sends all of the
branch so far; its answer is a tool call and the tool's result follows after the tool's time. At
some steps the branch forks: all children begin at once, with the same prefix and a part of the
task each.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from random import Random
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from loadtest.workloads.arrivals import Arrivals, Poisson
from loadtest.workloads.draws import Zipf, length_about, turns_about
from loadtest.workloads.merging import merged
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest, key_of
from loadtest.workloads.sessions import LEAD_SESSIONS, Count, Seconds, Tokens

_SAMPLED = 400


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Means of lengths are of log-normal, of steps of geometric, of times of exponential draws."""

    agents: Count = 8
    """Kinds of agents; popularity by Zipf's law."""
    zipf: Annotated[float, Meta(ge=0.0, le=10.0)] = 1.0
    instructions_tokens: Tokens = 1500
    task_tokens: Tokens = 400
    steps: Annotated[float, Meta(ge=1.0, le=1000.0)] = 8.0
    """Steps of a branch from its beginning to its end or fork."""
    output_tokens: Tokens = 80
    result_tokens: Tokens = 300
    fork: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.12
    """Probability that a step ends in a fork."""
    children: Annotated[int, Meta(ge=2, le=64)] = 3
    branches_max: Annotated[int, Meta(ge=1, le=1000)] = 9
    """Most branches that one task makes; no fork goes past it."""
    tool_s: Seconds = 1.5
    token_s: Seconds = 0.03
    """Time that a token of an answer is taken to need before the tool begins."""
    prompt_tokens_max: Tokens = 32_000
    """A branch ends before its prompt would be longer."""


class _Branch(NamedTuple):
    at_s: float
    name: str
    segments: tuple[Segment, ...]
    held: int
    """Tokens of the segments."""
    steps: int
    """Steps left."""


class Agents:
    """The workload `agents`."""

    name = "agents"
    api = Api.CHAT

    def __init__(self, settings: AgentSettings, arrivals: Arrivals) -> None:
        self.settings = settings
        self._arrivals = arrivals
        self._kinds = Zipf(settings.agents, settings.zipf)

    def requests(self, seed: int) -> Iterator[TracedRequest]:
        """At a constant rate, tasks that began before time 0 are in progress at the start."""
        calls, span_s = self._task_means(seed)
        lead_s = LEAD_SESSIONS * span_s if isinstance(self._arrivals, Poisson) else 0.0
        starts_s = self._arrivals.times(Random(key_of(seed, self.name, "starts")), 1.0 / calls)
        begun = (start_s - lead_s for start_s in starts_s)
        for request in merged(begun, lambda place, at_s: self._task(seed, place, at_s)):
            if request.at_s >= 0.0:
                yield request

    def _task_means(self, seed: int) -> tuple[float, float]:
        """Requests and duration of a task, the means of some that are not part of the workload."""
        tasks = [list(self._task(seed, -1 - place, 0.0)) for place in range(_SAMPLED)]
        calls = sum(map(len, tasks)) / _SAMPLED
        return calls, sum(task[-1].at_s for task in tasks) / _SAMPLED

    def _task(self, seed: int, place: int, at_s: float) -> Iterator[TracedRequest]:
        settings = self.settings
        rng = Random(key_of(seed, self.name, place))
        kind = key_of(seed, self.name, "instructions", self._kinds.draw(rng))
        segments = (
            Segment(kind, length_about(Random(kind), settings.instructions_tokens), Role.SYSTEM),
            Segment(
                key_of(seed, self.name, place, "task"), length_about(rng, settings.task_tokens)
            ),
        )
        held = sum(segment.tokens for segment in segments)
        living = [_Branch(at_s, "0", segments, held, turns_about(rng, settings.steps))]
        branches = 1
        while living:
            branch = heapq.heappop(living)
            request = self._step(seed, place, branch, rng)
            yield request
            for following in self._following(branch, request, branches, rng):
                heapq.heappush(living, following)
                branches += following.name != branch.name

    def _step(self, seed: int, place: int, branch: _Branch, rng: Random) -> TracedRequest:
        return TracedRequest(
            0,
            branch.at_s,
            f"task-{place}",
            "",
            branch.segments,
            length_about(rng, self.settings.output_tokens),
            key_of(seed, self.name, place, branch.name, "answer", branch.steps),
        )

    def _following(
        self, branch: _Branch, request: TracedRequest, branches: int, rng: Random
    ) -> list[_Branch]:
        """What goes on after a step: nothing, the branch itself, or its children."""
        settings = self.settings
        forks = rng.random() < settings.fork and branches + settings.children <= (
            settings.branches_max
        )
        if branch.steps <= 1 and not forks:
            return []
        tool_s = rng.expovariate(1.0 / settings.tool_s) if settings.tool_s else 0.0
        at_s = branch.at_s + request.output_len * settings.token_s + tool_s
        answer = Segment(request.answer_key, request.output_len, Role.ASSISTANT)
        names = [branch.name]
        if forks:
            names = [f"{branch.name}.{child}" for child in range(settings.children)]
        following = []
        for name in names:
            result = Segment(
                key_of(request.answer_key, "result", name),
                length_about(rng, settings.result_tokens),
            )
            held = branch.held + answer.tokens + result.tokens
            if held <= settings.prompt_tokens_max:
                steps = turns_about(rng, settings.steps) if forks else branch.steps - 1
                segments = (*branch.segments, answer, result)
                following.append(_Branch(at_s, name, segments, held, steps))
        return following
