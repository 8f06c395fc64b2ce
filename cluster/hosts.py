"""What the controller asks of whoever runs workers: Ray in a cluster, a dictionary in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cluster.placement import NodeResources
from rhizome.fleet.models import ModelSpec


@dataclass(frozen=True, slots=True)
class HostView:
    """What a host runs now."""

    living: frozenset[str] = frozenset()
    """Workers that were started and neither stopped nor lost for good. One that waits for a place,
    loads, or is being brought back after a death counts as living."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Why a worker's process died before it could say so itself; each death is told once."""
    nodes: tuple[NodeResources, ...] = ()


class WorkerHost(Protocol):
    """Runs workers by id. Every call ends within its deadline and raises `ClusterError` when the
    host does not answer; what it was asked may then have happened or not."""

    async def look(self) -> HostView: ...

    async def start(self, worker_id: str, spec: ModelSpec) -> None:
        """Starts the worker unless one of that id lives; returns before it is ready."""
        ...

    async def drain(self, worker_id: str, grace_s: float) -> None:
        """Returns once the worker runs no request, or is gone, at the latest after `grace_s`."""
        ...

    async def stop(self, worker_id: str) -> None:
        """Ends the worker for good and frees what it reserved; nothing happens if it is gone."""
        ...
