"""The vocabulary of a scaling decision: what is seen, what is remembered, what is decided.

Everything here is frozen data. Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why the target is what it is; a metric label."""

    FIXED = "fixed"
    """The model has no scaling bounds, or the autoscaler is off: the operator's number stands."""
    BOUNDS = "bounds"
    """The target lay outside the model's bounds."""
    NO_SIGNALS = "no_signals"
    """No router has said anything lately: unknown is not zero, so nothing changes."""
    FIRST_WORKER = "first_worker"
    """There were none, and requests came."""
    PRESSURE = "pressure"
    """Queue wait or predicted first-token time stayed above its target."""
    PRESSURE_YOUNG = "pressure_young"
    """The same, but not for long enough yet."""
    LOADING = "loading"
    """There is pressure, and workers that will take it are loading."""
    AT_MAXIMUM = "at_maximum"
    """There is pressure, and the bounds allow no more."""
    LOW_USE = "low_use"
    """Fewer workers would have been enough during the whole cool-down."""
    COOLING_DOWN = "cooling_down"
    """Fewer would do now; the cool-down has not passed."""
    STEADY = "steady"
    """Neither pressure nor low use."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the routers say about one model, summed."""

    queued: int
    queue_wait_ms_max: float
    in_flight: int
    predicted_ttft_ms_p90: float | None
    """The worst of the routers; None when nothing was decided in their windows."""
    refused: int
    complete: bool
    """False when some router's signal is too old: the sums are then lower bounds."""

    @property
    def requests(self) -> int:
        """Requests in the system: dispatched or waiting."""
        return self.queued + self.in_flight


@dataclass(frozen=True, slots=True)
class Observation:
    """One model as seen at one moment."""

    target: int
    """Workers asked for now, whoever asked."""
    min_workers: int
    max_workers: int
    ready: int
    """Workers that take requests."""
    loading: int
    """Workers on their way to that: capacity to come. Those that keep failing do not count."""
    room_per_worker: int
    """Requests that one worker may have at once, > 0."""
    demand: Demand | None
    """None: no router has a fresh signal."""


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What one model's scaling remembers between two decisions."""

    target: int | None = None
    """The target after the last decision; another one seen means that an operator spoke."""
    pressure_since_s: float | None = None
    watched_since_s: float | None = None
    """Since when demand is known without a gap, the target unchanged."""
    needs: tuple[tuple[float, int], ...] = ()
    """(time, workers that would do) within the cool-down, each below the one before it: the first
    is the most that was needed. At most as long as the bounds are wide."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The target to have, why, and what to remember."""

    target: int
    reason: Reason
    explain: str
    """One line for people, with the numbers that decided."""
    state: ScalingState
