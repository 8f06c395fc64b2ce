from __future__ import annotations

from pathlib import Path

import pytest

from rhizome.cli.scale import set_target
from rhizome.cli.stores import cluster_settings, cluster_stores
from rhizome.clock import ManualClock
from rhizome.errors import ClusterError
from rhizome.fleet.models import ModelSpec, ScalingBounds
from rhizome.settings.tree import Settings
from rhizome.stores.memory.desired import MemoryDesiredState


@pytest.fixture
async def desired() -> MemoryDesiredState:
    state = MemoryDesiredState(ManualClock())
    await state.put_spec(ModelSpec(name="fixed", source="x"))
    bounds = ScalingBounds(min_workers=1, max_workers=4)
    await state.put_spec(ModelSpec(name="scaled", source="x", scaling=bounds))
    return state


async def test_the_target_is_written_as_the_operators(desired: MemoryDesiredState) -> None:
    assert await set_target(desired, "fixed", 3, ManualClock()) == "fixed is to have 3 workers"
    target = (await desired.targets())["fixed"]
    assert (target.workers, target.by) == (3, "operator")
    again = await set_target(desired, "fixed", 0, ManualClock())
    assert again == "fixed is to have 0 workers (it was 3)"


async def test_a_number_outside_the_bounds_is_refused(desired: MemoryDesiredState) -> None:
    with pytest.raises(ClusterError, match="scaled may have 1 to 4 workers, not 9"):
        await set_target(desired, "scaled", 9, ManualClock())
    assert await desired.targets() == {}


async def test_an_unknown_model_is_refused_with_the_nearest_name(
    desired: MemoryDesiredState,
) -> None:
    with pytest.raises(ClusterError, match="no model 'scald'") as refused:
        await set_target(desired, "scald", 1, ManualClock())
    assert refused.value.advice == "Did you mean 'scaled'?"


def test_a_cluster_that_does_not_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHIZOME_STATE_DIRECTORY", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster named 'blue' runs") as refused:
        cluster_settings(None, "blue")
    assert "rhizome up" in refused.value.advice


def test_the_settings_of_the_running_local_cluster_are_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHIZOME_STATE_DIRECTORY", str(tmp_path))
    directory = tmp_path / "clusters" / "blue"
    directory.mkdir(parents=True)
    (directory / "settings.yaml").write_text("redis: {namespace: blue}\n")
    assert cluster_settings(None, "blue").redis.namespace == "blue"


async def test_settings_without_a_redis_have_nothing_to_ask() -> None:
    with pytest.raises(ClusterError, match="name no Redis"):
        async with cluster_stores(Settings()):
            pass
