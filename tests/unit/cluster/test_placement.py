from __future__ import annotations

from typing import Any

import pytest

from cluster.placement import NodeResources, Placement, place, placement, shortage
from rhizome.errors import ClusterError
from rhizome.fleet.models import ModelSpec, Parallelism


def spec(tensor: int = 1, pipeline: int = 1, data: int = 1, **more: Any) -> ModelSpec:
    shape = Parallelism(tensor=tensor, pipeline=pipeline, data=data)
    return ModelSpec.model_validate(
        {"name": "m", "source": "x", "device": "gpu", "parallel": shape, **more}
    )


def gpus(placed: Placement) -> list[float]:
    return [bundle["GPU"] for bundle in placed.bundles]


def gpu_node(name: str, count: int, kind: str | None = None) -> NodeResources:
    resources = {"CPU": 64.0, "GPU": float(count)}
    if kind:
        resources[f"accelerator_type:{kind}"] = 1.0
    return NodeResources(node=name, resources=resources)


def test_a_group_that_fits_a_node_is_one_bundle_on_one_node() -> None:
    placed = placement(spec(tensor=4, pipeline=2), devices_per_node=8)
    assert gpus(placed) == [8]
    assert placed.strategy == "STRICT_PACK"
    assert not placed.needs_group


def test_pipeline_stages_spread_over_nodes_and_tensor_ranks_stay_together() -> None:
    placed = placement(spec(tensor=8, pipeline=2), devices_per_node=8)
    assert gpus(placed) == [8, 8]
    assert placed.strategy == "STRICT_SPREAD"
    assert placed.needs_group


def test_as_many_stages_share_a_node_as_divide_the_pipeline_evenly() -> None:
    assert gpus(placement(spec(tensor=2, pipeline=6), devices_per_node=8)) == [6, 6]
    assert gpus(placement(spec(tensor=4, pipeline=3), devices_per_node=8)) == [4, 4, 4]


def test_data_parallel_ranks_are_not_cut_where_one_fits_a_node() -> None:
    assert gpus(placement(spec(tensor=4, data=4), devices_per_node=8)) == [8, 8]
    assert gpus(placement(spec(tensor=4, data=3), devices_per_node=8)) == [4, 4, 4]


def test_large_data_parallel_ranks_are_cut_by_stages() -> None:
    assert gpus(placement(spec(tensor=8, pipeline=2, data=2), devices_per_node=8)) == [8] * 4


def test_nodes_of_unknown_size_get_the_whole_group() -> None:
    assert gpus(placement(spec(tensor=16), devices_per_node=None)) == [16]


def test_tensor_parallelism_beyond_a_node_is_refused_by_name_and_size() -> None:
    with pytest.raises(ClusterError, match=r"tensor parallelism 16 .* largest node has 8"):
        placement(spec(tensor=16), devices_per_node=8)


def test_gpu_type_is_a_sliver_of_the_nodes_accelerator_resource() -> None:
    (bundle,) = placement(spec(tensor=2, gpu_type="H100", cpus_per_worker=4), 8).bundles
    assert bundle == {"GPU": 2, "CPU": 8, "accelerator_type:H100": 0.001}


def test_cpu_ranks_reserve_cores_and_no_gpu() -> None:
    (bundle,) = placement(spec(tensor=2, device="cpu", cpus_per_worker=1.5), None).bundles
    assert bundle == {"CPU": 3.0}


def test_cpu_ranks_without_a_reservation_demand_nothing() -> None:
    (bundle,) = placement(spec(device="cpu"), 1).bundles
    assert bundle == {}


def test_only_nodes_of_the_asked_gpu_type_count() -> None:
    nodes = [gpu_node("a", 8, "A100"), gpu_node("b", 4, "H100"), gpu_node("c", 4, "H100")]
    assert gpus(place(spec(tensor=4, pipeline=2, gpu_type="H100"), nodes)) == [4, 4]


def test_too_few_nodes_of_the_needed_size_are_refused() -> None:
    nodes = [gpu_node("a", 8), gpu_node("b", 2)]
    with pytest.raises(ClusterError, match=r"needs 2 nodes of 8 GPUs, and 1 of"):
        place(spec(tensor=8, pipeline=2), nodes)


def test_a_gpu_type_that_may_still_come_is_not_refused_but_named() -> None:
    wanted = spec(tensor=2, gpu_type="H900")
    nodes = [gpu_node("a", 8, "H100")]
    assert gpus(place(wanted, nodes)) == [2]
    assert shortage(wanted, nodes) == "no node has GPU type 'H900' (the cluster has H100)"


def test_cpu_nodes_hold_as_many_ranks_as_their_cores_allow() -> None:
    nodes = [NodeResources(name, {"CPU": 4.0}) for name in ("a", "b")]
    placed = place(spec(pipeline=4, device="cpu", cpus_per_worker=2), nodes)
    assert [dict(bundle) for bundle in placed.bundles] == [{"CPU": 4.0}, {"CPU": 4.0}]


def test_shortage_is_silent_when_a_node_has_room_and_says_when_none_lives() -> None:
    assert shortage(spec(tensor=2), [gpu_node("a", 2)]) == ""
    assert shortage(spec(tensor=4), [gpu_node("a", 2)]) == "no node has 4 GPU (the largest has 2)"
    assert shortage(spec(), []) == "the cluster has no living node"
