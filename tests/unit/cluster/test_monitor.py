from __future__ import annotations

import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from cluster.metrics import ControllerMetrics
from cluster.monitor import serve_monitor
from rhizome.errors import PortInUse


async def test_metrics_and_health_are_served() -> None:
    registry = CollectorRegistry()
    ControllerMetrics(registry).led(leading=True)
    async with (
        serve_monitor("127.0.0.1", 0, registry, lambda: {"leading": True}) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        async with session.get("/metrics") as page:
            assert "controller_leading 1.0" in await page.text()
        async with session.get("/health") as health:
            assert await health.json() == {"leading": True}


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            async with serve_monitor("127.0.0.1", port, CollectorRegistry(), dict):
                pass
