"""Starts several router processes behind one port, replaces those that end, and lets all go.

Each place has a listening socket of its own on the port (SO_REUSEPORT: the kernel spreads the
connections), which this process keeps open: whoever serves the place inherits it, so a connection
that comes while one process follows another waits in the socket's queue and is not refused. A new
process accepts when it has met the workers; until then a socket that nobody served before does not
listen, but for that of the first place, which has the port from the start. Only a place whose
processes fail again and again gives its socket up until the next try, so that the others get its
connections. On SIGHUP the settings are read anew and the processes are replaced one
after the other, each when its successor serves; settings that are not valid change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rhizome.clock import Clock
from rhizome.errors import StartError
from rhizome.settings.tree import Settings
from rhizome.tasks import Tasks
from router.admin.access import admin_keys
from router.http.server.listener import BACKLOG
from router.process import bind, listen
from router.processes.orders import Order, plain
from router.processes.process import Process
from router.processes.restarting import PAUSE_S_MAX, Restarting

_log = logging.getLogger(__name__)
_READY_S = 120.0
_SETTLE_S = 10.0
_FIRST_SETTLE_S = 3.0
"""When nobody serves yet, somebody must soon say that the router is not ready."""
_CUT_AFTER_S = 5.0
_LOOK_S = 0.1
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class Place:
    """One of the processes side by side, and who served it before."""

    number: int
    api: socket.socket | None = None
    process: Process | None = None
    leaving: list[Process] = field(default_factory=list)
    restarting: Restarting = field(default_factory=Restarting)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while its process is exchanged for another one."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    ended: int = 0
    """Processes that ended without being told to."""
    silent: int = 0
    """Processes that were ended because they answered no more."""
    rolled: int = 0
    """Processes that were replaced on SIGHUP."""


class Watcher:
    """The places and their processes. `run` returns when all have ended."""

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        directory: Path,
        api_port: int,
        clock: Clock,
    ) -> None:
        """`reload` reads the settings anew and raises `SettingsError`; `directory` is private."""
        self.settings = settings
        self.counters = Counters()
        self.places = [Place(number) for number in range(settings.router.processes)]
        self._reload = reload
        self._directory = directory
        self._api_port = api_port
        self._clock = clock
        self._count = 0
        self._stopping = asyncio.Event()
        self._rolling = asyncio.Lock()
        self._tasks = Tasks("router-processes")

    @property
    def url(self) -> str:
        """Where the API is."""
        router = self.settings.router
        scheme = "http" if router.http.tls_certificate is None else "https"
        return f"{scheme}://{router.host}:{self._api_port}"

    def processes(self) -> list[Process]:
        """All that run, those that leave included."""
        found = []
        for place in self.places:
            found += [*place.leaving, *([place.process] if place.process is not None else [])]
        return found

    def stop(self) -> None:
        """Lets everything end."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Raises `StartError` if a process does not come up at the start."""
        async with self._tasks as tasks:
            try:
                starting = tasks.start("starting", self._start_all())
                stopping = tasks.start("stopping", self._stopping.wait())
                await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    if not starting.result():
                        raise StartError(
                            "a router process did not start", advice="The lines above say why."
                        )
                    on_ready()
                    for place in self.places:
                        tasks.start(f"place-{place.number}", self._watch(place))
                    await stopping
                _log.info("router stops; running requests may finish within the grace")
            finally:
                await self._end_all()

    async def roll(self) -> None:
        """Replaces every process, one after the other, under settings read anew."""
        async with self._rolling:
            try:
                settings = self._reload()
            except StartError as error:
                _log.error("the settings stay as they were: %s", error.message)
                return
            self.settings = self._kept(settings)
            _log.info("replacing %d router processes", len(self.places))
            for place in self.places:
                async with place.changing:
                    is_replaced = await self._replace(place)
                if not is_replaced:
                    _log.error("the successor did not start; the other processes stay as they are")
                    return
            _log.info("all router processes were replaced")

    def _kept(self, settings: Settings) -> Settings:
        """The new settings, but for what cannot change while sockets are open."""
        old, new = self.settings.router, settings.router
        fixed = ("host", "port", "processes", "metrics_host", "metrics_port")
        changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
        if changed:
            _log.warning("a restart is needed to change router.%s", ", router.".join(changed))
        router = new.model_copy(update={name: getattr(old, name) for name in fixed})
        return settings.model_copy(update={"router": router})

    async def _start_all(self) -> bool:
        for place in self.places:
            place.process = await self._begin(place, _FIRST_SETTLE_S)
        begun = [place.process for place in self.places if place.process is not None]
        return all([await process.is_ready(_READY_S) for process in begun])

    async def _begin(self, place: Place, settle_s: float) -> Process:
        """Starts a process on the place's socket, which is opened if need be."""
        router = self.settings.router
        if place.api is None:
            place.api = bind(router.host, self._api_port, "--port", shared=True)
            if not self._others_serve(place):
                place.api.listen(BACKLOG)
        self._count += 1
        has_admin = admin_keys(router.admin) is not None
        with ExitStack() as ours:
            metrics = ours.enter_context(listen(_LOOPBACK, 0, "the metrics page"))
            admin = ours.enter_context(listen(_LOOPBACK, 0, "the admin API")) if has_admin else None
            order = Order(
                number=self._count,
                settings=plain(self.settings),
                api_fd=place.api.fileno(),
                metrics_fd=metrics.fileno(),
                admin_fd=None if admin is None else admin.fileno(),
                siblings=str(self._directory),
                settle_s=settle_s,
            )
            return await Process.begin(order, metrics, admin, self._clock)

    async def _watch(self, place: Place) -> None:
        """Starts the next process whenever one ends that was not told to."""
        while True:
            process = place.process
            assert process is not None
            await process.ended()
            if process.is_leaving or place.process is not process:
                await self._clock.sleep(_LOOK_S)  # it is being replaced, or all end
                continue
            self.counters.ended += 1
            pause_s = place.restarting.pause_s(self._clock.monotonic_s() - process.begun_at_s)
            _log.error(
                "router process %d ended with status %s; the next one starts in %.1f s",
                process.number,
                process.child.returncode,
                pause_s,
            )
            if pause_s and place.api is not None and self._others_serve(place):
                place.api.close()
                place.api = None
            await self._clock.sleep(pause_s)
            async with place.changing:
                await self._begin_again(place)

    async def _begin_again(self, place: Place) -> None:
        try:
            process = place.process = await self._begin(place, _SETTLE_S)
        except (StartError, OSError) as error:
            _log.error("no router process could be started: %s", error)
            await self._clock.sleep(PAUSE_S_MAX)
            return
        if not await process.is_ready(_READY_S):
            process.cut()

    async def _replace(self, place: Place) -> bool:
        """Whether the place is served by a new process, and the old one lets go."""
        old = place.process
        try:
            new = await self._begin(place, _SETTLE_S)
        except (StartError, OSError) as error:
            _log.error("no router process could be started: %s", error)
            return False
        is_ready = False
        try:
            is_ready = await new.is_ready(_READY_S)
        finally:
            if not is_ready:
                new.cut()
        if not is_ready:
            return False
        place.process = new
        self.counters.rolled += 1
        if old is not None:
            place.leaving.append(old)
            old.stop()
            self._tasks.start(f"leaving-{old.number}", self._let_go(place, old))
        return True

    async def _let_go(self, place: Place, process: Process) -> None:
        await self._end(process)
        place.leaving.remove(process)

    async def _end_all(self) -> None:
        processes = self.processes()
        for process in processes:
            process.stop()
        for place in self.places:  # else who connects now would wait for nobody, not be refused
            if place.api is not None:
                place.api.close()
        await asyncio.gather(*(self._end(process) for process in processes), return_exceptions=True)

    async def _end(self, process: Process) -> None:
        """Waits for a process that was told to stop, and cuts it when its grace is over."""
        if not await process.ended(self.settings.router.shutdown_grace_s + _CUT_AFTER_S):
            process.cut()
            await process.ended(_CUT_AFTER_S)

    def _others_serve(self, place: Place) -> bool:
        others = [one.process for one in self.places if one is not place]
        return any(one is not None and one.child.returncode is None for one in others)
