"""Workers and models: what there is, and adding, removing and draining by hand."""

from __future__ import annotations

from fastapi import APIRouter, Request

from router.admin.parts import Parts
from router.admin.steering import Steering, worker_of
from router.admin.views import (
    Done,
    Drain,
    ModelList,
    ModelView,
    NewWorker,
    WorkerList,
    WorkerView,
)
from router.fleet import WorkerView as FleetView
from router.fleet import names_of, targets_of
from router.trust.causes import State

_WORST_FIRST = (State.FALLBACK, State.DEGRADED, State.EXACT)


def build_workers(parts: Parts) -> APIRouter:
    """Routes for workers."""
    routes = APIRouter(prefix="/admin/v1", tags=["workers"])
    steering = Steering(parts)

    def done(worker_id: str, words: str) -> Done:
        return Done(router=parts.router_id, worker=worker_id, done=words)

    @routes.get("/workers")
    async def list_workers() -> WorkerList:
        """All workers, as this router sees them."""
        return WorkerList(router=parts.router_id, workers=_workers(parts))

    @routes.post("/workers", status_code=201)
    async def add_worker(new: NewWorker, request: Request) -> Done:
        """Adds a worker to this router, until it ends or, with `router.admin.workers_file`, until
        it is removed; it joins when it answers."""
        worker = worker_of(new)
        request.state.audit_note = f"worker {worker.worker_id}"
        return done(worker.worker_id, steering.add(worker))

    @routes.post("/workers/{worker_id:path}/drain")
    async def drain_worker(worker_id: str, asked: Drain, request: Request) -> Done:
        """Nothing new goes to the worker; what runs there may finish. One of the registry is
        drained for all routers."""
        request.state.audit_note = f"for {asked.for_s:g} s"
        return done(worker_id, await steering.drain(worker_id, asked.for_s))

    @routes.delete("/workers/{worker_id:path}/drain")
    async def resume_worker(worker_id: str) -> Done:
        """Takes a drain back."""
        return done(worker_id, await steering.resume(worker_id))

    @routes.delete("/workers/{worker_id:path}")
    async def remove_worker(worker_id: str) -> Done:
        """Removes a worker given by hand from this router; what runs there may finish."""
        return done(worker_id, await steering.remove(worker_id))

    return routes


def build_models(parts: Parts) -> APIRouter:
    """Routes for models."""
    routes = APIRouter(prefix="/admin/v1", tags=["models"])

    @routes.get("/models")
    async def list_models() -> ModelList:
        """All models, as this router sees them."""
        return ModelList(
            router=parts.router_id, policy=parts.dispatcher.policy.name, models=_models(parts)
        )

    return routes


def _workers(parts: Parts) -> list[WorkerView]:
    views = [_worker(parts, view) for view in parts.fleet.views()]
    known = {view.worker for view in views}
    views += [
        WorkerView(
            worker=worker_id,
            source="settings",
            model=None,
            url=url,
            state="silent",
            detail="it has not answered yet",
            in_flight=0,
            queued_tokens=0,
            index_blocks=0,
            trust=None,
        )
        for worker_id, url in parts.static.addresses().items()
        if worker_id not in known
    ]
    return sorted(views, key=lambda view: (view.model or "", view.worker))


def _worker(parts: Parts, view: FleetView) -> WorkerView:
    record, dispatcher = view.record, parts.dispatcher
    targets = [target.target_id for target in targets_of(record)]
    trusts = {trust.state for one in targets if (trust := dispatcher.trust.get(one)) is not None}
    states = {"suspended": view.suspended, "draining": view.draining, "warming": view.warming}
    return WorkerView(
        worker=record.worker_id,
        source="settings" if record.worker_id in parts.static else "registry",
        model=record.model,
        url=record.url,
        state=next((name for name, is_so in states.items() if is_so), record.state.value),
        detail=view.detail or record.detail,
        in_flight=sum(map(dispatcher.book.in_flight, targets)),
        queued_tokens=sum(map(dispatcher.book.queued_tokens, targets)),
        index_blocks=sum(map(dispatcher.index.block_count, targets)),
        trust=next((state.value for state in _WORST_FIRST if state in trusts), None),
    )


def _models(parts: Parts) -> list[ModelView]:
    records = parts.fleet.records()
    return [
        ModelView(
            model=model,
            workers=sum(model in names_of(record) for record in records),
            eligible=len(parts.fleet.eligible(model)),
            in_flight=parts.dispatcher.in_flight(model),
            waiting=parts.gate.waiting(model),
            oldest_wait_s=round(parts.gate.oldest_wait_s(model), 3),
        )
        for model in parts.fleet.models()
    ]
