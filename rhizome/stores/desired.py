"""What was asked of the cluster, and what its controller last did about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from rhizome.fleet.models import ModelSpec


class ModelTarget(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers a model should have now, and who said so."""

    workers: int
    reason: str = ""
    """One line for people, e.g. `rhizome scale` or the autoscaler's explanation."""
    by: str = "operator"
    """`operator` or `autoscaler`."""
    at_wall_s: float = 0.0


class DesiredState(Protocol):
    """Model specs and worker targets, by model name."""

    async def put_spec(self, spec: ModelSpec) -> None: ...

    async def remove_spec(self, model: str) -> bool:
        """Removes spec and target; False when there was none."""
        ...

    async def specs(self) -> Mapping[str, ModelSpec]: ...

    async def put_target(self, model: str, target: ModelTarget) -> None: ...

    async def targets(self) -> Mapping[str, ModelTarget]: ...

    async def request_drain(self, worker_id: str, ttl_s: float) -> None:
        """Asks everybody to send nothing new to the worker; forgotten after `ttl_s`."""
        ...

    async def cancel_drain(self, worker_id: str) -> bool:
        """Takes the request back; False when there was none."""
        ...

    async def draining(self) -> frozenset[str]:
        """Worker ids under a drain request."""
        ...
