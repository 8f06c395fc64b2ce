"""One target's trust: a state, the doubt that moves it, and the reuse that scales its credit.

Doubt is an exponentially weighted share of disagreeing checks, 0 to 1. A certain disagreement (or
an agreement) moves it by `_STEP` of the way, an uncertain one by `_STEP_UNCERTAIN`. States change
at thresholds that lie apart (hysteresis): from full trust, three certain disagreements in a row
degrade a target, eight end its credit; from none, about ten agreements in a row restore it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import multimode

from router.trust.causes import OF_PROMPTS, Cause, State
from router.trust.observations import EventsSeen, Finding, Observation, Traits, judge, trouble

_STEP = 0.2
_STEP_UNCERTAIN = 0.03
_DOUBT_DEGRADES = 0.45
_DOUBT_ENDS_CREDIT = 0.8
_DOUBT_GIVES_CREDIT = 0.5
_DOUBT_RESTORES = 0.1
_RECENT = 32
_CAUSE_HELD = 8
"""Disagreements after which another cause may be named without a change of state."""
_UNREUSED_PROVES_OFF = 3
_REUSE_MEMORY = 0.9
_REUSE_PRIOR_TOKENS = 2048.0
_REUSE_MIN = 0.02
"""A little credit stays, so that reuse that comes back is noticed."""
_NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class Change:
    """A target's state or its likely cause has changed."""

    before: State
    after: State
    cause: Cause
    checks: int
    """Checks that proved something since the change before."""


@dataclass(frozen=True, slots=True)
class _Disagreement:
    hint: Cause
    ours: int = 0
    theirs: int = 0
    """Tokens of the prompt."""
    traits: Traits = _NO_TRAITS


class Trust:
    """What is believed of one target; `announces`: whether it publishes KV events."""

    def __init__(self, *, announces: bool) -> None:
        self.state = State.DEGRADED if announces else State.FALLBACK
        self.cause = Cause.UNPROVEN if announces else Cause.NO_EVENTS
        self.doubt = _DOUBT_DEGRADES
        self.checks = 0
        """Checks that proved something."""
        self.disagreed = 0
        """Those that disagreed."""
        self._announces = announces
        self._since = 0
        self._disagreed_since = 0
        self._unreused = 0
        self._reused_tokens = self._promised_tokens = _REUSE_PRIOR_TOKENS
        self._disagreements: deque[_Disagreement] = deque(maxlen=_RECENT)
        self._agreeing: deque[Traits] = deque(maxlen=_RECENT)

    @property
    def reuse(self) -> float:
        """Share of the predicted tokens that the engine reused lately, `_REUSE_MIN` to 1."""
        return max(_REUSE_MIN, min(1.0, self._reused_tokens / self._promised_tokens))

    @property
    def credit_scale(self) -> float:
        """What a predicted token is worth, 0 to 1."""
        return 1.0 if self.state is State.EXACT else self.reuse

    @property
    def confirms_soon(self) -> bool:
        """Whether events are to confirm a dispatch within seconds, so that predicting it for
        longer would only be worse."""
        return self.state is State.EXACT or self.cause is Cause.UNPROVEN

    @property
    def counts_tokens(self) -> bool:
        """Whether the router's count of prompt tokens is the engine's, as far as is known."""
        return self.cause not in OF_PROMPTS

    def reused(self, promised_tokens: int, cached_tokens: int) -> Change | None:
        """An answer's cached tokens, where `promised_tokens` (> 0) were predicted in full."""
        self._reused_tokens = _REUSE_MEMORY * self._reused_tokens + min(
            promised_tokens, cached_tokens
        )
        self._promised_tokens = _REUSE_MEMORY * self._promised_tokens + promised_tokens
        self._unreused = 0 if cached_tokens else self._unreused + 1
        if self._announces:
            return None
        off = self._unreused >= _UNREUSED_PROVES_OFF
        return self._become(self.state, Cause.PREFIX_CACHING_OFF if off else Cause.NO_EVENTS)

    def observe(self, seen: Observation) -> Change | None:
        """A checked answer; targets without events are only measured by `reused`."""
        finding = judge(seen)
        if finding.agrees:
            self._agreeing.append(seen.traits)
        elif finding.agrees is False:
            self._disagreements.append(
                _Disagreement(finding.hint, seen.prompt_tokens, seen.engine_tokens, seen.traits)
            )
        return self._take(finding)

    def trouble(self, events: EventsSeen) -> Change | None:
        """What a second of its events brought; before anything is proven, gaps come of joining."""
        finding = trouble(events)
        if self.cause is Cause.UNPROVEN and finding.hint is Cause.EVENTS_LOST:
            return None
        if finding.agrees is False:
            self._disagreements.append(_Disagreement(finding.hint))
        return self._take(finding)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        assert 0.0 <= self.doubt <= 1.0
        assert 0.0 <= self.credit_scale <= 1.0
        assert (self.state is State.EXACT) == (self.cause is Cause.NONE)
        if self.state is State.EXACT:
            assert self.doubt < _DOUBT_DEGRADES
        assert len(self._disagreements) <= _RECENT

    def _take(self, finding: Finding) -> Change | None:
        if finding.agrees is None or not self._announces:
            return None
        self.checks += 1
        if finding.agrees:
            if self.cause is Cause.UNPROVEN:
                self.doubt = 0.0
            self.doubt -= self.doubt * _STEP
            return self._become(self._state_by_doubt(), self.cause)
        self.disagreed += 1
        self._disagreed_since += 1
        self.doubt += (1.0 - self.doubt) * (_STEP if finding.certain else _STEP_UNCERTAIN)
        state, cause = self._state_by_doubt(), self.cause
        settled = self.cause not in (Cause.NONE, Cause.UNPROVEN)
        if state is not self.state or not settled or self._disagreed_since >= _CAUSE_HELD:
            cause = likely_cause(self._disagreements, self._agreeing)
        return self._become(state, cause)

    def _state_by_doubt(self) -> State:
        if self.doubt >= _DOUBT_ENDS_CREDIT:
            return State.FALLBACK
        if self.doubt <= _DOUBT_RESTORES:
            return State.EXACT
        if self.state is State.FALLBACK:
            return State.DEGRADED if self.doubt <= _DOUBT_GIVES_CREDIT else State.FALLBACK
        if self.state is State.EXACT:
            return State.DEGRADED if self.doubt >= _DOUBT_DEGRADES else State.EXACT
        return State.DEGRADED

    def _become(self, state: State, cause: Cause) -> Change | None:
        before = self.state
        if state is State.EXACT:
            cause = Cause.NONE
        if (state, cause) == (before, self.cause):
            return None
        self.state, self.cause = state, cause
        change = Change(before, state, cause, self.checks - self._since)
        self._since, self._disagreed_since = self.checks, 0
        if state is State.EXACT:
            self._disagreements.clear()
        return change


def likely_cause(disagreements: deque[_Disagreement], agreeing: deque[Traits]) -> Cause:
    """What most of the recent disagreements have in common and agreements have not."""
    hints = multimode(one.hint for one in disagreements)
    if Cause.PROMPT not in hints:
        return hints[-1] if hints else Cause.PROMPT
    return _prompt_cause([one for one in disagreements if one.hint is Cause.PROMPT], agreeing)


def _prompt_cause(wrong: list[_Disagreement], agreeing: deque[Traits]) -> Cause:
    """In which way the engine's tokens differ from ours."""
    offsets = [one.theirs - one.ours for one in wrong]
    if all(one.traits.several for one in wrong) and not any(one.several for one in agreeing):
        return Cause.SEVERAL_ANSWERS
    if _are_cut(wrong):
        return Cause.TRUNCATION
    with_tools = all(one.traits.tools for one in wrong)
    chats_agree = any(one.chat and not one.tools for one in agreeing)
    if with_tools and (chats_agree or not any(offsets)):
        return Cause.TOOLS
    if len(set(offsets)) == 1 and abs(offsets[0]) == 1:
        return Cause.SPECIAL_TOKENS
    if all(one.traits.chat for one in wrong):
        return Cause.CHAT_TEMPLATE
    if any(one.traits.text for one in wrong):
        return Cause.TOKENIZER
    return Cause.PROMPT


def _are_cut(wrong: list[_Disagreement]) -> bool:
    """Whether prompts of several lengths all came out at one, shorter length."""
    if any(one.theirs >= one.ours for one in wrong):
        return False
    return len({one.theirs for one in wrong}) == 1 and len({one.ours for one in wrong}) > 1
