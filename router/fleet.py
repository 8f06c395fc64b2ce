"""What this router knows of the workers: a state machine without I/O, clock or tasks of its own.

Discovery feeds it (records, probes, load reports, drain requests), the relay adds what it saw
(failed dispatches), and the dispatcher asks it which targets may take a request. A worker whose
incarnation changes is a new worker: listeners see the old one leave and the new one join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from rhizome.errors import NotReady, RequestError, UnknownModel
from rhizome.fleet.records import WorkerRecord, WorkerState

_MODELS_REMEMBERED_MAX = 1024
_RETRY_AFTER_LOOKING_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine reports of itself."""

    running: int
    waiting: int
    kv_usage: float
    """Share of KV blocks in use, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something a request can be sent to: a worker, or one data-parallel rank of it."""

    target_id: str
    record: WorkerRecord
    rank: int | None = None
    """The data-parallel rank to ask for; None where the worker has one rank."""


class FleetListener(Protocol):
    """Told when a worker's incarnation is ready and when it is gone; must not raise or block.

    The pair matches: `left` comes once for each `joined`, with the same record. A worker whose
    facts change (an event source, a block size) leaves and joins.
    """

    def joined(self, record: WorkerRecord) -> None: ...

    def left(self, record: WorkerRecord) -> None: ...


@dataclass(slots=True)
class _Worker:
    record: WorkerRecord
    targets: tuple[Target, ...]
    announced: WorkerRecord | None = None
    """What listeners were told."""
    failures: int = 0
    suspended: bool = False
    warming: bool = False
    detail: str = ""
    loads: dict[str, EngineLoad] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as this router sees it, for status pages and metrics."""

    record: WorkerRecord
    suspended: bool
    draining: bool
    warming: bool
    """Held back until its cache is warm, or its deadline."""
    detail: str


def names_of(record: WorkerRecord) -> tuple[str, ...]:
    """What requests may ask the worker for: its model, and adapters of it."""
    return (record.model, *record.adapters)


def targets_of(record: WorkerRecord) -> tuple[Target, ...]:
    """The routing targets of a worker: itself, or one for each data-parallel rank."""
    if record.data_parallel == 1:
        return (Target(record.worker_id, record),)
    return tuple(
        Target(f"{record.worker_id}/{rank}", record, rank) for rank in range(record.data_parallel)
    )


class Fleet:
    """The workers by id. All methods are synchronous and cheap.

    `told_in_flight` tells how many requests at a target are known by name: this router's, and those
    that other routers told of. What a load report has beyond them is somebody else's.
    """

    def __init__(
        self,
        failures_to_suspend: int,
        listeners: Iterable[FleetListener] = (),
        told_in_flight: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._failures_to_suspend = failures_to_suspend
        self._told_in_flight = told_in_flight
        self._listeners = list(listeners)
        self._workers: dict[str, _Worker] = {}
        self._drains: dict[str, frozenset[str]] = {}
        self._draining: frozenset[str] = frozenset()
        self._models_seen: dict[str, None] = {}
        self._looking: set[str] = set()
        self._expected: frozenset[str] = frozenset()
        self.generation = 0
        """Counts up whenever `eligible` may give other targets than before."""
        self.changed: set[str] = set()
        """Targets with a new load report, for a reader that empties it."""
        self._eligible: dict[str, tuple[Target, ...]] = {}
        self._record_of: dict[str, WorkerRecord] = {}
        self._found_at = -1
        """The generation that the two above hold for."""

    def listen(self, listener: FleetListener) -> None:
        """Adds a listener; it is told of the workers already here."""
        self._listeners.append(listener)
        for worker in self._workers.values():
            if worker.announced is not None:
                listener.joined(worker.announced)

    @property
    def is_looking(self) -> bool:
        """Whether a source of workers has not told of those that there are: models that nobody
        serves may yet turn up."""
        return bool(self._looking)

    def begin_look(self, source: str) -> None:
        """The source is about to tell of workers; pairs with `end_look`."""
        self._looking.add(source)

    def end_look(self, source: str) -> None:
        """The source has told of all that it knows; once it has, it is never looking again."""
        self._looking.discard(source)

    def expect(self, models: Iterable[str]) -> None:
        """Models that are to have workers; replaces those expected before."""
        self._expected = frozenset(models)

    def upsert(self, record: WorkerRecord, now_s: float) -> None:
        """Takes a worker's newest record."""
        worker = self._workers.get(record.worker_id)
        if worker is not None and worker.record == record:
            return
        if worker is not None and worker.record.incarnation == record.incarnation:
            worker.record = record
            worker.targets = targets_of(record)
        else:
            if worker is not None:
                self._tell_left(worker)
            worker = self._workers[record.worker_id] = _Worker(record, targets_of(record))
        for name in names_of(record):
            self._remember(name)
        self.generation += 1
        self._announce(worker)

    def remove(self, worker_id: str, reason: str, now_s: float) -> None:
        """Forgets a worker (lease ended, withdrawn, removed by hand)."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            self.generation += 1
            self._tell_left(worker)

    def probe(self, worker_id: str, ok: bool, now_s: float, detail: str = "") -> None:
        """A health probe's result: failures in a row suspend the worker, one success frees it."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        if ok:
            self.generation += worker.suspended
            worker.failures, worker.suspended, worker.detail = 0, False, ""
            return
        worker.failures += 1
        worker.detail = detail
        if worker.failures >= self._failures_to_suspend:
            self.generation += not worker.suspended
            worker.suspended = True

    def dispatch_failed(self, worker_id: str, incarnation: str, detail: str) -> None:
        """A request could not reach the worker: nothing new goes there until a probe succeeds."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.record.incarnation == incarnation:
            self.generation += not worker.suspended
            worker.suspended, worker.detail = True, detail

    def hold(self, worker_id: str, incarnation: str) -> None:
        """Until `admit`, the worker gets requests only where no other one of its model could."""
        self._set_warming(worker_id, incarnation, warming=True)

    def admit(self, worker_id: str, incarnation: str) -> None:
        """The worker is held back no longer."""
        self._set_warming(worker_id, incarnation, warming=False)

    def _set_warming(self, worker_id: str, incarnation: str, *, warming: bool) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None and worker.record.incarnation == incarnation:
            self.generation += worker.warming is not warming
            worker.warming = warming

    def report(self, target_id: str, load: EngineLoad, now_s: float) -> None:
        """An engine's own view of its load."""
        worker = self._workers.get(target_id.rpartition("/")[0]) or self._workers.get(target_id)
        if worker is None:
            return
        worker.loads[target_id] = load
        there = load.running + load.waiting
        worker.elsewhere[target_id] = max(0, there - self._told_in_flight(target_id))
        self.changed.add(target_id)

    def drain(self, worker_ids: frozenset[str], by: str = "registry") -> None:
        """The workers that shall get nothing new; replaces the set given before `by` the same."""
        self._drains[by] = worker_ids
        draining = frozenset[str]().union(*self._drains.values())
        self.generation += draining != self._draining
        self._draining = draining

    def load(self, target: Target) -> EngineLoad | None:
        """The last report on a target."""
        worker = self._workers.get(target.record.worker_id)
        return worker.loads.get(target.target_id) if worker is not None else None

    def elsewhere(self, target: Target) -> int:
        """Requests at the target that no router told of, by the last report."""
        worker = self._workers.get(target.record.worker_id)
        return worker.elsewhere.get(target.target_id, 0) if worker is not None else 0

    def eligible(self, model: str) -> tuple[Target, ...]:
        """Targets that may take a new request for the model, in a stable order."""
        if self._found_at != self.generation:
            self._forget_outdated()
        found = self._eligible.get(model)
        if found is None:
            able = [worker for worker in self._workers.values() if self._is_able(worker, model)]
            free = [one for one in able if not one.warming] or able
            found = tuple(target for worker in free for target in worker.targets)
            if found:  # a name that nobody serves is anybody's: there is no end of them
                self._eligible[model] = found
        return found

    def _forget_outdated(self) -> None:
        """What was found before the fleet changed holds no more."""
        self._found_at = self.generation
        self._eligible.clear()
        self._record_of.clear()

    def _is_able(self, worker: _Worker, model: str) -> bool:
        record = worker.record
        return (
            model in names_of(record)
            and record.state is WorkerState.READY
            and not worker.suspended
            and record.worker_id not in self._draining
        )

    def worker(self, worker_id: str) -> WorkerRecord | None:
        found = self._workers.get(worker_id)
        return found.record if found is not None else None

    def records(self) -> tuple[WorkerRecord, ...]:
        return tuple(worker.record for worker in self._workers.values())

    def views(self) -> tuple[WorkerView, ...]:
        """All workers with what this router thinks of them."""
        return tuple(
            WorkerView(
                worker.record,
                worker.suspended,
                worker.record.worker_id in self._draining
                or worker.record.state is WorkerState.DRAINING,
                worker.warming,
                worker.detail,
            )
            for worker in self._workers.values()
        )

    def models(self) -> tuple[str, ...]:
        """Names of models and adapters that some living worker serves or loads, sorted."""
        return tuple(sorted({one for w in self._workers.values() for one in names_of(w.record)}))

    def knows_model(self, model: str) -> bool:
        """Whether the model is served now, was or is to be: `503, come back` and not `404`."""
        return model in self._models_seen or model in self._expected

    def unknown(self, model: str) -> RequestError:
        """The refusal of a model that nobody serves or served."""
        if self._looking:
            return NotReady(
                f"no worker of {model!r} is known yet: this router still looks for its workers",
                retry_after_s=_RETRY_AFTER_LOOKING_S,
            )
        known = ", ".join(self.models()) or "none yet"
        return UnknownModel(
            f"the model {model!r} does not exist; models served: {known}", param="model"
        )

    def record_of_model(self, model: str) -> WorkerRecord | None:
        """Some worker of the model, a ready one if there is one."""
        if self._found_at != self.generation:
            self._forget_outdated()
        known = self._record_of.get(model)
        if known is not None:
            return known
        of_model = [w.record for w in self._workers.values() if model in names_of(w.record)]
        ready = [record for record in of_model if record.state is WorkerState.READY]
        found = next(iter(ready or of_model), None)
        if found is not None:
            self._record_of[model] = found
        return found

    def _remember(self, model: str) -> None:
        self._models_seen.pop(model, None)
        self._models_seen[model] = None
        while len(self._models_seen) > _MODELS_REMEMBERED_MAX:
            del self._models_seen[next(iter(self._models_seen))]

    def _announce(self, worker: _Worker) -> None:
        """Tells of a worker that is ready for the first time, or whose facts have changed."""
        record = worker.record
        if record.state is not WorkerState.READY:
            return
        if worker.announced is not None:
            if _facts(worker.announced) == _facts(record):
                return
            self._tell_left(worker)
        worker.announced = record
        for listener in self._listeners:
            listener.joined(record)

    def _tell_left(self, worker: _Worker) -> None:
        record, worker.announced = worker.announced, None
        if record is not None:
            for listener in self._listeners:
                listener.left(record)


def _facts(record: WorkerRecord) -> tuple[object, ...]:
    """What listeners act on."""
    return (
        record.url,
        record.model_root,
        record.events,
        record.block_size,
        record.kv_blocks,
        record.redoes_last_block,
        record.chunk_tokens,
        record.data_parallel,
    )
