"""Breaks a worker on demand: `POST /simulate/fault` from loopback, when the worker allows it.

A fault lasts until `{"kind": "none"}` or, with `for_s`, ends by itself. One fault at a time shapes
the worker's answers; event faults are counted in batches and run beside it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.refusals import Refusal

if TYPE_CHECKING:
    from workers.engine.simulated.server.worker import SimulatedWorker

Kind = Literal[
    "none",
    "hang",
    "slow",
    "crash",
    "restart",
    "refuse",
    "reset",
    "half_open",
    "drop_events",
    "duplicate_events",
    "reorder_events",
]
_MUST_END = ("refuse",)


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to break.

    `hang`: no token comes any more, `/health` stays 200. `slow`: everything takes `factor` times
    as long. `crash`: the engine dies (with `for_s` it comes back). `restart`: a new life on the
    same ports. `refuse`: connections are refused for `for_s`. `reset`: generating requests are cut
    by a TCP reset `after_s` after they came. `half_open`: connections stay, nothing comes.
    `*_events`: the next `count` event batches are lost, doubled, or swapped with the next.
    """

    kind: Kind
    factor: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 10.0
    after_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    for_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None


_decoder = msgspec.json.Decoder(Fault)
_encode = msgspec.json.Encoder().encode


class Breaking:
    """The fault that a worker has, and what it does to requests."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._fault = Fault(kind="none")
        self._ends: asyncio.TimerHandle | None = None

    def describe(self, exchange: Exchange) -> None:
        exchange.reply(200, _encode(self._fault))

    def change(self, exchange: Exchange) -> None:
        """Takes a `Fault` as JSON and makes it so."""
        try:
            fault = _decoder.decode(exchange.request.body)
        except msgspec.DecodeError as error:
            raise Refusal(str(error)) from error
        if fault.kind in _MUST_END and fault.for_s is None:
            raise Refusal(f"{fault.kind} needs for_s: nobody could end it")
        exchange.reply(200, _encode(fault))
        self._make(fault, exchange)

    def swallows(self, exchange: Exchange) -> bool:
        """Whether the fault takes this request, so that nobody else answers it."""
        kind = self._fault.kind
        if kind == "half_open":
            exchange.mute()
            return True
        if kind == "reset" and exchange.request.method == "POST":
            if self._fault.after_s:
                self._loop.call_later(self._fault.after_s, exchange.cut)
                return False
            exchange.cut()
            return True
        return False

    def _make(self, fault: Fault, asked: Exchange) -> None:
        worker = self._worker
        if fault.kind.endswith("_events"):
            self._break_events(fault)
            return
        self._heal(asked)
        self._fault = fault
        if fault.kind == "hang":
            worker.run_at(0.0)
        elif fault.kind == "slow":
            worker.run_at(1.0 / fault.factor)
        elif fault.kind == "restart":
            self._fault = Fault(kind="none")
            worker.restart(asked)
        elif fault.kind == "crash":
            worker.crash("it was told to crash", for_good=fault.for_s is None, asked=asked)
        elif fault.kind == "refuse":
            worker.refuse()
        elif fault.kind == "half_open":
            worker.mute_connections(asked)
        elif fault.kind == "reset" and not fault.after_s:
            worker.reset_connections(asked)
        if fault.for_s is not None:
            self._ends = self._loop.call_later(fault.for_s, self._heal)

    def _break_events(self, fault: Fault) -> None:
        for publisher in self._worker.publishers:
            faults = publisher.faults
            if fault.kind == "drop_events":
                faults.drop += fault.count
            elif fault.kind == "duplicate_events":
                faults.duplicate += fault.count
            else:
                faults.reorder += fault.count

    def _heal(self, asked: Exchange | None = None) -> None:
        """Ends the present fault."""
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None
        fault, self._fault = self._fault, Fault(kind="none")
        if fault.kind in ("hang", "slow"):
            self._worker.run_at(1.0)
        elif fault.kind == "refuse":
            self._worker.tasks.start("listen", self._worker.listen())
        elif fault.kind == "crash":
            self._worker.tasks.start("revive", self._worker.revive())
        elif fault.kind == "half_open":
            self._worker.reset_connections(asked)
