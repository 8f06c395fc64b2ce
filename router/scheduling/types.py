"""The vocabulary of a routing decision.

Everything here is data. Policies take a `RoutingRequest` and `Candidates` and return a `Choice`;
they know no clock, no I/O and no randomness but the generator they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from random import Random
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW = 16
"""Up to so many candidates, Python's own numbers are quicker than arrays of them."""


class RoutingRequest(msgspec.Struct, frozen=True):
    """What the scheduler knows of a request."""

    request_id: str
    model: str
    prompt_tokens: int
    """Length of the prompt; an estimate in approximate mode."""
    block_hashes: Sequence[int] = ()
    """Chained hashes of the prompt's full blocks, first block first."""
    session: str | None = None
    """A key that related requests share, if the client gave one."""
    completion_tokens_max: int | None = None
    recompute_share: float = 0.0
    """What share of the blocks that full caches evict is computed again later, 0 to 1."""


class Candidate(NamedTuple):
    """One worker that could serve the request, as known at this moment."""

    worker_id: str
    match_tokens: int
    """Leading prompt tokens that the worker is believed to hold; never the whole prompt, since the
    engine always recomputes the last token. 0 <= match_tokens < max(1, prompt_tokens)."""
    in_flight: int
    """Requests dispatched to it and not ended, by all that is known."""
    in_flight_max: int
    """Requests that it may have at once."""
    queued_tokens: int
    """Work of prompts dispatched to it that have not been prefilled yet, in tokens (those of short
    prompts: see `prediction.work_tokens`)."""
    prefill_tokens_per_s: float
    """Learned prefill speed, > 0."""
    decode_step_ms: float
    """Learned time of a decode step, > 0."""
    kv_usage: float = 0.0
    """Share of its KV blocks in use, 0 to 1."""
    overhead_ms: float = 0.0
    """Learned first-token time of a prompt that is wholly cached, >= 0."""
    attention_tokens: float = math.inf
    """Learned number of tokens before it that make a token cost twice what the first does, > 0."""
    is_learned: bool = False
    """Whether prefill speed and overhead were learned, from it or others of its model; else they
    are what the settings assume."""


class Lists(NamedTuple):
    """The numbers of a few candidates: the fields of `Candidate`, one value a candidate."""

    match_tokens: list[int]
    in_flight: list[int]
    in_flight_max: list[int]
    queued_tokens: list[int]
    prefill_tokens_per_s: list[float]
    decode_step_ms: list[float]
    kv_usage: list[float]
    overhead_ms: list[float]
    attention_tokens: list[float]
    is_learned: list[bool]


@dataclass(eq=False)
class Candidates:
    """Candidates as columns: the fields of `Candidate`, one value a candidate.

    With hundreds of workers, a decision costs a few array operations and not a few objects each.
    The columns are the maker's own and may change after the decision: nobody keeps or writes them.
    """

    worker_ids: Sequence[str]
    match_tokens: Ints
    in_flight: Ints
    in_flight_max: Ints
    queued_tokens: Ints
    prefill_tokens_per_s: Floats
    decode_step_ms: Floats
    kv_usage: Floats
    overhead_ms: Floats
    attention_tokens: Floats
    is_learned: npt.NDArray[np.bool_]
    lists: Lists | None = field(default=None, init=False)
    """The columns as lists, where there are few candidates (`FewCandidates`)."""

    @staticmethod
    def of(candidates: Iterable[Candidate]) -> Candidates:
        """The same candidates, in the order given."""
        rows = list(candidates)
        return Candidates(
            [one.worker_id for one in rows],
            np.array([one.match_tokens for one in rows], np.int64),
            np.array([one.in_flight for one in rows], np.int64),
            np.array([one.in_flight_max for one in rows], np.int64),
            np.array([one.queued_tokens for one in rows], np.int64),
            np.array([one.prefill_tokens_per_s for one in rows], np.float64),
            np.array([one.decode_step_ms for one in rows], np.float64),
            np.array([one.kv_usage for one in rows], np.float64),
            np.array([one.overhead_ms for one in rows], np.float64),
            np.array([one.attention_tokens for one in rows], np.float64),
            np.array([one.is_learned for one in rows], np.bool_),
        )

    def __len__(self) -> int:
        return len(self.worker_ids)

    def __getitem__(self, at: int) -> Candidate:
        return Candidate(
            worker_id=self.worker_ids[at],
            match_tokens=int(self.match_tokens[at]),
            in_flight=int(self.in_flight[at]),
            in_flight_max=int(self.in_flight_max[at]),
            queued_tokens=int(self.queued_tokens[at]),
            prefill_tokens_per_s=float(self.prefill_tokens_per_s[at]),
            decode_step_ms=float(self.decode_step_ms[at]),
            kv_usage=float(self.kv_usage[at]),
            overhead_ms=float(self.overhead_ms[at]),
            attention_tokens=float(self.attention_tokens[at]),
            is_learned=bool(self.is_learned[at]),
        )

    def __iter__(self) -> Iterator[Candidate]:
        return (self[at] for at in range(len(self)))

    def where(self, chosen: Sequence[bool] | npt.NDArray[np.bool_]) -> Candidates:
        """Those that the mask names, in the same order."""
        chosen = np.asarray(chosen, np.bool_)
        if chosen.all():
            return self
        return Candidates(
            [self.worker_ids[at] for at in np.flatnonzero(chosen)],
            self.match_tokens[chosen],
            self.in_flight[chosen],
            self.in_flight_max[chosen],
            self.queued_tokens[chosen],
            self.prefill_tokens_per_s[chosen],
            self.decode_step_ms[chosen],
            self.kv_usage[chosen],
            self.overhead_ms[chosen],
            self.attention_tokens[chosen],
            self.is_learned[chosen],
        )


class FewCandidates(Candidates):
    """Up to `FEW` candidates, kept as lists; an array is made of a column that is asked for."""

    lists: Lists

    def __init__(self, worker_ids: Sequence[str], lists: Lists) -> None:
        self.worker_ids = worker_ids
        self.lists = lists

    def __getitem__(self, at: int) -> Candidate:
        return Candidate._make((self.worker_ids[at], *[column[at] for column in self.lists]))

    def where(self, chosen: Sequence[bool] | npt.NDArray[np.bool_]) -> Candidates:
        if all(chosen):
            return self
        columns: list[Any] = [list(compress(column, chosen)) for column in self.lists]
        return FewCandidates(list(compress(self.worker_ids, chosen)), Lists(*columns))


class _Array:
    """A column of few candidates as an array, made when somebody asks for it."""

    def __init__(self, name: str, kind: npt.DTypeLike) -> None:
        self._name = name
        self._kind = kind

    def __get__(self, one: FewCandidates, owner: type) -> npt.NDArray[Any]:
        made: npt.NDArray[Any] = np.array(getattr(one.lists, self._name), self._kind)
        one.__dict__[self._name] = made
        return made


_WHOLE = {"match_tokens", "in_flight", "in_flight_max", "queued_tokens"}
for _name in Lists._fields:
    _kind = np.int64 if _name in _WHOLE else np.bool_ if _name == "is_learned" else np.float64
    setattr(FewCandidates, _name, _Array(_name, _kind))


class Scored(msgspec.Struct, frozen=True):
    """A candidate with the parts of its cost, kept to explain the decision."""

    candidate: Candidate
    cost_ms: float
    """What the policy minimised; comparable only within one decision."""
    predicted_ttft_ms: float
    """Predicted time to first token on this worker."""


class Choice(msgspec.Struct, frozen=True):
    """The worker picked, and why."""

    worker_id: str
    reason: str
    """A bounded set of snake-case words, fit for a metric label, e.g. `lowest_cost`."""
    chosen: Scored
    costs: Floats | Sequence[float]
    """`cost_ms` of every candidate, in the order given."""
    should_wait: bool = False
    """The request had better wait in the router than be sent now (`router.scheduling.binding`)."""
    binds_late: bool = False
    """The policy lets requests wait in the router."""


class Policy(Protocol):
    """Picks one candidate. Never raises if there is one and all are valid."""

    name: str

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice: ...
