"""The router as a process: sockets first, then the parts, then traffic until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from prometheus_client import make_asgi_app

from rhizome.errors import PortInUse, SettingsError
from rhizome.settings.tree import RouterSettings, Settings
from rhizome.tasks import Tasks
from router.app import running_router

_log = logging.getLogger(__name__)
_BACKLOG = 2048
_KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """A server whose signals are handled by this module."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve_router(settings: Settings) -> None:
    """Runs a router until SIGTERM or SIGINT; running requests may finish within the grace.

    Raises `StartError` where it cannot start.
    """
    router = settings.router
    _require_keys(router)
    with contextlib.ExitStack() as sockets:
        api = sockets.enter_context(listen(router.host, router.port, "--port"))
        metrics = sockets.enter_context(
            listen(router.metrics_host, router.metrics_port, "--metrics-port")
        )
        uvloop.run(_serve(settings, api, metrics))


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket; raises `PortInUse` or `SettingsError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise SettingsError(f"cannot listen on the host {host!r}: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {error.strerror}",
            advice=f"Choose another port with {flag}, or end the process that has it.",
        ) from error
    listener.setblocking(False)
    return listener


async def _serve(settings: Settings, api: socket.socket, metrics: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_router(settings) as router, Tasks("router-servers") as tasks:
        servers = (
            _server(router.app, settings.router.shutdown_grace_s),
            _server(make_asgi_app(router.registry), 1.0),
        )
        serving = [
            tasks.start("api", servers[0].serve(sockets=[api])),
            tasks.start("metrics", servers[1].serve(sockets=[metrics])),
        ]
        host, port = api.getsockname()[:2]
        _log.info("router listens on http://%s:%s", host, port)
        stopping = tasks.start("signals", stop.wait())
        await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
        _log.info("router stops; running requests may finish within the grace")
        for server in servers:
            server.should_exit = True
        await asyncio.wait(serving)


def _server(app: object, grace_s: float) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # prometheus_client does not type its ASGI app
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(grace_s)),
        )
    )


def _require_keys(settings: RouterSettings) -> None:
    if settings.api_keys or settings.keys or settings.keys_file or settings.allow_anonymous:
        return
    raise SettingsError(
        "no API key is set, so anybody who reaches the router could use it",
        advice="Set router.keys or router.keys_file (`rhizome keys new NAME` makes a key), or "
        "allow it with --allow-anonymous.",
    )
