"""One request's decisions as they are noted while it is served: numbers packed into a few bytes.

Noting must cost next to nothing, so nothing is put into words here; that is done when somebody asks
(`router.decisions.views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rhizome.outcome import Outcome
from router.scheduling.types import Candidate, Candidates, Choice, RoutingRequest

Columns = npt.NDArray[np.float32]

COST = 0
"""The row of `Considered.columns` that holds what the policy minimised."""
FIELDS = Candidate._fields[1:]
"""The numbers of a candidate; each has its row after `COST`, in this order."""
_WHOLE = {"match_tokens", "in_flight", "in_flight_max", "queued_tokens"}
_KINDS: list[Any] = [
    int if name in _WHOLE else bool if name == "is_learned" else float for name in FIELDS
]
_BYTES_OF_NAME = 8
_BYTES_OF_ATTEMPT = 384
_BYTES_OF_DECISION = 512
_pack = msgspec.msgpack.Encoder(enc_hook=np.ndarray.tolist).encode
_unpack = msgspec.msgpack.Decoder().decode


class Considered(msgspec.Struct, frozen=True):
    """The candidates of one choice as they stood then."""

    names: Sequence[str]
    packed: bytes
    """`columns` as lists."""
    chosen: int
    """The column of the chosen one."""
    total: int
    """Candidates that there were; the costliest ones may have been left out."""

    @staticmethod
    def of(candidates: Candidates, choice: Choice, candidates_max: int) -> Considered:
        """The cheapest `candidates_max` of them, the chosen one always among them."""
        total, names = len(candidates), candidates.worker_ids
        chosen = names.index(choice.worker_id)
        lists = candidates.lists
        if lists is not None and total <= candidates_max:
            return Considered(names, _pack((choice.costs, lists)), chosen, total)
        rows = [choice.costs, *[getattr(candidates, name) for name in FIELDS]]
        columns = np.array(rows, np.float32)
        if total <= candidates_max:
            return Considered(names, _packed(columns), chosen, total)
        kept = np.argpartition(choice.costs, candidates_max - 1)[:candidates_max]
        if chosen not in kept:
            kept[-1] = chosen
        places = kept.tolist()
        kept_names = [names[at] for at in places]
        return Considered(kept_names, _packed(columns[:, kept]), places.index(chosen), total)

    @property
    def columns(self) -> Columns:
        """One column a candidate, the rows as `COST` and `FIELDS` say. Whole numbers are exact up
        to 2**24."""
        costs, numbers = _unpack(self.packed)
        return np.array([costs, *numbers], np.float32)

    def candidates(self) -> list[Candidate]:
        """One a column."""
        return [
            Candidate(name, *(make(number) for make, number in zip(_KINDS, numbers, strict=True)))
            for name, numbers in zip(self.names, self.columns[1:].T.tolist(), strict=True)
        ]


def _packed(columns: Columns) -> bytes:
    costs, *numbers = columns.tolist()
    return _pack((costs, numbers))


class Attempt(msgspec.Struct):
    """One worker that was chosen for the request, and what became of it there."""

    worker: str
    """The target's id."""
    model: str
    policy: str
    reason: str
    prompt_tokens: int
    predicted_ttft_ms: float
    considered: Considered
    waited_ms: float = 0.0
    """In the line for it."""
    trust: str | None = None
    """How far the chosen worker's prefixes were believed."""
    ttft_ms: float | None = None
    """From the choice to the answer's first byte; of streamed answers only."""
    failure: str | None = None
    """Why the next worker was tried, as an error's code."""

    @staticmethod
    def of(
        policy: str,
        request: RoutingRequest,
        choice: Choice,
        considered: Considered,
        waited_ms: float = 0.0,
        trust: str | None = None,
    ) -> Attempt:
        """What a choice says of itself; what became of it comes later."""
        return Attempt(
            choice.worker_id,
            request.model,
            policy,
            choice.reason,
            request.prompt_tokens,
            choice.chosen.predicted_ttft_ms,
            considered,
            waited_ms,
            trust,
        )

    @property
    def bytes_used(self) -> int:
        """Estimated."""
        considered = self.considered
        names = _BYTES_OF_NAME * len(considered.names)
        return _BYTES_OF_ATTEMPT + names + len(considered.packed)


class Ending(msgspec.Struct, frozen=True):
    """How the request ended."""

    outcome: Outcome
    at_s: float
    status: int | None = None
    """The status that the client got."""
    error: str | None = None
    """Code of the error that it got."""
    prompt_tokens: int | None = None
    """As the engine counted them."""
    cached_tokens: int | None = None
    """Prompt tokens that the engine had cached."""
    completion_tokens: int | None = None


class Prospect(StrEnum):
    """What would become of a request that is not sent."""

    NOW = "now"
    """It would go to the chosen worker at once."""
    HELD = "held"
    """It would wait here for the chosen worker, which is nearly free."""
    FULL = "full"
    """It would wait here, since every worker is full."""


class Decision(msgspec.Struct, eq=False):
    """A request from its acceptance to its end. Times are those of the monotonic clock."""

    request_id: str
    path: str
    asked_model: str
    """What the client asked for: a model, or a product that stands for one."""
    key: str
    """The name of the client's key."""
    priority: str
    streamed: bool
    accepted_at_s: float
    model: str = ""
    """What serves it, if it is another one."""
    outside: str | None = None
    """The provider that was asked after the fleet could not serve."""
    prompt_tokens: int | None = None
    """As the router counted them; an estimate unless `exact`."""
    exact: bool = False
    """Whether the token ids are those that the engine sees."""
    attempts: list[Attempt] = []
    ending: Ending | None = None

    def rendered(self, prompt_tokens: int, *, exact: bool) -> None:
        """The prompt's length is known."""
        self.prompt_tokens = prompt_tokens
        self.exact = exact

    def chose(self, attempt: Attempt) -> None:
        """A worker was chosen."""
        self.attempts.append(attempt)

    def failed(self, code: str) -> None:
        """The worker chosen last failed before its first byte, and another may be tried."""
        if self.attempts:
            self.attempts[-1].failure = code

    def ended(self, ending: Ending, ttft_ms: float | None) -> None:
        """The request is over."""
        self.ending = ending
        if self.attempts:
            self.attempts[-1].ttft_ms = ttft_ms

    @property
    def bytes_used(self) -> int:
        """Estimated."""
        used = _BYTES_OF_DECISION
        for attempt in self.attempts:
            used += attempt.bytes_used
        return used
