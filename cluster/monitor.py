"""The controller's own small HTTP page: `/metrics` and `/health`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rhizome.errors import PortInUse


@asynccontextmanager
async def serve_monitor(
    host: str, port: int, registry: CollectorRegistry, health: Callable[[], dict[str, object]]
) -> AsyncIterator[int]:
    """Serves until the block is left; yields the port. Raises `PortInUse`.

    `/health` answers 200 for a standby too: it is doing its work.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response(health())

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/health", healthy)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{port} for the controller's metrics: {error.strerror}",
                advice="Choose another `controller.metrics_port`.",
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
