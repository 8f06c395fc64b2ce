"""The batch runner as a process: stores first, then lines until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

import aiohttp

from rhizome.clock import SystemClock
from rhizome.errors import SettingsError
from rhizome.ids import new_id
from rhizome.settings.tree import RouterSettings, Settings
from rhizome.stores.open import Stores, open_stores
from rhizome.tasks import Tasks
from router.batch.catalog import Catalog
from router.batch.contents import Contents
from router.batch.progress import Workplace
from router.batch.records import batch_directory
from router.batch.runner import BatchRunner
from router.batch.sender import LineSender

_log = logging.getLogger(__name__)
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - names them, binds nothing


def serve_batches(settings: Settings) -> None:
    """Runs a batch runner until SIGTERM or SIGINT, which give its lines back.

    Raises `StartError` where it cannot start.
    """
    if settings.redis.url is None:
        raise SettingsError(
            "a batch runner needs a Redis that it shares with the routers",
            advice="Set `redis.url`; `rhizome up` starts a server of its own.",
        )
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stores = await open_stores(settings.redis)
    try:
        async with Tasks("batch-process") as tasks:
            running = tasks.start("runner", _run(settings, stores))
            stopping = tasks.start("signals", stop.wait())
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            _log.info("batch runner stops; its lines go back to the queue")
    finally:
        await stores.close()


async def _run(settings: Settings, stores: Stores) -> None:
    clock, runner_id = SystemClock(), new_id("runner")
    place = Workplace(
        catalog=Catalog(stores.documents),
        contents=Contents(batch_directory(settings)),
        lines=stores.lines,
        lease=stores.lease,
        clock=clock,
        settings=settings.batch,
    )
    key = settings.batch.api_key or next(iter(settings.router.api_keys), None)
    connector = aiohttp.TCPConnector(limit=settings.batch.concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:
        sender = LineSender(
            session,
            settings.batch.router_url or _router_url(settings.router),
            None if key is None else key.get_secret_value(),
            settings.batch,
            clock,
        )
        _log.info("batch runner %s takes %s lines at once", runner_id, settings.batch.concurrency)
        await BatchRunner(place, sender, runner_id).run()


def _router_url(router: RouterSettings) -> str:
    host = _ANY_ADDRESS.get(router.host, router.host)
    return f"http://{host}:{router.port}"
