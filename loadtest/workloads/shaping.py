"""Fitting a workload to a test: faster or slower, more or less of it, cut, shared among tenants."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import msgspec

from loadtest.workloads.requests import Api, TracedRequest, Workload, key_of

_KEYS = 2**64
_COPY_IDS = 2**48
DEFAULT_TENANT = "default"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to a workload; equal shapes of equal workloads are equal requests."""

    seed: int = 0
    rate_per_s: float | None = None
    """Mean rate of requests. A generator makes that many; a trace's time is stretched."""
    rate_scale: float = 1.0
    """Times as many requests: a part of the sessions is left out, or copies that share nothing
    with the original are laid over it."""
    time_scale: float = 1.0
    """Times as fast through a trace or a rate curve."""
    duration_s: float | None = None
    """Nothing is sent from here on."""
    requests_max: int | None = None
    tenants: dict[str, float] = {}
    """Weights; sessions are dealt to tenants by them."""


@dataclass(frozen=True)
class Scaled:
    """A workload, its time divided by `time_scale`, its sessions taken `rate_scale` times."""

    workload: Workload
    rate_scale: float
    time_scale: float

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def api(self) -> Api:
        return self.workload.api

    def requests(self, seed: int) -> Iterator[TracedRequest]:
        whole, part = divmod(self.rate_scale, 1.0)
        for request in self.workload.requests(seed):
            at_s = request.at_s / self.time_scale
            copies = int(whole) + (_uniform(seed, "copy", request.session) < part)
            for copy in range(copies):
                yield replace(request, at_s=at_s) if copy == 0 else _copied(request, copy, at_s)


def shaped(workload: Workload, shape: Shape) -> Iterator[TracedRequest]:
    """The workload's requests cut to the shape's length, numbered from 0 and dealt to tenants."""
    tenants = _Tenants(shape.tenants or {DEFAULT_TENANT: 1.0}, shape.seed)
    for number, request in enumerate(workload.requests(shape.seed)):
        if number == shape.requests_max:
            return
        if shape.duration_s is not None and request.at_s >= shape.duration_s:
            return
        yield replace(request, number=number, tenant=tenants.of(request.session))


class _Tenants:
    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self._names = list(weights)
        self._cumulative = list(accumulate(weights.values()))
        self._seed = seed

    def of(self, session: str) -> str:
        if len(self._names) == 1:
            return self._names[0]
        place = _uniform(self._seed, "tenant", session) * self._cumulative[-1]
        return self._names[min(bisect(self._cumulative, place), len(self._names) - 1)]


def _uniform(*parts: str | int) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    return key_of(*parts) / _KEYS


def _copied(request: TracedRequest, copy: int, at_s: float) -> TracedRequest:
    """The same request over sequences of its own."""
    mask = key_of("copy", copy)
    return replace(
        request,
        at_s=at_s,
        session=f"{request.session}+{copy}",
        segments=tuple(one._replace(key=one.key ^ mask) for one in request.segments),
        answer_key=request.answer_key ^ mask,
        hash_ids=tuple(hash_id + copy * _COPY_IDS for hash_id in request.hash_ids),
    )
