"""What this router tells the autoscaler: queue, waits and predicted first-token times per model.

Requests for a model's adapters count as the model's: it is its workers that they need.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from rhizome.clock import Clock
from rhizome.errors import RequestError, StoreUnavailable
from rhizome.stores.signals import ModelSignal, SignalBoard
from router.dispatch import Dispatcher
from router.fleet import Fleet, names_of
from router.gate import Gate
from router.placement import Assignment

_log = logging.getLogger(__name__)
_SAMPLES_MAX = 4096
_TTL_INTERVALS = 5


@dataclass(slots=True)
class _Window:
    arrivals: int = 0
    refused: int = 0
    wait_ms_max: float = 0.0
    predicted_ttft_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))


class SignalReporter:
    """Collects over a window and publishes it; the store's absence costs the report, no more."""

    def __init__(
        self, board: SignalBoard, fleet: Fleet, dispatcher: Dispatcher, gate: Gate, clock: Clock
    ) -> None:
        self._router_id = dispatcher.router_id
        self._board = board
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._gate = gate
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._since_s = clock.monotonic_s()
        self._reachable = True

    def arrived(self, model: str) -> None:
        """A request for a known model came in."""
        self._window(model).arrivals += 1

    def refused(self, model: str, error: RequestError) -> None:
        """A request ended in an error of the router's own."""
        if error.status in (429, 503):
            self._window(model).refused += 1

    def decided(self, assignment: Assignment) -> None:
        """A worker was chosen."""
        window = self._window(assignment.job.model)
        waited_ms = assignment.waited_s * 1000
        window.wait_ms_max = max(window.wait_ms_max, waited_ms)
        window.predicted_ttft_ms.append(waited_ms + assignment.choice.chosen.predicted_ttft_ms)

    async def run(self, interval_s: float) -> None:
        """Publishes every `interval_s`, for ever."""
        while True:
            await self._clock.sleep(interval_s)
            signals = self.take()
            try:
                await self._board.publish(self._router_id, signals, _TTL_INTERVALS * interval_s)
            except StoreUnavailable as error:
                if self._reachable:
                    _log.warning("cannot report to the autoscaler: %s", error)
                self._reachable = False
            else:
                self._reachable = True

    def take(self) -> list[ModelSignal]:
        """The window's signals, one for each model of the fleet; starts the next window."""
        now_s = self._clock.monotonic_s()
        window_s = max(1e-3, now_s - self._since_s)
        windows, self._windows, self._since_s = self._windows, {}, now_s
        names: dict[str, set[str]] = {}
        for record in self._fleet.records():
            names.setdefault(record.model, set()).update(names_of(record))
        return [
            self._signal(model, of_model, windows.get(model, _Window()), window_s)
            for model, of_model in sorted(names.items())
        ]

    def _signal(self, model: str, names: set[str], window: _Window, window_s: float) -> ModelSignal:
        waiting_ms = max(map(self._gate.oldest_wait_s, names)) * 1000
        return ModelSignal(
            model=model,
            router_id=self._router_id,
            at_wall_s=self._clock.wall_s(),
            window_s=window_s,
            queued=sum(map(self._gate.waiting, names)),
            queue_wait_ms_max=max(window.wait_ms_max, waiting_ms),
            in_flight=self._dispatcher.in_flight(model),
            predicted_ttft_ms_p90=_p90(window.predicted_ttft_ms),
            arrivals_per_s=window.arrivals / window_s,
            refused=window.refused,
        )

    def _window(self, model: str) -> _Window:
        window = self._windows.get(model)
        if window is None:
            window = _Window()
            if self._fleet.knows_model(model):  # names that nobody serves must not take memory
                record = self._fleet.record_of_model(model)
                return self._windows.setdefault(model if record is None else record.model, window)
        return window


def _p90(values: deque[float]) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
