"""Warm-ups in virtual time: what `router.warmup.warmer` does, for workers of a simulated fleet.

All routers share one table of hot prefixes; the first of them replays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from loadtest.simulation.agenda import Agenda
from loadtest.simulation.plan import Tally
from loadtest.simulation.router import SimulatedRouter
from loadtest.simulation.worker import Life, SimulatedWorker
from rhizome.settings.tree import WarmupSettings
from router.warmup.hot import HotPrefixes, Origin, Replay
from router.warmup.noting import chosen
from workers.engine.simulated.requests import SimRequest


class Submit(Protocol):
    """Puts a request of nobody's into an engine; `ended` is called at its end."""

    def __call__(
        self, worker: SimulatedWorker, request: SimRequest, ended: Callable[[], None]
    ) -> None: ...


class Warming:
    """Notes prompts, and warms workers that come when there are some."""

    def __init__(
        self,
        settings: WarmupSettings,
        routers: Sequence[SimulatedRouter],
        agenda: Agenda,
        tally: Tally,
        submit: Submit,
    ) -> None:
        self._settings = settings
        self._routers = routers
        self._agenda = agenda
        self._tally = tally
        self._submit = submit
        self._hot = HotPrefixes(settings.bytes_max, settings.runs_max, settings.half_life_s)

    def answered(self, life: Life, worker: SimulatedWorker) -> None:
        """A request was answered whole."""
        if self._settings.enabled:
            size = worker.record.block_size
            origin = Origin(worker.record.model, block_tokens=life.prompt.block_tokens(size))
            self._hot.note(origin, life.prompt.hashes(size), (), self._agenda.clock.now_s)

    def joined(self, worker: SimulatedWorker) -> None:
        """A worker has come, with an empty cache."""
        now_s, record = self._agenda.clock.now_s, worker.record
        if not self._settings.enabled:
            return
        replays = chosen(self._hot, record, self._settings, now_s)
        if not replays:
            return
        for router in self._routers:
            router.fleet.hold(record.worker_id, record.incarnation)
        self._agenda.at(now_s + self._settings.deadline_s, partial(self._let_in, worker))
        todo = list(enumerate(replays))
        todo.reverse()
        for _ in range(self._settings.concurrency):
            self._next(worker, todo)

    def _next(self, worker: SimulatedWorker, todo: list[tuple[int, Replay]]) -> None:
        model = worker.record.model
        needed = any(router.turns.waiting(model) for router in self._routers)
        if not todo or needed or worker.is_dead or not worker.is_held:
            if not worker.replays:
                self._let_in(worker)
            return
        number, replay = todo.pop()
        self._tally.replayed_tokens += replay.tokens
        request = SimRequest(
            request_id=f"warm-up {number}",
            prompt_len=replay.tokens,
            block_keys=list(replay.hashes),
            output_len=1,
            arrival_s=self._agenda.clock.now_s,
            priority=1,
            decode_key=lambda block: -1 - block,
        )
        self._submit(worker, request, partial(self._next, worker, todo))

    def _let_in(self, worker: SimulatedWorker) -> None:
        record = worker.record
        worker.is_held = False
        for router in self._routers:
            router.fleet.admit(record.worker_id, record.incarnation)
            router.turns.pump(record.model)
