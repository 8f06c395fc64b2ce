"""Conversations of several turns, whose system prompts and tools are shared by Zipf's law.

A session begins with one of a few system prompts and one of a few tool sets, the popular ones far
more often. Each turn sends all that was said before. The next turn comes after the time that the
answer is taken to need and a time to think, whatever the server does: the load is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from loadtest.workloads.arrivals import Arrivals, Poisson
from loadtest.workloads.draws import Zipf, length_about, turns_about
from loadtest.workloads.merging import merged
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest, key_of

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0.0, le=86_400.0)]

LEAD_SESSIONS = 3.0
"""Mean lengths of a session by which the first ones begin before time 0."""
_SHARED_KEPT = 4096
"""System prompts and tool sets whose lengths need not be drawn again."""


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Means of lengths are of log-normal, of turns of geometric, of times of exponential draws."""

    system_prompts: Count = 20
    system_tokens: Tokens = 600
    toolsets: Count = 5
    tools_tokens: Tokens = 400
    zipf: Annotated[float, Meta(ge=0.0, le=10.0)] = 1.1
    """Exponent of popularity of system prompts and tool sets; 0 makes all alike."""
    turns: Annotated[float, Meta(ge=1.0, le=1000.0)] = 5.0
    user_tokens: Tokens = 120
    output_tokens: Tokens = 150
    think_s: Seconds = 8.0
    token_s: Seconds = 0.03
    """Time that a token of an answer is taken to need before the user begins to think."""
    prompt_tokens_max: Tokens = 16_000
    """A session ends before its prompt would be longer."""

    @property
    def session_s(self) -> float:
        """How long a session lasts, in the mean."""
        return self.turns * (self.think_s + self.output_tokens * self.token_s)


class Sessions:
    """The workload `sessions`."""

    name = "sessions"
    api = Api.CHAT

    def __init__(self, settings: SessionSettings, arrivals: Arrivals) -> None:
        self.settings = settings
        self._arrivals = arrivals
        self._systems = Zipf(settings.system_prompts, settings.zipf)
        self._toolsets = Zipf(settings.toolsets, settings.zipf)

    def requests(self, seed: int) -> Iterator[TracedRequest]:
        """At a constant rate, sessions that began before time 0 are in progress at the start."""
        settings = self.settings
        steady = isinstance(self._arrivals, Poisson)
        lead_s = LEAD_SESSIONS * settings.session_s if steady else 0.0
        starts_s = self._arrivals.times(
            Random(key_of(seed, self.name, "starts")), 1.0 / settings.turns
        )
        begun = (start_s - lead_s for start_s in starts_s)
        yield from merged(begun, lambda place, at_s: self._session(seed, place, at_s))

    def _session(self, seed: int, place: int, at_s: float) -> Iterator[TracedRequest]:
        """A session's requests; those before time 0 are drawn and not made."""
        settings = self.settings
        rng = Random(key_of(seed, self.name, place))
        segments = [
            _shared(seed, "system", self._systems.draw(rng), settings.system_tokens),
            _shared(seed, "tools", self._toolsets.draw(rng), settings.tools_tokens),
        ]
        held = sum(segment.tokens for segment in segments)
        drawn: list[tuple[int, int]] = []
        for turn in range(turns_about(rng, settings.turns)):
            said = length_about(rng, settings.user_tokens)
            answer = length_about(rng, settings.output_tokens)
            held += said
            if held > settings.prompt_tokens_max and turn:
                return
            drawn.append((said, answer))
            if at_s >= 0.0:
                for earlier in range(len(segments) // 2 - 1, turn):
                    segments += self._turn(seed, place, earlier, *drawn[earlier])
                now = self._turn(seed, place, turn, said, answer)
                yield TracedRequest(
                    0, at_s, f"session-{place}", "", (*segments, now[0]), answer, now[1].key
                )
            held += answer
            think_s = rng.expovariate(1.0 / settings.think_s) if settings.think_s else 0.0
            at_s += answer * settings.token_s + think_s

    def _turn(
        self, seed: int, place: int, turn: int, said: int, answer: int
    ) -> tuple[Segment, Segment]:
        """What is said in a turn, and what is answered."""
        return (
            Segment(key_of(seed, self.name, place, "user", turn), said),
            Segment(key_of(seed, self.name, place, "answer", turn), answer, Role.ASSISTANT),
        )


@lru_cache(_SHARED_KEPT)
def _shared(seed: int, kind: str, rank: int, mean_tokens: int) -> Segment:
    """A system prompt or tool set: the same tokens and length wherever it is met."""
    key = key_of(seed, kind, rank)
    return Segment(key, length_about(Random(key), mean_tokens), Role.SYSTEM)
