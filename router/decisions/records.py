"""One request's decisions as they are noted while it is served: numbers in one small array.

Noting must cost next to nothing, so nothing is put into words here; that is done when somebody asks
(`router.decisions.views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rhizome.outcome import Outcome
from router.scheduling.types import Candidates, Choice

Columns = npt.NDArray[np.float32]

COST, MATCH, QUEUED, IN_FLIGHT, IN_FLIGHT_MAX, KV_USAGE, PREFILL_SPEED, OVERHEAD = range(8)
"""The rows of `Considered.columns`."""
COLUMN_COUNT = 8
_BYTES_OF_ARRAY = 128
_BYTES_OF_ATTEMPT = 256
_BYTES_OF_DECISION = 512


@dataclass(frozen=True, slots=True, eq=False)
class Considered:
    """The candidates of one choice as they stood then."""

    names: Sequence[str]
    columns: Columns
    """One column a candidate; the rows are `COST` to `OVERHEAD`. Whole numbers are exact up to
    2**24."""
    chosen: int
    """The column of the chosen one."""
    total: int
    """Candidates that there were; the costliest ones may have been left out."""

    @staticmethod
    def of(candidates: Candidates, choice: Choice, candidates_max: int) -> Considered:
        """The cheapest `candidates_max` of them, the chosen one always among them."""
        total = len(candidates)
        rows = (
            choice.costs,
            candidates.match_tokens,
            candidates.queued_tokens,
            candidates.in_flight,
            candidates.in_flight_max,
            candidates.kv_usage,
            candidates.prefill_tokens_per_s,
            candidates.overhead_ms,
        )
        names, chosen = candidates.worker_ids, candidates.worker_ids.index(choice.worker_id)
        columns = np.empty((COLUMN_COUNT, min(total, candidates_max)), np.float32)
        if total <= candidates_max:
            for number, row in enumerate(rows):
                columns[number] = row
            return Considered(names, columns, chosen, total)
        kept = np.argpartition(choice.costs, candidates_max - 1)[:candidates_max]
        if chosen not in kept:
            kept[-1] = chosen
        for number, row in enumerate(rows):
            columns[number] = row[kept]
        places = kept.tolist()
        return Considered([names[at] for at in places], columns, places.index(chosen), total)


@dataclass(slots=True)
class Attempt:
    """One worker that was chosen for the request, and what became of it there."""

    worker: str
    """The target's id."""
    policy: str
    reason: str
    prompt_tokens: int
    predicted_ttft_ms: float
    waited_ms: float
    """In the line for it."""
    considered: Considered
    trust: str | None = None
    """How far the chosen worker's prefixes were believed."""
    ttft_ms: float | None = None
    """From the choice to the answer's first byte; of streamed answers only."""
    failure: str | None = None
    """Why the next worker was tried, as an error's code."""

    @property
    def bytes_used(self) -> int:
        """Estimated."""
        return _BYTES_OF_ATTEMPT + _BYTES_OF_ARRAY + 36 * len(self.considered.columns[0])


@dataclass(frozen=True, slots=True)
class Ending:
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


@dataclass(slots=True, eq=False)
class Decision:
    """A request from its acceptance to its end. Times are those of the monotonic clock."""

    request_id: str
    path: str
    model: str
    key: str
    """The name of the client's key."""
    priority: str
    streamed: bool
    accepted_at_s: float
    prompt_tokens: int | None = None
    """As the router counted them; an estimate unless `exact`."""
    exact: bool = False
    """Whether the token ids are those that the engine sees."""
    attempts: list[Attempt] = field(default_factory=list)
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
        return _BYTES_OF_DECISION + sum(one.bytes_used for one in self.attempts)
