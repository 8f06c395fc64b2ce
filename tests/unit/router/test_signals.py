"""What the autoscaler is told of models and of their adapters."""

from __future__ import annotations

from rhizome.clock import ManualClock
from rhizome.errors import QueueFull
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.stores.memory.signals import MemorySignalBoard
from router.core import build_core
from router.signals import SignalReporter
from tests.support.serving import settings_with


def test_requests_for_adapters_count_as_their_models() -> None:
    clock = ManualClock()
    core = build_core(settings_with().router, clock, [])
    record = WorkerRecord(
        worker_id="w0",
        incarnation="a",
        model="m",
        adapters=("pirate",),
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
    )
    core.fleet.upsert(record, 0.0)
    board = MemorySignalBoard(clock)
    reporter = SignalReporter(board, core.fleet, core.dispatcher, core.gate, clock)
    for model in ("m", "pirate", "pirate", "nobody's"):
        reporter.arrived(model)
    reporter.refused("pirate", QueueFull("full"))
    clock.advance(1.0)
    (signal,) = reporter.take()
    assert (signal.model, signal.arrivals_per_s, signal.refused) == ("m", 3.0, 1)
