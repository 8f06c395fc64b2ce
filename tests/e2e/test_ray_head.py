"""A real Ray head that cannot have its port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cluster.local.layout import ClusterFiles
from cluster.local.ports import free_port
from cluster.local.ray_head import RayHead, RayPortTaken, ray_environment
from rhizome.clock import SystemClock
from rhizome.settings.load import environment_copy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_a_port_that_was_taken_meanwhile_is_told_apart(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path)
    files.make()
    environment = {**environment_copy(), **ray_environment(files.ray_token)}
    port = free_port("127.0.0.1", frozenset())
    head = RayHead(files, port, environment=environment, clock=SystemClock())
    with socket.create_server(("127.0.0.1", port)):
        head.launch()
        try:
            with pytest.raises(RayPortTaken, match=str(port)):
                await head.wait_started()
        finally:
            await head.stop(20.0)
