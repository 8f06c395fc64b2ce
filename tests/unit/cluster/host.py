"""A worker host in memory: workers are ready when it is told so, and die when it is told so."""

from __future__ import annotations

from cluster.hosts import HostView
from cluster.placement import NodeResources
from rhizome.errors import ClusterError
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.stores.registry import Registry

LEASE_S = 6.0


class MemoryHost:
    """A `WorkerHost` that registers its workers itself."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.workers: dict[str, WorkerRecord] = {}
        self.starts: list[str] = []
        self.drained: list[str] = []
        self.stopped: list[str] = []
        self.reachable = True
        self.nodes = [NodeResources("n1", {"CPU": 8.0})]
        self.refuses: dict[str, str] = {}

    async def look(self) -> HostView:
        self._check()
        for record in self.workers.values():
            await self.registry.put(record, LEASE_S)
        return HostView(frozenset(self.workers), nodes=tuple(self.nodes))

    async def start(self, worker_id: str, spec: ModelSpec) -> None:
        self._check()
        if spec.name in self.refuses:
            raise ClusterError(self.refuses[spec.name])
        if worker_id in self.workers:
            return
        self.starts.append(worker_id)
        self.workers[worker_id] = WorkerRecord(
            worker_id=worker_id,
            incarnation=f"inc-{len(self.starts)}",
            model=spec.name,
            url="http://127.0.0.1:9",
            state=WorkerState.READY,
            started_wall_s=float(len(self.starts)),
        )

    async def drain(self, worker_id: str, grace_s: float) -> None:
        self._check()
        self.drained.append(worker_id)

    async def stop(self, worker_id: str) -> None:
        self._check()
        self.stopped.append(worker_id)
        await self.lose(worker_id)

    async def lose(self, worker_id: str) -> None:
        """The worker is gone, and so is its entry."""
        record = self.workers.pop(worker_id, None)
        if record is not None:
            await self.registry.withdraw(worker_id, record.incarnation)

    def _check(self) -> None:
        if not self.reachable:
            raise ClusterError("Ray does not answer")
