"""The desired state in memory."""

from __future__ import annotations

from collections.abc import Mapping

from rhizome.clock import Clock
from rhizome.fleet.models import ModelSpec
from rhizome.stores.desired import ModelTarget
from rhizome.stores.memory.leased import LeasedEntries


class MemoryDesiredState:
    """A `DesiredState`."""

    def __init__(self, clock: Clock) -> None:
        self._specs: dict[str, ModelSpec] = {}
        self._targets: dict[str, ModelTarget] = {}
        self._drains: LeasedEntries[None] = LeasedEntries(clock)

    async def put_spec(self, spec: ModelSpec) -> None:
        self._specs[spec.name] = spec

    async def remove_spec(self, model: str) -> bool:
        self._targets.pop(model, None)
        return self._specs.pop(model, None) is not None

    async def specs(self) -> Mapping[str, ModelSpec]:
        return dict(self._specs)

    async def put_target(self, model: str, target: ModelTarget) -> None:
        self._targets[model] = target

    async def targets(self) -> Mapping[str, ModelTarget]:
        return dict(self._targets)

    async def request_drain(self, worker_id: str, ttl_s: float) -> None:
        self._drains.put(worker_id, "", None, ttl_s)

    async def cancel_drain(self, worker_id: str) -> bool:
        return self._drains.remove(worker_id, "")

    async def draining(self) -> frozenset[str]:
        return frozenset(worker_id for worker_id, _ in self._drains.items())
