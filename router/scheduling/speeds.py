"""Speeds learned online, per target: prefill tokens/s, fixed overhead and decode step.

Model: `ttft_ms = overhead_ms + ms_per_token * tokens`, where `tokens` are the uncached ones of the
request and of what was queued before it. Each observation moves both parameters along the gradient
of the squared log error (a normalised LMS step):

    error    = ln(observed / predicted), clipped to a factor of 4
    share    = ms_per_token * tokens / predicted
    ms_per_token *= exp(gain * share * error)
    overhead_ms  *= exp(gain * (1 - share) * error)

So an error is charged to the part that made the prediction: a fully cached prompt teaches the
overhead and leaves the speed alone. The clip bounds what one outlier can do, and the gain falls
from 1/2 to 1/10, so a wrong prior is forgotten after about ten requests. Requests that did not wait
alone teach a quarter as much: others' prefills and decodes are in their time.

A target that has not been observed is taken for a typical one of its group (targets of one model),
which learns from all of them, so a new worker is neither shunned nor flooded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

OVERHEAD_MS_PRIOR = 10.0
PREFILL_TOKENS_PER_S_RANGE = (10.0, 1e7)
OVERHEAD_MS_RANGE = (0.1, 10_000.0)
DECODE_STEP_MS_RANGE = (0.05, 10_000.0)

_ERROR_MAX = math.log(4.0)
_GAIN_MIN = 0.1
_SHARED_WEIGHT = 0.25
_DECODE_TOKENS_FULL = 16
_TARGETS_MAX = 16_384


@dataclass(slots=True)
class _Estimate:
    overhead_ms: float
    ms_per_token: float
    step_ms: float
    first_tokens: int = 0
    """Observations of a first token."""
    decodes: int = 0
    """Observations of a decode."""

    def learn_first_token(self, tokens: int, ttft_ms: float, weight: float) -> None:
        prefill_ms = self.ms_per_token * tokens
        predicted_ms = self.overhead_ms + prefill_ms
        step = _step(predicted_ms, ttft_ms, self.first_tokens, weight)
        share = prefill_ms / predicted_ms
        low, high = PREFILL_TOKENS_PER_S_RANGE
        self.ms_per_token = _within(
            self.ms_per_token * math.exp(share * step), (1000.0 / high, 1000.0 / low)
        )
        self.overhead_ms = _within(
            self.overhead_ms * math.exp((1.0 - share) * step), OVERHEAD_MS_RANGE
        )
        self.first_tokens += 1

    def learn_decode(self, step_ms: float, weight: float) -> None:
        step = _step(self.step_ms, step_ms, self.decodes, weight)
        self.step_ms = _within(self.step_ms * math.exp(step), DECODE_STEP_MS_RANGE)
        self.decodes += 1


class LearnedSpeeds:
    """What the router believes of each target's speed; starts from the priors in the settings."""

    def __init__(self, prefill_tokens_per_s: float, decode_step_ms: float) -> None:
        self._prior = _Estimate(
            OVERHEAD_MS_PRIOR,
            1000.0 / _within(prefill_tokens_per_s, PREFILL_TOKENS_PER_S_RANGE),
            _within(decode_step_ms, DECODE_STEP_MS_RANGE),
        )
        self._groups: dict[str, _Estimate] = {}
        self._group_of: dict[str, str] = {}
        self._targets: dict[str, _Estimate] = {}

    def add(self, target: str, group: str) -> None:
        """Names the group (the model) whose typical speed stands in until the target's is known."""
        self._group_of[target] = group

    def remove(self, target: str) -> None:
        """Forgets a target."""
        self._targets.pop(target, None)
        group = self._group_of.pop(target, None)
        if group is not None and group not in self._group_of.values():
            self._groups.pop(group, None)

    def prefill_tokens_per_s(self, target: str) -> float:
        """Uncached prompt tokens per second, within `PREFILL_TOKENS_PER_S_RANGE`."""
        return 1000.0 / self._prefill(target).ms_per_token

    def overhead_ms(self, target: str) -> float:
        """First-token time of a prompt that is wholly cached, within `OVERHEAD_MS_RANGE`."""
        return self._prefill(target).overhead_ms

    def decode_step_ms(self, target: str) -> float:
        """Time between two tokens of a sequence, within `DECODE_STEP_MS_RANGE`."""
        estimate = self._targets.get(target)
        if estimate is None or estimate.decodes == 0:
            estimate = self._typical(target)
        return estimate.step_ms

    def observe_first_token(
        self,
        target: str,
        uncached_tokens: int,
        ttft_ms: float,
        *,
        alone: bool,
        queued_tokens: int = 0,
    ) -> None:
        """A request had its first token `ttft_ms` after its dispatch.

        `queued_tokens` were waiting at the target before it; `alone` if nothing else was in flight
        there. Times that are not positive and finite are passed over.
        """
        if not (math.isfinite(ttft_ms) and ttft_ms > 0):
            return
        tokens = max(0, uncached_tokens) + max(0, queued_tokens)
        weight = 1.0 if alone else _SHARED_WEIGHT
        estimate = self._estimate(target)
        if estimate.first_tokens == 0:
            typical = self._typical(target)
            estimate.overhead_ms = typical.overhead_ms
            estimate.ms_per_token = typical.ms_per_token
        estimate.learn_first_token(tokens, ttft_ms, weight)
        self._group(target).learn_first_token(tokens, ttft_ms, weight)

    def observe_decode(self, target: str, tokens: int, decode_ms: float) -> None:
        """A request got `tokens` tokens after its first one in `decode_ms`.

        Few tokens teach little; none, or a time that is not positive and finite, nothing.
        """
        if tokens < 1 or not (math.isfinite(decode_ms) and decode_ms > 0):
            return
        weight = min(1.0, tokens / _DECODE_TOKENS_FULL)
        estimate = self._estimate(target)
        if estimate.decodes == 0:
            estimate.step_ms = self._typical(target).step_ms
        estimate.learn_decode(decode_ms / tokens, weight)
        self._group(target).learn_decode(decode_ms / tokens, weight)

    def _prefill(self, target: str) -> _Estimate:
        estimate = self._targets.get(target)
        if estimate is None or estimate.first_tokens == 0:
            return self._typical(target)
        return estimate

    def _typical(self, target: str) -> _Estimate:
        return self._groups.get(self._group_of.get(target, ""), self._prior)

    def _group(self, target: str) -> _Estimate:
        return self._groups.setdefault(self._group_of.get(target, ""), replace(self._prior))

    def _estimate(self, target: str) -> _Estimate:
        """The target's own estimate; the one made first gives way beyond a bound, since a late
        answer may be observed after its target was removed."""
        estimate = self._targets.get(target)
        if estimate is None:
            if len(self._targets) >= _TARGETS_MAX:
                del self._targets[next(iter(self._targets))]
            estimate = self._targets[target] = replace(self._prior)
        return estimate


def _step(predicted: float, observed: float, seen: int, weight: float) -> float:
    error = math.log(observed / predicted)
    gain = max(_GAIN_MIN, 1.0 / (seen + 2))
    return weight * gain * max(-_ERROR_MAX, min(_ERROR_MAX, error))


def _within(value: float, bounds: tuple[float, float]) -> float:
    return max(bounds[0], min(bounds[1], value))
