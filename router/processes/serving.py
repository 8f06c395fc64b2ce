"""The watching process: sockets first, then the router processes, then their common pages."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import uvloop

from rhizome.clock import Clock, SystemClock
from rhizome.settings.tree import Settings
from rhizome.tasks import Tasks
from router.admin.access import admin_keys
from router.http.front import app_front
from router.http.server.listener import Listener
from router.process import listen, require_keys, tls_context
from router.processes.together import MetricsPage, Steering, session
from router.processes.watcher import Watcher
from router.relay.deadlines import Deadlines

_log = logging.getLogger(__name__)
_PAGE_GRACE_S = 1.0


def serve_processes(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Runs `router.processes` routers behind one port until SIGTERM or SIGINT.

    SIGHUP replaces them one after the other under the settings that `reload` reads. Raises
    `StartError` where they cannot start.
    """
    router = settings.router
    require_keys(router)
    tls_context(router.http)
    with ExitStack() as stack:
        port = _free_port(router.host, router.port)
        metrics = stack.enter_context(
            listen(router.metrics_host, router.metrics_port, "--metrics-port")
        )
        admin = None
        if admin_keys(router.admin) is not None:
            admin = stack.enter_context(
                listen(router.admin.host, router.admin.port, "--admin-port")
            )
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rhizome-")))
        clock = SystemClock()

        async def serve() -> None:
            watcher = Watcher(settings, reload, directory, port, clock)
            await _serve(watcher, metrics, admin, clock)

        uvloop.run(serve())


def _free_port(host: str, port: int) -> int:
    """The port to share: asked for and free, or any; raises `PortInUse`.

    Tried without sharing it, since two routers must not share one by mistake.
    """
    with listen(host, port, "--port") as probe:
        found: int = probe.getsockname()[1]
        return found


async def _serve(
    watcher: Watcher, metrics: socket.socket, admin: socket.socket | None, clock: Clock
) -> None:
    loop = asyncio.get_running_loop()
    deadlines, http = Deadlines(clock), watcher.settings.router.http
    async with AsyncExitStack() as stack:
        asking = await stack.enter_async_context(session())
        tasks = await stack.enter_async_context(Tasks("router-watcher"))
        tasks.start("deadlines", deadlines.run(lambda _: None))
        page = MetricsPage(watcher.processes, watcher.counters, asking)
        tasks.start("look", page.look(clock))
        doors = [(metrics, app_front(page, http, tasks, deadlines))]
        if admin is not None:
            body_bytes_max = watcher.settings.router.relay.body_bytes_max
            steering = Steering(watcher.processes, asking, body_bytes_max)
            doors.append((admin, app_front(steering, http, tasks, deadlines)))
        for listening, front in doors:
            listener = Listener(front)
            await listener.open(listening)
            stack.push_async_callback(listener.close, _PAGE_GRACE_S)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, watcher.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.start("roll", watcher.roll()))
        await watcher.run(lambda: _log.info("router listens on %s", watcher.url))
