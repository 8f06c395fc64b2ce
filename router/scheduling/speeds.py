"""Speeds learned online, per target: prefill tokens/s, fixed overhead and decode step.

Model: `ttft_ms = overhead_ms + ms_per_token * (tokens + area / attention_tokens)`, where `tokens`
are the uncached ones of the request and of what was queued before it, and `area` is the sum over
the request's uncached tokens of the tokens before each of them, which attention reads. So a prompt
of `2 * attention_tokens` costs twice what its length alone would. The parameters are positive and
known up to a factor, so their logarithms are tracked by an extended Kalman filter on `ln ttft_ms`:

* The derivatives of `ln ttft_ms` are the shares of the parts in the prediction, so an error is
  charged to the part that made it; a part of less than a tenth is left alone. So a fully cached
  prompt teaches the overhead and not the speed, and only long ones teach what attention costs.
* Between two observations the parameters may drift (`_DRIFT`), so old observations fade and a
  worker that changes its speed is followed within some 20 requests.
* An error counts as at most three standard deviations: one outlier moves an estimate by about a
  tenth, a lasting change moves it each time.
* Requests that did not wait alone are taken for half as exact: others' work is in their time.

A target that has not been observed is taken for a typical one of its group (the targets of one
model), which learns from all of them, so a new worker is neither shunned nor flooded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

OVERHEAD_MS_PRIOR = 10.0
PREFILL_TOKENS_PER_S_RANGE = (10.0, 1e7)
OVERHEAD_MS_RANGE = (0.1, 10_000.0)
DECODE_STEP_MS_RANGE = (0.05, 10_000.0)
ATTENTION_TOKENS_PRIOR = 40_000.0
"""In the middle of the built-in engine profiles' (d / e)."""
ATTENTION_TOKENS_RANGE = (100.0, 1e8)

_DOUBT = 2.0
"""Variance of a logarithm of which nothing is known but the prior: a factor of 4 either way."""
_DOUBT_ATTENTION = 0.5
"""The same for attention's: a factor of 2."""
_DOUBTS = (_DOUBT, _DOUBT, _DOUBT_ATTENTION)
_DRIFT = 0.002
_NOISE = 0.04
"""Variance of one observation's logarithm: 20 %."""
_NOISE_SHARED = 4 * _NOISE
_DEVIATIONS_MAX = 3.0
_SHARE_MIN = 0.1
_DECODE_TOKENS_FULL = 16
_TARGETS_MAX = 16_384


@dataclass(slots=True)
class _FirstToken:
    """The parameters of a first token's time, and the covariance of their logarithms, which are
    those of the overhead, of the time per token, and of `1 / attention_tokens`."""

    overhead_ms: float
    ms_per_token: float
    attention_tokens: float
    doubts: list[list[float]] = field(
        default_factory=lambda: [
            [_DOUBT, 0.0, 0.0],
            [0.0, _DOUBT, 0.0],
            [0.0, 0.0, _DOUBT_ATTENTION],
        ]
    )

    def like(self) -> _FirstToken:
        """The same values, of which nothing is known yet."""
        return _FirstToken(self.overhead_ms, self.ms_per_token, self.attention_tokens)

    def learn(self, tokens: int, area: float, ttft_ms: float, noise: float) -> None:
        attended_ms = self.ms_per_token * area / self.attention_tokens
        prefill_ms = self.ms_per_token * tokens + attended_ms
        predicted_ms = self.overhead_ms + prefill_ms
        token_share = _rounded_share(prefill_ms / predicted_ms)
        attention_share = attended_ms / predicted_ms
        shares = (
            1.0 - token_share,
            token_share,
            attention_share if attention_share >= _SHARE_MIN else 0.0,
        )
        doubts = self.doubts
        for at, most in enumerate(_DOUBTS):
            doubts[at][at] = min(most, doubts[at][at] + _DRIFT)
        first, second, third = shares
        gains = [one * first + two * second + three * third for one, two, three in doubts]
        variance = sum(map(operator.mul, gains, shares)) + noise
        error = _clipped(math.log(ttft_ms / predicted_ms), variance) / variance
        for at, gain in enumerate(gains):
            for other in range(3):
                doubts[at][other] -= gain * gains[other] / variance
        low, high = PREFILL_TOKENS_PER_S_RANGE
        self.overhead_ms = _within(self.overhead_ms * math.exp(gains[0] * error), OVERHEAD_MS_RANGE)
        self.ms_per_token = _within(
            self.ms_per_token * math.exp(gains[1] * error), (1000.0 / high, 1000.0 / low)
        )
        self.attention_tokens = _within(
            self.attention_tokens * math.exp(-gains[2] * error), ATTENTION_TOKENS_RANGE
        )


@dataclass(slots=True)
class _DecodeStep:
    step_ms: float
    doubt: float = _DOUBT

    def learn(self, step_ms: float, noise: float) -> None:
        self.doubt = min(_DOUBT, self.doubt + _DRIFT)
        variance = self.doubt + noise
        error = _clipped(math.log(step_ms / self.step_ms), variance)
        self.step_ms = _within(
            self.step_ms * math.exp(self.doubt / variance * error), DECODE_STEP_MS_RANGE
        )
        self.doubt *= noise / variance


@dataclass(slots=True)
class _Estimates:
    """What has been observed of one target, or of one group; each part None before that."""

    first_token: _FirstToken | None = None
    decode_step: _DecodeStep | None = None


class LearnedSpeeds:
    """What the router believes of each target's speed; starts from the priors in the settings."""

    def __init__(self, prefill_tokens_per_s: float, decode_step_ms: float) -> None:
        self._ms_per_token = 1000.0 / _within(prefill_tokens_per_s, PREFILL_TOKENS_PER_S_RANGE)
        self._step_ms = _within(decode_step_ms, DECODE_STEP_MS_RANGE)
        self._targets: dict[str, _Estimates] = {}
        self._groups: dict[str, _Estimates] = {}
        self._group_of: dict[str, str] = {}
        self.changed: set[str] = set()
        """Targets that were observed, for a reader that empties it; their groups changed too."""

    def add(self, target: str, group: str) -> None:
        """Names the group (the model) whose typical speed stands in until the target's is known."""
        self._group_of[target] = group

    def remove(self, target: str) -> None:
        """Forgets a target, and its group with the last one."""
        self._targets.pop(target, None)
        group = self._group_of.pop(target, None)
        if group is not None and group not in self._group_of.values():
            self._groups.pop(group, None)

    def prefill_tokens_per_s(self, target: str) -> float:
        """Uncached prompt tokens per second, within `PREFILL_TOKENS_PER_S_RANGE`."""
        return 1000.0 / self._first_token(target).ms_per_token

    def attention_tokens(self, target: str) -> float:
        """Tokens before it that make a token cost twice what the first one does, > 0."""
        return self._first_token(target).attention_tokens

    def overhead_ms(self, target: str) -> float:
        """First-token time of a prompt that is wholly cached, within `OVERHEAD_MS_RANGE`."""
        return self._first_token(target).overhead_ms

    def decode_step_ms(self, target: str) -> float:
        """Time between two tokens of a sequence, within `DECODE_STEP_MS_RANGE`."""
        return self._decode_step(target).step_ms

    def is_learned(self, target: str) -> bool:
        """Whether prefill speed and overhead are from observations, of it or of its group."""
        return any(known.first_token is not None for known in self._known(target))

    def knows_first_token(self, target: str) -> bool:
        """Whether prefill speed and overhead are the target's own and not its group's."""
        own = self._targets.get(target)
        return own is not None and own.first_token is not None

    def knows_decode_step(self, target: str) -> bool:
        """Whether the decode step is the target's own and not its group's."""
        own = self._targets.get(target)
        return own is not None and own.decode_step is not None

    def observe_first_token(
        self,
        target: str,
        uncached_tokens: int,
        ttft_ms: float,
        *,
        alone: bool,
        queued_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        """A request had its first token `ttft_ms` after its dispatch.

        `queued_tokens` were waiting at the target before it, `cached_tokens` of its prompt were not
        computed; `alone` if nothing else was in flight there. Times that are not positive and
        finite are passed over.
        """
        if not (math.isfinite(ttft_ms) and ttft_ms > 0):
            return
        own = max(0, uncached_tokens)
        tokens, area = own + max(0, queued_tokens), own * (max(0, cached_tokens) + own / 2)
        noise = _NOISE if alone else _NOISE_SHARED
        typical = self._first_token(target)
        for estimates in (self._own(target), self._group(target)):
            if estimates.first_token is None:
                estimates.first_token = typical.like()
            estimates.first_token.learn(tokens, area, ttft_ms, noise)

    def observe_decode(self, target: str, tokens: int, decode_ms: float) -> None:
        """A request got `tokens` tokens after its first one in `decode_ms`.

        Few tokens teach little; none, or a time that is not positive and finite, nothing.
        """
        if tokens < 1 or not (math.isfinite(decode_ms) and decode_ms > 0):
            return
        noise = _NOISE * max(1.0, _DECODE_TOKENS_FULL / tokens)
        typical = self._decode_step(target)
        for estimates in (self._own(target), self._group(target)):
            if estimates.decode_step is None:
                estimates.decode_step = _DecodeStep(typical.step_ms)
            estimates.decode_step.learn(decode_ms / tokens, noise)

    def _first_token(self, target: str) -> _FirstToken:
        for known in self._known(target):
            if known.first_token is not None:
                return known.first_token
        return _FirstToken(OVERHEAD_MS_PRIOR, self._ms_per_token, ATTENTION_TOKENS_PRIOR)

    def _decode_step(self, target: str) -> _DecodeStep:
        for known in self._known(target):
            if known.decode_step is not None:
                return known.decode_step
        return _DecodeStep(self._step_ms)

    def _known(self, target: str) -> Iterator[_Estimates]:
        """The target's own estimates and its group's, as far as there are any."""
        own = self._targets.get(target)
        if own is not None:
            yield own
        group = self._groups.get(self._group_of.get(target, ""))
        if group is not None:
            yield group

    def _own(self, target: str) -> _Estimates:
        """The one made first gives way beyond a bound: a late answer may be observed after its
        target was removed."""
        self.changed.add(target)
        if target not in self._targets and len(self._targets) >= _TARGETS_MAX:
            del self._targets[next(iter(self._targets))]
        return self._targets.setdefault(target, _Estimates())

    def _group(self, target: str) -> _Estimates:
        return self._groups.setdefault(self._group_of.get(target, ""), _Estimates())


def _rounded_share(share: float) -> float:
    """0 or 1 for a part that is too small, or too large, to tell the other one's from noise."""
    if share < _SHARE_MIN:
        return 0.0
    return 1.0 if share > 1.0 - _SHARE_MIN else share


def _clipped(error: float, variance: float) -> float:
    bound = _DEVIATIONS_MAX * math.sqrt(variance)
    return max(-bound, min(bound, error))


def _within(value: float, bounds: tuple[float, float]) -> float:
    return max(bounds[0], min(bounds[1], value))
