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
model), the mean of the others' logarithms, so a new worker is neither shunned nor flooded.

What is believed of an observed one lies between that mean and its own estimate: its difference
`d` from the mean counts for `d * d**2 / (d**2 + _SAME * doubt)`, where the doubt is the estimate's
variance. So a worker that is three times slower is taken for that, and equal ones are taken for
equal: else what noise makes of their estimates decides where requests go (by simulation a tenth of
the p99 of long prompts).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

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
_SAME = 4.0
"""A difference of twice its own standard deviation from the group counts for half."""
_Range = tuple[float, float]


class _Filter(Protocol):
    logs: list[float]
    """The logarithms of what is estimated."""

    @property
    def variances(self) -> Sequence[float]:
        """Of the logarithms."""
        ...


_F = TypeVar("_F", bound=_Filter)


@dataclass(slots=True)
class _FirstToken:
    """Of the overhead in ms, of the ms per token, and of `1 / attention_tokens`."""

    logs: list[float]
    doubts: list[list[float]] = field(
        default_factory=lambda: [
            [_DOUBT, 0.0, 0.0],
            [0.0, _DOUBT, 0.0],
            [0.0, 0.0, _DOUBT_ATTENTION],
        ]
    )

    @property
    def variances(self) -> Sequence[float]:
        return [self.doubts[at][at] for at in range(3)]

    def learn(self, tokens: int, area: float, ttft_ms: float, noise: float) -> None:
        overhead_ms, ms_per_token, per_attended = map(math.exp, self.logs)
        attended_ms = ms_per_token * area * per_attended
        prefill_ms = ms_per_token * tokens + attended_ms
        predicted_ms = overhead_ms + prefill_ms
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
            self.logs[at] = _within(self.logs[at] + gain * error, _FIRST_TOKEN_RANGES[at])


@dataclass(slots=True)
class _DecodeStep:
    """Of the time between two tokens, in ms."""

    logs: list[float]
    doubt: float = _DOUBT

    @property
    def variances(self) -> Sequence[float]:
        return (self.doubt,)

    def learn(self, step_ms: float, noise: float) -> None:
        self.doubt = min(_DOUBT, self.doubt + _DRIFT)
        variance = self.doubt + noise
        error = _clipped(math.log(step_ms) - self.logs[0], variance)
        self.logs[0] = _within(self.logs[0] + self.doubt / variance * error, _DECODE_STEP_RANGE)
        self.doubt *= noise / variance


@dataclass(slots=True)
class _Group:
    """The sums of its targets' logarithms, and how many they are."""

    sums: list[float]
    count: int = 0

    def add(self, logs: Sequence[float], sign: int = 1) -> None:
        self.sums = [one + sign * log for one, log in zip(self.sums, logs, strict=True)]
        self.count += sign

    def mean(self) -> list[float]:
        return [one / self.count for one in self.sums]


@dataclass(slots=True)
class _Own(Generic[_F]):
    """What was observed of one target."""

    group: str
    filter: _F
    counted: Sequence[float] = ()
    """The logarithms as they are in the group's sums, if they are."""
    believed: tuple[float, ...] = ()


class _Learned(Generic[_F]):
    """What is believed of each target, and of those of its group that were not observed yet."""

    def __init__(self, prior: Sequence[float], new: Callable[[list[float]], _F]) -> None:
        self._prior = tuple(prior)
        self._new = new
        self._own: dict[str, _Own[_F]] = {}
        self._groups: dict[str, _Group] = {}

    def values(self, target: str, group: str) -> tuple[float, ...]:
        """As long as a target was not observed, its group's."""
        own = self._own.get(target)
        if own is not None and own.believed:
            return own.believed
        known = self._groups.get(group)
        return self._prior if known is None else tuple(map(math.exp, known.mean()))

    def knows(self, target: str) -> bool:
        return target in self._own

    def knows_group(self, group: str) -> bool:
        return group in self._groups

    def filter(self, target: str, group: str) -> _F:
        """To learn from an observation; then call `learned`. The target that was observed first
        gives way beyond a bound: a late answer may come after its target was removed."""
        own = self._own.get(target)
        if own is None:
            if len(self._own) >= _TARGETS_MAX:
                self.remove(next(iter(self._own)))
            logs = [math.log(value) for value in self.values(target, group)]
            own = self._own[target] = _Own(group, self._new(logs))
        return own.filter

    def learned(self, target: str) -> None:
        own = self._own[target]
        logs = tuple(own.filter.logs)
        group = self._groups.setdefault(own.group, _Group([0.0] * len(logs)))
        if own.counted:
            group.add(own.counted, -1)
        group.add(logs)
        own.counted = logs
        believed = []
        for log, typical, doubt in zip(logs, group.mean(), own.filter.variances, strict=True):
            apart = (log - typical) ** 2
            believed.append(math.exp(typical + (log - typical) * apart / (apart + _SAME * doubt)))
        own.believed = tuple(believed)

    def remove(self, target: str) -> None:
        own = self._own.pop(target, None)
        if own is not None and own.counted:
            group = self._groups[own.group]
            group.add(own.counted, -1)
            if not group.count:
                del self._groups[own.group]


class LearnedSpeeds:
    """What the router believes of each target's speed; starts from the priors in the settings."""

    def __init__(self, prefill_tokens_per_s: float, decode_step_ms: float) -> None:
        ms_per_token = 1000.0 / _within(prefill_tokens_per_s, PREFILL_TOKENS_PER_S_RANGE)
        first_token = (OVERHEAD_MS_PRIOR, ms_per_token, 1.0 / ATTENTION_TOKENS_PRIOR)
        self._first_token = _Learned(first_token, _FirstToken)
        self._decode_step = _Learned((_within(decode_step_ms, DECODE_STEP_MS_RANGE),), _DecodeStep)
        self._group_of: dict[str, str] = {}
        self.changed: set[str] = set()
        """Targets that were observed, for a reader that empties it; their groups changed too."""

    def add(self, target: str, group: str) -> None:
        """Names the group (the model) whose typical speed stands in until the target's is known."""
        self._group_of[target] = group

    def remove(self, target: str) -> None:
        """Forgets a target, and its group with the last one."""
        self._first_token.remove(target)
        self._decode_step.remove(target)
        self._group_of.pop(target, None)

    def prefill_tokens_per_s(self, target: str) -> float:
        """Uncached prompt tokens per second, within `PREFILL_TOKENS_PER_S_RANGE`."""
        ms_per_token = self._first_token.values(target, self._group(target))[1]
        return _within(1000.0 / ms_per_token, PREFILL_TOKENS_PER_S_RANGE)

    def attention_tokens(self, target: str) -> float:
        """Tokens before it that make a token cost twice what the first one does, > 0."""
        return 1.0 / self._first_token.values(target, self._group(target))[2]

    def overhead_ms(self, target: str) -> float:
        """First-token time of a prompt that is wholly cached, within `OVERHEAD_MS_RANGE`."""
        overhead_ms = self._first_token.values(target, self._group(target))[0]
        return _within(overhead_ms, OVERHEAD_MS_RANGE)

    def decode_step_ms(self, target: str) -> float:
        """Time between two tokens of a sequence, within `DECODE_STEP_MS_RANGE`."""
        return _within(
            self._decode_step.values(target, self._group(target))[0], DECODE_STEP_MS_RANGE
        )

    def is_learned(self, target: str) -> bool:
        """Whether prefill speed and overhead are from observations, of it or of its group."""
        known = self._first_token
        return known.knows(target) or known.knows_group(self._group(target))

    def knows_first_token(self, target: str) -> bool:
        """Whether prefill speed and overhead are the target's own and not its group's."""
        return self._first_token.knows(target)

    def knows_decode_step(self, target: str) -> bool:
        """Whether the decode step is the target's own and not its group's."""
        return self._decode_step.knows(target)

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
        first_token = self._first_token.filter(target, self._group(target))
        first_token.learn(tokens, area, ttft_ms, noise)
        self._first_token.learned(target)
        self.changed.add(target)

    def observe_decode(self, target: str, tokens: int, decode_ms: float) -> None:
        """A request got `tokens` tokens after its first one in `decode_ms`.

        Few tokens teach little; none, or a time that is not positive and finite, nothing.
        """
        if tokens < 1 or not (math.isfinite(decode_ms) and decode_ms > 0):
            return
        noise = _NOISE * max(1.0, _DECODE_TOKENS_FULL / tokens)
        self._decode_step.filter(target, self._group(target)).learn(decode_ms / tokens, noise)
        self._decode_step.learned(target)
        self.changed.add(target)

    def _group(self, target: str) -> str:
        return self._group_of.get(target, "")


def _rounded_share(share: float) -> float:
    """0 or 1 for a part that is too small, or too large, to tell the other one's from noise."""
    if share < _SHARE_MIN:
        return 0.0
    return 1.0 if share > 1.0 - _SHARE_MIN else share


def _clipped(error: float, variance: float) -> float:
    bound = _DEVIATIONS_MAX * math.sqrt(variance)
    return max(-bound, min(bound, error))


def _within(value: float, bounds: _Range) -> float:
    return max(bounds[0], min(bounds[1], value))


def _logs(low: float, high: float) -> _Range:
    return math.log(low), math.log(high)


_FIRST_TOKEN_RANGES = (
    _logs(*OVERHEAD_MS_RANGE),
    _logs(*(1000.0 / bound for bound in reversed(PREFILL_TOKENS_PER_S_RANGE))),
    _logs(*(1.0 / bound for bound in reversed(ATTENTION_TOKENS_RANGE))),
)
_DECODE_STEP_RANGE = _logs(*DECODE_STEP_MS_RANGE)
