"""Puts a worker together from its settings: listener, key, engine, runner."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from rhizome.clock import Clock
from rhizome.fleet.models import ModelSpec
from rhizome.ids import new_key
from rhizome.settings.load import environment_copy
from rhizome.settings.tree import Settings
from rhizome.stores.registry import Registry
from workers.addresses import http_url, listen_on, reachable_host
from workers.engine.base import Engine
from workers.engine.process import HostOptions, VllmEngine
from workers.engine.simulated.engine import SimulatedEngine
from workers.runner import WorkerPlace, WorkerRunner


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What stays the same from one life of a worker to the next."""

    worker_id: str
    spec: ModelSpec
    settings: Settings
    port: int = 0
    """Port of the engine's HTTP; 0 takes a free one for every life."""
    api_key: str | None = None
    """The engine's key; None makes a new one for every life."""


def new_life(
    plan: WorkerPlan, registry: Registry, clock: Clock, *, failed_lease_s: float = 60.0
) -> WorkerRunner:
    """A runner with an engine that was not started; its port is already taken.

    Raises `StartError`: `PortInUse`, or what the settings lack.
    """
    worker = plan.settings.worker
    listener = listen_on(worker.host, plan.port)
    engine = _engine(plan, listener, clock)
    place = WorkerPlace(
        worker_id=plan.worker_id,
        url=http_url(reachable_host(worker.host), listener.getsockname()[1]),
        node=socket.gethostname(),
        pid=os.getpid(),
    )
    return WorkerRunner(
        place, plan.spec, worker, engine, registry, clock, failed_lease_s=failed_lease_s
    )


def _engine(plan: WorkerPlan, listener: socket.socket, clock: Clock) -> Engine:
    models = models_directory(plan.settings)
    worker, key = plan.settings.worker, plan.api_key or new_key()
    if plan.spec.engine == "simulated":
        return SimulatedEngine(plan.spec, worker, models, listener, key, clock)
    options = HostOptions(worker, models, environment_copy())
    return VllmEngine(plan.spec, options, listener, key)


def models_directory(settings: Settings) -> Path:
    """Where demonstration models are kept, shared by all clusters of this user."""
    return settings.state_directory.expanduser() / "models"
