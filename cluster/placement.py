"""Where the ranks of one worker go: the resources to reserve and how they may be spread.

Why: an engine group that is placed wrong does not fail at once, it hangs or crawls. So the shape is
decided here, before anything starts, and a spec that can never fit is refused with its cause.

Rules: tensor-parallel ranks share a node, always. A group that fits one node stays on one node
(`STRICT_PACK`). A larger one is cut into equal chunks, one node each (`STRICT_SPREAD`): whole
data-parallel ranks where one fits a node, else whole pipeline stages. Equal, because the engine's
own launch over several nodes wants the same number of ranks on each. Chunk 0 is where the worker's
actor runs, so that the engine's driver is always inside its own group.

Left out: talking to Ray (`cluster/ray_workers.py`), and network topology between nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rhizome.errors import ClusterError
from rhizome.fleet.models import ModelSpec

Strategy = Literal["STRICT_PACK", "STRICT_SPREAD"]
Bundle = Mapping[str, float]

_ACCELERATOR = "accelerator_type:"
_TYPE_SHARE = 0.001
"""Ray's nodes hold 1.0 of their accelerator type: a share that binds without using it up."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What one worker reserves: Ray resources by chunk of ranks, chunk 0 with the actor."""

    bundles: tuple[Bundle, ...]
    strategy: Strategy

    @property
    def needs_group(self) -> bool:
        """Whether a placement group is needed: one chunk is just the actor's own demand."""
        return len(self.bundles) > 1


@dataclass(frozen=True, slots=True)
class NodeResources:
    """A living node and all that it could give, used or not."""

    node: str
    resources: Mapping[str, float]


def placement(spec: ModelSpec, devices_per_node: int | None) -> Placement:
    """The placement of one worker of `spec` on nodes of `devices_per_node` devices.

    None: the size of the nodes is not known, and the group goes on one. Raises `ClusterError` that
    names the parallelism and the size that do not go together.
    """
    chunks = 1 if devices_per_node is None else _chunks(spec, devices_per_node)
    bundle = _bundle(spec, spec.parallel.devices // chunks)
    strategy: Strategy = "STRICT_PACK" if chunks == 1 else "STRICT_SPREAD"
    return Placement(bundles=(bundle,) * chunks, strategy=strategy)


def place(spec: ModelSpec, nodes: Sequence[NodeResources]) -> Placement:
    """The placement of one worker of `spec` on the nodes that there are.

    Nodes of the right kind that do not exist yet are not an error: an autoscaler may bring them.
    Raises `ClusterError` when those that exist are too small or too few.
    """
    sizes = [size for size in (_devices(spec, node) for node in nodes) if size]
    placed = placement(spec, max(sizes, default=None))
    per_chunk = spec.parallel.devices // len(placed.bundles)
    room = sum(size >= per_chunk for size in sizes)
    if sizes and room < len(placed.bundles):
        raise ClusterError(
            f"model {spec.name!r} needs {len(placed.bundles)} nodes of {per_chunk} "
            f"{_device_words(spec)}, and {room} of the cluster's nodes have that many",
            advice="Add nodes, or lower tensor, pipeline or data parallelism in the model's spec.",
        )
    return placed


def shortage(spec: ModelSpec, nodes: Sequence[NodeResources]) -> str:
    """Why a worker of `spec` may be waiting for a place, for people; empty when it should fit."""
    if not nodes:
        return "the cluster has no living node"
    need = _bundle(spec, spec.parallel.devices)
    for resource, amount in need.items():
        most = max(node.resources.get(resource, 0.0) for node in nodes)
        if most >= amount:
            continue
        if resource.startswith(_ACCELERATOR):
            return f"no node has GPU type {spec.gpu_type!r} (the cluster has {_gpu_types(nodes)})"
        return f"no node has {amount:g} {resource} (the largest has {most:g})"
    return ""


def _chunks(spec: ModelSpec, devices: int) -> int:
    """How many equal chunks of ranks the group is cut into."""
    shape = spec.parallel
    if shape.devices <= devices:
        return 1
    if shape.tensor > devices:
        raise ClusterError(
            f"model {spec.name!r} cannot be placed: tensor parallelism {shape.tensor} needs "
            f"{shape.tensor} {_device_words(spec)} on one node, and the largest node has {devices}",
            advice="Lower `parallel.tensor`, raise `parallel.pipeline`, or add larger nodes.",
        )
    replica = shape.tensor * shape.pipeline
    if replica <= devices:
        return shape.data // _largest_divisor(shape.data, devices // replica)
    stages = _largest_divisor(shape.pipeline, devices // shape.tensor)
    return shape.data * (shape.pipeline // stages)


def _largest_divisor(number: int, at_most: int) -> int:
    return next(size for size in range(min(number, at_most), 0, -1) if number % size == 0)


def _bundle(spec: ModelSpec, ranks: int) -> dict[str, float]:
    bundle: dict[str, float] = {}
    if spec.cpus_per_worker:
        bundle["CPU"] = spec.cpus_per_worker * ranks
    if spec.device == "gpu":
        bundle["GPU"] = float(ranks)
        if spec.gpu_type is not None:
            bundle[_ACCELERATOR + spec.gpu_type] = _TYPE_SHARE
    return bundle


def _devices(spec: ModelSpec, node: NodeResources) -> int | None:
    """Ranks of `spec` that the empty node could hold; None when it bounds nothing."""
    if spec.device == "gpu":
        wrong_type = spec.gpu_type is not None and not node.resources.get(
            _ACCELERATOR + spec.gpu_type
        )
        return None if wrong_type else int(node.resources.get("GPU", 0.0))
    if not spec.cpus_per_worker:
        return None
    return int(node.resources.get("CPU", 0.0) / spec.cpus_per_worker)


def _device_words(spec: ModelSpec) -> str:
    if spec.device == "gpu":
        return f"GPUs of type {spec.gpu_type}" if spec.gpu_type else "GPUs"
    return f"ranks of {spec.cpus_per_worker:g} CPU cores"


def _gpu_types(nodes: Sequence[NodeResources]) -> str:
    types = {
        resource.removeprefix(_ACCELERATOR)
        for node in nodes
        for resource in node.resources
        if resource.startswith(_ACCELERATOR)
    }
    return ", ".join(sorted(types)) or "no GPU"
