"""Admission for tasks: whoever cannot be placed at once waits for a future (see `router.turns`)."""

from __future__ import annotations

import asyncio

from rhizome.clock import Clock
from rhizome.settings.tree import AdmissionSettings
from router.dispatch import Dispatcher
from router.placement import Assignment, Job
from router.turns import Turns


class Gate:
    """The lines of this router, for tasks that wait in them."""

    def __init__(self, dispatcher: Dispatcher, settings: AdmissionSettings, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._turns = Turns(dispatcher, settings, clock)
        self.enter = self._turns.enter
        self.waiting = self._turns.waiting
        self.oldest_wait_s = self._turns.oldest_wait_s
        self.pump = self._turns.pump
        self.tick = self._turns.tick

    async def wait(self, job: Job) -> Assignment:
        """Places a job that `enter` has not placed; the caller releases what it gets.

        Raises `UnknownModel`, `NoHealthyWorker`, `QueueFull` or `QueueTimeout`.
        """
        placed: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        ticket = self._turns.wait(job, placed)
        try:
            self._turns.pump(job.model)
            return await placed
        except asyncio.CancelledError:
            if placed.done() and not placed.cancelled() and placed.exception() is None:
                self._dispatcher.release(placed.result())  # placed and cancelled at once
            raise
        finally:
            self._turns.leave(ticket)
