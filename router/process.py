"""The router as a process: sockets first, then the parts, then traffic until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from prometheus_client import make_asgi_app

from rhizome.errors import PortInUse, SettingsError
from rhizome.settings.tree import HttpSettings, RouterSettings, Settings
from rhizome.tasks import Tasks
from router.admin.access import admin_keys
from router.app import running_router
from router.fleet import Fleet
from router.http.front import app_front
from router.http.server.listener import BACKLOG, Listener

_log = logging.getLogger(__name__)
_METRICS_GRACE_S = 1.0
_COLLECTOR_THRESHOLDS = (20_000, 20, 50)
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Doors:
    """The listening sockets of a router process."""

    api: socket.socket
    metrics: socket.socket
    admin: socket.socket | None


def serve_router(settings: Settings) -> None:
    """Runs a router until SIGTERM or SIGINT; running requests may finish within the grace.

    Raises `StartError` where it cannot start.
    """
    router = settings.router
    require_keys(router)
    with contextlib.ExitStack() as sockets:
        api = sockets.enter_context(listen(router.host, router.port, "--port"))
        metrics = sockets.enter_context(
            listen(router.metrics_host, router.metrics_port, "--metrics-port")
        )
        admin = None
        if admin_keys(router.admin) is not None:
            admin = sockets.enter_context(
                listen(router.admin.host, router.admin.port, "--admin-port")
            )
        uvloop.run(serve_on(settings, Doors(api, metrics, admin)))


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket; raises `PortInUse` or `SettingsError`."""
    listener = bind(host, port, flag)
    with _told_of(host, port, flag, listener):
        listener.listen(BACKLOG)
    return listener


def bind(host: str, port: int, flag: str, *, shared: bool = False) -> socket.socket:
    """A TCP socket that has the port and does not listen yet; raises as `listen` does.

    Among several `shared` ones on the same port the kernel spreads connections, once they listen.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise SettingsError(f"cannot listen on the host {host!r}: {error}") from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with _told_of(host, port, flag, bound):
        bound.bind((host, port))
    bound.setblocking(False)
    return bound


@contextlib.contextmanager
def _told_of(host: str, port: int, flag: str, own: socket.socket) -> Iterator[None]:
    """Closes the socket where the port cannot be had, and says which one."""
    try:
        yield
    except OSError as error:
        own.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {error.strerror}",
            advice=f"Choose another port with {flag}, or end the process that has it.",
        ) from error


async def serve_on(
    settings: Settings,
    doors: Doors,
    siblings: Path | None = None,
    settle_s: float = 0.0,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves on the sockets until SIGTERM or SIGINT.

    With `settle_s`, looks for workers that long before it accepts: for one process of several, so
    that none answers that it knows no workers beside others that do. `siblings` as in `router.app`.
    """
    api, admin = doors.api, doors.admin
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    http = settings.router.http
    tls = tls_context(http)
    async with (
        running_router(settings, siblings=siblings) as router,
        Tasks("router-servers") as tasks,
        contextlib.AsyncExitStack() as stack,
    ):
        page = Listener(app_front(make_asgi_app(router.registry), http, tasks, router.deadlines))
        await page.open(doors.metrics)
        stack.push_async_callback(page.close, _METRICS_GRACE_S)
        if admin is not None and router.admin is not None:
            steering = Listener(router.admin)
            await steering.open(admin)
            stack.push_async_callback(steering.close, _METRICS_GRACE_S)
            _log.info("the admin API listens on http://%s:%s", *admin.getsockname()[:2])
        await _settle(router.fleet, settle_s, stop)
        requests = Listener(router.front, tls)
        await requests.open(api)
        host, port = api.getsockname()[:2]
        _log.info("router listens on %s://%s:%s", "https" if tls else "http", host, port)
        _spare_collector()
        _allow_connections()
        on_ready()
        await stop.wait()
        _log.info("router stops; running requests may finish within the grace")
        await requests.close(settings.router.shutdown_grace_s)


async def _settle(fleet: Fleet, settle_s: float, stop: asyncio.Event) -> None:
    """Returns when all workers there are have been met and one of them serves, when the process is
    to end, or after `settle_s`."""
    end_s = asyncio.get_running_loop().time() + settle_s
    while asyncio.get_running_loop().time() < end_s and not stop.is_set():
        if not fleet.is_looking and any(fleet.eligible(model) for model in fleet.models()):
            return
        await asyncio.sleep(_LOOK_S)


def _spare_collector() -> None:
    """Lets the collector of cycles pass over what was made at the start and come less often: a
    request makes no cycles, and a look at everything would hold up thousands of streams."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def _allow_connections() -> None:
    """Lets the process have as many sockets as its hard limit allows: two for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tls_context(http: HttpSettings) -> ssl.SSLContext | None:
    """For HTTPS, if a certificate is set; raises `SettingsError`."""
    if http.tls_certificate is None:
        if http.tls_key is not None:
            raise SettingsError(
                "a TLS key is set without a certificate",
                advice="Set router.http.tls_certificate, too.",
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(http.tls_certificate, http.tls_key)
    except OSError as error:  # an SSLError is one
        raise SettingsError(
            f"cannot use the TLS certificate {http.tls_certificate}: {error}",
            advice="Both files are PEM; the certificate comes first, then its chain.",
        ) from error
    return context


def require_keys(settings: RouterSettings) -> None:
    if settings.api_keys or settings.keys or settings.keys_file or settings.allow_anonymous:
        return
    raise SettingsError(
        "no API key is set, so anybody who reaches the router could use it",
        advice="Set router.keys or router.keys_file (`rhizome keys new NAME` makes a key), or "
        "allow it with --allow-anonymous.",
    )
