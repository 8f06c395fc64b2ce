"""What the supervisor does when Ray's port is lost between its choice and its use."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from cluster.local.layout import ClusterFiles
from cluster.local.progress import TerminalProgress
from cluster.local.ray_head import RayHead, RayPortTaken
from cluster.local.supervisor import LocalCluster
from rhizome.clock import ManualClock
from rhizome.settings.tree import Settings


class Head:
    """A Ray head whose port is taken, or not."""

    def __init__(self, *, is_taken: bool) -> None:
        self.is_taken = is_taken
        self.stopped = False

    async def wait_started(self) -> None:
        if self.is_taken:
            raise RayPortTaken("the port is taken")

    async def stop(self, grace_s: float) -> None:
        self.stopped = True


class Cluster(LocalCluster):
    """A local cluster that is given its Ray heads."""

    def __init__(self, directory: Path, heads: list[Head]) -> None:
        clock = ManualClock()
        files = ClusterFiles(directory)
        super().__init__(Settings(), files, TerminalProgress(Console()), clock)
        self.heads = heads

    def _launch_ray(self) -> RayHead:
        return self.heads.pop(0)  # type: ignore[return-value]  # a stand-in

    async def start_ray(self) -> None:
        await self._wait_ray(self._launch_ray())


async def test_ray_starts_with_another_port_when_its_own_is_taken(tmp_path: Path) -> None:
    heads = [Head(is_taken=True), Head(is_taken=True), Head(is_taken=False)]
    cluster = Cluster(tmp_path, list(heads))
    await cluster.start_ray()
    assert [head.stopped for head in heads] == [True, True, False]
    assert cluster.heads == []


async def test_it_does_not_try_for_ever(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, [Head(is_taken=True) for _ in range(5)])
    with pytest.raises(RayPortTaken):
        await cluster.start_ray()
    assert len(cluster.heads) == 2
